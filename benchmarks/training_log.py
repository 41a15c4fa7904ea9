"""The training log: what was trained how, and what came of it.

``python -m immunecam.benchmarks.training_log NAME.immune --data FOLDER --recognizer R... --note "what was tried"``
measures a bundle in a few minutes by `short_evaluation` (`--grey-box` leaves out the attacks through the purifier).

``python -m immunecam.benchmarks.training_log --run NAME.run --note "what was tried"``
takes a short run's curve, for comparisons of settings that share everything else. Its 1 - cos is a loss of training.

Both are kept in `benchmarks/results/training.json` and rendered to `training.md` beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import torch

from immunecam.benchmarks.evaluation.metrics import rates
from immunecam.benchmarks.robustness import trained_with
from immunecam.benchmarks.short_evaluation import CASES, ShortEvaluation
from immunecam.files import written_whole
from immunecam.runtime.bundle import Bundle
from immunecam.training.deployed import purification_from_bundle
from immunecam.training.faces import from_uint8

__all__ = ["main", "render"]

_LOG = Path(__file__).parent / "results" / "training.json"
_LAST = 60  # steps of a short run that count, at least: three rows of a curve that has one every 20
# What a configuration says of the faces that a step sees, and what its phases do.
_FACES = ("batch", "augment", "resampled", "bank", "noise", "noise_level", "seed")
_MIX = ("clean", "adversarial", "bank")


def render(log: dict[str, list[dict[str, Any]]]) -> str:
    """The log as Markdown, newest last."""
    lines, runs = log["bundles"], log["runs"]
    out = [
        "# Training runs",
        "",
        "Written by `python -m immunecam.benchmarks.training_log` from `training.json`. Cells: same pairs accepted / "
        "different pairs rejected, in per cent, both sides purified, antibodies drawn, thresholds of the unpurified "
        "recogniser; in brackets the mean 1 - cos of the purified probe to the clean one, which tells more apart. "
        "Resampled: turned and shifted into a frame and back. All pairs are of LFW fold 8, on which nothing is fitted. "
        "Configurations are in `training.json`.",
        "",
        f"| run | what | steps | hours | recogniser | pairs | {' | '.join(CASES)} | active rows |",
        "|---" * (len(CASES) + 7) + "|",
    ]
    for line in lines:
        for number, (recognizer, cells) in enumerate(line["results"].items()):
            seen = "" if recognizer in line["trained_with"] else " (never seen)"
            head = [line["run"], line["note"], str(line["steps"]), f"{line['hours']:.2f}"] if not number else [""] * 4
            row = [
                *head,
                recognizer + seen,
                str(line["pairs"]),
                *(cells.get(c, "") for c in CASES),
                f"{line['active']:.0f}",
            ]
            out.append(f"| {' | '.join(row)} |")
    if runs:
        out += [
            "",
            "## Short runs, to compare settings",
            "",
            "1 - cos to the clean embedding is the mean over a run's last steps, clean and attacked faces alike, "
            "while the learning rate comes down to zero. It is a loss on the faces, attacks and recognisers of "
            "training, and no figure of verification. How far apart two seeds lie was not measured, so small "
            "differences tell nothing.",
            "",
            "Runs of a group share their seed: a step draws the same people, and the same of them attacked "
            "beforehand, lit and resampled alike. Some settings change what becomes of the other people (`clean` and "
            "`adversarial` of a phase: left as they are, attacked in the step, or given noise), or who judges "
            "(`cross_recognizer`: in that share of the steps the judge is drawn among all recognisers; else it is the "
            "attacked one, which minds a perturbation most). The column `faces and judge` says so, against the "
            "group's first run. The 1 - cos of such a run is of other faces or by another judge, and does not tell "
            "whether its setting is better; only those of `same` runs compare.",
            "",
            "Where a group's times differ without a reason in the setting, the machine had other work.",
            "",
            "| group | what | steps | 1 - cos | of the last steps | faces and judge | s a step |",
            "|---|---|---|---|---|---|---|",
        ]
        first: dict[str, dict[str, Any]] = {}
        for r in runs:
            other = _other(r["config"], first.setdefault(r["group"], r["config"]))
            out.append(
                f"| {r['group']} | {r['note']} | {r['steps']} | {r['identity']:.4f} | {r['last_steps']} | {other} | "
                f"{r['seconds_a_step']:.2f} |"
            )
    return "\n".join(out) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure a bundle and add it to the log, or with none render the log anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", help="without it, and without --run, the log is rendered anew")
    parser.add_argument("--run", type=Path, help="run folder of a short run")
    parser.add_argument("--group", default="", help="of runs that are comparable")
    parser.add_argument("--data", type=Path, help="folder with lfw/")
    parser.add_argument("--recognizer", type=Path, action="append", default=[])
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--grey-box", action="store_true", help="leave out the attacks through the purifier")
    parser.add_argument("--note", default="")
    parser.add_argument("--work", type=Path, default=Path(".immunecam-evaluation"))
    parser.add_argument("--log", type=Path, default=_LOG)
    given = parser.parse_args(arguments)
    if given.bundle is not None and (given.data is None or not given.recognizer):
        parser.error("a bundle wants --data and --recognizer")
    if not given.log.parent.is_dir():
        parser.error(f"the folder of --log {given.log} does not exist")
    bundles = [] if given.bundle is None else [_line(given)]
    runs = [] if given.run is None else [_short(given.run, given.group, given.note)]
    # Read after the measurement, which takes minutes: another one may have written meanwhile.
    log = json.loads(given.log.read_text()) if given.log.is_file() else {"bundles": [], "runs": []}
    log["bundles"] += bundles
    log["runs"] += runs
    for file, text in ((given.log, json.dumps(log, indent=1) + "\n"), (given.log.with_suffix(".md"), render(log))):
        with written_whole(file) as partial:
            partial.write_text(text)


def _short(run: Path, group: str, note: str) -> dict[str, Any]:
    with (run / "curves.csv").open(newline="") as file:
        rows = [{key: row[key] for key in ("step", "identity", "seconds")} for row in csv.DictReader(file)]
    if not rows:
        raise SystemExit(f"the run {run} has no curve yet")
    ends = [int(row["step"]) for row in rows]
    steps = ends[-1]
    # A row is the mean of the steps since the one before, so it counts by their number.
    parts = [
        (end - begin, float(row["identity"]))
        for begin, end, row in zip([0, *ends[:-1]], ends, rows, strict=True)
        if end > steps - _LAST
    ]
    last_steps = sum(count for count, _ in parts)
    return {
        "group": group,
        "note": note,
        "steps": steps,
        "identity": sum(count * value for count, value in parts) / last_steps,
        "last_steps": last_steps,
        "seconds_a_step": float(rows[-1]["seconds"]) / steps,
        "config": json.loads((run / "config.json").read_text())["config"],
    }


def _other(config: dict[str, Any], first: dict[str, Any]) -> str:
    """In what a run's 1 - cos is not that of a group's first: other faces, another judge, or neither ("same")."""

    def faces(of: dict[str, Any]) -> list[Any]:
        phases = [{name: phase.get(name) for name in _MIX} for phase in of.get("phases", ())]
        made = of.get("attack") if any(phase["adversarial"] for phase in phases) else None
        return [phases, made, *(of.get(name) for name in _FACES)]

    other = ["other faces"] if faces(config) != faces(first) else []
    other += ["other judge"] if config.get("cross_recognizer") != first.get("cross_recognizer") else []
    return ", ".join(other) or "same"


def _line(given: argparse.Namespace) -> dict[str, Any]:
    bundle = Bundle.load(given.bundle)
    purification, provenance = purification_from_bundle(bundle), bundle.manifest.provenance
    evaluation = ShortEvaluation(given.data, given.recognizer, pairs=given.pairs, work=given.work)
    pairs, victims = evaluation.pairs, evaluation.victims
    results: dict[str, dict[str, str]] = {victim.name: {} for victim in victims}
    for judged in evaluation.judged(bundle, adaptive=not given.grey_box):
        accepted, rejected = rates(judged.both, pairs.same, judged.victim.best)
        cell = f"{100 * accepted:.0f} / {100 * rejected:.0f} ({1 - float(judged.clean.mean()):.3f})"
        results[judged.victim.name][judged.case] = cell
        print(f"{judged.victim.name} {judged.case}: {cell}", flush=True)
    with torch.no_grad():
        active = float((purification.analyze(from_uint8(torch.from_numpy(pairs.left))) > 0.5).sum(1).float().mean())
    return {
        "run": bundle.name,
        "note": given.note,
        "steps": provenance["steps_done"],
        "hours": provenance["seconds_done"] / 3600,
        "pairs": len(pairs),
        "active": active,
        "trained_with": trained_with(bundle, victims),
        "config": provenance["config"],
        "results": results,
    }


if __name__ == "__main__":
    main()
