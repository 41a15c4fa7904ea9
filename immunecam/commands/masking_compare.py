"""``immunecam masking compare``: the same training with and without mixes, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from immunecam.commands.gate_options import KeyFile, mask_key
from immunecam.commands.masking_material import check_lfw, settings_of, training_material
from immunecam.commands.options import Json
from immunecam.commands.outputs import check_outputs, make_folder
from immunecam.commands.progress import bar, bars, named_bars
from immunecam.commands.requirements import require_training
from immunecam.errors import UsageError

__all__ = ["compare"]


def compare(
    data: Annotated[Path, typer.Option(help="Folder with lfw/train_112.zip, lfw/dev_112.zip and lfw/pairs.csv.")],
    recognizer: Annotated[
        Path, typer.Option(help="TorchScript .pt or .onnx recogniser of plain faces, which judges; not the teacher.")
    ],
    work: Annotated[Path, typer.Option(help="Folder that keeps everything; run again, it goes on where it was.")],
    teacher: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="As of `masking train`."),
    ] = None,
    start_from: Annotated[Optional[Path], typer.Option(help="As of `masking train`.")] = None,  # noqa: UP045
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSON file of settings; what it says of mixing is replaced."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Batches of each run.")] = None,
    way: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="none, 'fixed 2', 'fixed 4', uniform, adaptive; default: all. The first one's mask is taken."
        ),
    ] = None,
    network_steps: Annotated[
        int, typer.Option(min=0, help="Batches of the network that recovers faces; 0 leaves it out.")
    ] = 1500,
    people: Annotated[int, typer.Option(min=2, help="That are judged, a picture of each.")] = 100,
    hold_out: Annotated[int, typer.Option(help="Fold whose people are not trained on, for the threshold.")] = 7,
    fold: Annotated[int, typer.Option(help="Fold of the pairs that are judged.")] = 8,
    embeddings: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File that keeps the teacher's embeddings; default: in the work folder."),
    ] = None,
    key_file: KeyFile = None,
    json_report: Json = None,
) -> None:
    """Train the same recogniser without mixes, with 2, with 4, with a drawn and with a chosen number of faces."""
    require_training()
    from immunecam.benchmarks.masking.mixing import SCHEMA, WAYS
    from immunecam.benchmarks.masking.mixing import compare as compared
    from immunecam.runtime.report import write_report
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.attacks.recovery_trainer import RecoveryConfig
    from immunecam.training.recognizer import Recognizer

    ways = way or list(WAYS)
    if wrong := [name for name in ways if name not in WAYS]:
        raise UsageError(f"--way is {wrong[0]!r}, but must be one of {', '.join(WAYS)}")
    settings = settings_of(config, start_from)
    if settings.distilled and teacher is None:
        raise UsageError("distillation needs a recogniser to learn from: give --teacher FILE, or settings without it")
    changes: dict[str, Any] = {"masked": True, "started": start_from is not None}
    try:
        settings = settings.replace(**changes, **({} if steps is None else {"steps": steps}))
        for name in ways:  # said now, not after the first runs
            settings.replace(**WAYS[name])
    except ValueError as error:
        raise UsageError(str(error)) from None
    key = mask_key(key_file)
    check_lfw(data, fold)
    make_folder(work)
    lfw, kept = data / "lfw", work / "teacher.safetensors" if embeddings is None else embeddings
    check_outputs(kept, json_report)
    judge = Recognizer.load(recognizer)
    keep_freed_memory()
    with bars() as progress:
        material = training_material(
            settings,
            lfw / "train_112.zip",
            teacher,
            start_from,
            lfw / "pairs.csv",
            hold_out,
            kept,
            device="cpu",
            bar=lambda name: bar(progress, name),
        )
        rows = compared(
            settings,
            material.faces,
            material.teacher,
            material.start,
            key,
            data,
            judge,
            work,
            held_out=sorted(material.held_out),
            ways=ways,
            people=people,
            recovery=RecoveryConfig(steps=network_steps) if network_steps else None,
            fold=fold,
            tell=named_bars(progress),
        )
    table = Table(
        "mixing", "accuracy, %", "of 2 3 4 5 6, %", "attack", "SSIM", "verified, %", "identified, %", "privacy"
    )
    for row in rows:
        table.add_row(
            row["way"],
            f"{row['accuracy_percent']:.1f}",
            " ".join(f"{row[f'k{k}_percent']:.0f}" for k in range(2, 7)),
            row["attack"],
            f"{row['ssim']:.3f}",
            f"{row['verified_percent']:.1f}",
            f"{row['identified_percent']:.1f}",
            f"{row['privacy']:.3f}",
        )
    console = Console(markup=False)
    console.print(table)
    for sentence in {row["collapse"] for row in rows if row["collapse"]}:
        console.print(sentence, highlight=False, soft_wrap=True)
    if json_report is not None:
        write_report(json_report, SCHEMA, rows, bundle_sha256=None, fold=fold, steps=settings.steps)
