"""Faces of decisions, kept only where that was switched on: encrypted, and forgotten by age and size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.runtime.frames.picture import encode_picture
from immunecam.runtime.gate.audit_log import Retention
from immunecam.runtime.gate.keys import Cipher, GateKey, SealBroken

__all__ = ["ImageArchive"]

_SUFFIX = ".png.sealed"
_ABANDONED_S = 3600.0  # nobody takes so long to write a picture


class ImageArchive:
    """A folder of encrypted pictures, named by the hash of what lies in the file.

    Parameters
    ----------
    folder : path
        Made at the first picture.
    key : GateKey
    retention : Retention
        `days` and `total_bytes`, here of the pictures alone.
    """

    def __init__(self, folder: str | os.PathLike[str], key: GateKey, retention: Retention | None = None) -> None:
        self.folder, self._retention = Path(folder), retention or Retention()
        self._cipher = Cipher(key.derive("audit images"))

    def add(self, image: NDArray[np.uint8]) -> dict[str, Any]:
        """Keep a picture (H, W) or (H, W, 3); returns its file and SHA-256 for the record that refers to it.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        sealed = self._cipher.seal(encode_picture(image, ".png"), b"image")
        digest = hashlib.sha256(sealed).hexdigest()
        file = self.folder / f"{digest[:32]}{_SUFFIX}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with written_whole(file, durable=True) as partial:
                partial.write_bytes(sealed)
            self._keep_to_retention()
        except OSError as error:
            raise InputError(
                f"the picture of a decision cannot be kept in {str(self.folder)!r} ({error.strerror}): check the disk"
            ) from None
        return {"file": file.name, "sha256": digest}

    def read(self, name: str) -> bytes:
        """A kept picture as PNG.

        Raises
        ------
        InputError
            If it is not there any more, or was changed, or the key is another.
        """
        file = self.folder / Path(name).name
        try:
            return self._cipher.open(file.read_bytes(), b"image")
        except OSError as error:
            raise InputError(f"the picture {str(file)!r} cannot be read ({error.strerror})") from None
        except SealBroken:
            raise InputError(f"the picture {str(file)!r} was changed, or sealed by another key") from None

    def _keep_to_retention(self) -> None:
        kept = self._retention
        if kept.days is None and kept.total_bytes is None:
            return
        about = sorted(self._about())
        total = sum(size for _, size, _ in about)
        for made, size, path in about[:-1]:
            old = kept.days is not None and time.time() - made > kept.days * 86400
            if not old and (kept.total_bytes is None or total <= kept.total_bytes):
                break
            path.unlink(missing_ok=True)
            total -= size

    def _about(self) -> Iterator[tuple[float, int, Path]]:
        """Time and size of every picture, and of what processes that were killed left of one."""
        for path in self.folder.glob(f"*{_SUFFIX}*"):
            with contextlib.suppress(FileNotFoundError):  # another process keeps to its retention, too
                about = path.stat()
                if path.name.endswith(_SUFFIX) or time.time() - about.st_mtime > _ABANDONED_S:
                    yield about.st_mtime, about.st_size, path
