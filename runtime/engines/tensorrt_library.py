"""The module ``tensorrt``: whether it is there, and what it says when something fails."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from immunecam.errors import BackendMissingError

__all__ = ["TensorRTLogger", "import_tensorrt", "open_runtime", "tensorrt_logger"]

_OLDEST = (10, 0)

_log = logging.getLogger(__name__)
_loggers: dict[int, TensorRTLogger] = {}
_making = threading.Lock()


def import_tensorrt() -> Any:
    """The module tensorrt, imported when it is first needed.

    Raises
    ------
    BackendMissingError
        If it is not installed, cannot be loaded, or is older than 10.0.
    """
    try:
        import tensorrt
    except Exception as error:  # ImportError, or what a broken installation raises when its libraries are looked for
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BackendMissingError(
            f"TensorRT cannot be imported ({reason}): install it with JetPack, or with 'pip install tensorrt' for the "
            "CUDA version of your driver, or use --provider cpu."
        ) from None
    found = [int(part) for part in str(tensorrt.__version__).split(".")[:2] if part.isdigit()]
    if tuple(found) < _OLDEST:
        raise BackendMissingError(
            f"TensorRT {tensorrt.__version__} is installed, but {_OLDEST[0]}.{_OLDEST[1]} or newer is needed: install "
            "a newer one, or use --provider cpu."
        )
    return tensorrt


class TensorRTLogger:
    """What TensorRT says, sent to Python's logging; its last errors are kept for our own sentences.

    Attributes
    ----------
    handle : tensorrt.ILogger
        To be given to TensorRT, which keeps no reference of its own.
    """

    def __init__(self, trt: Any) -> None:
        self._trt = trt  # kept, for the module's identity names its logger
        self._errors: deque[str] = deque(maxlen=8)
        levels = {
            trt.Logger.INTERNAL_ERROR: logging.ERROR,
            trt.Logger.ERROR: logging.ERROR,
            trt.Logger.WARNING: logging.INFO,
        }
        note = self._note

        class Handle(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                note(levels.get(severity, logging.DEBUG), message)

        self.handle: Any = Handle()

    def forget(self) -> None:
        """Forget the errors so far, so that :attr:`reason` speaks of what comes."""
        self._errors.clear()

    @property
    def reason(self) -> str:
        """The last error, for a sentence of ours."""
        return self._errors[-1] if self._errors else "it gives no reason"

    @property
    def out_of_memory(self) -> bool:
        """Whether an error since :meth:`forget` was the want of device memory."""
        return any("out of memory" in said.lower() or "outofmemory" in said.lower() for said in self._errors)

    def _note(self, level: int, message: str) -> None:
        said = " ".join(message.split()).rstrip(".")
        if level >= logging.ERROR:
            self._errors.append(said[:300])
            level = logging.INFO  # whoever called says it in a sentence; the log has it in TensorRT's words
        _log.log(level, "TensorRT: %s", said)


def tensorrt_logger(trt: Any) -> TensorRTLogger:
    """The one logger of a process: TensorRT wants no second one."""
    with _making:
        if id(trt) not in _loggers:
            _loggers[id(trt)] = TensorRTLogger(trt)
        return _loggers[id(trt)]


def open_runtime(trt: Any) -> Any:
    """A ``tensorrt.Runtime``.

    Raises
    ------
    BackendMissingError
        If the driver is missing or too old for this TensorRT.
    """
    logger = tensorrt_logger(trt)
    logger.forget()
    try:
        return trt.Runtime(logger.handle)
    except Exception as error:  # the binding raises TypeError where the library gives no object
        reason = logger.reason if "no reason" not in logger.reason else " ".join(str(error).split())
        raise BackendMissingError(
            f"TensorRT {trt.__version__} does not start ({reason}): the driver is missing or too old for it, install a "
            "newer driver or use --provider cpu."
        ) from None
