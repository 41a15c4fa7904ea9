"""``immunecam train``: from aligned faces and a recogniser to a bundle."""

from __future__ import annotations

import math
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from immunecam.commands.options import Precision
from immunecam.commands.progress import bars
from immunecam.commands.requirements import require_device, require_training
from immunecam.errors import UsageError

__all__ = ["train"]

# Of the teacher's antibodies where the preset has none: a bit's divergence begins at 0.1 to 0.3 nats, and the identity
# terms together at 1 to 2.
_DISTILLED = 4.0


class Kind(str, Enum):
    """Model kinds."""

    ais = "ais"
    pin = "pin"
    edge = "edge"


class Preset(str, Enum):
    """Training presets."""

    paper = "paper"
    fast = "fast"
    full = "full"
    robust = "robust"


def train(
    kind: Annotated[Kind, typer.Argument(help="Model.")],
    data: Annotated[Path, typer.Option(help="Folder or zip of aligned 112x112 faces.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Bundle to write, NAME.immune; the run lives in NAME.run.")],
    recognizer: Annotated[
        Optional[list[Path]],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="TorchScript .pt or .onnx recogniser; several take turns. PIN needs none."),
    ] = None,
    preset: Annotated[
        Preset,
        typer.Option(
            help="paper: the authors' choices; fast: a few thousand steps; full: with restoration, from scratch (the "
            "shipped bundle is the end of a chain of such runs); robust (edge): against attackers who know the "
            "defence, at a price in clean faces."
        ),
    ] = Preset.fast,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")] = False,
    start_from: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="RUN|BUNDLE",
            help="Take over the weights of another run or of a bundle where names and shapes agree: the way to train a "
            "shipped bundle on for your own recogniser.",
        ),
    ] = None,
    teacher: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="BUNDLE",
            help="Learn the antibodies of this bundle, too (distillation): a larger model of as many eigenfaces.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the last phase, instead of the preset's.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate, instead of the preset's; lower to train one on.")
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="Number of eigenfaces, instead of the preset's.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random in training.")] = 0,
    device: Annotated[
        str,
        typer.Option(
            help="PyTorch device; auto takes a CUDA card if there is one, under torchrun one for each process."
        ),
    ] = "auto",
    bank: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FOLDER", help="Bank of attacked faces to make or to share; default: NAME.run/bank."),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Storage format of the bundle's basis.")] = Precision.int8,
    weights: Annotated[Precision, typer.Option(help="Storage format of the networks' weights.")] = Precision.fp32,
) -> None:
    """Train a model and export it as a bundle."""
    require_training()
    device = require_device(device)
    import dataclasses

    from immunecam.export.to_onnx import export_bundle, run_folder_of
    from immunecam.runtime.bundle import Bundle
    from immunecam.runtime.bundle_manifest import MANIFEST
    from immunecam.runtime.bundle_writer import check_signature_kept
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.config import preset as named
    from immunecam.training.distributed import Workers
    from immunecam.training.faces import FaceSet
    from immunecam.training.mixed_precision import computes_bfloat16, in_precision_of
    from immunecam.training.objective import StepValues
    from immunecam.training.recognizer import Recognizer
    from immunecam.training.trainer import Trainer

    if out.suffix != ".immune":
        raise UsageError(f"the bundle to write is {str(out)!r}, but its name must end in .immune")
    if out.exists() and not resume:
        raise UsageError(f"the bundle {str(out)!r} exists already: name another, or go on with its run by --resume")
    check_signature_kept(out, sign=None, drop_signature=False)
    try:
        config = named(kind.value, preset.value)
    except ValueError as error:
        raise UsageError(str(error)) from None
    changes: dict[str, Any] = {"seed": seed}
    if k is not None:
        changes["k"] = k
    if steps is not None:
        last = dataclasses.replace(config.phases[-1], steps=steps, epochs=0.0)
        changes["phases"] = (*config.phases[:-1], last)
    if lr is not None:
        if not 0 < lr < math.inf:
            raise UsageError(f"--lr is {lr:g}, but a learning rate is above 0: the preset's is {config.lr:g}")
        changes["lr"] = lr
    if teacher is not None and not config.distillation_weight:
        changes["distillation_weight"] = _DISTILLED
    config = config.replace(**changes)
    if config.needs_recognizer and not recognizer:
        raise UsageError(f"training {kind.value} has an identity term: give --recognizer FILE (.pt or .onnx)")

    origin: Path | Bundle | None = start_from
    if start_from is not None and (start_from.suffix == ".immune" or (start_from / MANIFEST).is_file()):
        origin = Bundle.load(start_from)
    keep_freed_memory()
    workers = Workers.join(device)
    device = Workers.own_device(device)
    console = Console(markup=False)
    wanted, folder = config.precision, run_folder_of(out)
    config = in_precision_of(config, device, folder if resume else None)
    if workers.first and config.precision != wanted:
        why = "the run began so" if computes_bfloat16(device) else f"this {device} does not compute in bfloat16"
        console.print(f"training in {config.precision} in place of {wanted}: {why}", highlight=False)
    with bars(hidden=not workers.first) as progress:
        reading = progress.add_task("reading", total=None, state="")
        faces = FaceSet.load(data, progress=lambda done, all_: progress.update(reading, completed=done, total=all_))
        recognizers = [Recognizer.load(path, device=device) for path in recognizer or []]
        progress.update(reading, description="eigenfaces", state="fitting")
        trainer = Trainer(
            config,
            faces,
            recognizers,
            folder,
            resume=resume,
            device=device,
            workers=workers,
            start_from=origin,
            teacher=None if teacher is None else Bundle.load(teacher),
            bank=bank,
            progress=lambda done, all_: progress.update(
                reading, description="attacks", completed=done, total=all_, state="a bank of attacked faces"
            ),
        )
        progress.update(reading, description="faces", state=f"{len(faces)}, {config.k} eigenfaces")
        task = progress.add_task("training", total=trainer.steps, completed=trainer.step, state="")

        def show(step: int, values: StepValues) -> None:
            if step % 5 == 0 or step == trainer.steps:
                state = f"{trainer.phase}: 1-cos {values.identity:.3f}, active {values.sparsity:.0f}"
                progress.update(task, completed=step, state=state)

        try:
            trainer.run(on_step=show)
        finally:
            workers.leave()
    if not workers.first:
        return
    bundle, parity = export_bundle(
        trainer.folder, out, precision=precision.value, weights=weights.value, overwrite=resume
    )
    console.print(
        f"wrote {out} (manifest sha256 {bundle.sha256[:12]}); largest difference to PyTorch: "
        f"{max(parity.max_abs_p_random, parity.max_abs_p_real):.1e} in p, {parity.max_grey_levels} grey levels; "
        f"curves in {trainer.folder / 'report.html'}",
        highlight=False,
        soft_wrap=True,
    )
