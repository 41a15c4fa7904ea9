"""Putting compiled plans into a bundle that is there already."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_manifest import MANIFEST, BundleManifest
from immunecam.runtime.plan_record import PlanKey, PlanRecord

__all__ = ["NewPlan", "store_plans"]

NewPlan = tuple[str, PlanKey, bytes, Mapping[str, Any]]
"""Role, key, the plan's bytes, and what was measured of it."""


def store_plans(bundle: Bundle, plans: Sequence[NewPlan]) -> Bundle:
    """Add plans to a bundle's folder; all its other files stay as they are.

    The plans are written first, under names nobody knows of, and then the manifest is replaced in one step: a reader
    sees the bundle as it was or with all the new plans. A plan of the same role and key is replaced; those for other
    machines are kept.

    Parameters
    ----------
    bundle : Bundle
        What the plans were built from.
    plans : sequence of NewPlan

    Returns
    -------
    Bundle
        What :meth:`Bundle.load` makes of the folder now.

    Raises
    ------
    InputError
        If the bundle's graphs are no longer those the plans were built from, or the folder cannot be written.
    """
    folder = bundle.path
    with _alone(folder):
        now = Bundle.load(folder)
        for role, key, _, _ in plans:
            if now.manifest.files[now.manifest.graphs[role]].sha256 != key.onnx_sha256:
                raise InputError(f"The bundle {folder} got another {role} while its plan was built: build it again.")
        content = json.loads((folder / MANIFEST).read_bytes())
        fresh = {(role, key) for role, key, _, _ in plans}
        replaced = [plan for plan in now.manifest.plans if (plan.role, plan.key) in fresh]
        records = [plan.to_dict() for plan in now.manifest.plans if plan not in replaced]
        files: dict[str, bytes] = {}
        for role, key, data, parity in plans:
            sha256 = hashlib.sha256(data).hexdigest()
            name = f"{role}-{sha256[:16]}.plan"
            files[name] = data
            content["files"][name] = {"sha256": sha256, "bytes": len(data)}
            records.append(PlanRecord(name, role, key, parity).to_dict())
        content["plans"] = records
        unused = {plan.file for plan in replaced} - {record["file"] for record in records}
        for name in unused:
            del content["files"][name]
        raw = (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
        BundleManifest.from_bytes(raw, str(folder / MANIFEST))
        _write(folder, files, raw)
        for name in unused:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        return Bundle.load(folder)


def _write(folder: Path, files: Mapping[str, bytes], manifest: bytes) -> None:
    new = [name for name in files if not (folder / name).exists()]
    try:
        for name, data in {**files, MANIFEST: manifest}.items():
            with written_whole(folder / name) as partial, open(partial, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
    except BaseException as error:
        with contextlib.suppress(OSError):
            if (folder / MANIFEST).read_bytes() != manifest:  # else the new plans are listed already, and stay
                for name in new:
                    (folder / name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise InputError(f"The bundle {folder} cannot be written: {error.strerror}.") from None
        raise


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process changes a bundle at a time; the lock is the folder's own, so no file is left by it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"The bundle {folder} cannot be opened: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
