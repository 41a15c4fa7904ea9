"""Any face recogniser, described in a small TOML: its file and hash, and what it wants to see."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import BackendMissingError, InputError

__all__ = ["COLOURS", "LAYOUTS", "RecognizerSpec"]

LAYOUTS = ("NCHW", "NHWC")
COLOURS = ("RGB", "BGR", "GREY")

_TOML_LIMIT = 2**16
_MODEL_LIMIT = 2**31 - 1  # what a protobuf message can be

_KEYS: Mapping[str, tuple[str, ...]] = {
    "": ("name", "model", "input", "output"),
    "model": ("file", "sha256"),
    "input": ("name", "width", "height", "layout", "colour", "range", "mean", "std"),
    "output": ("name", "normalise"),
}


@dataclass(frozen=True)
class RecognizerSpec:
    """What a recogniser wants and gives.

    Faces come aligned to the ArcFace five-point template and are resized to the size asked for. A pixel from 0 to 255
    is mapped onto `value_range` linearly, then `mean` is subtracted and the rest divided by `std`.

    Attributes
    ----------
    name : str
        For logs and the audit trail.
    path : Path
        The ONNX file.
    sha256 : str
        Of that file, as the description says; checked before a session is opened.
    width, height : int
        Pixels of the input.
    layout : str
        "NCHW" or "NHWC".
    colour : str
        "RGB", "BGR" or "GREY" (one channel).
    value_range : tuple of two floats
        What 0 and 255 become.
    mean, std : tuple of float
        One a channel, in the unit of `value_range`.
    input_name, output_name : str or None
        Of the tensors; None where the model has one only.
    normalise : bool
        Whether embeddings are to be brought to unit length; False says that the model does.
    """

    name: str
    path: Path
    sha256: str
    width: int
    height: int
    layout: str
    colour: str
    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_name: str | None = None
    output_name: str | None = None
    normalise: bool = True

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RecognizerSpec:
        """Read a description.

        Such as::

            name = "mobilefacenet"
            [model]
            file = "mobilefacenet.onnx"   # beside this file
            sha256 = "0123..."
            [input]
            width = 112
            height = 112
            layout = "NCHW"               # or NHWC
            colour = "BGR"                # or RGB, GREY
            range = [0, 255]              # what a pixel of 0 and one of 255 become
            mean = [0, 0, 0]              # optional, as are std and the input's name
            std = [1, 1, 1]
            [output]                      # optional
            name = "embedding"
            normalise = true

        Raises
        ------
        InputError
            If it cannot be read, is no TOML, or an entry is missing, unknown or out of its range.
        BackendMissingError
            If Python is 3.10 and tomli is not installed.
        """
        file = Path(path)
        content = _parse(_read(file, _TOML_LIMIT, "recogniser description"), file)
        where = f"the recogniser description {str(file)!r}"
        _known(content, where)
        model, takes, gives = (_table(content, name, where) for name in ("model", "input", "output"))
        colour = _one_of(takes, "colour", COLOURS, where)
        channels = 1 if colour == "GREY" else 3
        low, high = _numbers(takes, "range", 2, None, where)
        if low == high:
            raise InputError(f"{where} has range = [{low:g}, {high:g}], which maps every pixel to one value")
        std = _numbers(takes, "std", channels, 1.0, where)
        if min(std) <= 0:
            raise InputError(f"{where} has std = {list(std)}, but every value must be above 0")
        sha256 = _text(model, "sha256", where).lower()
        if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
            raise InputError(f"{where} has sha256 = {sha256[:16]!r}..., but it must be 64 hex digits: run sha256sum")
        name = _text(model, "file", where)
        if Path(name).is_absolute():
            raise InputError(f"{where} names the file {name!r}, but it must be relative to the description")
        normalise = gives.get("normalise", True)
        if not isinstance(normalise, bool):
            raise InputError(f"{where} has normalise = {normalise!r}, but it must be true or false")
        return cls(
            name=_text(content, "name", where),
            path=file.parent / name,
            sha256=sha256,
            width=_size(takes, "width", where),
            height=_size(takes, "height", where),
            layout=_one_of(takes, "layout", LAYOUTS, where),
            colour=colour,
            value_range=(low, high),
            mean=_numbers(takes, "mean", channels, 0.0, where),
            std=std,
            input_name=_text(takes, "name", where) if "name" in takes else None,
            output_name=_text(gives, "name", where) if "name" in gives else None,
            normalise=normalise,
        )

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 1 if self.colour == "GREY" else 3

    @property
    def identity(self) -> str:
        """SHA-256 of all that an embedding depends on: the file's hash and the way of its input, not the name."""
        depends = {
            "sha256": self.sha256,
            "size": [self.width, self.height],
            "layout": self.layout,
            "colour": self.colour,
            "range": list(self.value_range),
            "mean": list(self.mean),
            "std": list(self.std),
            "output": self.output_name,
        }
        return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()

    def read_model(self) -> bytes:
        """The model's bytes, whose SHA-256 is that of the description.

        Raises
        ------
        InputError
            If the file cannot be read, or has another hash.
        """
        data = _read(self.path, _MODEL_LIMIT, "recogniser")
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise InputError(
                f"the recogniser {str(self.path)!r} has the SHA-256 {found[:12]}..., but its description says "
                f"{self.sha256[:12]}...: it was changed or damaged, copy it again or correct the description"
            )
        return data

    def prepare(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The input tensor.

        Parameters
        ----------
        crops : ndarray of uint8, shape (N, H, W) or (N, H, W, 3)
            Aligned faces, grey or BGR.

        Returns
        -------
        ndarray of float32, shape (N, C, height, width) or (N, height, width, C)

        Raises
        ------
        InputError
            If the shape or dtype is another.
        """
        given = crops if isinstance(crops, np.ndarray) else None
        if (
            given is None
            or given.dtype != np.uint8
            or not (given.ndim == 3 or (given.ndim == 4 and given.shape[3] == 3))
        ):
            found = f"{given.dtype} {given.shape}" if given is not None else type(crops).__name__
            raise InputError(f"the faces are {found}, but they must be uint8 (N, H, W) grey or (N, H, W, 3) BGR")
        low, high = self.value_range
        shift = np.array(self.mean, np.float32)
        scale = np.array(self.std, np.float32)
        out = np.empty((len(crops), self.height, self.width, self.channels), np.float32)
        for row, crop in zip(out, crops, strict=True):
            picture = crop
            if crop.shape[:2] != (self.height, self.width):
                smaller = crop.shape[0] > self.height or crop.shape[1] > self.width
                how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
                picture = np.asarray(cv2.resize(crop, (self.width, self.height), interpolation=how), np.uint8)
            row[:] = self._channels(picture)
        out *= np.float32((high - low) / 255)
        out += np.float32(low) - shift
        out /= scale
        return np.ascontiguousarray(out.transpose(0, 3, 1, 2)) if self.layout == "NCHW" else out

    def _channels(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, C) in the order asked for; grey is repeated where colour is wanted."""
        if self.colour == "GREY":
            grey = picture if picture.ndim == 2 else np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.uint8)
            return grey[:, :, None]
        if picture.ndim == 2:
            return np.repeat(picture[:, :, None], 3, axis=2)
        return picture[:, :, ::-1] if self.colour == "RGB" else picture


