"""``immunecam evaluate``: what a bundle does to attacks and to clean faces, measured by the whole protocol."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from immunecam.commands.measuring import check_page, part_of, say_part, write_pages_of
from immunecam.commands.options import BundleState, Json, TrustedKey, trust_of
from immunecam.commands.outputs import check_outputs
from immunecam.commands.progress import one_bar
from immunecam.commands.requirements import require_device, require_training
from immunecam.errors import UsageError
from immunecam.reports.style import require_plots

__all__ = ["evaluate"]


def evaluate(
    data: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="Folder with lfw/train_112.zip, lfw/dev_112.zip and lfw/pairs.csv."),
    ] = None,
    recognizer: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="TorchScript .pt or .onnx recogniser; each is attacked, and is the others' transfer source."),
    ] = None,
    bundle: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Bundle; several stand in one table. Default: the installed one."),
    ] = None,
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    json_: Json = None,
    docs: Annotated[Optional[Path], typer.Option(metavar="PAGE", help="Write the page as Markdown.")] = None,  # noqa: UP045
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PAGE", help="Write the page as one HTML file. Default: robustness.html in --work."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer pairs, budgets and antibodies; it says so.")] = False,
    work: Annotated[Path, typer.Option(help="Folder that keeps what was computed; run again to go on.")] = Path(
        ".immunecam-evaluation"
    ),
    part: Annotated[Optional[str], typer.Option(metavar="I/N", help="Do the I-th of N parts of the work.")] = None,  # noqa: UP045
    merge: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Work folder of another part, whose results are taken over."),
    ] = None,
    add_to: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="REPORT",
            help="Report of the same protocol and faces whose other recognisers and bundles stand in the new one, too.",
        ),
    ] = None,
    mode: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Mutation mode of the bundles: sample, threshold, expected. Default: sample and expected."),
    ] = None,
    adaptive: Annotated[bool, typer.Option(help="Attack through the defences, too.")] = True,
    device: Annotated[
        str, typer.Option(help="PyTorch device of the attacks; auto takes a CUDA card if there is one.")
    ] = "auto",
    adaptive_pairs: Annotated[
        int | None,
        typer.Option(
            min=60,
            help="Pairs that are attacked through the defences. Default: 60 with --quick; else all on a GPU, 100 on a "
            "CPU. Parts that are merged must agree.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    page_of: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="REPORT", help="Measure nothing: write --docs and --html from this report."),
    ] = None,
) -> None:
    """Measure bundles by the whole protocol: clean, transfer, grey-box, adaptive, resubmission, sanity block."""
    require_training()
    require_plots("the pages of an evaluation")
    device = require_device(device)
    from immunecam.benchmarks import robustness
    from immunecam.runtime.bundle import Bundle, default_bundle
    from immunecam.training.allocator import keep_freed_memory

    keep_freed_memory()
    console = Console(markup=False)
    check_page(docs)
    if page_of is not None:
        load, write = robustness.load_report, robustness.write_page
        write_pages_of(page_of, docs, html, load=load, write=write, console=console)
        return
    if data is None or not recognizer:
        raise UsageError("an evaluation needs --data FOLDER and --recognizer FILE: give both")
    modes = tuple(mode or ("sample", "expected"))
    for name in modes:
        if name not in ("sample", "threshold", "expected"):
            raise UsageError(f"the mutation mode {name!r} is unknown: use sample, threshold or expected")
    protocol = dataclasses.replace(robustness.QUICK if quick else robustness.FULL, seed=seed)
    if adaptive_pairs is None and not quick and device != "cpu":
        adaptive_pairs = 0
    if adaptive_pairs is not None:
        if 0 < adaptive_pairs < 100 and not quick:
            raise UsageError(f"--adaptive-pairs is {adaptive_pairs}, but the full form takes 100 or more: use --quick")
        protocol = dataclasses.replace(protocol, adaptive_pairs=adaptive_pairs)
    own_part = part_of(part)
    check_outputs(json_, docs, html)
    policy = trust_of(trust, bundle_state)
    bundles = [Bundle.load(path, trust=policy) for path in bundle or [default_bundle()]]
    with one_bar() as tell:
        whole = robustness.evaluate(
            data,
            recognizer,
            bundles,
            protocol,
            work,
            modes=modes,
            report=json_,
            markdown=docs,
            html=html,
            part=own_part,
            merge=merge or [],
            earlier=add_to,
            adaptive=adaptive,
            device=device,
            tell=tell,
        )
    if whole is None:
        say_part(console, part, work)
        return
    pages = docs or work / "robustness.md", html or work / "robustness.html"
    written = [str(path) for path in (json_, *pages, work / "contact_sheet.png") if path]
    console.print(f"wrote {', '.join(written)}", highlight=False, soft_wrap=True)
