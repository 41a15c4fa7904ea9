"""Whether an optional part of the package is installed."""

from __future__ import annotations

import importlib
import importlib.util

from immunecam.errors import BackendMissingError

__all__ = ["require_device", "require_service", "require_training"]


def require_training() -> None:
    """Raise BackendMissingError unless PyTorch and onnx are there."""
    missing = [name for name in ("torch", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendMissingError(
            f"training and export need {', '.join(missing)}, which is not installed: pip install 'immunecam[train]'"
        )


def require_service() -> None:
    """Raise BackendMissingError unless the web framework and the server are there."""
    for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise BackendMissingError(
                f"the service needs {module}, which cannot be imported ({error}): pip install 'immunecam[serve]'"
            ) from None


def require_device(name: str) -> str:
    """The PyTorch device of this name; "auto" is a CUDA card if there is one, else the CPU.

    Raises
    ------
    BackendMissingError
        If PyTorch cannot compute on it.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # PyTorch has no one error for it
        reason = str(error).strip().splitlines()[0]
        raise BackendMissingError(f"PyTorch cannot compute on the device {name!r} ({reason}): use cpu") from None
    return name
