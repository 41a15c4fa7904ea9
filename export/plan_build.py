"""From an ONNX graph to a TensorRT plan, by Polygraphy's loaders."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from rich.console import Console

from immunecam.errors import BackendMissingError, InputError
from immunecam.export.build_options import BuildOptions
from immunecam.export.build_progress import BuildProgress
from immunecam.export.timing_cache import merge_timings
from immunecam.kernels.cuda import open_device
from immunecam.runtime.engines.tensorrt_library import tensorrt_logger

__all__ = ["build_plan", "require_polygraphy"]


def require_polygraphy() -> None:
    """Raise BackendMissingError unless Polygraphy is there."""
    try:
        import polygraphy  # noqa: F401
    except ImportError as error:
        raise BackendMissingError(
            f"Building plans needs Polygraphy ({error}): install it with pip install 'immunecam[tensorrt]'."
        ) from None


def build_plan(
    graph: bytes,
    inputs: Mapping[str, tuple[int, ...]],
    options: BuildOptions,
    *,
    name: str,
    timings: Path | None,
    console: Console,
) -> bytes:
    """Compile a graph for the first card of this machine, with a progress bar.

    Parameters
    ----------
    graph : bytes
        As `card_graph` gives it.
    inputs : Mapping
        Shape of one face of every input.
    options : BuildOptions
    name : str
        What to call it in an error.
    timings : Path, optional
        Timing cache, read before and added to afterwards.
    console : Console
        For the bar.

    Returns
    -------
    bytes
        The plan.

    Raises
    ------
    UsageError
        If this version of TensorRT has not the hardware compatibility asked for.
    InputError
        If TensorRT cannot parse or build it.
    BackendMissingError
        If the driver is missing or too old.
    KeyboardInterrupt
        On Ctrl-C, once TensorRT has stopped.
    """
    import tensorrt as trt
    from polygraphy.backend.trt import CreateConfig, NetworkFromOnnxBytes, Profile, engine_bytes_from_network
    from polygraphy.exception import PolygraphyException

    profile = Profile()
    for tensor, shape in inputs.items():
        profile.add(tensor, *((size, *shape) for size in options.batch))
    pools = None
    if options.workspace_mib is not None:
        pools = {trt.MemoryPoolType.WORKSPACE: options.workspace_mib * 2**20}
    with BuildProgress(trt, console) as progress, _listening() as said:
        create = CreateConfig(
            profiles=[profile],
            load_timing_cache=None if timings is None else str(timings),
            profiling_verbosity=trt.ProfilingVerbosity.DETAILED,
            memory_pool_limits=pools,
            builder_optimization_level=options.optimization_level,
            hardware_compatibility_level=options.hardware_level(trt),
            version_compatible=options.version_compatible,
            progress_monitor=progress.monitor,
        )

        def work() -> bytes:
            open_device()  # the builder takes the card that is current in its thread
            try:
                network = NetworkFromOnnxBytes(graph, strongly_typed=True)()
            except PolygraphyException:
                raise InputError(
                    f"TensorRT {trt.__version__} cannot parse {name} ({_parser_says(trt, graph)}): nothing was stored."
                ) from None
            config = create(network[0], network[1])
            plan = bytes(engine_bytes_from_network(network, config))
            if timings is not None:
                merge_timings(config, timings)
            return plan

        # In a thread of its own, because inside of TensorRT the main thread would not see Ctrl-C before the end.
        with ThreadPoolExecutor(1) as pool:
            building = pool.submit(work)
            try:
                while not wait([building], timeout=0.2).done:
                    pass  # Ctrl-C is seen here, whichever thread the system gave it to
                return building.result()
            except KeyboardInterrupt:
                progress.cancel()
                with contextlib.suppress(Exception):
                    building.result()
                raise
            except (PolygraphyException, TypeError) as error:
                # The last error sums up; TypeError is the binding's where the library gives no object.
                reason = said[-1] if said else " ".join(str(error).split())
                if "CUDA initialization" in reason:
                    raise BackendMissingError(
                        f"TensorRT {trt.__version__} does not start ({reason}): the driver is missing or "
                        "too old for it."
                    ) from None
                raise InputError(
                    f"TensorRT {trt.__version__} cannot compile {name} ({reason}): nothing was stored."
                ) from None


def _parser_says(trt: Any, graph: bytes) -> str:
    """Which node the parser refuses, and why: asked once more, for Polygraphy keeps no errors."""
    logger = tensorrt_logger(trt)
    logger.forget()
    builder = trt.Builder(logger.handle)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger.handle)
    parser.parse(graph)
    if parser.num_errors == 0:
        return logger.reason
    first, others = parser.get_error(0), parser.num_errors - 1
    said = " ".join(first.desc().split()).rstrip(".")[:200]
    where = f"operator {first.node_operator()} of the node {first.node_name()!r}: " if first.node_operator() else ""
    return f"{where}{said}" + (f"; and {others} more" if others else "")


@contextlib.contextmanager
def _listening() -> Iterator[deque[str]]:
    """What Polygraphy and TensorRT say goes to our log instead of the terminal; the errors are given to the caller."""
    from polygraphy.logger import G_LOGGER

    errors: deque[str] = deque(maxlen=16)
    ours = logging.getLogger(__name__)

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = " ".join(record.getMessage().split())
            if record.levelno == logging.ERROR:
                errors.append(text.removeprefix("[E] ").rstrip(".")[:300])
            ours.debug("%s", text)

    logger, ear = logging.getLogger("Polygraphy"), Ear()
    before = logger.propagate, logger.level, G_LOGGER.use_python_logging_system, G_LOGGER.colors
    logger.propagate, G_LOGGER.colors = False, False
    logger.setLevel(logging.INFO)
    G_LOGGER.use_python_logging_system = True
    logger.addHandler(ear)
    try:
        yield errors
    finally:
        logger.removeHandler(ear)
        logger.propagate, level, G_LOGGER.use_python_logging_system, G_LOGGER.colors = before
        logger.setLevel(level)
