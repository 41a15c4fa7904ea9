"""The whole evaluation in one command: ``python -m immunecam.benchmarks.robustness`` is ``immunecam evaluate``."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation import metrics
from immunecam.benchmarks.evaluation.defences import BundleDefence, baselines, fitted_eigenspace
from immunecam.benchmarks.evaluation.joined import check_joinable, joined
from immunecam.benchmarks.evaluation.page import page
from immunecam.benchmarks.evaluation.pairs import Pairs, drawn_pairs, load_pairs
from immunecam.benchmarks.evaluation.plots import contact_sheet, evaluation_plots
from immunecam.benchmarks.evaluation.protocol import FULL, QUICK, Protocol
from immunecam.benchmarks.evaluation.run import Evaluation, Job, Victim
from immunecam.benchmarks.evaluation.sanity import failed
from immunecam.benchmarks.evaluation.store import Store
from immunecam.errors import InputError, UsageError
from immunecam.files import written_whole
from immunecam.reports.html import write_html
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.report import machine, read_report, versions, write_report
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.origin import recognizers_met
from immunecam.training.recognizer import Recognizer

__all__ = [
    "FULL",
    "QUICK",
    "SCHEMA",
    "TRAINING_FOLDS",
    "evaluate",
    "find_victim",
    "load_faces",
    "load_report",
    "page_with_plots",
    "trained_on",
    "trained_with",
    "write_page",
]

SCHEMA = "immunecam.robustness/1"
TRAINING_FOLDS = range(1, 8)
OTHER_CAMERAS = {"ORL": "orl_112.zip", "Extended Yale B": "yaleb_112.zip"}
_FMR = 1e-3
_MODES = ("sample", "expected")


def evaluate(
    data: Path,
    recognizers: Sequence[Path],
    bundles: Sequence[Bundle],
    protocol: Protocol,
    work: Path,
    *,
    modes: Sequence[str] = _MODES,
    report: Path | None = None,
    markdown: Path | None = None,
    html: Path | None = None,
    part: tuple[int, int] | None = None,
    merge: Sequence[Path] = (),
    earlier: Path | None = None,
    adaptive: bool = True,
    device: str = "cpu",
    tell: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any] | None:
    """Measure bundles against the baselines, and write the report, its page and its plots.

    Parameters
    ----------
    data : path
        Folder with `lfw/train_112.zip`, `lfw/dev_112.zip` and `lfw/pairs.csv`; clean faces of other cameras are judged,
        too, where `faces/` has them.
    recognizers : sequence of path
        TorchScript or ONNX; each is attacked, and is the others' transfer source.
    bundles : sequence of Bundle
        Verified.
    protocol : Protocol
        `FULL` or `QUICK`, or one of one's own.
    work : path
        Folder for everything that takes time; plots and the contact sheet go there, too.
    modes : sequence of str
        Mutation modes of the bundles.
    report, markdown, html : path, optional
        JSON and pages to write; pages that are not named go to the work folder. The plots of the one in Markdown lie
        beside it, in a folder of its name; the one in HTML is one file.
    part : (int, int), optional
        Do only the i-th of n parts of the work (from 1), and give back None.
    merge : sequence of path
        Work folders of other parts.
    earlier : path, optional
        Report of the same protocol and pairs, of other recognisers or bundles: what it has is kept in the new one.
    adaptive : bool
        False leaves out the attacks through the defences.

    Raises
    ------
    InputError
        If something cannot be read, or the sanity block fails: then the rows are in ``work/refused.json`` and nowhere
        else.
    """
    tell = tell or (lambda what, done, total: None)
    store = Store(work, merge)
    _distinct([path.name for path in recognizers], "recogniser")
    _distinct([bundle.name for bundle in bundles], "bundle")
    _distinct(modes, "mutation mode")
    training, judged = load_faces(data)
    pairs = load_pairs(data / "lfw" / "pairs.csv", judged, range(protocol.fold, protocol.fold + 1))
    if protocol.pairs:
        pairs = pairs.first(protocol.pairs)
    known = load_pairs(data / "lfw" / "pairs.csv", training, TRAINING_FOLDS)
    victims = []
    for number, path in enumerate(recognizers):
        tell(f"threshold of {path.name}", number, len(recognizers))
        victims.append(find_victim(Recognizer.load(path, device=device), known, store, device))
    _distinct([victim.name for victim in victims], "recogniser")
    tell("eigenfaces of the plain projections", 0, 1)
    space, origin = fitted_eigenspace(training, max(protocol.projections, default=1), store)
    classical = baselines(space, protocol.projections, origin)
    ours = [BundleDefence(bundle, mode, seed=protocol.seed, device=device) for bundle in bundles for mode in modes]
    if adaptive:
        for defence in ours:  # one that cannot be differentiated is better known now than after hours
            defence.seen(torch.zeros(1, 112, 112, device=device), "expected")
    evaluation = Evaluation(protocol, pairs, victims, classical, ours, store, device=device, tell=tell)
    jobs = evaluation.jobs(adaptive=adaptive)
    about = {
        "protocol": json.loads(json.dumps(protocol.to_dict())),
        "pairs": len(pairs),
        "pairs_sha256": evaluation.pairs_sha256,
        "threshold_pairs": {"same": int(known.same.sum()), "different": int((~known.same).sum())},
        "thresholds": {v.name: {"best_accuracy": v.best, "fmr_1e-3": v.fmr} for v in victims},
        "bundle_files": {b.name: {n: r.sha256 for n, r in b.manifest.files.items()} for b in bundles},
    }
    before = None if earlier is None else load_report(earlier)
    if before is not None:
        check_joinable(before, {"schema": SCHEMA, **about}, str(earlier))
    if part is not None:
        index, parts = part
        for group in evaluation.groups(jobs)[index - 1 :: parts]:
            list(evaluation.rows(group))
        return None
    rows = list(evaluation.rows(jobs))
    others = _other_cameras(data, evaluation)
    checks = evaluation.checks(jobs)
    content = {
        **about,
        "adaptive_pairs": max((job.pairs for job in jobs if job.threat == "adaptive"), default=0),
        "device": device,
        "bundles": [defence.name for defence in ours],
        "trained_with": {bundle.name: trained_with(bundle, victims) for bundle in bundles},
        "trained_on": {bundle.name: trained_on(bundle) for bundle in bundles},
        "providers": {defence.name: defence.provider for defence in ours},
        "milliseconds": {d.name: round(d.milliseconds(pairs.left[:20]), 3) for d in [*classical, *ours]},
        "roc": _roc(evaluation, jobs),
        "other_cameras": others,
        "sanity": [check.to_dict() for check in checks],
    }
    sha256 = bundles[0].sha256 if bundles else None
    if fault := failed(checks):
        write_report(store.folder / "refused.json", f"{SCHEMA}-refused", rows, bundle_sha256=sha256, **content)
        raise InputError(
            f"the table is refused, because its sanity block fails ({fault}): the rows are in "
            f"{str(store.folder / 'refused.json')!r}; a stronger attack is wanted, not another table"
        )
    whole = {"machine": machine(), "versions": versions(), **content, "rows": rows}
    if before is not None:
        whole = joined(before, whole)
    if report is not None:
        content = {key: value for key, value in whole.items() if key not in ("machine", "versions", "rows")}
        write_report(report, SCHEMA, whole["rows"], bundle_sha256=sha256, **content)
    _sheet(evaluation, jobs, store.folder / "contact_sheet.png")
    write_page(whole, markdown or store.folder / "robustness.md", html or store.folder / "robustness.html")
    return whole


def load_report(path: Path) -> dict[str, Any]:
    """A report of `immunecam evaluate`.

    Raises
    ------
    InputError
        If it cannot be read, or is something else.
    """
    return read_report(path, SCHEMA, "immunecam evaluate")


def write_page(report: dict[str, Any], markdown: Path | None, html: Path | None = None) -> None:
    """Write the pages of a report; for the one in Markdown also its plots, into a folder of its name beside it.

    Raises
    ------
    InputError
        If one cannot be written, or the report's sanity block fails.
    """
    if faults := [check["name"] for check in report.get("sanity", ()) if check["holds"] is False]:
        raise InputError(f"there is no page of this report, because its sanity block fails: {'; '.join(faults)}")
    file = markdown or html
    try:
        plots = evaluation_plots(report)
        if markdown is not None:
            folder = markdown.with_suffix("")
            folder.mkdir(parents=True, exist_ok=True)
            for plot in plots:
                plot.write(folder)
            with written_whole(markdown) as partial:
                partial.write_text(page_with_plots(report, folder.name), encoding="utf-8")
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


def page_with_plots(report: dict[str, Any], folder: str) -> str:
    """The page with its plots, which lie in `folder` beside it."""
    plots = (
        f"\n![Success of the attacker against the budget]({folder}/budgets.png)\n\n"
        f"![ROC before and after purification]({folder}/roc.png)\n"
    )
    if _has_adaptive(report):
        plots += f"\n![Clean accuracy against the success of the adaptive attacker]({folder}/price.png)\n"
    glance = f"![Right decisions on clean and attacked faces, by defence]({folder}/glance.png)\n\n"
    text = page(report).replace("## Every threat model", glance + "## Every threat model", 1)
    return text.replace("\n## What purification costs", plots + "\n## What purification costs", 1)


def _has_adaptive(report: dict[str, Any]) -> bool:
    return any(row["threat"] == "adaptive" for row in report["rows"])


def load_faces(data: Path) -> tuple[FaceSet, FaceSet]:
    """The training faces, and those of the fold that is judged.

    Raises
    ------
    InputError
        If `data` has them not.
    """
    lfw = data / "lfw"
    if not lfw.is_dir():
        raise InputError(
            f"{str(data)!r} has no folder lfw: give a folder with lfw/train_112.zip, lfw/dev_112.zip and lfw/pairs.csv"
        )
    return FaceSet.load(lfw / "train_112.zip"), FaceSet.load(lfw / "dev_112.zip")


def trained_with(bundle: Bundle, victims: Sequence[Victim]) -> list[str]:
    """The recognisers that a bundle was trained with, or its teacher, or a run that it took weights from; victims by
    their own names.

    A victim is known by its file's name or its SHA-256: the same network has another hash in another format.
    """
    listed = recognizers_met(bundle.manifest.provenance)
    names = {record["name"] for record in listed}
    hashes = {record["sha256"] for record in listed}
    known = {v.name for v in victims if v.name in names or v.recognizer.sha256 in hashes}
    return sorted(names | known)


def trained_on(bundle: Bundle) -> str:
    """The attacks that a bundle met in its last training run, as half a sentence; empty if its manifest tells none."""
    config = bundle.manifest.provenance.get("config") or {}
    said = []
    if bank := config.get("bank"):
        low, high = bank["epsilon"]
        said.append(f"{', '.join(dict.fromkeys(bank['attacks']))} at {low:g} to {high:g}/255 on the bare recognisers")
    if any(phase.get("adversarial") for phase in config.get("phases", ())):
        (fewest, most), (low, high) = config["attack"]["steps"], config["attack"]["epsilon"]
        said.append(
            f"{fewest} to {most} steps at {low:g} to {high:g}/255, "
            f"{100 * config['attack']['through']:.0f} % of them through the purifier"
        )
    if share := config.get("resampled"):
        said.append(f"{100 * share:.0f} % of steps with faces resampled as in the columns of that name")
    return "; ".join(said)


def find_victim(recognizer: Recognizer, known: Pairs, store: Store, device: str) -> Victim:
    """A recogniser with the thresholds that it has on known pairs; their cosines are kept in the store."""

    def compute() -> dict[str, NDArray[np.float64]]:
        with torch.no_grad():
            left, right = (
                torch.cat([recognizer(from_uint8(part).to(device)).cpu() for part in torch.from_numpy(x).split(64)])
                for x in (known.left, known.right)
            )
        return {"cosine": (left * right).sum(1).double().numpy()}

    faces = hashlib.sha256(known.left.tobytes() + known.right.tobytes() + known.same.tobytes()).hexdigest()
    key = {"kind": "training cosines/1", "faces": faces, "recognizer": recognizer.sha256}
    cosine = store.get(key, compute)["cosine"]
    # To four places: the last bits of a cosine are the machine's, and attacks are kept by the threshold they aim at.
    best, strict = metrics.best_threshold(cosine, known.same), metrics.rate_threshold(cosine, known.same, _FMR)
    return Victim(recognizer, round(best, 4), math.ceil(1e4 * strict) / 1e4)


def _other_cameras(data: Path, evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Clean figures on the sets of other cameras that are there; nothing but thresholds is carried over to them."""
    protocol, found = evaluation.protocol, {}
    for title, name in OTHER_CAMERAS.items():
        file = data / "faces" / name
        if protocol.other_faces and file.is_file():
            pairs = drawn_pairs(FaceSet.load(file), protocol.other_faces, protocol.seed)
            there = evaluation.on(pairs)
            found[title] = list(there.rows([job for job in there.jobs(adaptive=False) if job.threat == "clean"]))
    return found


