"""Everything that a machine with a GPU is needed for, in one command: build, check, measure, write down.

``python benchmarks/gpu.py --out benchmarks/results``

It runs from a plain checkout with NumPy, PyTorch and cuda-core, and compiles by nvcc or NVRTC; where ONNX Runtime has
CUDA, or TensorRT is there, the package's own purifier is run too, else it says why not. Every part is a process
of its own with a time limit, because an error on a card spoils the process that made it, and so is every form of the
projection. The report is written while they run, so that what was measured stays, whatever stops this; what failed says
where in ``gpu.log`` beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # the folders of a checkout are one package by the one beside this
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.card.table import markdown
from immunecam.errors import ImmuneCamError, InputError
from immunecam.files import written_whole
from immunecam.kernels.cuda import FORMS
from immunecam.runtime.report import machine, versions, write_report

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["PARTS", "SCHEMA", "Part", "main", "planned", "real_picture"]

SCHEMA = "immunecam.gpu/1"
_ROOT = Path(__file__).resolve().parents[1]
_SIDE = 112
_NOTED_EVERY = 10.0  # seconds
_PACKAGES = ("cuda-core", "cuda-bindings", "torch", "triton", "onnx", "onnxruntime", "tensorrt")


@dataclass(frozen=True)
class Part:
    """What is done in processes of its own.

    Attributes
    ----------
    rows : callable
        From the arguments to rows, each written down when it comes.
    seconds : float
        After which a process is stopped.
    variants : sequence of str
        Each of which has its own process, so that what one spoils or hangs is there for the others; none: there is one.
    """

    rows: Callable[[argparse.Namespace], Iterable[dict[str, Any]]]
    seconds: float
    variants: Sequence[str] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every part, or one; the exit code is that of the first error, or 3 if a check fails or does not end."""
    given = _parser().parse_args(arguments)
    try:
        return _all(given) if given.part is None else _one(given)
    except ImmuneCamError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder for gpu.json and gpu.md")
    parser.add_argument("--device", type=int, default=0, help="number of the card")
    parser.add_argument("--k", type=int, default=1500, help="eigenfaces of the kernels' own figures")
    parser.add_argument("--minutes", type=float, default=7.5, help="for everything; what does not fit is left out")
    parser.add_argument("--bundle", type=Path, action="append", help="bundle to purify with; default: the shipped ones")
    parser.add_argument("--part", choices=PARTS, help="do this part only, and write its rows to --rows")
    variants = sorted({word for part in PARTS.values() for word in part.variants})
    parser.add_argument("--variant", choices=variants, help="of the part, do this only")
    parser.add_argument("--rows", type=Path, help="file for the rows of a part, a JSON line each")
    parser.add_argument("--prebuilt", type=Path, help="folder of kernels that an earlier part compiled")
    return parser


def _all(given: argparse.Namespace) -> int:
    from immunecam.kernels.cuda import open_device

    open_device(given.device)  # says in one sentence what is missing
    print(", ".join(f"{name} {_version(name)}" for name in _PACKAGES), flush=True)
    report: dict[str, Any] = {"left_out": [], **{name: [] for name in PARTS}}
    began = time.monotonic()
    (given.out / "gpu.log").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        given.prebuilt = Path(scratch) / "prebuilt"
        for name, part in PARTS.items():
            for variant in part.variants or (None,):
                title = name if variant is None else f"{name}, {variant}"
                left = 60 * given.minutes - (time.monotonic() - began)
                if left < 5:
                    report["left_out"].append(f"{title}: {given.minutes:g} minutes were over")
                    continue
                file = Path(scratch) / f"{title}.jsonl"
                reason = _process(given, report, name, variant, file, min(part.seconds, left))
                if reason:
                    report["left_out"].append(f"{title}: {reason}")
                report["seconds"] = round(time.monotonic() - began, 1)
                _write(given.out, report)
                print(f"{title}: {len(_rows(file))} rows after {report['seconds']:.0f} s {reason or ''}", flush=True)
    _write(given.out, report)
    print(markdown(_whole(report)))
    checked = [row for name in ("checks", "pixels", "frames", "runtime", "sanitizer") for row in report[name]]
    unfinished = any(reason.startswith("checks") for reason in report["left_out"])  # as by a kernel that hangs
    return 3 if unfinished or any(row["failures"] for row in checked) else 0


