"""Bundle: the folder ``NAME.immune/`` that holds everything a device needs, checked as it is read.

A file is read once, its size and SHA-256 are compared with the manifest, and the very bytes that were
compared are what is parsed afterwards: nothing can change between the check and the use. Files of the
folder that the manifest does not list are never opened.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from immunecam.errors import InputError
from immunecam.kernels import Subspace
from immunecam.runtime.bundle_manifest import MANIFEST, SUBSPACE, BundleManifest
from immunecam.runtime.subspace_file import subspace_from_bytes

__all__ = ["Bundle", "default_bundle"]

_MANIFEST_LIMIT = 4 * 2**20
_READ_AGAIN = "copy the bundle again from where it was made"


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose every file has been checked against its manifest.

    Attributes
    ----------
    path : Path
        The folder.
    manifest : BundleManifest
        What ``manifest.json`` says.
    sha256 : str
        SHA-256 of the bytes of ``manifest.json``; as the manifest holds every other file's hash, it names
        the whole content. Reports carry it as ``bundle_sha256``.
    files : Mapping[str, bytes]
        The verified bytes of every listed file.
    subspace : Subspace
        Mean face and eigenfaces.
    """

    path: Path
    manifest: BundleManifest
    sha256: str
    files: Mapping[str, bytes] = field(repr=False)
    subspace: Subspace = field(repr=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bundle:
        """Read and check a bundle.

        Parameters
        ----------
        path : str or path
            The bundle's folder.

        Raises
        ------
        InputError
            If the folder is missing or is not a bundle, the manifest is not valid, a listed file is
            missing or has changed, or the subspace disagrees with the manifest.
        """
        folder = Path(path)
        if not folder.exists():
            raise InputError(f"There is no bundle at {folder}: give the path of a folder NAME.immune.")
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder, but a bundle is one: give the path of NAME.immune.")
        if not (folder / MANIFEST).exists():
            raise InputError(f"{folder} is not a bundle: it has no {MANIFEST}.")
        root = (folder / MANIFEST).resolve().parent
        raw = _read(folder / MANIFEST, root, _MANIFEST_LIMIT)
        manifest = BundleManifest.from_bytes(raw, str(folder / MANIFEST))
        contents: dict[str, bytes] = {}
        for name, record in manifest.files.items():
            data = _read(folder / name, root, record.bytes)
            if len(data) != record.bytes:
                raise InputError(
                    f"The bundle file {folder / name} has {_at_least(len(data), record.bytes)} bytes, but "
                    f"the manifest says {record.bytes}: {_READ_AGAIN}."
                )
            found = hashlib.sha256(data).hexdigest()
            if found != record.sha256:
                raise InputError(
                    f"The bundle file {folder / name} has the SHA-256 {found[:12]}..., but the manifest says "
                    f"{record.sha256[:12]}...: it was changed or damaged, {_READ_AGAIN}."
                )
            contents[name] = data
        subspace = _subspace(contents[SUBSPACE], folder / SUBSPACE, manifest)
        return cls(folder, manifest, hashlib.sha256(raw).hexdigest(), MappingProxyType(contents), subspace)

    @property
    def name(self) -> str:
        """The folder's name without ``.immune``."""
        return self.path.name.removesuffix(".immune")

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        return self.manifest.k

    def graph(self, role: str) -> bytes | None:
        """Verified bytes of the ONNX file in a role ("analyzer", "purifier", "restorer"); None if there is none."""
        name = self.manifest.graphs.get(role)
        return None if name is None else self.files[name]


def default_bundle() -> Path:
    """Folder of the bundle that is installed with the package.

    Raises
    ------
    InputError
        If this installation has none.
    """
    folder = Path(str(importlib.resources.files("immunecam"))) / "data" / "edge.immune"
    if not folder.is_dir():
        raise InputError(f"This installation has no default bundle at {folder}: reinstall immunecam or name a bundle.")
    return folder


def _read(path: Path, root: Path, limit: int) -> bytes:
    """Up to ``limit + 1`` bytes of a regular file whose real place is directly in ``root``."""
    try:
        if path.resolve(strict=True).parent != root:
            raise InputError(
                f"The bundle file {path} is a link to {path.resolve()}, but a bundle's files must lie in its "
                f"own folder: {_READ_AGAIN}."
            )
        # Non-blocking, so that a named pipe under a listed name cannot hang the start of a device.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"The bundle file {path} is not a regular file: {_READ_AGAIN}.")
            return stream.read(limit + 1)
    except FileNotFoundError:
        raise InputError(f"The bundle file {path} is missing, but the manifest lists it: {_READ_AGAIN}.") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"The bundle file {path} cannot be read ({reason}): {_READ_AGAIN}.") from None


def _at_least(found: int, wanted: int) -> str:
    return f"more than {wanted}" if found > wanted else str(found)


def _subspace(data: bytes, path: Path, manifest: BundleManifest) -> Subspace:
    subspace = subspace_from_bytes(data, f"The bundle file {path}")
    if subspace.k != manifest.k:
        raise InputError(
            f"The bundle file {path} has K = {subspace.k} eigenfaces, but the manifest says K = "
            f"{manifest.k}: export the bundle again."
        )
    pixels = manifest.height * manifest.width
    if subspace.d != pixels:
        raise InputError(
            f"The bundle file {path} has eigenfaces of {subspace.d} pixels, but the manifest's faces have "
            f"{manifest.height}x{manifest.width} = {pixels}: export the bundle again."
        )
    stored = {"float32": "fp32", "float16": "fp16", "int8": "int8"}[np.dtype(subspace.basis.dtype).name]
    if manifest.precision["basis"] != stored:
        raise InputError(
            f"The bundle file {path} has a basis in {stored}, but the manifest says "
            f"{manifest.precision['basis']}: export the bundle again."
        )
    return subspace