def _roc(evaluation: Evaluation, jobs: Sequence[Job]) -> list[dict[str, Any]]:
    curves = []
    wanted = np.concatenate([[0.0], np.logspace(-3, 0, 61)])
    for job in jobs:
        grey = (
            job.threat == "grey-box"
            and job.planned is not None
            and (job.planned.name, job.planned.level) == ("PGD-40", 8.0)
        )
        if job.threat != "clean" and not grey:
            continue
        same = evaluation.pairs.same
        for defence in [evaluation.baselines[0], *evaluation.defences]:
            draws = 1 if not defence.draws else evaluation.draws(job, defence)
            fmr, tar = metrics.roc(evaluation.cosines(job, defence, draws)["both"], same)
            curves.append(
                {
                    "recognizer": job.victim.name,
                    "threat": job.threat,
                    "defence": defence.name,
                    "fmr": [round(float(x), 5) for x in wanted],
                    "tar": [round(float(x), 4) for x in tar[np.searchsorted(fmr, wanted, side="right") - 1]],
                }
            )
    return curves


def _sheet(evaluation: Evaluation, jobs: Sequence[Job], file: Path) -> None:
    for job in jobs:
        if job.threat == "grey-box" and job.planned is not None and job.planned.level == 8.0:
            attacked = evaluation.crafted(job)
            same, different = np.flatnonzero(evaluation.pairs.same)[:3], np.flatnonzero(~evaluation.pairs.same)[:3]
            chosen = np.concatenate([same, different])
            purified = {defence.name: defence.purify(attacked[chosen]) for defence in evaluation.defences}
            contact_sheet(evaluation.pairs.left[chosen], attacked[chosen], purified, file)
            return


def _distinct(names: Sequence[str], what: str) -> None:
    twice = [name for name in dict.fromkeys(names) if list(names).count(name) > 1]
    if twice:
        raise UsageError(f"the {what} {twice[0]!r} was given twice: give each once, under a name of its own")


if __name__ == "__main__":
    import runpy
    import sys

    # By name, because a benchmark does not depend on the command line that calls it.
    sys.argv[1:1] = ["evaluate"]
    runpy.run_module("immunecam", run_name="__main__")
