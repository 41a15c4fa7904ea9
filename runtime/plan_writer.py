"""Putting compiled plans into a bundle that is there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_changes import alone, change_folder
from immunecam.runtime.bundle_manifest import BundleManifest, manifest_to_bytes
from immunecam.runtime.bundle_writer import is_signed
from immunecam.runtime.plan_record import PlanKey, PlanRecord
from immunecam.runtime.trust import PrivateKey, Trust

__all__ = ["NewPlan", "check_storable", "store_plans"]

NewPlan = tuple[str, PlanKey, bytes, Mapping[str, Any]]
"""Role, key, the plan's bytes, and what was measured of it."""


def check_storable(
    bundle: Bundle, *, sign: PrivateKey | None = None, drop_signature: bool = False, trust: Trust | None = None
) -> None:
    """Say before plans are built, which takes long, why they could not be stored; see :func:`store_plans`.

    Raises
    ------
    UsageError
        If the bundle is an archive, its signature would be lost unasked, or nothing would load it afterwards.
    """
    path = bundle.path
    if path.is_file():
        raise UsageError(
            f"{path} is an archive, but plans are stored in a folder: use 'immunecam bundle unpack' first."
        )
    if sign is None and not drop_signature and is_signed(path):
        raise UsageError(
            f"{path} is signed, and plans change what was signed: sign it anew with --sign PRIVATE.pem, or give "
            "--drop-signature."
        )
    if sign is not None and drop_signature:
        raise UsageError("The bundle is to be signed and its signature to be dropped: give --sign or --drop-signature.")
    if trust is not None and (sign is None or not trust.trusts(sign.public)):
        trusted = ", ".join(key.id for key in trust.keys)
        by = "unsigned" if sign is None else f"signed by {sign.public.id}"
        raise UsageError(f"{path} would be {by}, but only {trusted} is trusted here: give that private key to --sign.")


def store_plans(
    bundle: Bundle,
    plans: Sequence[NewPlan],
    *,
    sign: PrivateKey | None = None,
    drop_signature: bool = False,
    trust: Trust | None = None,
) -> Bundle:
    """Add plans to a bundle's folder; all its other files stay as they are.

    The plans are written first, under names nobody knows of, and then the manifest is replaced in one step: a reader
    sees the bundle as it was or with all the new plans. A plan of the same role and key is replaced; those for other
    machines are kept.

    Parameters
    ----------
    bundle : Bundle
        What the plans were built from.
    plans : sequence of NewPlan
    sign : PrivateKey, optional
        Sign the changed manifest with this key. What is signed is what `bundle` was, with the plans.
    drop_signature : bool
        Without a key, let the signature go that no longer holds.
    trust : Trust, optional
        What the bundle was loaded under, and is loaded under again.

    Returns
    -------
    Bundle
        What the folder holds now.

    Raises
    ------
    UsageError
        As :func:`check_storable`.
    InputError
        If the bundle's graphs are no longer those the plans were built from, anything of it changed that would now be
        signed, or the folder cannot be written.
    """
    check_storable(bundle, sign=sign, drop_signature=drop_signature, trust=trust)
    folder = bundle.path
    with alone(folder):
        now = read_bundle(folder, trust)
        if sign is not None and trust is None and now.sha256 != bundle.sha256:
            raise InputError(f"The bundle {folder} was changed while its plans were built: look at it and build again.")
        for role, key, _, _ in plans:
            if now.manifest.compiled_sha256(role) != key.onnx_sha256:
                raise InputError(f"The bundle {folder} got another {role} while its plan was built: build it again.")
        content = json.loads(now.manifest_bytes)
        fresh = {(role, key) for role, key, _, _ in plans}
        before = now.manifest.all_plans
        replaced = [plan for plan in before if (plan.role, plan.key) in fresh]
        records = [plan.to_dict() for plan in before if plan not in replaced]
        files: dict[str, bytes] = {}
        for role, key, data, parity in plans:
            sha256 = hashlib.sha256(data).hexdigest()
            name = f"{role}-{sha256[:16]}.plan"
            files[name] = data
            content["files"][name] = {"sha256": sha256, "bytes": len(data)}
            records.append(PlanRecord(name, role, key, parity).to_dict())
        others = set[str]()
        for name, part in now.manifest.parts.items():
            own = [record for record in records if record["role"] in part.COMPILED]
            others |= set(part.COMPILED)
            if own:
                content[name]["plans"] = own
        content["plans"] = [record for record in records if record["role"] not in others]
        unused = {plan.file for plan in replaced} - {record["file"] for record in records}
        for name in unused:
            del content["files"][name]
        raw = manifest_to_bytes(content)
        BundleManifest.from_bytes(raw, str(folder / "manifest.json"))
        change_folder(folder, raw, files=files, unused=unused, sign=sign)
        return read_bundle(folder, trust)
