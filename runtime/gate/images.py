"""Faces of decisions, kept only where that was switched on: encrypted, and forgotten by age and size."""

from __future__ import annotations

import hashlib
import os
import time
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
        about = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in self.folder.glob(f"*{_SUFFIX}"))
        total = sum(size for _, size, _ in about)
        for made, size, path in about[:-1]:
            old = kept.days is not None and time.time() - made > kept.days * 86400
            if not old and (kept.total_bytes is None or total <= kept.total_bytes):
                break
            path.unlink(missing_ok=True)
            total -= size
