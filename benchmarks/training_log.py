"""The training log: what was trained how, and what came of it.

``python -m immunecam.benchmarks.training_log NAME.immune --data FOLDER --recognizer R... --note "what was tried"``
measures a bundle in a few minutes by `short_evaluation` (`--grey-box` leaves out the attacks through the purifier).

``python -m immunecam.benchmarks.training_log --run NAME.run --note "what was tried"``
takes a short run's curve, for comparisons of settings that share everything else.

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
_LAST = 50  # steps of a short run that count


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
            f"1 - cos to the clean embedding is the mean of the last {_LAST} steps, over the clean and attacked faces "
            "that the run trains on, the learning rate having come down to zero. Runs of a group share their seed, so "
            "they see the same faces and attacks. Where a group's times differ without a reason in the setting, the "
            "machine had other work.",
            "",
            "| group | what | steps | 1 - cos | s a step |",
            "|---|---|---|---|---|",
        ]
        out += [
            f"| {r['group']} | {r['note']} | {r['steps']} | {r['identity']:.4f} | {r['seconds_a_step']:.2f} |"
            for r in runs
        ]
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
    steps = int(rows[-1]["step"])
    last = [float(row["identity"]) for row in rows if int(row["step"]) > steps - _LAST]
    return {
        "group": group,
        "note": note,
        "steps": steps,
        "identity": sum(last) / len(last),
        "seconds_a_step": float(rows[-1]["seconds"]) / steps,
        "config": json.loads((run / "config.json").read_text())["config"],
    }


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
