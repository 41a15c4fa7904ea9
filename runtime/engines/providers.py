"""Which backend runs a bundle: chosen by name or by what is there, and always told in the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from immunecam.errors import BackendMissingError, UsageError

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = [
    "PROVIDERS",
    "ProviderChoice",
    "ProviderName",
    "choose_provider",
    "cpu_choice",
    "has_cuda",
    "import_onnxruntime",
    "require_cuda",
]

ProviderName: TypeAlias = Literal["auto", "cpu", "cuda", "tensorrt"]
"""``auto``: the best that this machine has; every other name is that backend or an error."""

PROVIDERS: tuple[ProviderName, ...] = get_args(ProviderName)

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProviderChoice:
    """A backend and why it was chosen.

    Attributes
    ----------
    name : str
        "cpu" or "cuda".
    execution_provider : str
        ONNX Runtime's name of it.
    reason : str
        Why, as half a sentence.
    automatic : bool
        True if nobody asked for it by name.
    """

    name: str
    execution_provider: str
    reason: str
    automatic: bool


def choose_provider(provider: str, bundle: Bundle) -> ProviderChoice:
    """The provider of ONNX Runtime that a bundle will run on; :func:`open_backend` chooses among all backends.

    Parameters
    ----------
    provider : {"auto", "cpu", "cuda"}
        ``auto`` takes CUDA where the installed ONNX Runtime was built with it, else the CPU.
    bundle : Bundle
        What is to be run; named in the log.

    Raises
    ------
    UsageError
        If the name is unknown.
    BackendMissingError
        If the named provider is not installed, or is "tensorrt", which another engine runs.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"The provider is {provider!r}, but it must be one of {', '.join(PROVIDERS)}.")
    if provider == "tensorrt":
        raise BackendMissingError(
            "The provider 'tensorrt' was asked for, but ONNX Runtime's engine does not run it: use TensorRTEngine, or "
            "--provider cuda."
        )
    choice = _onnxruntime(provider)
    _log.info("Provider %s for the bundle %s: %s.", choice.name, bundle.name, choice.reason)
    return choice


def _onnxruntime(provider: str) -> ProviderChoice:
    ort = import_onnxruntime()
    built_with = ort.get_available_providers()
    if provider == "cpu":
        return ProviderChoice("cpu", _CPU, "it was asked for", automatic=False)
    if provider == "cuda":
        require_cuda(ort)
        return ProviderChoice("cuda", _CUDA, "it was asked for", automatic=False)
    if _CUDA in built_with:
        return ProviderChoice("cuda", _CUDA, "onnxruntime was built with CUDA", automatic=True)
    return ProviderChoice("cpu", _CPU, f"onnxruntime {ort.__version__} was built without CUDA", automatic=True)


def cpu_choice(bundle: Bundle, reason: str) -> ProviderChoice:
    """The CPU, for a reason that the log gives."""
    _log.info("Provider cpu for the bundle %s: %s.", bundle.name, reason)
    return ProviderChoice("cpu", _CPU, reason, automatic=True)


def has_cuda(ort: Any) -> bool:
    """Whether this ONNX Runtime was built with CUDA."""
    return _CUDA in ort.get_available_providers()


def require_cuda(ort: Any) -> None:
    """Raise a BackendMissingError unless this ONNX Runtime was built with CUDA."""
    if not has_cuda(ort):
        raise BackendMissingError(
            f"The provider 'cuda' was asked for, but the installed onnxruntime {ort.__version__} was "
            "built without CUDA: install onnxruntime-gpu in its place, or use --provider cpu."
        )


def import_onnxruntime() -> Any:
    """The module onnxruntime, imported when it is first needed (it takes 0.1 s and more).

    Raises
    ------
    BackendMissingError
        If it is not installed or cannot be loaded.
    """
    try:
        import onnxruntime
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise BackendMissingError(
            f"onnxruntime cannot be imported ({reason}): install it with 'pip install onnxruntime'."
        ) from None
    return onnxruntime