def _process(
    given: argparse.Namespace, report: dict[str, Any], name: str, variant: str | None, file: Path, seconds: float
) -> str | None:
    """Run a part or a variant of it, and note its rows while they come; what was wrong with it, if anything."""
    command = _command(given, name, variant, file)
    if command is None:
        return "compute-sanitizer was not found"
    before = report[name]

    def note() -> None:
        rows = _rows(file)
        report[name] = [*before, *(rows if name != "sanitizer" else ())]
        _write(given.out, report)

    try:
        code, out, errors = _limited(command, seconds, note)
    finally:
        note()
    said = [line.strip() for line in errors.splitlines() if line.strip()]
    if name == "sanitizer":
        report[name] = [*before, _sanitized(str(variant), _rows(file), out + errors)]
        return f"stopped after {seconds:.0f} s" if code is None else None
    if code == 0:
        return None
    with (given.out / "gpu.log").open("a", encoding="utf-8") as log:  # the last line says what, the others where
        log.write(f"== {name} {variant or ''}\n{errors[-20_000:]}\n")
    if code is None:
        return f"stopped after {seconds:.0f} s"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return said[-1][:300] if said else f"it ended with {code}"


def _command(given: argparse.Namespace, name: str, variant: str | None, rows: Path) -> list[str] | None:
    """What a process is started by; None if there is no sanitizer to start it under."""
    command = [sys.executable, __file__, "--part", name, "--rows", str(rows), "--prebuilt", str(given.prebuilt)]
    command += ["--device", str(given.device), "--k", str(given.k)]
    command += [word for path in given.bundle or () for word in ("--bundle", str(path))]
    command += ["--variant", variant] if variant else []
    if name != "sanitizer":
        return command
    compiler = shutil.which("nvcc")
    beside = str(Path(compiler).resolve().parent) if compiler else None
    tool = shutil.which("compute-sanitizer") or (shutil.which("compute-sanitizer", path=beside) if beside else None)
    # What libraries ask of the driver and do without is no fault.
    quiet = ["--report-api-errors", "no"] if variant == "memcheck" else []
    return None if tool is None else [tool, "--tool", str(variant), *quiet, *command]


def _limited(
    command: Sequence[str], seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> tuple[int | None, str, str]:
    """Exit code (None if it was stopped), output and errors of a command; what it has started is stopped with it.

    They go to files: who waits for the end of a pipe waits for everybody that holds it.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, start_new_session=True)
        end = time.monotonic() + seconds
        try:
            while process.poll() is None and (left := end - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(min(left, _NOTED_EVERY))
                    break
                meanwhile()
        finally:
            stopped = process.poll() is None
            if stopped:
                os.killpg(process.pid, signal.SIGKILL)  # a group of its own, which nobody else is in
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)  # a driver that does not let go of it must not hold the others up
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        return None if stopped else process.returncode, texts[0], texts[1]


def _rows(file: Path) -> list[dict[str, Any]]:
    """Rows of a part, as far as they were written whole."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _one(given: argparse.Namespace) -> int:
    with given.rows.open("a", encoding="utf-8") as file:
        for row in PARTS[given.part].rows(given):
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
    return 0


def real_picture() -> NDArray[np.uint8] | None:
    """The checkout's picture of people, (H, W, 3) BGR; None where it or Pillow is missing."""
    file = _ROOT / "docs" / "before-after.jpg"
    try:
        from PIL import Image
    except ImportError:
        return None
    if not file.is_file():
        return None
    with Image.open(file) as picture:
        return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])


def _real_faces() -> NDArray[np.float32]:
    """Crops of that picture, (M, 112, 112) in [-1, 1]; M may be 0."""
    picture = real_picture()
    if picture is None:
        return np.empty((0, _SIDE, _SIDE), np.float32)
    grey = picture.astype(np.float32).mean(2)
    height, width = grey.shape
    places = [(y, x) for y in range(0, height - _SIDE + 1, 48) for x in range(0, width - _SIDE + 1, 64)]
    return np.stack([grey[y : y + _SIDE, x : x + _SIDE] for y, x in places]) / np.float32(127.5) - 1


def _faces() -> NDArray[np.float32]:
    """Real ones where the picture is, or random ones."""
    faces = _real_faces()
    return faces if len(faces) else np.random.default_rng(0).uniform(-1, 1, (8, _SIDE, _SIDE)).astype(np.float32)


def _picture() -> NDArray[np.uint8]:
    """A real one where it is, or a random one, (H, W, 3)."""
    picture = real_picture()
    if picture is not None:
        return picture
    return np.random.default_rng().integers(0, 256, (40, 60, 3), dtype=np.uint8).repeat(16, 0).repeat(16, 1)


def _bundles(given: argparse.Namespace) -> list[Path]:
    return given.bundle or sorted((_ROOT / "immunecam" / "data").glob("*.immune"))


# -- parts -----------------------------------------------------------------------------------------------------------


