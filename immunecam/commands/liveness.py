"""``immunecam liveness``: sets of live and spoofed faces, and networks that tell them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from immunecam.commands import liveness_analyze, liveness_export, liveness_matrix
from immunecam.commands.liveness_set import CelebaLimit, CelebaMaps, read_liveness_set
from immunecam.commands.outputs import check_outputs
from immunecam.commands.progress import bars
from immunecam.commands.requirements import require_device, require_training
from immunecam.errors import UsageError

__all__ = ["app"]

app = typer.Typer(
    name="liveness",
    help="Live or spoof: make synthetic spoofs, train networks on them or on CelebA-Spoof, look where they break, and "
    "put one into a bundle.",
    no_args_is_help=True,
)

app.command("analyze")(liveness_analyze.analyze)
app.command("matrix")(liveness_matrix.matrix)
app.command("export")(liveness_export.export)

_Seed = Annotated[int, typer.Option(help="Of everything random.")]
_Side = Annotated[int, typer.Option(help="Of the faces in pixels: at least 64, and a multiple of 16.")]


@app.command()
def make(
    out: Annotated[Path, typer.Option("--out", "-o", help="Set to write, NAME.safetensors.")],
    data: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="Folder or zip of square face pictures, whose five points --points has."),
    ] = None,
    points: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help=".npz of names (N,) and points (N, 5, 2): eyes, nose, mouth corners."),
    ] = None,
    aligned: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Folder or zip of faces aligned at 112x112, of colour best; may be given several times."),
    ] = None,
    count: Annotated[int, typer.Option(min=2, help="Faces to make; two fifths are live.")] = 12000,
    side: _Side = 112,
    seed: _Seed = 0,
) -> None:
    """Make a set of synthetic live and spoofed faces: prints, screens, cut-out masks, posters."""
    require_training()
    from immunecam.training.liveness import synthetic_set
    from immunecam.training.spoof import FacePictures

    if out.suffix != ".safetensors":
        raise UsageError(f"the set to write is {str(out)!r}, but its name must end in .safetensors")
    if out.exists():
        raise UsageError(f"the set {str(out)!r} exists already: name another, or remove it")
    check_outputs(out)
    if (data is None) != (points is None):
        raise UsageError(
            "pictures and their points belong together: give --data and --points, or neither and --aligned"
        )
    parts = [FacePictures.load(data, points)] if data is not None else []
    parts += [FacePictures.load(path) for path in aligned or []]
    if not parts:
        raise UsageError("there are no face pictures: give --data with --points, or --aligned")
    pictures = parts[0]
    for part in parts[1:]:
        pictures = pictures.joined(part)
    _check_side(side)
    with bars() as progress:
        task = progress.add_task("making", total=count, state="")
        faces = synthetic_set(
            pictures, count, side=side, seed=seed, progress=lambda done, _: progress.update(task, completed=done)
        )
    faces.save(out)
    kinds = ", ".join(f"{number} {name}" for name, number in faces.counts().items())
    Console(markup=False).print(f"wrote {out}, synthetic: {kinds}", highlight=False, soft_wrap=True)


@app.command()
def train(
    data: Annotated[Path, typer.Option(help="A set of `make`, or the folder of CelebA-Spoof (with Data/ and metas/).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder.")],
    test: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A set of `make` of other people; with CelebA-Spoof its own test part is taken."),
    ] = None,
    backbone: Annotated[str, typer.Option(help="vgg, resnet, densenet or swin.")] = "resnet",
    tasks: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Auxiliary tasks, by comma: attributes, spoof_type, illumination, depth, reflection; or none. "
            "Default: all that the set has labels for."
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches.")] = 3000,
    batch: Annotated[int, typer.Option(min=2, help="Faces in each, half of them live.")] = 32,
    adversarial: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(metavar="LEVELS", help="Train against attacks of so many grey levels of 255, 4 for instance."),
    ] = None,
    adversarial_share: Annotated[float, typer.Option(help="Of each batch's faces that are attacked.")] = 0.5,
    adversarial_steps: Annotated[int, typer.Option(help="Of that attack; each costs a step of training.")] = 3,
    adversarial_sfa: Annotated[
        bool, typer.Option("--adversarial-sfa", help="Augment the features of that attack, as `analyze` does.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help="fp32, or bf16: faster where the processor or card computes in bfloat16.")
    ] = "fp32",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    limit: CelebaLimit = 40000,
    maps: CelebaMaps = None,
    side: Annotated[int, typer.Option(help="Of CelebA-Spoof's faces; those of a set have theirs.")] = 112,
    seed: _Seed = 0,
    device: Annotated[str, typer.Option(help="PyTorch device; auto takes a CUDA card if there is one.")] = "auto",
) -> None:
    """Train a liveness network, and measure its errors on faces that it has not seen."""
    require_training()
    device = require_device(device)
    from immunecam.models.liveness import check_tasks
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.liveness import AdversarialTraining, LivenessConfig, LivenessTrainer
    from immunecam.training.liveness.errors import write_errors

    wanted = None
    try:
        if tasks is not None:
            wanted = check_tasks(name.strip() for name in tasks.split(",") if name.strip() not in ("", "none"))
        against = None
        if adversarial is not None:
            against = AdversarialTraining(adversarial, adversarial_share, adversarial_steps, adversarial_sfa)
        LivenessConfig(backbone=backbone, precision=precision)
    except ValueError as error:
        raise UsageError(str(error)) from None
    _check_side(side)
    keep_freed_memory()
    with bars() as progress:
        reading = progress.add_task("reading", total=None, state="")
        faces = read_liveness_set(data, "train", side=side, limit=limit, seed=seed, maps=maps)
        fewer, held_out = max(2, limit // 4), None
        if test is not None or data.is_dir():
            place = data if test is None else test
            held_out = read_liveness_set(place, "test", side=side, limit=fewer, seed=seed, maps=maps)
            held_out.check(())  # now, and not after the training
            held_out.check_like(faces)
        progress.update(reading, description="faces", state=f"{len(faces)}, {faces.origin}")
        config = LivenessConfig(
            backbone=backbone,
            tasks=faces.tasks if wanted is None else wanted,
            steps=steps,
            batch=batch,
            adversarial=against,
            precision=precision,
            seed=seed,
        )
        trainer = LivenessTrainer(config, faces, out, resume=resume, device=device)
        task = progress.add_task("training", total=steps, completed=trainer.step, state="")

        def show(step: int, values: dict[str, float]) -> None:
            if step % 5 == 0 or step == steps:
                progress.update(task, completed=step, state=f"live or spoof {values['live']:.3f}")

        trainer.run(on_step=show)
    console = Console(markup=False)
    console.print(f"trained {backbone} in {trainer.seconds:.0f} s; run folder {out}", highlight=False, soft_wrap=True)
    if held_out is None:
        return
    errors = write_errors(out, trainer.slow.network, held_out)
    word = "on synthetic spoofs" if held_out.synthetic else f"on {held_out.origin}"
    console.print(
        f"{word}, {len(held_out)} faces: BPCER {errors.bpcer:.1%}, worst APCER {max(errors.apcer.values()):.1%} "
        f"({max(errors.apcer, key=lambda kind: errors.apcer[kind])}), ACER {errors.acer:.1%}",
        highlight=False,
        soft_wrap=True,
    )


def _check_side(side: int) -> None:
    from immunecam.models.liveness import check_side

    try:
        check_side(side)
    except ValueError as error:
        raise UsageError(str(error)) from None
