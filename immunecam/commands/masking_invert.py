"""``immunecam masking invert``: faces back from templates, by a search through an attacker's generator."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from immunecam.commands.gate_options import KeyFile, mask_key
from immunecam.commands.masking_material import check_lfw
from immunecam.commands.options import Json
from immunecam.commands.outputs import check_outputs, check_picture, make_folder
from immunecam.commands.progress import bar, bars, named_bars
from immunecam.commands.requirements import require_training

__all__ = ["invert"]


class Box(str, Enum):
    """What the attacker has of the recogniser."""

    white = "white"
    black = "black"


def invert(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `immunecam masking train`.")],
    data: Annotated[Path, typer.Option(help="Folder with lfw/train_112.zip, lfw/dev_112.zip and lfw/pairs.csv.")],
    recognizer: Annotated[
        Path, typer.Option(help="TorchScript .pt or .onnx recogniser of plain faces, which judges; not the teacher.")
    ],
    own: Annotated[
        Path, typer.Option(help="The attacker's own recogniser of plain faces, by which his generator is trained.")
    ],
    work: Annotated[Path, typer.Option(help="Folder that keeps the generator; run again, it goes on where it was.")],
    key_file: KeyFile = None,
    box: Annotated[
        list[Box],
        typer.Option(help="white: the recogniser itself, by its gradient; black: its scores alone, by evolution."),
    ] = [Box.white, Box.black],  # noqa: B006 (typer copies it)
    people: Annotated[int, typer.Option(min=2, help="Whose templates are inverted.")] = 20,
    gan_steps: Annotated[int, typer.Option(min=1, help="Batches of the generator's training.")] = 3000,
    search_steps: Annotated[int, typer.Option(min=1, help="Steps of a white-box search.")] = 100,
    queries: Annotated[int, typer.Option(min=40, help="Faces that a black-box search shows at most.")] = 2000,
    sheet: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="PNG of originals above what the last search found; it shows real people."),
    ] = None,
    json_report: Json = None,
) -> None:
    """Invert templates of masked faces with a conditional GAN: white box by gradient, black box by scores."""
    require_training()
    from immunecam.benchmarks.masking.inversion import SCHEMA, attackers_gan
    from immunecam.benchmarks.masking.inversion import invert as inverted
    from immunecam.benchmarks.masking.privacy import write_sheet
    from immunecam.runtime.report import write_report
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.attacks.gan_trainer import GanConfig
    from immunecam.training.masking.trained import is_masked, load_trained
    from immunecam.training.recognizer import Recognizer

    if sheet is not None:
        check_picture(sheet)
    check_outputs(sheet, json_report)
    check_lfw(data)
    make_folder(work)
    key = mask_key(key_file) if any(is_masked(run) for run in runs) else None
    for run in runs:
        load_trained(run, key)  # a wrong key is said now, not after the generator's training
    judge, attackers = Recognizer.load(recognizer), Recognizer.load(own)
    keep_freed_memory()
    found = []
    with bars() as progress:
        moved = bar(progress, "generator")
        gan = attackers_gan(
            GanConfig(steps=gan_steps), data, attackers, work, on_step=lambda step, _: moved(step, gan_steps)
        )
        tell = named_bars(progress)

        for run in runs:
            found += inverted(
                run,
                key,
                data,
                judge,
                gan,
                boxes=[one.value for one in box],
                people=people,
                steps=search_steps,
                queries=queries,
                tell=lambda what, done, total, run=run: tell(f"{run.name}: {what}", done, total),
            )
    table = Table("run", "box", "cosine to template", "SSIM", "PSNR, dB", "verified, %", "identified, %", "privacy")
    for row in (one.row for one in found):
        table.add_row(
            row["run"],
            row["box"],
            f"{row['template_cosine']:.3f}",
            f"{row['ssim']:.3f}",
            f"{row['psnr_db']:.1f}",
            f"{row['verified_percent']:.1f}",
            f"{row['identified_percent']:.1f}",
            f"{row['privacy']:.3f}",
        )
    Console().print(table)
    if sheet is not None:
        write_sheet(found[-1], sheet)
    if json_report is not None:
        write_report(json_report, SCHEMA, [one.row for one in found], bundle_sha256=None)