def _opened(given: argparse.Namespace) -> tuple[Any, Any]:
    """Kernels of the card, and a stream."""
    from immunecam.kernels.cuda import Programs, open_device

    device = open_device(given.device)
    return Programs(device, prebuilt=given.prebuilt), device.create_stream()


def _chosen(given: argparse.Namespace) -> Sequence[str]:
    """Forms of the projection."""
    return (given.variant,) if given.variant else FORMS


def _build(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the card is, then every kernel by nvcc where it is, which the other parts use, and by NVRTC."""
    from immunecam.kernels.cuda import Card, Programs, open_device
    from immunecam.kernels.cuda.prebuilt import build
    from immunecam.kernels.cuda.sources import KERNELS

    device = open_device(given.device)
    card = Card.of(device)
    found: dict[str, Any] = {
        "card": {
            "name": card.name,
            "compute_capability": "{}.{}".format(*card.compute_capability),
            "multiprocessors": card.multiprocessors,
            "shared_memory_bytes": card.shared_memory,
            "l2_cache_bytes": int(device.properties.l2_cache_size),
            "integrated": card.integrated,
        },
        "packages": {name: _version(name) for name in _PACKAGES},
        "real_faces": len(_real_faces()),
        "used": "NVRTC",
    }
    yield found

    def loaded(prebuilt: Path, cache: Path) -> float:
        programs = Programs(device, prebuilt=prebuilt, cache=cache)
        return _seconds(lambda: [programs.kernel(name) for name in KERNELS])

    with tempfile.TemporaryDirectory() as scratch:
        # Whatever a compiler or driver raises, the other way may still work.
        try:
            number = 10 * card.compute_capability[0] + card.compute_capability[1]
            found["nvcc_seconds"] = _seconds(lambda: build(given.prebuilt, architectures=[number]))
            found["load_seconds"] = loaded(given.prebuilt, Path(scratch) / "other")
            found["used"] = "nvcc"
        except Exception as error:
            found["nvcc"] = " ".join(str(error).split())[:300]
        yield found
        try:
            found["nvrtc_seconds"] = loaded(Path(scratch) / "none", Path(scratch) / "cache")
        except Exception as error:
            found["nvrtc"] = " ".join(str(error).split())[:300]
    yield found


def _checks(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from immunecam.benchmarks.card.checks import check_kernels, failures

    programs, stream = _opened(given)
    faces = _real_faces()
    sizes: list[dict[str, Any]] = [{"k": 64, "batches": (1, 3)}]  # seconds, and they find most of what is wrong
    if given.part == "checks":
        sizes += [{"k": 512, "batches": (1, 8)}, {"k": given.k}]
        sizes = [size | {"forms": _chosen(given)} for size in sizes]
    for size in sizes:
        for row in check_kernels(programs, stream, faces, **size):
            yield row | {"failures": failures(row)}


def _frames(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from immunecam.benchmarks.card.frame_checks import check_frames, frame_failures

    programs, stream = _opened(given)
    for row in check_frames(programs, stream, _picture()):
        yield row | {"failures": frame_failures(row)}


def _pixels(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from immunecam.benchmarks.card.pixel_checks import check_pixels, pixel_failures

    programs, stream = _opened(given)
    for row in check_pixels(programs, stream):
        yield row | {"failures": pixel_failures(row)}


def _kernels(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from immunecam.benchmarks.card.forms import copy_bandwidth
    from immunecam.benchmarks.card.kernel_times import kernel_times

    programs, stream = _opened(given)
    _same_card(given)
    bandwidth = copy_bandwidth()
    yield {"kernel": "copy", "gigabytes_per_second": round(bandwidth / 1e9, 1)}
    yield from kernel_times(programs, stream, bandwidth, k=given.k, forms=_chosen(given))


def _purifications(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from immunecam.benchmarks.card.purification_times import drawn_networks, purification_times

    programs, _ = _opened(given)
    _same_card(given)
    for path in _bundles(given):
        try:
            purified = _purified(path)
        except Exception as error:  # the other bundles are still worth their time
            said = " ".join(str(error).split())[:300]
            yield {"bundle": path.stem, "batch": 1, "networks": "float32", "form": "graph", "error": said}
            continue
        yield from purification_times(purified, programs, _faces())
    # The paper's network and number of eigenfaces, whose published form is what the product is compared with.
    paper = drawn_networks("ais of the paper", "ais", given.k, {})
    yield from purification_times(paper, programs, _faces(), batches=(1, 8))


def _purified(path: Path) -> Any:
    """A bundle's networks; of random weights in their place where the packages that read it are missing."""
    from immunecam.benchmarks.card.purification_times import Purified, drawn_networks

    try:
        from immunecam.runtime.bundle import Bundle
        from immunecam.training.deployed import purification_from_bundle

        bundle = Bundle.load(path)
        networks = purification_from_bundle(bundle, device="cuda")
    except ImportError:
        told = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        return drawn_networks(path.stem, told["kind"], told["shapes"]["k"], told["options"])
    try:
        from immunecam.runtime.purifier import Purifier

        reference = Purifier.load(bundle, provider="cpu", seed=7)
    except (ImmuneCamError, ImportError):
        reference = None
    return Purified(bundle.name, networks, bundle.subspace, reference)


def _runtime(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The package's own purifier, as an installation with a backend for it would run it."""
    from immunecam.benchmarks.card.runtime_times import PROVIDERS, runtime_failures, runtime_times
    from immunecam.runtime.bundle import Bundle

    _opened(given)
    _same_card(given)
    for provider in (given.variant,) if given.variant else PROVIDERS:
        for path in _bundles(given):
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    bundle = Bundle.load(path)
                    bundle = planned(path, Path(scratch)) if provider == "tensorrt" else bundle
                except (ImmuneCamError, ImportError, OSError) as error:
                    yield {"provider": provider, "bundle": path.stem, "missing": str(error), "failures": []}
                    continue
                options: dict[str, Any] = {"device": given.device, "prebuilt": given.prebuilt, "providers": [provider]}
                for row in runtime_times(bundle, _faces(), frame=_picture(), **options):
                    yield row | {"failures": runtime_failures(row)}


def planned(path: Path, scratch: Path) -> Bundle:
    """A copy of a bundle with TensorRT's plans for this machine, in float32 as the other providers compute.

    Raises
    ------
    BackendMissingError
        If TensorRT is missing.
    InputError
        If a plan cannot be built, or differs too much.
    """
    from immunecam.runtime.bundle import Bundle
    from immunecam.runtime.engines.tensorrt_library import import_tensorrt

    import_tensorrt()  # says it in one sentence, whatever else is missing
    copied = scratch / path.name
    shutil.copytree(path, copied)
    command = [sys.executable, str(_ROOT / "export" / "to_trt.py"), str(copied), "--precision", "fp32"]
    command += ["--batch", "1,1,128", "--timing-cache", str(scratch / "timings"), "--drop-signature"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        said = result.stderr.strip().splitlines() or [f"it ended with {result.returncode}"]
        raise InputError(f"The bundle {path} gets no plans here: {said[-1][:300]}")
    return Bundle.load(copied)


def _forms(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from immunecam.benchmarks.card.forms import form_times

    _same_card(given)
    yield from form_times(given.k)


def _sanitized(tool: str, checks: list[dict[str, Any]], said: str) -> dict[str, Any]:
    """What a tool of compute-sanitizer has said of a few checks."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)[^\n]*", said)
    failed = [fault for row in checks for fault in row["failures"]]
    if summary and int(summary[1]):
        failed.append(summary[0])
    return {
        "tool": tool,
        "cases": len(checks),
        "said": summary[0] if summary else " ".join(said.split())[-200:],
        "failures": failed,
    }


PARTS = {
    "build": Part(_build, 90),
    "checks": Part(_checks, 60, FORMS),
    "pixels": Part(_pixels, 20),
    "frames": Part(_frames, 40),
    "kernels": Part(_kernels, 70, FORMS),
    "forms": Part(_forms, 80),
    "purifications": Part(_purifications, 90),
    "runtime": Part(_runtime, 90, ("cuda", "tensorrt", "torch")),
    "sanitizer": Part(_checks, 60, ("memcheck", "racecheck", "synccheck")),
}
"""In their order: what is not right needs no time, and what the goals are of comes before the rest."""


# -- report ----------------------------------------------------------------------------------------------------------


def _whole(report: dict[str, Any]) -> dict[str, Any]:
    return {"machine": machine(), "versions": versions(), **report}


def _write(folder: Path, report: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rest = {name: value for name, value in report.items() if name != "kernels"}
    write_report(folder / "gpu.json", SCHEMA, report["kernels"], bundle_sha256=None, **rest)
    with written_whole(folder / "gpu.md") as partial:
        partial.write_text(markdown(_whole(report)), encoding="utf-8")


def _same_card(given: argparse.Namespace) -> None:
    import torch

    torch.cuda.set_device(given.device)
    # Comparisons are between float32 and float32; PyTorch takes TF32 for convolutions unless it is told.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _seconds(call: Callable[[], Any]) -> float:
    began = time.monotonic()
    call()
    return round(time.monotonic() - began, 2)


if __name__ == "__main__":
    # As an interruption: the part that runs is stopped, and what it has found is kept.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
