"""Where frames come from: a picture, a folder of pictures, a video, a camera, a network stream."""

from __future__ import annotations

import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from immunecam.errors import InputError
from immunecam.runtime.frames.container import expected_frames, looks_like_text, missing_bytes
from immunecam.runtime.frames.frame import Frame
from immunecam.runtime.frames.picture import PICTURE_SUFFIXES, read_picture
from immunecam.runtime.quiet import silence

__all__ = ["FolderSource", "FrameSource", "PictureSource", "VideoSource"]

URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCHEMES = ("rtsp", "rtsps", "http", "https")
_CAMERA_FILE = re.compile(r"/dev/video(\d+)")


class FrameSource(ABC):
    """An iterator over frames, and a context manager.

    Attributes
    ----------
    kind : str
        "picture", "folder", "video", "camera" or "stream".
    live : bool
        Whether frames that are not taken in time are dropped.
    name : str
        As it was given.
    width, height : int
        Pixels of the first frame.
    fps : float
        Frames a second; 0 for pictures.
    frame_count : int or None
        As far as it is known beforehand.
    """

    kind: str
    live: bool = False
    name: str
    width: int
    height: int
    fps: float = 0.0
    frame_count: int | None = None

    @staticmethod
    def open(spec: str | Path, *, live: bool = False, **options: Any) -> FrameSource:
        """Open whatever `spec` names and look at its first frame.

        Parameters
        ----------
        spec : str or path
            A picture, a folder of pictures, a video file, a camera's number ("0"), or an rtsp:// or http:// URL.
        live : bool, optional
            Whether a video file is played at its own rate as if it were a camera; cameras and streams are live.
        **options
            Of `LiveSource`, for live sources.

        Raises
        ------
        InputError
            If it cannot be opened or gives no frame.
        """
        silence()
        text = str(spec)
        if camera := _CAMERA_FILE.fullmatch(text):
            text = camera.group(1)
        url = URL.match(text)
        if url or text.isdecimal():
            from immunecam.runtime.frames.live import LiveSource

            if url and url.group(1).lower() not in _SCHEMES:
                raise InputError(
                    f"the source begins with {url.group()!r}: use rtsp:// or http(s)://, or the path of a file"
                )
            return LiveSource(text, **options)
        if options and not live:
            raise InputError(f"{', '.join(options)} belong to cameras and streams, but the source is {text!r}")
        path = Path(spec)
        try:
            about = path.stat()
            if stat.S_ISREG(about.st_mode):
                path.open("rb").close()
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise InputError(
                f"the source {text!r} does not exist: give a picture, folder, video, camera number or URL"
            ) from None
        except OSError as error:
            raise InputError(f"the source {text!r} cannot be read ({error.strerror}): check path and rights") from None
        is_picture = path.suffix.lower() in PICTURE_SUFFIXES
        if live and (stat.S_ISDIR(about.st_mode) or is_picture):
            raise InputError(f"{text!r} cannot be played live: give a video, a camera number or a URL")
        if stat.S_ISDIR(about.st_mode):
            return FolderSource(path)
        if not stat.S_ISREG(about.st_mode):
            raise InputError(f"the source {text!r} is a device or pipe: give a file, a camera number or a URL")
        if about.st_size == 0:
            raise InputError(f"the source {text!r} has zero bytes: replace it")
        if is_picture:
            return PictureSource(path)
        if live:
            from immunecam.runtime.frames.live import LiveSource

            VideoSource(path).close()  # says in one sentence what is wrong with the file
            return LiveSource(path, **options)
        return VideoSource(path)

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Frames in order; iterate once."""

    def close(self) -> None:  # noqa: B027 (most sources hold nothing)
        """Release what is held."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PictureSource(FrameSource):
    """One picture file."""

    kind = "picture"
    frame_count = 1

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._frame = Frame(read_picture(path), 0, 0.0, path.name)
        self.height, self.width = self._frame.image.shape[:2]

    def __iter__(self) -> Iterator[Frame]:
        yield self._frame


class FolderSource(FrameSource):
    """The pictures of a folder, sorted as a person would (2 before 10); folders below it are left alone."""

    kind = "folder"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            items = [path / name for name in os.listdir(path)]
        except OSError as error:
            raise InputError(f"the folder {str(path)!r} cannot be read ({error.strerror}): check its rights") from None
        self._files = sorted(
            (item for item in items if item.suffix.lower() in PICTURE_SUFFIXES and item.is_file()),
            key=lambda item: [int(part) if part.isdecimal() else part.lower() for part in _split(item.name)],
        )
        if not self._files:
            raise InputError(f"the folder {str(path)!r} holds no picture: wanted {', '.join(PICTURE_SUFFIXES)}")
        self.frame_count = len(self._files)
        self.height, self.width = read_picture(self._files[0]).shape[:2]

    def __iter__(self) -> Iterator[Frame]:
        for index, file in enumerate(self._files):
            yield Frame(read_picture(file), index, 0.0, file.name)


class VideoSource(FrameSource):
    """A video file, every frame of it.

    A file that ends before its own structure says raises InputError where its frames end, because a clip that was cut
    in copying would else pass for a whole one; so does one whose frames do not all decode.
    """

    kind = "video"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        if looks_like_text(path):
            raise InputError(f"{str(path)!r} is not a video but text: give a picture, a folder or a video")
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        found, image = self._capture.read() if self._capture.isOpened() else (False, None)
        if not found or image is None:
            self._capture.release()
            raise InputError(f"{str(path)!r} is not a video that can be decoded, or is cut short: give a whole file")
        self._first = image
        self.height, self.width = image.shape[:2]
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        if not 0 < self.fps < 1000:
            self.fps = 25.0  # containers without a rate; a writer needs one
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.frame_count = count if count > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        image, index = self._first, 0
        at = 0.0
        while True:
            yield Frame(np.asarray(image, np.uint8), index, at, Path(self.name).name)
            index += 1
            found, image = self._capture.read()
            if not found:
                break
            at = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000 or index / self.fps
        self._check_whole(index)

    def _check_whole(self, decoded: int) -> None:
        path, promised = Path(self.name), self.frame_count or 0
        expected = expected_frames(path, promised)
        missing = missing_bytes(path)
        # A decoder makes up what a cut frame lacks, so all frames may come. Some AVI writers are 8 bytes off.
        if missing > 8 or (missing and expected is not None and decoded < promised):
            of = "" if expected is None else f" of {promised}"
            raise InputError(
                f"the video {self.name!r} is cut short: {decoded}{of} frames could be decoded, and {missing} bytes are "
                "missing at its end: copy it again"
            )
        if expected is not None and decoded < expected[0]:
            raise InputError(
                f"the video {self.name!r} is damaged: {decoded} of {promised} frames could be decoded: copy it again"
            )

    def close(self) -> None:
        """Release the decoder."""
        self._capture.release()


def _split(name: str) -> list[str]:
    return re.split(r"(\d+)", name)
