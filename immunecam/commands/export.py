"""``immunecam export``: a bundle again, from its training run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from immunecam.commands.options import Precision
from immunecam.commands.requirements import require_training

__all__ = ["export"]


def export(
    bundle: Annotated[Path, typer.Argument(metavar="B", help="Bundle to write, NAME.immune.")],
    run: Annotated[Optional[Path], typer.Option(help="Training run; default: NAME.run beside it.")] = None,  # noqa: UP045
    precision: Annotated[Precision, typer.Option(help="Storage format of the basis.")] = Precision.int8,
    weights: Annotated[Precision, typer.Option(help="Storage format of the networks' weights.")] = Precision.fp32,
    quality: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(metavar="REPORT", help="Report that measured this model; its rows go into the manifest."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
) -> None:
    """Export a training run as a bundle, and compare it with PyTorch."""
    require_training()
    from immunecam.export.to_onnx import export_bundle, run_folder_of

    made, parity = export_bundle(
        run or run_folder_of(bundle),
        bundle,
        precision=precision.value,
        weights=weights.value,
        report=quality,
        overwrite=overwrite,
    )
    table = Table(title=f"{bundle.name}: ONNX Runtime against PyTorch")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in parity.to_dict().items():
        table.add_row(name, f"{value:.3g}")
    console = Console()
    console.print(table)
    console.print(f"wrote {bundle} (manifest sha256 {made.sha256[:12]})", highlight=False, soft_wrap=True)
