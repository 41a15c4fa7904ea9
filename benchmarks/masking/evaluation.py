"""Masked recognition measured: how well runs recognise, and what each attacker sees of their faces and templates."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from immunecam.benchmarks.kept import kept
from immunecam.benchmarks.masking.inversion import attackers_gan, invert
from immunecam.benchmarks.masking.privacy import attack, write_sheet
from immunecam.benchmarks.masking.recognition import check_measurable, measure
from immunecam.mask_key import MaskKey
from immunecam.runtime.bundle import Bundle
from immunecam.training.attacks.gan_trainer import GanConfig
from immunecam.training.attacks.recovery_trainer import RecoveryConfig
from immunecam.training.masking.mask_file import trained_with
from immunecam.training.masking.trained import is_masked, load_mixer
from immunecam.training.recognizer import Recognizer

__all__ = ["SCHEMA", "evaluate"]

SCHEMA = "immunecam.masking/2"
_KNOWN_PAIRS = 200  # of a face and its masked form, with which a fixed key is broken
_OWN = 2000  # faces of who knows how faces are masked, from one such pair, and so masks his own
_ENCODINGS = 30
_DISENTANGLED = 3

_Tell = Callable[[str, int, int], None]


def evaluate(
    runs: Sequence[Path],
    key: MaskKey | None,
    data: Path,
    work: Path,
    *,
    fold: int = 8,
    bundle: Bundle | None = None,
    judge: Recognizer | None = None,
    own: Recognizer | None = None,
    people: int = 100,
    recovery: RecoveryConfig | None = None,
    gan: GanConfig | None = None,
    inverted: int = 20,
    search_steps: int = 100,
    queries: int = 2000,
    pictures: Path | None = None,
    tell: _Tell = lambda what, done, total: None,
) -> dict[str, list[dict[str, Any]]]:
    """Rows by kind. What takes time is kept in `work`; called again, it goes on where it was.

    Parameters
    ----------
    runs : sequence of Path
        Folders of ``immunecam masking train``.
    key : MaskKey or None
        Of their masks.
    data : Path
        Folder laid out as LFW is.
    work : Path
        Made if missing.
    fold : int
        Of the pairs that are judged.
    bundle : Bundle, optional
        Recognition is measured behind it, too.
    judge : Recognizer, optional
        Of what attackers saw; None attacks nothing.
    own : Recognizer, optional
        The attacker's, for the inversion; None leaves it out.
    people : int
        That recoveries are judged on.
    recovery : RecoveryConfig, optional
        Of the recovering network; None leaves it out.
    gan : GanConfig, optional
        Of the generator.
    inverted : int
        People whose templates are inverted.
    search_steps, queries : int
        Of the searches, see `inversion.invert`.
    pictures : Path, optional
        Folder for sheets of originals above what was seen. They show real people.
    tell : callable, optional
        Called with what is done, how far it is, and of how much.

    Returns
    -------
    dict
        "recognition", "recovery" and "inversion".
    """
    found: dict[str, list[dict[str, Any]]] = {"recognition": [], "recovery": [], "inversion": []}
    check_measurable(runs, key, data)  # said now, not after the first one's attacks
    weights = {run: hashlib.sha256((run / "checkpoint.safetensors").read_bytes()).hexdigest() for run in runs}
    for run in runs:
        config = load_mixer(run).config
        chosen = "gates" if config.frequencies is None else "settings"
        for behind in (None,) if bundle is None else (None, bundle):
            tell(f"{run.name}: recognition{'' if behind is None else ', purified'}", 0, 1)
            (row,) = kept(
                work / run.name / ("recognition.json" if behind is None else "recognition-purified.json"),
                [weights[run], fold, *([] if behind is None else [behind.sha256])],
                lambda run=run, behind=behind: measure([run], key, data, fold, bundle=behind),
            )
            row = {"purified_by": None, **row, "mixed_percent": config.mixed_percent, "chosen_by": chosen}
            found["recognition"].append(row)
    if judge is None:
        return found
    attacked_masks = set[str]()
    for run in runs:
        if key is None or not is_masked(run):
            continue
        mask = trained_with(run / "checkpoint.safetensors")
        for name, how in _attacks(run, recovery).items():
            # Runs of one mask differ in what their training mixed, and in nothing else that is attacked here.
            if mask in attacked_masks and not how.get("as_trained"):
                continue
            tell(f"{run.name}: {name}", 0, 1)
            sheet = None if pictures is None else pictures / f"{run.name}.{_slug(name)}.png"
            of = [weights[run], judge.sha256, people, how["method"] == "network" and recovery and recovery.to_dict()]

            def attacked(
                run: Path = run, name: str = name, how: Mapping[str, Any] = how, sheet: Path | None = sheet
            ) -> Any:
                place = work / run.name / f"{_slug(name)}.run"
                resume = (place / "checkpoint.safetensors").is_file()
                done = attack(
                    run,
                    key,
                    data,
                    judge,
                    people=people,
                    work=place,
                    config=recovery,
                    resume=resume,
                    on_step=lambda step, _: tell(f"{run.name}: {name}", step, recovery.steps if recovery else step),
                    **how,
                )
                if sheet is not None:
                    write_sheet(done, sheet)
                return done.row

            row = kept(work / run.name / f"{_slug(name)}.json", of, attacked)
            found["recovery"].append({**row, "seen": name})
        attacked_masks.add(mask)
    if own is None:
        return found
    trained = gan or GanConfig()
    made: list[Any] = []  # not before it is wanted
    for run in runs:

        def inversion(run: Path = run) -> Any:
            if not made:
                tell("generator", 0, trained.steps)
                on_step = lambda step, _: tell("generator", step, trained.steps)  # noqa: E731
                made.append(attackers_gan(trained, data, own, work / "attacker", on_step=on_step))
            rows = []
            told = lambda what, done, total: tell(f"{run.name}: {what}", done, total)  # noqa: E731
            more: dict[str, Any] = {"people": inverted, "steps": search_steps, "queries": queries}
            for done in invert(run, key, data, judge, made[0], tell=told, **more):
                rows.append(done.row)
                if pictures is not None:
                    write_sheet(done, pictures / f"{run.name}.{done.row['box']}-box.png")
            return rows

        of = [weights[run], judge.sha256, own.sha256, inverted, search_steps, queries, trained.to_dict()]
        found["inversion"] += kept(work / run.name / "inversion.json", of, inversion)
    return found


def _attacks(run: Path, recovery: RecoveryConfig | None) -> dict[str, dict[str, Any]]:
    """What is tried on a mask, by name."""
    each: dict[str, dict[str, Any]] = {
        "guess": {"method": "mean"},
        f"linear, {_KNOWN_PAIRS} pairs known": {"method": "linear", "faces": _KNOWN_PAIRS},
        "linear, orders unknown": {"method": "linear", "faces": _KNOWN_PAIRS, "per_enrolment": True},
        "linear, orders sought": {"method": "linear", "faces": _OWN, "per_enrolment": True, "sought": True},
    }
    if recovery is not None:
        each["network"] = {"method": "network"}
    for count in (1, _ENCODINGS):
        many = f"{count} mixes" if count > 1 else "1 mix"
        each[f"linear, {many} of {_DISENTANGLED}"] = {"method": "linear", "k": _DISENTANGLED, "encodings": count}
    if load_mixer(run).config.mixing != "none":
        each["linear, mixed as trained"] = {"method": "linear", "as_trained": True}
        if recovery is not None:
            each["network, mixed as trained"] = {"method": "network", "as_trained": True}
    return each


def _slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)
