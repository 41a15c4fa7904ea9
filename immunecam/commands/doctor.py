"""``immunecam doctor``: what this machine can run, and why not the rest."""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from immunecam.commands.doctor_device import DeviceOptions, check_device
from immunecam.commands.options import BundleState, Json, TrustedKey, trust_of
from immunecam.commands.shared_options import with_shared_options
from immunecam.errors import ImmuneCamError

if TYPE_CHECKING:
    from immunecam.runtime.trust import Trust

__all__ = ["doctor"]


@with_shared_options
def doctor(
    on_device: DeviceOptions,
    bundle: Annotated[Optional[Path], typer.Option(help="Bundle to try; default: the bundled one.")] = None,  # noqa: UP045
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    json_report: Json = None,
) -> None:
    """Say what this machine can run, and why not the rest; on a device, whether a door can depend on it.

    With --device the exit code is 3 if something that a door needs is missing or wrong.
    """
    if on_device.device:
        check_device(on_device, bundle, lambda: trust_of(trust, bundle_state), json_report)
        return
    on_device.refuse_alone()
    from immunecam.runtime.report import machine, versions, write_report

    console = Console()
    here, installed = machine(), versions()
    console.print(
        "{processor} ({architecture}), {cores} cores, {memory_gib} GiB, {system}".format(**here),
        highlight=False,
    )
    console.print(", ".join(f"{name} {version}" for name, version in installed.items()), highlight=False)
    keys = _Keys(trust, bundle_state)
    sha256, cpu = _try_cpu(bundle, keys)
    rows = [
        cpu,
        _signatures(keys),
        _finder(),
        _cuda_provider(),
        _cuda_kernels(),
        _tensorrt(bundle, keys),
        _training(),
        _cameras(),
    ]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("part", "here", "why"):
        table.add_column(heading)
    for row in rows:
        table.add_row(row["part"], "[green]yes[/]" if row["available"] else "[yellow]no[/]", escape(row["why"]))
    console.print(table)
    if json_report is not None:
        write_report(json_report, "immunecam.doctor/1", rows, bundle_sha256=sha256)


def _row(part: str, available: bool, why: str) -> dict[str, Any]:
    return {"part": part, "available": available, "why": why}


@dataclass(frozen=True)
class _Keys:
    """What the command line says of trust; read where it is used, so that its errors stand in the table."""

    paths: list[Path] | None = None
    state: Path | None = None

    def trust(self) -> Trust | None:
        return trust_of(self.paths, self.state)


_ENVIRONMENT = _Keys()


def _signatures(keys: _Keys) -> dict[str, Any]:
    """Whether bundles must be signed here, and by whom."""
    part = "signed bundles only"
    try:
        trust = keys.trust()
    except ImmuneCamError as error:
        return _row(part, False, str(error))
    if trust is None:
        return _row(
            part, False, "bundles load without a signature: set IMMUNECAM_TRUST to a public key, or give --trust"
        )
    by = f"signed by {' or '.join(key.id for key in trust.keys)}"
    if trust.versions is None:
        return _row(part, True, f"{by}; an older one loads too: set IMMUNECAM_BUNDLE_STATE")
    return _row(part, True, f"{by}; none older than {trust.versions.path} remembers")


def _try_cpu(bundle: Path | None, keys: _Keys) -> tuple[str | None, dict[str, Any]]:
    import numpy as np

    from immunecam.runtime.purifier import Purifier

    try:
        purifier = Purifier.load(bundle, provider="cpu", trust=keys.trust())
        face = np.zeros((1, 112, 112), np.uint8)
        purifier.purify(face)
        times = []
        for _ in range(10):
            began = time.perf_counter()
            purifier.purify(face)
            times.append(time.perf_counter() - began)
    except ImmuneCamError as error:
        return None, _row("purifier on the CPU", False, str(error))
    manifest = purifier.bundle.manifest
    why = f"bundle {manifest.kind}, K = {purifier.k}: {1000 * sorted(times)[5]:.1f} ms per face"
    return purifier.bundle.sha256, _row("purifier on the CPU", True, why)


def _finder() -> dict[str, Any]:
    from immunecam.runtime.faces import face_finder

    try:
        face_finder()
    except ImmuneCamError as error:
        return _row("face finder", False, str(error))
    return _row("face finder", True, "bundled cascade and landmark model; a YuNet file by --finder")


def _cuda_provider() -> dict[str, Any]:
    import onnxruntime

    part = "ONNX Runtime on CUDA"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return _row(part, False, f"onnxruntime {onnxruntime.__version__} is a CPU build: install onnxruntime-gpu")
    driver = _driver()
    return _row(part, driver is None, driver or "provider and driver are there")


def _cuda_kernels() -> dict[str, Any]:
    from immunecam.kernels.cuda import SOURCES, Card, open_device
    from immunecam.kernels.cuda.prebuilt import find_prebuilt

    part = "CUDA kernels"
    try:
        card = Card.of(open_device())
    except ImmuneCamError as error:
        return _row(part, False, str(error))
    built = sum(find_prebuilt(name, card.compute_capability) is not None for name in SOURCES)
    how = "built ahead of time" if built == len(SOURCES) else "compiled by NVRTC at first use"
    return _row(part, True, f"{card.name} ({card.architecture}): {how}")


def _tensorrt(bundle: Path | None, keys: _Keys = _ENVIRONMENT) -> dict[str, Any]:
    """Whether it is there, and whether the bundle has plans for it."""
    from immunecam.kernels.cuda import open_device
    from immunecam.runtime.bundle import Bundle, default_bundle
    from immunecam.runtime.engines.plans import PlanMachine, choose_plans
    from immunecam.runtime.engines.tensorrt_library import import_tensorrt

    part = "TensorRT"
    try:
        machine = PlanMachine.here(import_tensorrt(), open_device())
        choose_plans(Bundle.load(bundle or default_bundle(), trust=keys.trust()), machine)
    except ImmuneCamError as error:
        return _row(part, False, str(error))
    return _row(part, True, f"{machine}: the bundle has plans for it")


def _training() -> dict[str, Any]:
    from immunecam.commands.requirements import require_training

    try:
        require_training()
    except ImmuneCamError as error:
        return _row("training and export", False, str(error))
    return _row("training and export", True, "PyTorch and onnx are installed")


def _cameras() -> dict[str, Any]:
    devices = sorted(path.name for path in Path("/dev").glob("video*"))
    return _row("cameras", bool(devices), ", ".join(devices) or "no /dev/video* on this machine")


def _driver() -> str | None:
    """Why the NVIDIA driver cannot be used, or None if it can."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver on this machine (libcuda.so.1 is missing)"
    code = library.cuInit(0)
    return None if code == 0 else f"the NVIDIA driver refuses to start (cuInit gives {code})"