def _read(path: Path, limit: int, what: str) -> bytes:
    """A regular file of at most `limit` bytes."""
    try:
        # Non-blocking, so that a named pipe cannot hang the start of a device.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"the {what} {str(path)!r} is not a regular file: give the path of one")
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"the {what} {str(path)!r} cannot be read ({error.strerror}): check path and rights") from None
    if len(data) > limit:
        raise InputError(f"the {what} {str(path)!r} has more than {limit} bytes: give the right file")
    return data


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ModuleNotFoundError:
            raise BackendMissingError(
                "the gate reads TOML, for which Python 3.10 needs tomli, which is not installed: "
                "pip install 'immunecam[gate]'"
            ) from None
    try:
        content: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"the recogniser description {str(path)!r} is no TOML ({reason}): correct it") from None
    return content


def _known(content: Mapping[str, Any], where: str) -> None:
    """Refuse entries that nothing reads: a misspelt one would silently be its default."""
    for table, keys in _KEYS.items():
        found = content if not table else content.get(table, {})
        if isinstance(found, dict) and (unknown := sorted(set(found) - set(keys))):
            inside = f" in [{table}]" if table else ""
            raise InputError(f"{where} has the unknown entry {unknown[0]!r}{inside}: known are {', '.join(keys)}")


def _table(content: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    found = content.get(name, {} if name == "output" else None)
    if not isinstance(found, dict):
        raise InputError(f"{where} lacks the table [{name}]: add it")
    return found


def _text(table: Mapping[str, Any], key: str, where: str) -> str:
    found = table.get(key)
    if not isinstance(found, str) or not 0 < len(found) <= 256 or not found.isprintable():
        raise InputError(f"{where} has {key} = {found!r}, but it must be a text of 1 to 256 characters")
    return found


def _size(table: Mapping[str, Any], key: str, where: str) -> int:
    found = table.get(key)
    if not isinstance(found, int) or isinstance(found, bool) or not 16 <= found <= 1024:
        raise InputError(f"{where} has {key} = {found!r}, but it must be a whole number from 16 to 1024")
    return found


def _one_of(table: Mapping[str, Any], key: str, allowed: tuple[str, ...], where: str) -> str:
    found = table.get(key)
    if found not in allowed:
        raise InputError(f"{where} has {key} = {found!r}, but it must be one of {', '.join(allowed)}")
    return str(found)


def _numbers(table: Mapping[str, Any], key: str, count: int, default: float | None, where: str) -> tuple[float, ...]:
    found = table.get(key, None if default is None else [default] * count)
    good = isinstance(found, list) and len(found) == count
    if not good or not all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in found):
        raise InputError(f"{where} has {key} = {found!r}, but it must be a list of {count} finite numbers")
    return tuple(float(x) for x in found)
