"""Where frames come from and where they go."""

from immunecam.runtime.frames.frame import Frame
from immunecam.runtime.frames.live import LiveSource
from immunecam.runtime.frames.sink import FrameSink
from immunecam.runtime.frames.source import FrameSource
from immunecam.runtime.frames.state import SourceState, SourceStatus

__all__ = ["Frame", "FrameSink", "FrameSource", "LiveSource", "SourceState", "SourceStatus"]
