"""Everything that a machine with a GPU is needed for, in one command: build, check, measure, write down.

``python benchmarks/gpu.py --out benchmarks/results``

It runs from a plain checkout with NumPy, PyTorch and cuda-core, and compiles by nvcc or NVRTC. The report is written
after every part, so that what was measured stays if the time runs out.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the folders of a checkout are one package by the one beside this
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.card.table import markdown
from immunecam.errors import ImmuneCamError, InputError
from immunecam.files import written_whole
from immunecam.runtime.report import machine, versions, write_report

__all__ = ["SCHEMA", "main", "real_faces"]

SCHEMA = "immunecam.gpu/1"
_ROOT = Path(__file__).resolve().parents[1]
_SIDE = 112


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every part; the exit code is that of the first error, or 3 if a check fails."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except ImmuneCamError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--device", type=int, default=0, help="number of the card")
    parser.add_argument("--k", type=int, default=1500, help="eigenfaces of the kernels' own figures")
    parser.add_argument("--minutes", type=float, default=8.0, help="parts that would begin later are left out")
    parser.add_argument(
        "--bundle", type=Path, action="append", help="bundle to purify with; default: every shipped one"
    )
    parser.add_argument("--check-only", action="store_true", help="stop after the checks, few of them: for a sanitizer")
    parser.add_argument("--no-sanitizer", action="store_true", help="leave compute-sanitizer out")
    return parser


def _run(given: argparse.Namespace) -> int:
    from immunecam.benchmarks.card.checks import check_kernels, failures
    from immunecam.kernels.cuda import open_device

    began = time.monotonic()
    device = open_device(given.device)
    stream = device.create_stream()
    programs, built = _built(device)
    faces = real_faces()
    few: dict[str, Any] = {"k": 64, "batches": (1, 3)} if given.check_only else {"k": given.k}
    checks = []
    for row in check_kernels(programs, stream, faces, **few):
        faults = failures(row)
        checks.append(row | {"failures": faults})
        if faults:
            print(f"FAILS {row['form']} {row['basis']} batch {row['batch']} {row['mode']}: {'; '.join(faults)}")
    failed = sum(bool(row["failures"]) for row in checks)
    print(f"{len(checks)} cases checked, {failed} failed", flush=True)
    if given.check_only:
        return 3 if failed else 0
    report: dict[str, Any] = {
        "card": _card(device),
        "built": built,
        "real_faces": len(faces),
        "checks": checks,
        "sanitizer": None,
        "kernels": [],
        "forms": [],
        "purifications": [],
        "left_out": [],
    }
    _write(given.out, report)
    parts: list[tuple[str, Callable[[], Iterable[dict[str, Any]]]]] = [
        ("kernels", lambda: _kernels(programs, stream, given.k, report)),
        ("purifications", lambda: _purifications(programs, faces, given.bundle)),
        ("forms", lambda: _forms(given.k)),
    ]
    for name, part in parts:
        if time.monotonic() - began > 60 * given.minutes:
            report["left_out"].append(f"{name}: {given.minutes:g} minutes were over")
            continue
        try:
            for row in part():
                report[name].append(row)
        except ImmuneCamError as error:
            report["left_out"].append(f"{name}: {error}")
        except (ImportError, RuntimeError) as error:  # PyTorch without CUDA, or a form that this version cannot compile
            report["left_out"].append(f"{name}: {' '.join(str(error).split())[:300]}")
        _write(given.out, report)
        print(f"{name}: {len(report[name])} rows after {time.monotonic() - began:.0f} s", flush=True)
    if not given.no_sanitizer and time.monotonic() - began < 60 * given.minutes:
        report["sanitizer"] = _sanitized(given.device)
    report["seconds"] = round(time.monotonic() - began, 1)
    _write(given.out, report)
    print(markdown(report))
    return 3 if failed or (report["sanitizer"] or {}).get("errors") else 0


def real_faces() -> NDArray[np.float32]:
    """Faces of people (M, 112, 112) in [-1, 1], from the picture in docs; none where Pillow is missing."""
    try:
        from PIL import Image
    except ImportError:
        return np.empty((0, _SIDE, _SIDE), np.float32)
    with Image.open(_ROOT / "docs" / "before-after.jpg") as picture:
        grey = np.asarray(picture.convert("L"), np.float32)
    height, width = grey.shape
    places = [(y, x) for y in range(0, height - _SIDE + 1, 48) for x in range(0, width - _SIDE + 1, 64)]
    return np.stack([grey[y : y + _SIDE, x : x + _SIDE] for y, x in places]) / np.float32(127.5) - 1


def _built(device: Any) -> tuple[Any, dict[str, Any]]:
    """Every kernel, loaded; ahead of time by nvcc where there is one, else by NVRTC, and how long that took."""
    import tempfile

    from immunecam.kernels.cuda import Programs
    from immunecam.kernels.cuda.prebuilt import build
    from immunecam.kernels.cuda.sources import KERNELS

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, how = Path(place), "NVRTC"
        fresh = Programs(device, prebuilt=folder / "none", cache=folder / "cache")
        try:
            found["nvrtc_seconds"] = _seconds(lambda: [fresh.kernel(name) for name in KERNELS])
        except ImmuneCamError as error:
            found["nvrtc"] = str(error)
        if shutil.which("nvcc"):
            found["nvcc_seconds"] = _seconds(lambda: build(folder / "prebuilt"))
            how = "nvcc"
            fresh = Programs(device, prebuilt=folder / "prebuilt", cache=folder / "other")
            found["load_seconds"] = _seconds(lambda: [fresh.kernel(name) for name in KERNELS])
        elif "nvrtc" in found:
            raise InputError(found["nvrtc"])
    found["used"] = how
    print(f"{len(KERNELS)} kernels by {how}: {found}", flush=True)
    return fresh, found


def _kernels(programs: Any, stream: Any, k: int, report: dict[str, Any]) -> Iterable[dict[str, Any]]:
    from immunecam.benchmarks.card.kernel_times import kernel_times
    from immunecam.benchmarks.card.purification_times import copy_bandwidth

    bandwidth = copy_bandwidth()
    report["copy_gigabytes_per_second"] = round(bandwidth / 1e9, 1)
    return kernel_times(programs, stream, bandwidth, k=k)


def _purifications(programs: Any, faces: NDArray[np.float32], given: Sequence[Path] | None) -> Iterable[dict[str, Any]]:
    from immunecam.benchmarks.card.purification_times import purification_times
    from immunecam.runtime.bundle import Bundle

    for path in given or sorted((_ROOT / "immunecam" / "data").glob("*.immune")):
        used = faces if len(faces) else np.random.default_rng(0).uniform(-1, 1, (8, _SIDE, _SIDE)).astype(np.float32)
        yield from purification_times(Bundle.load(path), programs, used)


def _forms(k: int) -> Iterable[dict[str, Any]]:
    from immunecam.benchmarks.card.purification_times import form_times

    return form_times(k)


def _sanitized(device: int) -> dict[str, Any] | None:
    """What compute-sanitizer says of a few checks, if it is there and works on this machine."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return None
    command = [tool, "--tool", "memcheck", sys.executable, __file__, "--check-only", "--device", str(device)]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=150)
    except subprocess.TimeoutExpired:
        return {"errors": None, "said": "it took longer than 150 s"}
    said = result.stdout + result.stderr
    summary = re.search(r"ERROR SUMMARY: (\d+) error", said)
    return {
        "errors": int(summary[1]) if summary else None,
        "said": summary[0] if summary else " ".join(said.split())[-300:],
        "exit_code": result.returncode,
    }


def _card(device: Any) -> dict[str, Any]:
    from immunecam.kernels.cuda import Card

    card, properties = Card.of(device), device.properties
    return {
        "name": card.name,
        "compute_capability": "{}.{}".format(*card.compute_capability),
        "multiprocessors": card.multiprocessors,
        "shared_memory_bytes": card.shared_memory,
        "l2_cache_bytes": int(properties.l2_cache_size),
        "integrated": card.integrated,
    }


def _write(folder: Path, report: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder / "gpu.json", SCHEMA, report["kernels"], bundle_sha256=None,
                 **{name: value for name, value in report.items() if name != "kernels"})  # fmt: skip
    whole = {"machine": machine(), "versions": versions(), **report}
    with written_whole(folder / "gpu.md") as partial:
        partial.write_text(markdown(whole), encoding="utf-8")


def _seconds(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return round(time.monotonic() - began, 2)


if __name__ == "__main__":
    sys.exit(main())
