"""What a bundle's manifest says of its measured quality: rows of the report of an evaluation of these very files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from immunecam.errors import InputError
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_changes import alone, change_folder
from immunecam.runtime.bundle_manifest import manifest_to_bytes
from immunecam.runtime.trust import SIGNATURE

__all__ = ["measured_quality", "put_quality"]

_MEASURED = ("analyzer.onnx", "restorer.onnx", "subspace.safetensors")


def measured_quality(report: str | os.PathLike[str], files: Mapping[str, str]) -> dict[str, Any]:
    """Schema and rows of a report, if it measured these files.

    Parameters
    ----------
    report : path
        JSON of `immunecam evaluate`.
    files : Mapping of str
        Names and SHA-256 of the files that the figures depend on.

    Raises
    ------
    InputError
        If it is no such report, measured other files, or was refused.
    """
    try:
        content = json.loads(Path(report).read_text(encoding="utf-8"))
        measured, rows, schema = content["bundle_files"], content["rows"], content["schema"]
        refused = [check["name"] for check in content.get("sanity", []) if check["holds"] is False]
        # A report of one bundle has its files, one of several has those of each by its name.
        several = {name: listed for name, listed in measured.items() if isinstance(listed, dict)}
        for name, listed in several.items():
            if all(listed.get(file) == sha256 for file, sha256 in files.items()):
                measured = listed
                rows = [row for row in rows if row["defence"].startswith(f"{name} (") and row["purified"] == "both"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{str(report)!r} is no report of a measured bundle ({type(error).__name__}: {error})"
        ) from None
    if refused:
        raise InputError(f"{str(report)!r} is a refused report, whose sanity block fails: {'; '.join(refused)}")
    for name, sha256 in files.items():
        if measured.get(name) != sha256:
            raise InputError(f"{str(report)!r} measured another {name} than the bundle's: measure again")
    return {"schema": schema, "rows": rows}


def put_quality(path: str | os.PathLike[str], report: str | os.PathLike[str]) -> Bundle:
    """Put the figures of a report into the manifest of a bundle's folder; nothing else changes.

    Returns
    -------
    Bundle
        As it is now.

    Raises
    ------
    InputError
        If bundle or report cannot be used, the report is of other files, or the bundle is signed or an archive.
    """
    place = Path(path)
    if place.is_file():
        raise InputError(f"{str(path)!r} is an archive: unpack it first, and pack it again")
    with alone(place):
        bundle = read_bundle(place, None)
        if os.path.lexists(place / SIGNATURE):
            raise InputError(f"{str(path)!r} is signed: figures go in before that; remove {SIGNATURE} and sign again")
        listed = bundle.manifest.files
        quality = measured_quality(report, {name: listed[name].sha256 for name in _MEASURED if name in listed})
        change_folder(place, manifest_to_bytes({**json.loads(bundle.manifest_bytes), "quality": quality}))
        return read_bundle(place, None)
