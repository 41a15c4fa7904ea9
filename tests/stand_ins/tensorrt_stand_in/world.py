"""The machine that the stand-ins pretend: its card, its driver, and what was done on it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class World:
    """What a test sets, and what it finds afterwards.

    Attributes
    ----------
    version : str
        TensorRT's.
    gpu, capability, driver, memory
        The card, the newest CUDA version its driver knows (0: no driver), and bytes of device memory left.
    oldest_driver : int
        What this TensorRT wants.
    timed : list of str
        Tactics that a build measured, because the timing cache did not have them.
    built : list of dict
        What each build was asked for.
    launches : list of tuple
        Thread, stream and shapes of each execution that was asked for.
    executed : int
        Executions that a stream came to, those of graphs counted each time.
    shapes_set, addresses_set : int
        Calls of the setters.
    contexts : set of int
        Execution contexts that are alive.
    current : set of int
        Threads that made the card their current one; another cannot execute.
    """

    version: str = "10.3.0"
    gpu: str = "NVIDIA H200"
    capability: tuple[int, int] = (9, 0)
    driver: int = 13000
    memory: int = 2**33
    oldest_driver: int = 12000
    phases: int = 4
    timed: list = field(default_factory=list)
    built: list = field(default_factory=list)
    launches: list = field(default_factory=list)
    executed: int = 0
    shapes_set: int = 0
    addresses_set: int = 0
    contexts: set = field(default_factory=set)
    current: set = field(default_factory=set)
    perturb: float = 0.0
    """Added to every output of an execution: an engine that computes something else."""
    on_execute: object = None
    """Called before every execution, which fails for want of memory if it gives False."""
    on_step: object = None
    """Called before every step of a build."""
    arrive: object = None

    def move(self, **changes):
        """Become another machine: the modules are made anew, as in another process."""
        for name, value in changes.items():
            assert hasattr(self, name), name
            setattr(self, name, value)
        self.arrive(self)

    def start(self, logger, error):
        """What TensorRT does first; it fails as the binding does where the driver is missing or too old."""
        if self.driver < self.oldest_driver:
            code = 100 if self.driver == 0 else 35
            logger.log(error, f"CUDA initialization failure with error: {code}. Please check your CUDA.")
            raise TypeError("pybind11::init(): factory function returned nullptr")

    @property
    def numbers(self) -> tuple[int, int]:
        major, minor = self.version.split(".")[:2]
        return int(major), int(minor)
