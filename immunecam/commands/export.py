"""``immunecam export``: a bundle again, from its training run, or TensorRT plans for this machine into a bundle."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from immunecam.commands.options import (
    BundleState,
    Json,
    PassphraseFile,
    Precision,
    SigningKey,
    TrustedKey,
    signing_key,
    trust_of,
)
from immunecam.commands.requirements import require_training
from immunecam.errors import UsageError

__all__ = ["export"]


class Target(str, Enum):
    """What is made."""

    onnx = "onnx"
    tensorrt = "tensorrt"


class Hardware(str, Enum):
    """Other cards that a plan may run on."""

    ampere_plus = "ampere_plus"
    same_compute_capability = "same_compute_capability"


_ONNX, _TENSORRT = "with --target onnx", "with --target tensorrt"


def export(
    bundle: Annotated[
        Path, typer.Argument(metavar="B", help="Bundle, NAME.immune: to write, or to put TensorRT plans into.")
    ],
    target: Annotated[
        Target,
        typer.Option(help="onnx: the bundle from its training run; tensorrt: plans for this machine, into the bundle."),
    ] = Target.onnx,
    precision: Annotated[
        Optional[Precision],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="onnx: storage format of the basis (int8); tensorrt: what the graphs compute in (fp16)."),
    ] = None,
    json_report: Json = None,
    sign: SigningKey = None,
    passphrase_file: PassphraseFile = None,
    drop_signature: Annotated[
        bool,
        typer.Option("--drop-signature", help="Let the signature of the bundle that is there go, without a new one."),
    ] = False,
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    run: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Training run; default: NAME.run beside it.", rich_help_panel=_ONNX),
    ] = None,
    weights: Annotated[
        Optional[Precision],  # noqa: UP045
        typer.Option(help="Storage format of the networks' weights (fp32).", rich_help_panel=_ONNX),
    ] = None,
    quality: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="REPORT",
            help="Report that measured this model; its rows go into the manifest.",
            rich_help_panel=_ONNX,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the bundle that is there.", rich_help_panel=_ONNX)
    ] = False,
    bundle_version: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            min=0,
            help="Version of the bundle, for devices that load no older one; default: that of the one it replaces.",
            rich_help_panel=_ONNX,
        ),
    ] = None,
    drop_liveness: Annotated[
        bool,
        typer.Option(
            "--drop-liveness",
            help="Leave the liveness network of the bundle that is replaced behind; it is kept otherwise.",
            rich_help_panel=_ONNX,
        ),
    ] = False,
    drop_masking: Annotated[
        bool,
        typer.Option(
            "--drop-masking",
            help="Leave the mask and the masked recogniser of the bundle that is replaced behind; they are kept "
            "otherwise.",
            rich_help_panel=_ONNX,
        ),
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only look at the graphs; needs no TensorRT.", rich_help_panel=_TENSORRT),
    ] = False,
    batch: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="MIN,OPT,MAX", help="Faces of a call (1,8,32).", rich_help_panel=_TENSORRT),
    ] = None,
    faces: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Real faces to compare on: picture, folder or clip; default: the installed clip.",
            rich_help_panel=_TENSORRT,
        ),
    ] = None,
    hardware_compatible: Annotated[
        Optional[Hardware],  # noqa: UP045
        typer.Option(help="Let other cards run the plans.", rich_help_panel=_TENSORRT),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Let later TensorRT run the plans.", rich_help_panel=_TENSORRT),
    ] = False,
    workspace: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="MIB", help="Most scratch memory of a tactic.", rich_help_panel=_TENSORRT),
    ] = None,
    optimization_level: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(metavar="0..5", help="How long to look for faster tactics.", rich_help_panel=_TENSORRT),
    ] = None,
    timing_cache: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Tactic timings to read and add to, in place of the user's own.", rich_help_panel=_TENSORRT),
    ] = None,
) -> None:
    """Export a training run as a bundle, or compile a bundle for this machine."""
    for_onnx = {"run": run, "weights": weights, "quality": quality, "overwrite": overwrite}
    dropped = {"liveness": drop_liveness, "masking": drop_masking}
    for_onnx |= {"bundle-version": bundle_version} | {f"drop-{part}": drop for part, drop in dropped.items()}
    for_tensorrt = {
        "check": check, "batch": batch, "faces": faces, "hardware-compatible": hardware_compatible,
        "version-compatible": version_compatible, "workspace": workspace, "optimization-level": optimization_level,
        "timing-cache": timing_cache, "json": json_report, "trust": trust or None, "bundle-state": bundle_state,
    }  # fmt: skip
    if target is Target.onnx:
        _refuse(for_tensorrt, "tensorrt")
        _to_onnx(
            bundle,
            run,
            precision=(precision or Precision.int8).value,
            weights=(weights or Precision.fp32).value,
            report=quality,
            overwrite=overwrite,
            version=bundle_version,
            sign=signing_key(sign, passphrase_file),
            drop_signature=drop_signature,
            drop_parts=[part for part, drop in dropped.items() if drop],
        )
        return
    _refuse(for_onnx, "onnx")
    from immunecam.export import to_trt
    from immunecam.export.build_options import BuildOptions, batch_from_text

    options = BuildOptions(
        precision=(precision or Precision.fp16).value,
        batch=batch_from_text(batch or "1,8,32"),
        optimization_level=optimization_level,
        workspace_mib=workspace,
        hardware_compatible=None if hardware_compatible is None else hardware_compatible.value,
        version_compatible=version_compatible,
        timing_cache=timing_cache,
    )
    if check and (sign is not None or drop_signature):
        raise UsageError("--check stores nothing, so there is nothing to sign: leave --sign and --drop-signature away.")
    to_trt.run(
        bundle,
        options,
        faces=faces,
        check=check,
        report=json_report,
        sign=signing_key(sign, passphrase_file),
        drop_signature=drop_signature,
        trust=trust_of(trust, bundle_state),
    )


def _to_onnx(bundle: Path, run: Path | None, **options: Any) -> None:
    require_training()
    from immunecam.export.to_onnx import export_bundle, run_folder_of

    made, parity = export_bundle(run or run_folder_of(bundle), bundle, **options)
    table = Table(title=f"{bundle.name}: ONNX Runtime against PyTorch")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in parity.to_dict().items():
        table.add_row(name, f"{value:.3g}")
    console = Console(markup=False)
    console.print(table)
    parts = " and the ".join(part.TITLE for part in made.manifest.parts.values())
    kept = f", with the {parts} that {'were' if len(made.manifest.parts) > 1 else 'was'} there" if parts else ""
    console.print(f"wrote {bundle}{kept} (manifest sha256 {made.sha256[:12]})", highlight=False, soft_wrap=True)


def _refuse(given: dict[str, Any], target: str) -> None:
    """An option of the other target does nothing here, so it is refused instead of passed over."""
    for name, value in given.items():
        if value not in (None, False):
            raise UsageError(f"--{name} is for --target {target}, but the target is another: leave one of them away.")
