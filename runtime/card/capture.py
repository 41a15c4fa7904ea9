"""A CUDA graph of what is launched on a stream, and the way back where that fails."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

__all__ = ["captured"]


def captured(stream: Any, launch: Callable[[Any], None]) -> Any:
    """Capture launches.

    Parameters
    ----------
    stream : cuda.core.Stream
        Not the default one.
    launch : callable
        Called with the graph builder; what it launches on the stream itself is captured, too.

    Returns
    -------
    cuda.core.graph.Graph

    Raises
    ------
    Exception
        Whatever a launch or the library raises; the stream is no longer capturing then, and does its work as before.
    """
    builder = stream.create_graph_builder()
    try:
        # Thread-local: any other mode would forbid other pipelines of the process what they do meanwhile.
        builder.begin_building(mode="thread_local")
        launch(builder)
        builder.end_building()
    except BaseException:
        _abandon(builder, stream)
        raise
    try:
        return builder.complete()
    finally:
        builder.close()


def _abandon(builder: Any, stream: Any) -> None:
    """End a capture that failed.

    A call that CUDA forbids meanwhile invalidates the capture, and the driver destroys the graph of such a one when it
    is ended. cuda.core before 1.3 does not end it, raises when the builder is closed, and destroys the graph once more
    when the builder is closed or collected, which crashes the process (cuda-python, issue 2834). So the capture is
    ended by the driver, and the builder is never collected.
    """
    from cuda.bindings import driver

    _, status = driver.cuStreamIsCapturing(stream.handle)
    if status == driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE:
        try:  # the graph is whole: something else than CUDA refused
            builder.end_building()
        except Exception:
            pass
        else:
            builder.close()
            return
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(builder))
    if status != driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_NONE:
        driver.cuStreamEndCapture(stream.handle)  # its result says that the capture was invalidated
