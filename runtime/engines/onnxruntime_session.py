"""A graph of a bundle in a session of ONNX Runtime, whose tensors are those that the bundle format says."""

from __future__ import annotations

import functools
import operator
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.runtime.engines.external_data import inline_external_data
from immunecam.runtime.engines.providers import import_onnxruntime

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = [
    "FACES",
    "FLOAT",
    "add_in_32_bits",
    "adds_in_32_bits",
    "check_tensors",
    "check_threads",
    "open_model",
    "open_session",
    "without_rounding",
]

FLOAT = "tensor(float)"
FACES = (None, 112, 112)

_CPU = "CPUExecutionProvider"
# How far a sigmoid in single precision may leave [0, 1]; ONNX Runtime's gives 1.0000001 for a large logit.
_ROUNDING = np.float32(1e-6)


def open_session(
    bundle: Bundle,
    role: str,
    execution_provider: str,
    threads: int | None = None,
    provider_options: Mapping[str, str] | None = None,
) -> Any:
    """Session of the graph in a role ("analyzer", "purifier", "restorer"), on that provider or not at all.

    Parameters
    ----------
    bundle : Bundle
        A loaded, hence verified, bundle: its bytes are run, its files are not opened again.
    execution_provider : str
        ONNX Runtime's name of it.
    threads : int, optional
        Threads an operator may use; None leaves it to ONNX Runtime.
    provider_options : mapping of str, optional
        Of the execution provider.

    Raises
    ------
    BackendMissingError
        If the provider does not start.
    InputError
        If the CPU cannot run the graph.
    """
    data = bundle.graph(role)
    name = f"{bundle.path / bundle.manifest.graphs[role]}"
    model = inline_external_data(data or b"", bundle.files, name=name)
    return open_model(
        model,
        execution_provider,
        threads,
        provider_options,
        name=name,
        remedy="export the bundle again",
    )


def open_model(
    model: bytes,
    execution_provider: str,
    threads: int | None = None,
    provider_options: Mapping[str, str] | None = None,
    *,
    name: str,
    remedy: str,
) -> Any:
    """Session of a self-contained ONNX model whose bytes were verified; else as :func:`open_session`.

    Parameters
    ----------
    model : bytes
        Without external data, for ONNX Runtime would open its files unchecked.
    name, remedy : str
        What an error calls the model, and tells to do.
    """
    ort = import_onnxruntime()
    # Warnings of the library go to stderr past Python's logging; errors reach us as exceptions.
    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # The number of faces changes from frame to frame: a pattern kept for each is memory for nothing.
    options.enable_mem_pattern = False
    # A device shares its cores with the recogniser: waiting threads sleep (measured on a busy machine of
    # 2 cores: 32 faces in 16 ms in place of 22, one face the same). To spin for 20 to 500 us at most, which 1.31 can,
    # makes one face a third faster on two idle cores and slower on busy ones, or between the frames of a camera.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    add_in_32_bits(options)
    if threads is not None:
        options.intra_op_num_threads = threads
    if execution_provider != _CPU and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that pip installed (ONNX Runtime 1.21 and later)
    wanted: Any = execution_provider if provider_options is None else (execution_provider, dict(provider_options))
    try:
        # Without enable_fallback=0 a failing CUDA provider is replaced by the CPU with a mere print.
        session = ort.InferenceSession(model, options, providers=[wanted], enable_fallback=0)
    except Exception as error:  # the library's exceptions have no common base of their own
        reason = _first_line(error)
        if execution_provider != _CPU:
            raise _not_started(ort.__version__, reason) from None
        raise InputError(f"{name} cannot be run by onnxruntime {ort.__version__} ({reason}): {remedy}.") from None
    in_use = session.get_providers()
    if execution_provider not in in_use:
        raise _not_started(ort.__version__, f"it offers {', '.join(in_use)} only")
    session.disable_fallback()
    return session


def add_in_32_bits(options: Any) -> None:
    """Ask a session (`onnxruntime.SessionOptions`) for sums of int8 products that cannot overflow.

    That makes the weights of int8 networks uint8. They are as slow as float32 then (measured: 11.0 ms a face in place
    of 8.5), so it is done only where sums would overflow otherwise.
    """
    if not adds_in_32_bits():
        options.add_session_config_entry("session.x64quantprecision", "1")


@functools.cache
def adds_in_32_bits() -> bool:
    """Whether this processor adds products of uint8 and int8 in 32 bits, in which they cannot overflow.

    x86 does so by its VNNI instructions; without them ONNX Runtime adds pairs of products in 16 bits. Where the system
    does not tell what the processor has, the answer is no.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "i386"):
        return True
    try:
        words = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "avx512_vnni" in words or "avx_vnni" in words


def without_rounding(p: NDArray[np.float32]) -> NDArray[np.float32]:
    """Probabilities that only rounding has moved out of [0, 1], put back; others as they are, for a check to find."""
    within = np.clip(p, np.float32(0), np.float32(1))
    return within if (np.abs(p - within) <= _ROUNDING).all() else p


def check_tensors(
    session: Any,
    bundle: Bundle,
    inputs: dict[str, tuple[str, tuple[int | None, ...]]],
    outputs: dict[str, tuple[str, tuple[int | None, ...]]],
    role: str = "graph",
) -> None:
    """Compare a graph's inputs and outputs with what the bundle format says; `role` is its name in an error."""
    for side, wanted, found in (
        ("input", inputs, session.get_inputs()),
        ("output", outputs, session.get_outputs()),
    ):
        given = {tensor.name: tensor for tensor in found}
        if set(given) != set(wanted):
            raise InputError(
                f"The bundle {bundle.path}: the {role} has the {side}s {sorted(given)}, but it must have "
                f"{sorted(wanted)}: export the bundle again."
            )
        for name, (dtype, shape) in wanted.items():
            tensor = given[name]
            if tensor.type != dtype or not _matches(tensor.shape, shape):
                raise InputError(
                    f"The bundle {bundle.path}: the {role}'s {side} {name!r} is {tensor.type} "
                    f"{tensor.shape}, but "
                    f"it must be {dtype} {['N' if size is None else size for size in shape]}: export the "
                    "bundle again."
                )


def _matches(found: list[Any], wanted: tuple[int | None, ...]) -> bool:
    """Sizes agree; a symbolic one agrees with everything, a fixed batch with nothing but itself."""
    return len(found) == len(wanted) and all(
        not isinstance(have, int) if want is None else (have == want or not isinstance(have, int))
        for have, want in zip(found, wanted, strict=True)
    )


def check_threads(threads: int | None) -> int | None:
    """The number of threads itself; a UsageError if it is not from 1 to 1024."""
    if threads is None:
        return None
    try:
        count = operator.index(threads)
    except TypeError:
        raise UsageError(f"threads is a {type(threads).__name__}, but it must be an integer.") from None
    if not 1 <= count <= 1024:
        raise UsageError(f"threads is {count}, but it must be from 1 to 1024.")
    return count


def _not_started(version: str, reason: str) -> BackendMissingError:
    return BackendMissingError(
        f"The provider 'cuda' does not start with the installed onnxruntime {version} ({reason}): "
        "install its CUDA libraries and the GPU's driver, or use --provider cpu."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0].strip().rstrip(".") if lines else type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
