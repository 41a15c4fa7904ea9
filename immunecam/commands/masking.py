"""``immunecam masking``: recognisers that never see a face, only some frequencies of it, shuffled by a key."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from immunecam.commands import masking_compare, masking_evaluate, masking_export, masking_invert
from immunecam.commands.gate_options import KeyFile, mask_key
from immunecam.commands.masking_material import check_lfw, settings_of, training_material
from immunecam.commands.options import Json
from immunecam.commands.outputs import check_outputs, check_picture, make_folder
from immunecam.commands.progress import bar, bars
from immunecam.commands.requirements import require_device, require_training
from immunecam.errors import UsageError

if TYPE_CHECKING:
    from immunecam.mask_key import MaskKey

__all__ = ["app"]

app = typer.Typer(
    name="masking",
    help="Recognise faces by some of their frequencies, shuffled by a key: train such recognisers and measure them.",
    no_args_is_help=True,
)
app.command("evaluate")(masking_evaluate.evaluate)
app.command("export")(masking_export.export)
app.command("compare")(masking_compare.compare)
app.command("invert")(masking_invert.invert)


class Mixing(str, Enum):
    """How training faces are mixed."""

    none = "none"
    fixed = "fixed"
    uniform = "uniform"
    adaptive = "adaptive"


class Permutation(str, Enum):
    """Whose order the channels are in."""

    fixed = "fixed"
    enrolment = "enrolment"


class Colours(str, Enum):
    """Colour planes of a mask."""

    grey = "grey"
    ycbcr = "ycbcr"


class Method(str, Enum):
    """Attacks."""

    mean = "mean"
    linear = "linear"
    network = "network"


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="Folder or zip of aligned 112x112 faces, in a folder for each person.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")],
    teacher: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="TorchScript .pt or .onnx recogniser of plain faces, whose embeddings are to be given."),
    ] = None,
    key_file: KeyFile = None,
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSON file of settings, such as another run's config.json; options come before it."),
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="The same network on plain faces, for comparison.")] = False,
    mixing: Annotated[
        Optional[Mixing],  # noqa: UP045
        typer.Option(help="Of training faces: not at all, always --k, 2 to 6 at random, or as a strategy chooses."),
    ] = None,
    k: Annotated[int | None, typer.Option(help="Faces of a mix, 2 to 6, for --mixing fixed.")] = None,
    permutation: Annotated[
        Optional[Permutation],  # noqa: UP045
        typer.Option(help="One order of channels for all faces, or one for each enrolment."),
    ] = None,
    positions: Annotated[int | None, typer.Option(help="Blocks a side: 112, 56, 28 or 14.")] = None,
    colours: Annotated[Optional[Colours], typer.Option(help="Colour planes of the mask.")] = None,  # noqa: UP045
    keep: Annotated[int | None, typer.Option(help="Frequencies of every colour, of 1 to 63.")] = None,
    start_from: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="MobileFaceNet as .onnx whose weights the network starts from, behind an unmasking layer."),
    ] = None,
    distilled: Annotated[float | None, typer.Option(help="Weight of distillation; 0 needs no teacher.")] = None,
    arcface: Annotated[float | None, typer.Option(help="Weight of ArcFace; 0 needs no names.")] = None,
    steps: Annotated[int | None, typer.Option(help="Batches.")] = None,
    batch: Annotated[int | None, typer.Option(help="Faces in each.")] = None,
    pairs: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="LFW's pairs.csv: the people of --hold-out's fold are left out, for the threshold."),
    ] = None,
    hold_out: Annotated[int, typer.Option(help="Fold of --pairs whose people are not trained on.")] = 7,
    embeddings: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File that keeps the teacher's embeddings, shared by runs; default: in the run folder."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    device: Annotated[str, typer.Option(help="PyTorch device; auto takes a CUDA card if there is one.")] = "auto",
) -> None:
    """Train a recogniser of masked faces, and the strategy that mixes them."""
    require_training()
    device = require_device(device)
    changes: dict[str, Any] = {
        "mixing": mixing.value if mixing else None,
        "k": k,
        "permutation": permutation.value if permutation else None,
        "positions": positions,
        "colours": colours.value if colours else None,
        "keep": keep,
        "distilled": distilled,
        "arcface": arcface,
        "steps": steps,
        "batch": batch,
        "seed": seed,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    settings = settings_of(config, start_from)
    changes["started"] = start_from is not None
    if keep is not None:
        changes["frequencies"] = None  # those that the settings name are as many as they are
    if plain:
        changes["masked"] = False
    try:
        settings = settings.replace(**changes)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if settings.distilled and teacher is None:
        raise UsageError("distillation needs a recogniser to learn from: give --teacher FILE, or --distilled 0")
    key = mask_key(key_file) if settings.masked else None
    _train(settings, data, out, teacher, start_from, key, pairs, hold_out, embeddings, resume, device)


def _train(
    settings: Any,
    data: Path,
    out: Path,
    teacher: Path | None,
    start_from: Path | None,
    key: MaskKey | None,
    pairs: Path | None,
    hold_out: int,
    embeddings: Path | None,
    resume: bool,
    device: str,
) -> None:
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.masking import MaskingTrainer

    keep_freed_memory()
    with bars() as progress:
        make_folder(out)
        kept = out / "teacher.safetensors" if embeddings is None else embeddings
        check_outputs(kept)
        material = training_material(
            settings,
            data,
            teacher,
            start_from,
            pairs,
            hold_out,
            kept,
            device=device,
            bar=lambda name: bar(progress, name),
        )
        trainer = MaskingTrainer(
            settings,
            material.faces,
            material.teacher,
            key,
            out,
            start=material.start,
            held_out=material.held_out,
            resume=resume,
            device=device,
            progress=bar(progress, "frequencies") if settings.masked else None,
        )
        task = progress.add_task("training", total=settings.steps, completed=trainer.step, state="")

        def show(step: int, values: dict[str, float]) -> None:
            if step % 5 == 0 or step == settings.steps:
                state = f"distilled {values['distilled']:.3f}, ArcFace {values['arcface']:.2f}"
                progress.update(task, completed=step, state=state)

        trainer.run(on_step=show)
    collapse = trainer.write_choices()
    console = Console(markup=False)
    kind = f"masked faces, mixing {settings.mixing}" if settings.masked else "plain faces"
    console.print(
        f"trained on {kind}, {len(material.faces)} faces, in {trainer.seconds:.0f} s; run folder {out}",
        highlight=False,
        soft_wrap=True,
    )
    if collapse:
        console.print(collapse, highlight=False, soft_wrap=True)


@app.command()
def attack(
    run: Annotated[Path, typer.Argument(help="Run folder of `immunecam masking train`, whose mask is attacked.")],
    data: Annotated[Path, typer.Option(help="Folder with lfw/train_112.zip, lfw/dev_112.zip and lfw/pairs.csv.")],
    recognizer: Annotated[
        Path, typer.Option(help="TorchScript .pt or .onnx recogniser of plain faces, which judges; not the teacher.")
    ],
    key_file: KeyFile = None,
    method: Annotated[
        list[Method],
        typer.Option(help="mean: no attack, to compare with; linear: solved in closed form; network: trained."),
    ] = [Method.mean, Method.linear],  # noqa: B006 (typer copies it)
    per_enrolment: Annotated[
        bool, typer.Option("--per-enrolment", help="Every face in an order that the attacker does not know.")
    ] = False,
    k: Annotated[int, typer.Option(min=1, max=6, help="What is seen of a face is mixed with k - 1 others.")] = 1,
    encodings: Annotated[int, typer.Option(min=1, help="Mixes of every face that are seen.")] = 1,
    faces: Annotated[int, typer.Option(min=2, help="Of the attacker, for linear; a network has all.")] = 300,
    people: Annotated[int, typer.Option(min=1, help="That are judged, a picture of each.")] = 100,
    work: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder of the network; default: attack in the run folder."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches of the network's training.")] = 3000,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the network's run.")] = False,
    sheet: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="PNG of originals above what the last method saw; it shows real people."),
    ] = None,
    json_report: Json = None,
) -> None:
    """Try to see the faces behind a mask: people that the attacker never had, scored by an independent recogniser."""
    require_training()
    from immunecam.benchmarks.masking.privacy import SCHEMA, write_sheet
    from immunecam.benchmarks.masking.privacy import attack as attacked
    from immunecam.runtime.report import write_report
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.attacks.recovery_trainer import RecoveryConfig
    from immunecam.training.recognizer import Recognizer

    if per_enrolment and k > 1:
        raise UsageError("mixes are of faces in one order: give either --per-enrolment or --k")
    if encodings > 1 and k == 1:
        raise UsageError(f"--encodings {encodings} are mixes of a face with others: give --k, of how many faces, too")
    if sheet is not None:
        check_picture(sheet)
    check_outputs(sheet, json_report)
    check_lfw(data)
    key, judge, work = mask_key(key_file), Recognizer.load(recognizer), work or run / "attack"
    if Method.network in method:
        make_folder(work)
    keep_freed_memory()
    found = [
        attacked(
            run,
            key,
            data,
            judge,
            one.value,
            per_enrolment=per_enrolment,
            k=k,
            encodings=encodings,
            faces=faces,
            people=people,
            work=work,
            config=RecoveryConfig(steps=steps),
            resume=resume,
        )
        for one in method
    ]
    table = Table("channels", "seen of a face", "attack", "SSIM", "PSNR, dB", "cosine", "verified, %")
    for row in (one.row for one in found):
        once = "in its own order" if per_enrolment else "in one order"
        table.add_row(
            f"{row['channels']} at {row['positions']}",
            once if k == 1 else f"{encodings} mixes of {k}",
            row["attack"],
            f"{row['ssim']:.3f}",
            f"{row['psnr_db']:.1f}",
            f"{row['cosine']:.3f}",
            f"{row['verified_percent']:.1f}",
        )
    Console(markup=False).print(table)
    if sheet is not None:
        write_sheet(found[-1], sheet)
    if json_report is not None:
        write_report(json_report, SCHEMA, [one.row for one in found], bundle_sha256=None)
