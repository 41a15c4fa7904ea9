"""Where frames go: a picture, a folder, a video. Whole under the final name, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime.frames.container import set_rate
from immunecam.runtime.frames.picture import PICTURE_SUFFIXES, encode_picture
from immunecam.runtime.frames.source import FrameSource
from immunecam.runtime.quiet import silence

__all__ = ["VIDEO_CODECS", "FolderSink", "FrameSink", "PictureSink", "VideoSink"]

# What every OpenCV wheel can encode at the speed of a camera (none carries an H.264 encoder).
VIDEO_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}

_LEAST_ROOM = 1 << 20  # bytes left on the disk below which a video is given up
_LOOK_EVERY = 64  # frames between two looks at the room


class FrameSink(ABC):
    """A context manager that takes frames.

    Everything is written beside the target under a temporary name. Leaving the block normally checks it and moves it
    into place; leaving it by an exception, Ctrl-C included, removes it, and what stood there before is untouched.
    """

    path: Path

    @staticmethod
    def open(path: str | Path, source: FrameSource, *, width: int | None = None) -> FrameSink:
        """A sink that fits a source.

        Parameters
        ----------
        path : path
            A folder for a folder source (made if missing), a picture for a picture, a video for a video or live one.
        source : FrameSource
            Gives kind, rate and size.
        width : int, optional
            Of the frames, if not the source's.

        Raises
        ------
        UsageError
            If the suffix does not fit, or the path is the source itself.
        InputError
            If the parent folder is missing.
        """
        silence()
        target = Path(path)
        try:
            is_source = not source.live and target.exists() and os.path.samefile(target, source.name)
            has_parent, is_folder = target.parent.is_dir(), target.is_dir()
        except (OSError, ValueError) as error:
            raise InputError(f"the output {str(path)!r} cannot be used ({_reason(error)}): name another") from None
        if is_source:
            raise UsageError(f"the output {str(path)!r} is the source itself: name another file")
        if not has_parent:
            raise InputError(f"the output's folder {str(target.parent)!r} does not exist: make it first")
        if is_folder and source.kind != "folder":
            raise UsageError(f"the output {str(path)!r} is a folder, but the source is none: name a file")
        suffix = target.suffix.lower()
        if source.kind == "folder":
            if suffix in PICTURE_SUFFIXES or suffix in VIDEO_CODECS:
                raise UsageError(f"the source is a folder, but the output {str(path)!r} is a file: name a folder")
            return FolderSink(target)
        if source.kind == "picture":
            if suffix not in PICTURE_SUFFIXES:
                raise UsageError(f"the output of a picture ends in {suffix!r}: use {', '.join(PICTURE_SUFFIXES)}")
            return PictureSink(target)
        if suffix not in VIDEO_CODECS:
            raise UsageError(f"the output of a video ends in {suffix!r}: use {', '.join(VIDEO_CODECS)}")
        return VideoSink(target, fps=source.fps, width=width or source.width, height=source.height)

    @abstractmethod
    def write(self, image: NDArray[np.uint8], name: str = "") -> None:
        """Take the next frame (H, W, 3) uint8; `name` is the file name in a folder."""

    @abstractmethod
    def _finish(self) -> None:
        """Check what was written and move it to its name."""

    @abstractmethod
    def _discard(self) -> None:
        """Remove what was written."""

    def __enter__(self) -> FrameSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._discard()


class PictureSink(FrameSink):
    """One picture file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = _partial_name(path)

    def write(self, image: NDArray[np.uint8], name: str = "") -> None:
        _write(self._partial, encode_picture(image, self.path.suffix), self.path)

    def _finish(self) -> None:
        if not self._partial.exists():
            raise InputError(f"no picture came for the output {str(self.path)!r}: check the source")
        _move(self._partial, self.path)

    def _discard(self) -> None:
        self._partial.unlink(missing_ok=True)


class FolderSink(FrameSink):
    """Pictures under their source's names; they appear together, when all are written."""

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise UsageError(f"the output {str(path)!r} is a file, but the source is a folder: name a folder")
        self.path = path
        self._names: list[str] = []
        try:
            self._partial = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}.", suffix=".partial", dir=path.parent))
        except OSError as error:
            raise InputError(
                f"the folder {str(path.parent)!r} cannot be written ({error.strerror}): make room or permit it"
            ) from None

    def write(self, image: NDArray[np.uint8], name: str = "") -> None:
        name = Path(name).name or f"{len(self._names):06d}.png"
        _write(self._partial / name, encode_picture(image, Path(name).suffix), self.path)
        self._names.append(name)

    def _finish(self) -> None:
        try:
            self.path.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"the folder {str(self.path)!r} cannot be made ({error.strerror}): permit it") from None
        for name in self._names:
            _move(self._partial / name, self.path / name)

    def _discard(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)


