"""``immunecam liveness matrix``: every backbone with every auxiliary task, trained and analysed by one command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from immunecam.commands.liveness_set import CelebaLimit, CelebaMaps, read_liveness_set
from immunecam.commands.measuring import check_page
from immunecam.commands.options import BundleState, Json, TrustedKey, trust_of
from immunecam.commands.outputs import check_outputs, make_folder
from immunecam.commands.progress import one_bar
from immunecam.commands.requirements import require_device, require_training
from immunecam.errors import UsageError
from immunecam.reports.style import require_plots

__all__ = ["matrix"]


def matrix(
    data: Annotated[Path, typer.Option(help="A set of `make`, to train on; or CelebA-Spoof's folder.")],
    test: Annotated[
        Path, typer.Option(help="A set of `make` of other people, to measure and attack on; or CelebA-Spoof's folder.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for runs and attacks; the same command goes on in it.")
    ],
    backbone: Annotated[
        Optional[list[str]],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="vgg, resnet, densenet or swin; may be given several times. Default: all."),
    ] = None,
    limit: CelebaLimit = 40000,
    maps: CelebaMaps = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches of every run.")] = 1500,
    batch: Annotated[int, typer.Option(min=2, help="Faces in each, half of them live.")] = 32,
    precision: Annotated[
        str, typer.Option(help="fp32, or bf16: faster where the processor or card computes in bfloat16.")
    ] = "fp32",
    adversarial: Annotated[
        float, typer.Option(metavar="LEVELS", help="Grey levels of the runs against attacks; 0 leaves them out.")
    ] = 2.0,
    adversarial_steps: Annotated[int, typer.Option(help="Of the attack in training.")] = 2,
    adversarial_sfa: Annotated[
        bool,
        typer.Option(
            "--adversarial-sfa/--no-adversarial-sfa",
            help="Train runs against attacks with augmented features, too; the slowest of all.",
        ),
    ] = True,
    faces: Annotated[Optional[int], typer.Option(min=1, help="Faces of each class to attack (25).")] = None,  # noqa: UP045
    train_only: Annotated[bool, typer.Option("--train-only", help="Train, and attack another day.")] = False,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Bundle that purifies attacked faces: does it protect liveness, too?"),
    ] = None,
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    json_: Json = None,
    docs: Annotated[Optional[Path], typer.Option(metavar="PAGE", help="Write the page as Markdown.")] = None,  # noqa: UP045
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="PyTorch device; auto takes a CUDA card if there is one.")] = "auto",
) -> None:
    """Train every backbone with all auxiliary tasks, none, each alone and against attacks; then analyse them all."""
    require_training()
    require_plots("the pages of an analysis")
    device = require_device(device)
    from immunecam.benchmarks import liveness_analysis
    from immunecam.benchmarks.liveness.page import most_robust
    from immunecam.models.liveness_trunks import TRUNKS
    from immunecam.runtime.bundle import Bundle
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.liveness import AdversarialTraining, matrix_runs, train_matrix

    check_outputs(json_, docs)
    check_page(docs)
    loaded = None if bundle is None else Bundle.load(bundle, trust=trust_of(trust, bundle_state))
    keep_freed_memory()
    kinds = (False, True) if adversarial_sfa else (False,)
    learnt = read_liveness_set(data, "train", side=112, limit=limit, seed=seed, maps=maps)
    judged = read_liveness_set(test, "test", side=learnt.side, limit=max(2, limit // 4), seed=seed, maps=maps)
    try:
        runs = list(
            matrix_runs(
                learnt.tasks,
                backbones=dict.fromkeys(backbone or TRUNKS),
                against=[AdversarialTraining(adversarial, steps=adversarial_steps, sfa=sfa) for sfa in kinds]
                if adversarial
                else (),
                steps=steps,
                batch=batch,
                precision=precision,
                seed=seed,
            )
        )
    except ValueError as error:
        raise UsageError(str(error)) from None
    make_folder(out)
    protocol = dataclasses.replace(liveness_analysis.MATRIX, seed=seed)
    if faces is not None:
        protocol = dataclasses.replace(protocol, faces=faces, sweep_faces=min(faces, protocol.sweep_faces))
    with one_bar() as tell:
        folders = train_matrix(runs, learnt, judged, out, device=device, tell=tell)
        if not train_only:
            whole = liveness_analysis.analyze(
                folders,
                judged,
                protocol,
                out / "attacks",
                bundle=loaded,
                report=json_ or out / "liveness.json",
                markdown=docs or out / "liveness.md",
                html=out / "liveness.html",
                device=device,
                tell=tell,
            )
    console = Console(markup=False)
    console.print(f"{len(folders)} runs in {out} are trained", highlight=False, soft_wrap=True)
    if train_only:
        return
    assert whole is not None
    for sentence in most_robust(whole):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(
        f"wrote {json_ or out / 'liveness.json'}, {docs or out / 'liveness.md'}, {out / 'liveness.html'}",
        highlight=False,
        soft_wrap=True,
    )
