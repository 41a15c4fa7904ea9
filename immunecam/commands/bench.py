"""``immunecam bench``: what a purification takes on this machine, and whether it became faster or slower."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console

from immunecam.commands.options import BundleState, Json, Precision, Provider, TrustedKey, trust_of
from immunecam.commands.outputs import check_folder, check_outputs
from immunecam.commands.progress import one_bar
from immunecam.errors import InputError, UsageError

if TYPE_CHECKING:
    from immunecam.benchmarks.latency.table import Table

__all__ = ["bench"]


def bench(
    bundle: Annotated[
        Optional[list[Path]],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="Bundle; several stand in one table. Default: the installed one."),
    ] = None,
    provider: Annotated[
        Optional[list[Provider]],  # noqa: UP045
        typer.Option(help="Backend; may be given several times. Default: auto."),
    ] = None,
    precision: Annotated[
        Optional[list[Precision]],  # noqa: UP045
        typer.Option(help="Measure the bundles whose basis is stored so; may be given several times. Default: all."),
    ] = None,
    threads: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(help="Threads of a process; may be given several times. Default: one for each core."),
    ] = None,
    batch: Annotated[
        Optional[list[int]],  # noqa: UP045
        typer.Option(help="Aligned faces of a call; may be given several times. Default: 1."),
    ] = None,
    pin: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="CORES", help="Bind the processes to cores, such as 0,2-3."),
    ] = None,
    source: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Picture, folder or video with faces on it; default: the installed clip."),
    ] = None,
    paper: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            "--paper/--no-paper",
            help="Measure the paper's form in eager PyTorch beside it. Default: if PyTorch is installed.",
        ),
    ] = None,
    launches: Annotated[int, typer.Option(help="Times that every process is started anew.")] = 5,
    rounds: Annotated[int, typer.Option(help="Blocks of a launch.")] = 4,
    seconds: Annotated[float, typer.Option(help="Of a block; three calls at least.")] = 0.25,
    warm_up: Annotated[float, typer.Option(help="Seconds of work before a launch's blocks, not counted.")] = 0.3,
    live: Annotated[
        float, typer.Option(metavar="SECONDS", help="Be a camera for that long, and tell how old frames are; 0: not.")
    ] = 10.0,
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    json_report: Json = None,
    docs: Annotated[Optional[Path], typer.Option(metavar="PAGE", help="Write the tables as Markdown.")] = None,  # noqa: UP045
    plots: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FOLDER", help="Write plots as PNG and SVG; needs matplotlib."),
    ] = None,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="PAGE", help="Write tables and plots as one HTML file; needs matplotlib."),
    ] = None,
    compare: Annotated[
        Optional[tuple[Path, Path]],  # noqa: UP045
        typer.Option(metavar="OLD NEW", help="Measure nothing: say what differs between two reports of --json."),
    ] = None,
) -> None:
    """Measure time by stage, memory, cold start and energy, with the paper's form beside it; or compare two reports."""
    from immunecam.benchmarks.latency import compare as comparing
    from immunecam.benchmarks.latency import plan as planning
    from immunecam.benchmarks.latency import run, table
    from immunecam.benchmarks.latency.plots import latency_plots
    from immunecam.files import written_whole
    from immunecam.reports.html import write_html
    from immunecam.reports.style import require_plots
    from immunecam.runtime.bundle import default_bundle
    from immunecam.runtime.report import machine, versions, write_report

    console = Console(markup=False)  # a name may have brackets
    if compare is not None:
        if docs is not None or plots is not None or html is not None:
            raise UsageError(
                "--compare measures nothing to write a page or plots of: leave --docs, --plots and --html out"
            )
        old, new = (comparing.read_report(path) for path in compare)
        for name in ("machine", "source", "pinned_to_cores", "block_s"):
            if old.get(name) != new.get(name):
                console.print(f"not the same {name}: {old.get(name)} and {new.get(name)}", highlight=False)
        rows = comparing.compare(old, new)
        if json_report is not None:
            write_report(json_report, comparing.COMPARE_SCHEMA, rows, bundle_sha256=new.get("bundle_sha256"))
        _print(console, "New against old", table.comparison(rows))
        return
    check_outputs(json_report, docs, html)
    if plots is not None:
        check_folder(plots)
    if plots is not None or html is not None:
        require_plots("--plots and --html")
    pinned = None if pin is None else planning.cores_from_text(pin)
    bundles = _of_precision(bundle or [default_bundle()], precision or [], trust, bundle_state)
    plan = planning.LatencyPlan(
        bundles=tuple(bundles),
        source=source or default_bundle().with_name("sample.mp4"),
        providers=tuple(one.value for one in provider or [Provider.auto]),
        threads=tuple(dict.fromkeys(threads or [len(pinned or planning.usable_cores())])),
        batches=tuple(batch or [1]),
        pin=pinned,
        launches=launches,
        rounds=rounds,
        block_s=seconds,
        warm_s=warm_up,
        live_s=live,
        paper=importlib.util.find_spec("torch") is not None if paper is None else paper,
        keys=tuple(trust) if trust else None,
        state=bundle_state,
    )
    with one_bar("starting", transient=True) as tell:
        measured = run.measure(plan, tell)
    # The tables are of the very report that is written. That comes first, for whoever reads the tables may go away, and
    # the tables come even if it fails.
    report: dict[str, Any] = {"machine": machine(), "versions": versions(), **measured}
    written: list[Path] = []
    try:
        if json_report is not None:
            rows = measured.pop("rows")
            write_report(json_report, run.SCHEMA, rows, bundle_sha256=rows[0]["bundle_sha256"], **measured)
            written.append(json_report)
        if docs is not None:
            with written_whole(docs) as partial:
                partial.write_text(table.page(report), encoding="utf-8")
            written.append(docs)
        drawn = latency_plots(report) if plots is not None or html is not None else []
        if plots is not None:
            written += [file for plot in drawn for file in plot.write(plots)]
        if html is not None:
            write_html(html, table.page(report), drawn)
            written.append(html)
    except OSError as error:
        raise InputError(f"page or plots cannot be written ({error.strerror}): check folder and space") from None
    finally:
        _print(console, "Whole calls", table.totals(report))
        _print(console, "Stages, milliseconds (p50)", table.stages(report))
        if report["live"]:
            _print(console, "Live", table.live(report))
        for sentence in table.said(report):
            console.print(sentence, highlight=False)
        if written:
            console.print(f"wrote {', '.join(map(str, written))}", highlight=False, soft_wrap=True)


def _of_precision(
    paths: list[Path], wanted: list[Precision], keys: list[Path] | None, state: Path | None
) -> list[Path]:
    """The bundles whose basis is stored in one of the wanted precisions; every one of these must have a bundle."""
    if not wanted:
        return paths
    from immunecam.runtime.bundle import Bundle

    policy = trust_of(keys, state)
    stored = {path: Bundle.load(path, trust=policy).manifest.precision["basis"] for path in paths}
    for one in wanted:
        if one.value not in stored.values():
            found = ", ".join(f"{path.name} has {precision}" for path, precision in stored.items())
            raise InputError(
                f"no bundle has a basis in {one.value} ({found}): make one by immunecam export --precision {one.value}"
            )
    return [path for path, precision in stored.items() if precision in {one.value for one in wanted}]


def _print(console: Console, title: str, content: Table) -> None:
    from rich.table import Table as RichTable

    head, lines = content
    shown = RichTable(*head, title=title, title_justify="left")
    for line in lines:
        shown.add_row(*line)
    # A table that is cut to the width of a pipe would lose figures.
    (console if console.is_terminal else Console(width=240, markup=False)).print(shown)
