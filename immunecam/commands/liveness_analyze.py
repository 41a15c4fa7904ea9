"""``immunecam liveness analyze``: where liveness networks break, and what helps."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console

from immunecam.commands.liveness_set import CelebaLimit, CelebaMaps, read_liveness_set
from immunecam.commands.measuring import check_page, part_of, say_part, write_pages_of
from immunecam.commands.options import BundleState, Json, TrustedKey, trust_of
from immunecam.commands.outputs import check_outputs
from immunecam.commands.progress import one_bar
from immunecam.commands.requirements import require_device, require_training
from immunecam.errors import UsageError
from immunecam.reports.style import require_plots

__all__ = ["analyze"]


def analyze(
    runs: Annotated[
        Optional[list[Path]],  # noqa: UP045 (typer on Python 3.10)
        typer.Argument(metavar="RUN...", help="Run folders of `immunecam liveness train`."),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A set of `make`, of people no network has seen; or CelebA-Spoof's folder: its test part."),
    ] = None,
    validation: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Set that thresholds are chosen on; default: every second face of --data, not judged then."),
    ] = None,
    limit: CelebaLimit = 10000,
    maps: CelebaMaps = None,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Bundle that purifies attacked faces: does it protect liveness, too?"),
    ] = None,
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    json_: Json = None,
    docs: Annotated[Optional[Path], typer.Option(metavar="PAGE", help="Write the page as Markdown.")] = None,  # noqa: UP045
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PAGE", help="Write the page as one HTML file. Default: liveness.html in --work."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer faces, budgets and settings; it says so.")] = False,
    faces: Annotated[Optional[int], typer.Option(min=1, help="Faces of each class to attack.")] = None,  # noqa: UP045
    sfa_layer: Annotated[Optional[str], typer.Option(help="stem, stage1, stage2 or stage3.")] = None,  # noqa: UP045
    sfa_operator: Annotated[Optional[str], typer.Option(help="mix, class or adain.")] = None,  # noqa: UP045
    sfa_draws: Annotated[Optional[int], typer.Option(min=1, help="K, augmentations of each gradient.")] = None,  # noqa: UP045
    sfa_law: Annotated[Optional[str], typer.Option(help="Of mixing: fixed, uniform or beta.")] = None,  # noqa: UP045
    sfa_strength: Annotated[Optional[float], typer.Option(help="Of mixing, above 0, at most 1.")] = None,  # noqa: UP045
    sweep: Annotated[bool, typer.Option(help="Try SFA's settings where its goal is missed.")] = True,
    work: Annotated[Path, typer.Option(help="Folder that keeps what was computed; run again to go on.")] = Path(
        ".immunecam-liveness"
    ),
    part: Annotated[Optional[str], typer.Option(metavar="I/N", help="Do the I-th of N parts of the attacks.")] = None,  # noqa: UP045
    merge: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Work folder of another part, whose results are taken over."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="PyTorch device; auto takes a CUDA card if there is one.")] = "auto",
    page_of: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="REPORT", help="Measure nothing: write --docs and --html from this report."),
    ] = None,
) -> None:
    """Attack liveness networks by head, budget and direction, rank them, and tell errors by species of spoof."""
    require_training()
    require_plots("the pages of an analysis")
    device = require_device(device)
    from immunecam.benchmarks import liveness_analysis
    from immunecam.runtime.bundle import Bundle
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.liveness.trained import load_trained

    console = Console(markup=False)
    check_outputs(json_, docs, html)
    check_page(docs)
    if page_of is not None:
        load, write = liveness_analysis.load_report, liveness_analysis.write_page
        write_pages_of(page_of, docs, html, load=load, write=write, console=console)
        return
    if not runs or data is None:
        raise UsageError("an analysis needs run folders and --data SET: give both")
    protocol = liveness_analysis.QUICK if quick else liveness_analysis.FULL
    chosen = {
        "layer": sfa_layer,
        "operator": sfa_operator,
        "draws": sfa_draws,
        "law": sfa_law,
        "strength": sfa_strength,
    }
    try:
        sfa = dataclasses.replace(protocol.sfa, **{key: value for key, value in chosen.items() if value is not None})  # type: ignore[arg-type]
    except ValueError as error:
        raise UsageError(str(error)) from None
    protocol = dataclasses.replace(
        protocol,
        sfa=sfa,
        seed=seed,
        faces=faces or protocol.faces,
        sweep_faces=min(protocol.sweep_faces, faces or protocol.faces) if sweep else 0,
    )
    own_part = part_of(part)
    keep_freed_memory()
    loaded = None if bundle is None else Bundle.load(bundle, trust=trust_of(trust, bundle_state))
    side = load_trained(runs[0])[0].side
    read = partial(read_liveness_set, part="test", side=side, limit=limit, maps=maps)
    with one_bar() as tell:
        whole = liveness_analysis.analyze(
            runs,
            read(data),
            protocol,
            work,
            validation=None if validation is None else read(validation),
            bundle=loaded,
            report=json_,
            markdown=docs,
            html=html,
            part=own_part,
            merge=merge or [],
            device=device,
            tell=tell,
        )
    if whole is None:
        say_part(console, part, work)
        return
    best = whole["ranking"]["runs"][0]
    word = "synthetic" if whole["synthetic"] else whole["set"]
    console.print(
        f"most robust: {best['run']} ({best['backbone']}; auxiliary tasks: {best['tasks']}), the strongest attack "
        f"makes {best['opened_percent']} % of its spoofs pass ({word}, mean over the budgets)",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    pages = docs or work / "liveness.md", html or work / "liveness.html"
    console.print(f"wrote {', '.join(str(path) for path in (json_, *pages) if path)}", highlight=False, soft_wrap=True)
