"""What a plan is built by: precision, batch sizes, and TensorRT's options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from immunecam.errors import UsageError
from immunecam.runtime.engines.plans import AMPERE_PLUS, SAME_COMPUTE_CAPABILITY, VERSION_COMPATIBLE
from immunecam.runtime.plan_record import PLAN_PRECISIONS

__all__ = ["HARDWARE", "BuildOptions", "batch_from_text"]

HARDWARE = (AMPERE_PLUS, SAME_COMPUTE_CAPABILITY)
"""Other cards that a plan may be made to run on."""


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build; None leaves one to TensorRT.

    Attributes
    ----------
    precision : str
        "fp32", "fp16" or "int8".
    batch : (int, int, int)
        Smallest, most usual and largest number of faces of a call.
    optimization_level : int, optional
        0 to 5: how long TensorRT looks for faster tactics.
    workspace_mib : int, optional
        Most scratch memory of a tactic, in MiB.
    hardware_compatible : str, optional
        "ampere_plus" or "same_compute_capability" (TensorRT 10.9 and later).
    version_compatible : bool
        Let later TensorRT of the same major version run the plan.
    timing_cache : path, optional
        In place of the user's own.

    Raises
    ------
    UsageError
        If one is out of its range.
    """

    precision: str = "fp16"
    batch: tuple[int, int, int] = (1, 8, 32)
    optimization_level: int | None = None
    workspace_mib: int | None = None
    hardware_compatible: str | None = None
    version_compatible: bool = False
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.precision not in PLAN_PRECISIONS:
            raise UsageError(
                f"The precision is {self.precision!r}, but it must be one of {', '.join(PLAN_PRECISIONS)}."
            )
        smallest, usual, largest = self.batch
        if not 1 <= smallest <= usual <= largest <= 128:
            raise UsageError(f"The batch is {self.batch}, but it must be three numbers from 1 to 128, none falling.")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UsageError(f"The optimization level is {self.optimization_level}, but it must be from 0 to 5.")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UsageError(f"The workspace is {self.workspace_mib} MiB, but it must be 1 or more.")
        if self.hardware_compatible not in (None, *HARDWARE):
            known, given = ", ".join(HARDWARE), self.hardware_compatible
            raise UsageError(f"The hardware compatibility is {given!r}, but it must be one of {known}.")

    @property
    def flags(self) -> tuple[str, ...]:
        """Those that change the plan, for its key."""
        given = {
            "optimization_level": self.optimization_level,
            "workspace_mib": self.workspace_mib,
            "hardware_compatible": self.hardware_compatible,
        }
        flags = [f"{name}={value}" for name, value in given.items() if value is not None]
        return (*flags, VERSION_COMPATIBLE) if self.version_compatible else tuple(flags)

    def of(self, role: str) -> str:
        """The precision that a graph is compiled in.

        "int8" is the analyzer's; the restorer then computes in fp16, because plain quantisation changes a restored face
        of the bundled model by 2.8 grey levels (root mean square), and a face is what the recogniser sees. So does a
        liveness network, whose ranges `immunecam liveness export` takes from its own faces, and a recogniser of masked
        faces, which was not tried in less.
        """
        return "fp16" if self.precision == "int8" and role != "analyzer" else self.precision

    def hardware_level(self, trt: Any) -> Any:
        """TensorRT's name of the hardware compatibility, or None.

        Raises
        ------
        UsageError
            If this version of TensorRT does not have it.
        """
        if self.hardware_compatible is None:
            return None
        level = getattr(trt.HardwareCompatibilityLevel, self.hardware_compatible.upper(), None)
        if level is None:
            raise UsageError(
                f"TensorRT {trt.__version__} has no hardware compatibility {self.hardware_compatible!r}, which "
                f"came with 10.9: use {AMPERE_PLUS}, or leave it away."
            )
        return level


def batch_from_text(text: str) -> tuple[int, int, int]:
    """``MIN,OPT,MAX`` as on the command line.

    Raises
    ------
    UsageError
        If it is not three whole numbers.
    """
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"The batch is {text!r}, but it must be MIN,OPT,MAX as in 1,8,32.")
    smallest, usual, largest = (int(part) for part in parts)
    return smallest, usual, largest