class VideoSink(FrameSink):
    """A video file of fixed size and rate, without sound."""

    def __init__(self, path: Path, *, fps: float, width: int, height: int) -> None:
        self.path, self.fps, self.width, self.height = path, fps, width, height
        self.frames = 0
        self._partial = _partial_name(path)
        codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[path.suffix.lower()])
        backend = cv2.CAP_FFMPEG
        if width % 2 or height % 2:  # OpenCV's FFmpeg writer cuts odd sizes to even ones, its own writer does not
            if path.suffix.lower() != ".avi":
                raise UsageError(f"the video is {width}x{height}, and {path.suffix} needs even sizes: write .avi")
            backend = cv2.CAP_OPENCV_MJPEG
        self._writer = cv2.VideoWriter(str(self._partial), backend, codec, fps, (width, height))
        if not self._writer.isOpened():
            self._discard()
            raise InputError(
                f"the video {str(path)!r} cannot be opened for writing ({width}x{height} at {fps:g} a second): "
                "check permission and space, or use .avi"
            )

    def write(self, image: NDArray[np.uint8], name: str = "") -> None:
        if image.shape != (self.height, self.width, 3) or image.dtype != np.uint8:
            raise InputError(
                f"frame {self.frames} is {image.dtype} {image.shape}, but the video is uint8 "
                f"({self.height}, {self.width}, 3): one file has one size"
            )
        if self.frames % _LOOK_EVERY == 0 and (room := shutil.disk_usage(self.path.parent).free) < _LEAST_ROOM:
            raise InputError(
                f"the disk is full ({room >> 10} KiB free) after {self.frames} frames of {str(self.path)!r}: make room"
            )
        self._writer.write(image)
        self.frames += 1

    def _finish(self) -> None:
        self._writer.release()
        if not self.frames:
            raise InputError(f"no frame came for the video {str(self.path)!r}: check the source")
        # OpenCV's writers round the rate, to three decimals or (its own AVI writer) to a whole number.
        try:
            set_rate(self._partial, self.fps, self.frames)
        except OSError as error:
            raise InputError(f"the video {str(self.path)!r} could not be finished ({error.strerror})") from None
        # VideoWriter says nothing when the disk is full, so what was written is looked at again.
        if not self._whole():
            room = shutil.disk_usage(self.path.parent).free
            why = "the disk is full" if room < 8 << 20 else "the disk is full or a size limit was met"
            raise InputError(
                f"the video {str(self.path)!r} could not be written whole ({why}, {room >> 20} MiB free): make room"
            )
        _move(self._partial, self.path)

    def _whole(self) -> bool:
        capture = cv2.VideoCapture(str(self._partial), cv2.CAP_FFMPEG)
        try:
            if not capture.isOpened():
                return False
            rate = float(capture.get(cv2.CAP_PROP_FPS))
            if abs(rate - self.fps) > 0.01 * self.fps:
                raise InputError(
                    f"the video {str(self.path)!r} would play at {rate:g} frames a second, not {self.fps:g}: "
                    "use .mp4 or another rate"
                )
            if int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) != self.frames:
                return False
            capture.set(cv2.CAP_PROP_POS_FRAMES, self.frames - 1)
            found, image = capture.read()
            return bool(found and image is not None and image.shape[:2] == (self.height, self.width))
        finally:
            capture.release()

    def _discard(self) -> None:
        if self._writer.isOpened():
            self._writer.release()
        self._partial.unlink(missing_ok=True)


def _write(path: Path, data: bytes, target: Path) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(
            f"the output {str(target)!r} cannot be written ({error.strerror}): make room or permit it"
        ) from None


def _move(partial: Path, target: Path) -> None:
    try:
        os.replace(partial, target)
    except OSError as error:
        raise InputError(
            f"the output {str(target)!r} cannot be put in place ({error.strerror}): name another or permit it"
        ) from None


def _partial_name(path: Path) -> Path:
    # Cut, so that a target of the longest name that a file may have still has room for the rest.
    return path.with_name(f".{path.stem[:40]}.{os.getpid()}.partial{path.suffix}")


def _reason(error: OSError | ValueError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
