"""JSON reports: what was measured, on which machine, with which versions."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from immunecam.errors import InputError
from immunecam.files import written_whole

__all__ = ["machine", "machine_in_words", "percentiles_ms", "read_report", "versions", "write_report"]

_PACKAGES = (
    "immunecam",
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "safetensors",
    "cryptography",
    "torch",
    "onnx",
)


_INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")


def machine() -> dict[str, Any]:
    """Processor, its instructions that times of int8 and bfloat16 depend on, cores for this process, memory, system."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "instructions": _instructions(),
        "architecture": platform.machine(),
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def machine_in_words(found: Mapping[str, Any]) -> str:
    """A report's machine in a few words; reports of earlier releases do not tell its instructions."""
    known = found.get("instructions")
    with_them = f"; {', '.join(known)}" if known else ""
    return f"{found['processor']} ({found['architecture']}, {found['cores']} cores{with_them})"


def versions() -> dict[str, str]:
    """Python, and the packages that are installed of those that matter."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def percentiles_ms(seconds: Iterable[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds, by the nearest measured value; empty for no measurement."""
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {
        f"p{q}_ms": round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))], 4) for q in (50, 95, 99)
    }


def write_report(
    path: str | Path,
    schema: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    bundle_sha256: str | None,
    **more: Any,
) -> None:
    """Write a report, whole or not at all.

    Parameters
    ----------
    path : path
        JSON file.
    schema : str
        Name and version, such as "immunecam.purify/1".
    rows : sequence of mappings
        Named numbers with their unit in the name.
    bundle_sha256 : str or None
        Of the bundle's manifest.
    **more
        Further entries.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    target = Path(path)
    content = {
        "schema": schema,
        "machine": machine(),
        "versions": versions(),
        "bundle_sha256": bundle_sha256,
        **more,
        "rows": list(rows),
    }
    try:
        with written_whole(target) as partial:
            partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"the report {str(path)!r} cannot be written ({error.strerror}): check folder and space"
        ) from None


def read_report(path: Path, schema: str, command: str) -> dict[str, Any]:
    """A report that was written by :func:`write_report`.

    Parameters
    ----------
    path : path
    schema : str
        The one that it must have.
    command : str
        What writes such reports, for the error.

    Raises
    ------
    InputError
        If it cannot be read, or is another report.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"the report {str(path)!r} cannot be read ({type(error).__name__}): give one of {command} --json"
        ) from None
    if not isinstance(content, dict) or content.get("schema") != schema:
        raise InputError(f"{str(path)!r} is no report of {command}: its schema must be {schema!r}")
    return content


def _instructions() -> list[str]:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [name for name in _INSTRUCTIONS if name in words]


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
