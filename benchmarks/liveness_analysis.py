"""Where liveness networks break, in one command: ``immunecam liveness analyze``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from immunecam.benchmarks.evaluation.store import Store
from immunecam.benchmarks.liveness.attacked import AttackedFaces, drawn
from immunecam.benchmarks.liveness.figures import (
    acer,
    best_sweep,
    error_rows,
    gain_rows,
    success_rows,
    sweep_rows,
    transfer_rows,
)
from immunecam.benchmarks.liveness.page import page
from immunecam.benchmarks.liveness.plots import liveness_plots
from immunecam.benchmarks.liveness.protocol import FULL, MATRIX, QUICK, LivenessProtocol
from immunecam.benchmarks.liveness.purified import purified_rows
from immunecam.benchmarks.liveness.ranking import rankings
from immunecam.benchmarks.liveness.victim import LivenessVictim, in_detail, load_victims
from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.models.liveness_loss import LIVE
from immunecam.reports.html import write_html
from immunecam.reports.plot import Plot
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.report import machine, read_report, versions, write_report
from immunecam.training.liveness import LivenessSet
from immunecam.training.liveness.errors import live_scores, species_of

__all__ = ["FULL", "MATRIX", "QUICK", "SCHEMA", "analyze", "load_report", "page_with_plots", "write_page"]

SCHEMA = "immunecam.liveness/1"

_FEWEST = 8  # faces of each class


def analyze(
    runs: Sequence[Path],
    faces: LivenessSet,
    protocol: LivenessProtocol,
    work: Path,
    *,
    validation: LivenessSet | None = None,
    bundle: Bundle | None = None,
    report: Path | None = None,
    markdown: Path | None = None,
    html: Path | None = None,
    part: tuple[int, int] | None = None,
    merge: Sequence[Path] = (),
    device: str = "cpu",
    tell: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any] | None:
    """Attack networks, and write the report, its page and its plots.

    Parameters
    ----------
    runs : sequence of path
        Run folders of `immunecam liveness train`.
    faces : LivenessSet
        Of both classes, which no network was trained on.
    protocol : LivenessProtocol
        `FULL`, `QUICK` or `MATRIX`, or one of one's own.
    work : path
        Folder for everything that takes time.
    validation : LivenessSet, optional
        For thresholds and the attacker's bank. None takes every second face of each class of
        `faces`, which is not judged then.
    bundle : Bundle, optional
        Purifies what was attacked.
    report, markdown, html : path, optional
        JSON and pages to write; pages that are not named go to the work folder.
    part : (int, int), optional
        Do only the i-th of n parts of the attacks (from 1), and give back None.
    merge : sequence of path
        Work folders of other parts.
    device : str
        Where networks run.
    tell : callable, optional
        Called with (what, done, total).

    Raises
    ------
    InputError
        If something cannot be read, faces and networks do not fit, or there are too few faces.
    UsageError
        If two runs are called the same.
    """
    tell = tell or (lambda what, done, total: None)
    store = Store(work, merge)
    faces.check(())
    judged, validation_set = faces, None if validation is None else validation.origin
    if validation is None:
        validation, judged = faces.halves()
    elif validation.sha256 == judged.sha256:
        raise InputError(
            f"the faces to choose thresholds by are those to judge ({judged.origin!r}): give others, or leave the set "
            "to choose by out"
        )
    else:
        judged.check_like(validation)
    for one, what in ((validation, "to choose thresholds by"), (judged, "to judge")):
        few = min(int((one.labels.live == value).sum()) for value in (0, 1))
        if few < _FEWEST:
            raise InputError(
                f"the set {one.origin!r} leaves {few} faces of a class {what}, but {_FEWEST} are the fewest: make a "
                "larger one"
            )
    victims = load_victims(runs, validation, device)
    attacked = AttackedFaces(protocol, drawn(judged, protocol.faces), validation, store, device=device, tell=tell)
    jobs = attacked.jobs(victims)
    if part is not None:
        index, parts = part
        for job in jobs[index - 1 :: parts]:
            attacked.scores(job)
        return None
    scored = {(job.victim.name, job.head, job.name, job.level, job.sfa): attacked.scores(job) for job in jobs}
    success = success_rows(attacked, victims, scored)
    gains, goal = gain_rows(attacked, victims, scored)
    detailed = in_detail(victims)
    sweep = sweep_rows(attacked, detailed, gains) if goal["met"] is False else []
    species = species_of(judged)
    errors = error_rows(
        attacked, victims, lambda victim: (live_scores(victim.network, judged).numpy(), species), scored
    )
    purification, found = ([], 0) if bundle is None else purified_rows(attacked, detailed, bundle)
    live = int((attacked.faces.labels.live == LIVE).sum())
    content: dict[str, Any] = {
        "protocol": json.loads(json.dumps(protocol.to_dict())),
        "set": judged.origin,
        "synthetic": judged.synthetic,
        "certified": False,
        "set_sha256": judged.sha256,
        "judged_faces": len(judged),
        "validation_faces": len(validation),
        "validation_set": validation_set,
        "attacked_faces": {"live": live, "spoofs": len(attacked.faces) - live},
        "device": device,
        "runs": [victim.to_dict() for victim in victims],
        "in_detail": [victim.name for victim in detailed],
        "ranking": rankings(attacked, victims, scored, success),
        "goal": goal,
        "gain": gains,
        "sweep": sweep,
        "best_sweep": best_sweep(sweep),
        "transfer": transfer_rows(attacked, detailed),
        "errors": errors,
        "adversarial": _before_and_after(victims, errors, protocol),
        "purification": purification,
        "purified_by": None if bundle is None else {
            "bundle": bundle.name, "faces": len(attacked.faces), "found": found
        },
    }  # fmt: skip
    sha256 = None if bundle is None else bundle.sha256
    if report is not None:
        write_report(report, SCHEMA, success, bundle_sha256=sha256, **content)
    whole = {"machine": machine(), "versions": versions(), **content, "rows": success}
    write_page(whole, markdown or store.folder / "liveness.md", html or store.folder / "liveness.html")
    return whole


def _before_and_after(
    victims: Sequence[LivenessVictim], errors: Sequence[dict[str, Any]], protocol: LivenessProtocol
) -> list[dict[str, Any]]:
    """Runs that differ in adversarial training alone, side by side, at every budget."""
    rows = []
    for after in victims:
        if after.adversarial is None:
            continue
        for before in victims:
            if before.adversarial is not None or before.same_but_attacks != after.same_but_attacks:
                continue
            for level in protocol.levels:
                row: dict[str, Any] = {"before": before.name, "after": after.name, "how": after.adversarial}
                row |= {"level": level, "budget": f"{level:g}/255"}
                for when, victim in (("before", before), ("after", after)):
                    row |= {f"{when}_{key}": value for key, value in acer(errors, victim.name).items()}
                    own = [one for one in errors if (one["run"], one["level"]) == (victim.name, level)]
                    spoofs = [one for one in own if one["species"] != "live"]
                    passing = sum(one["percent"] * one["faces"] for one in spoofs) / sum(one["faces"] for one in spoofs)
                    row[f"{when}_opened_percent"] = round(passing, 2)
                    row[f"{when}_shut_percent"] = next(one["percent"] for one in own if one["species"] == "live")
                rows.append(row)
    return rows


def load_report(path: Path) -> dict[str, Any]:
    """A report of `immunecam liveness analyze`.

    Raises
    ------
    InputError
        If it cannot be read, or is something else.
    """
    return read_report(path, SCHEMA, "immunecam liveness analyze")


def page_with_plots(report: dict[str, Any], plots: Sequence[Plot], folder: str) -> str:
    """Markdown of a report that shows the plots of a folder beside it."""
    pictures = "".join(f"![{plot.title}]({folder}/{plot.name}.png)\n\n" for plot in plots)
    return page(report).replace("## Who holds", f"{pictures}## Who holds", 1)


def write_page(report: dict[str, Any], markdown: Path | None, html: Path | None = None) -> None:
    """Write the pages of a report; for the one in Markdown also its plots, into a folder of its name beside it.

    Raises
    ------
    InputError
        If one cannot be written, or the report lacks what a page shows.
    """
    file = markdown or html
    try:
        plots = liveness_plots(report)
        if markdown is not None:
            folder = markdown.with_suffix("")
            folder.mkdir(parents=True, exist_ok=True)
            for plot in plots:
                plot.write(folder)
            with written_whole(markdown) as partial:
                partial.write_text(page_with_plots(report, plots, folder.name), encoding="utf-8")
        if html is not None:
            file = html
            write_html(html, page(report), plots)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"the report lacks what a page shows ({type(error).__name__}: {error}): measure again with this version"
        ) from None
    except OSError as error:
        raise InputError(
            f"the page {str(file)!r} cannot be written ({error.strerror}): check folder and space"
        ) from None
