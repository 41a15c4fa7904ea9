"""Bundle: everything a device needs, in a folder or an archive ``NAME.immune``, checked as it is read.

A file is read once, its size and SHA-256 are compared with the manifest, and the very bytes that were
compared are what is parsed afterwards: nothing can change between the check and the use. Files of the
folder that the manifest does not list are never opened. Where keys are trusted, the signature over the
manifest's bytes is verified before anything of the manifest is parsed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np

from immunecam.errors import InputError
from immunecam.kernels import Subspace
from immunecam.runtime.bundle_manifest import MANIFEST, READ_AGAIN, SUBSPACE, BundleManifest
from immunecam.runtime.bundle_source import open_source
from immunecam.runtime.subspace_file import subspace_from_bytes
from immunecam.runtime.trust import SIGNATURE, SIGNATURE_LIMIT, PublicKey, Trust, TrustedKeys

__all__ = ["MANIFEST_LIMIT", "Bundle", "check_signer", "default_bundle", "read_bundle"]

MANIFEST_LIMIT = 4 * 2**20
"""Most bytes of a manifest."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle whose every file has been checked against its manifest.

    Attributes
    ----------
    path : Path
        The folder or archive.
    manifest : BundleManifest
        What ``manifest.json`` says.
    sha256 : str
        SHA-256 of the bytes of ``manifest.json``; as the manifest holds every other file's hash, it names
        the whole content. Reports carry it as ``bundle_sha256``.
    files : Mapping[str, bytes]
        The verified bytes of every listed file.
    subspace : Subspace
        Mean face and eigenfaces.
    manifest_bytes : bytes
        Content of ``manifest.json``.
    signed_by : PublicKey or None
        The trusted key whose signature was verified; None if no signature was demanded.
    """

    path: Path
    manifest: BundleManifest
    sha256: str
    files: Mapping[str, bytes] = field(repr=False)
    subspace: Subspace = field(repr=False)
    manifest_bytes: bytes = field(repr=False)
    signed_by: PublicKey | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, trust: TrustedKeys | None = None) -> Bundle:
        """Read and check a bundle.

        Parameters
        ----------
        path : str or path
            The bundle's folder or archive.
        trust : path, sequence of paths or Trust, optional
            Public keys, one of which must have signed the bundle. None takes those of the environment variable
            ``IMMUNECAM_TRUST``; if that is not set either, no signature is demanded.

        Raises
        ------
        InputError
            If there is no bundle, it is not signed by a trusted key or older than one that was seen, the manifest is
            not valid, a listed file is missing or has changed, or the subspace disagrees with the manifest.
        UsageError, BackendMissingError
            See :meth:`immunecam.runtime.trust.Trust.in_force`.
        """
        return read_bundle(path, Trust.in_force(trust))

    @property
    def name(self) -> str:
        """The folder's or archive's name without ``.immune``."""
        return self.path.name.removesuffix(".immune")

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        return self.manifest.k

    def graph(self, role: str) -> bytes | None:
        """Verified bytes of the ONNX file in a role ("analyzer", "purifier", "restorer"); None if there is none."""
        name = self.manifest.graphs.get(role)
        return None if name is None else self.files[name]


def read_bundle(path: str | os.PathLike[str], trust: Trust | None, *, remember: bool = True) -> Bundle:
    """A bundle under a policy that is settled already.

    :meth:`Bundle.load` is for whoever uses a bundle. This is for what this process made itself or is about to sign,
    where the environment's keys cannot be demanded yet.

    Parameters
    ----------
    path : str or path
        The bundle's folder or archive.
    trust : Trust or None
        None demands no signature, whatever the environment says.
    remember : bool
        False looks at the versions that were seen, but adds nothing to them.

    Raises
    ------
    InputError
        As :meth:`Bundle.load`.
    """
    place = Path(path)
    with contextlib.closing(open_source(place)) as source:
        raw = source.read(MANIFEST, MANIFEST_LIMIT)
        if len(raw) > MANIFEST_LIMIT:
            raise InputError(
                f"{place / MANIFEST} has more than {MANIFEST_LIMIT} bytes, so it is no manifest: {READ_AGAIN}."
            )
        signer = None
        if trust is not None:
            signature = source.read(SIGNATURE, SIGNATURE_LIMIT) if source.has(SIGNATURE) else None
            signer = trust.verify(raw, signature, f"The bundle {place}")
        manifest = BundleManifest.from_bytes(raw, str(place / MANIFEST))
        versions = None if trust is None else trust.versions
        if versions is not None:
            versions.check(manifest.name, manifest.version, f"The bundle {place}")
        source.expect(manifest.files)
        contents: dict[str, bytes] = {}
        for name, record in manifest.files.items():
            data = source.read(name, record.bytes)
            if len(data) != record.bytes:
                raise InputError(
                    f"The bundle file {place / name} has {_at_least(len(data), record.bytes)} bytes, but "
                    f"the manifest says {record.bytes}: {READ_AGAIN}."
                )
            found = hashlib.sha256(data).hexdigest()
            if found != record.sha256:
                raise InputError(
                    f"The bundle file {place / name} has the SHA-256 {found[:12]}..., but the manifest says "
                    f"{record.sha256[:12]}...: it was changed or damaged, {READ_AGAIN}."
                )
            contents[name] = data
    subspace = _subspace(contents[SUBSPACE], place / SUBSPACE, manifest)
    if versions is not None and remember:
        # Not before all of it was found whole: a device must be able to go on with what it has.
        versions.remember(manifest.name, manifest.version, f"The bundle {place}")
    if signer is not None:
        _log.info("The bundle %s is %r version %d, signed by %s.", place, manifest.name, manifest.version, signer.id)
    sha256 = hashlib.sha256(raw).hexdigest()
    return Bundle(place, manifest, sha256, MappingProxyType(contents), subspace, raw, signer)


def check_signer(bundle: Bundle, trust: Trust | None) -> None:
    """Raise an InputError for a bundle that was loaded without the signature that is demanded now."""
    if trust is not None and (bundle.signed_by is None or not trust.trusts(bundle.signed_by)):
        raise InputError(
            f"The bundle {bundle.path} was loaded without a trusted signature, but one is demanded: load it by "
            "Bundle.load with the keys, or give its path."
        )


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
