"""What mixing costs and hides: the same recogniser trained without mixes, with a fixed, a drawn and a chosen number.

All runs have the same mask, start, steps and batches of faces; only the mixes differ. A row says how well the
recogniser tells unmixed people apart, of how many faces the last mixes were, and what attackers see who come by mixes
such as its training saw.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from immunecam.benchmarks.kept import kept
from immunecam.benchmarks.masking.privacy import attack
from immunecam.benchmarks.masking.recognition import measure
from immunecam.mask_key import MaskKey
from immunecam.training.attacks.recovery_trainer import RecoveryConfig
from immunecam.training.faces import FaceSet
from immunecam.training.masking import MaskFile, MaskingConfig, MaskingTrainer, TeacherEmbeddings
from immunecam.training.masking.starting import StartingWeights
from immunecam.training.recognizer import Recognizer

__all__ = ["SCHEMA", "WAYS", "compare"]

SCHEMA = "immunecam.masking-mixing/2"
WAYS: Mapping[str, Mapping[str, Any]] = {
    "none": {"mixing": "none"},
    "fixed 2": {"mixing": "fixed", "k": 2},
    "fixed 4": {"mixing": "fixed", "k": 4},
    "uniform": {"mixing": "uniform"},
    "adaptive": {"mixing": "adaptive"},
}
"""Ways to mix, by name."""


def compare(
    config: MaskingConfig,
    faces: FaceSet,
    teacher: TeacherEmbeddings | None,
    start: StartingWeights | None,
    key: MaskKey,
    data: Path,
    judge: Recognizer,
    work: Path,
    *,
    held_out: Sequence[str] = (),
    ways: Sequence[str] = tuple(WAYS),
    people: int = 100,
    recovery: RecoveryConfig | None = None,
    fold: int = 8,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[dict[str, Any]]:
    """A row for each way and attack. Everything is kept in `work`: called again, it goes on where it was.

    Parameters
    ----------
    config : MaskingConfig
        Of all runs; what it says of mixing is replaced.
    faces, teacher, start, key, held_out
        As of `MaskingTrainer`.
    data : Path
        As of `privacy.attack`.
    judge : Recognizer
        That had no part in the training.
    work : Path
        Gets a run folder for each way.
    ways : sequence of str
        Of `WAYS`. The mask is the first one's.
    people : int
        That are judged.
    recovery : RecoveryConfig, optional
        Of the network that recovers faces; None leaves it out, and linear recovery alone attacks.
    fold : int
        Of the pairs that are judged.
    tell : callable, optional
        Called with what is done, how far it is, and of how much.

    Raises
    ------
    InputError
        If the folder holds runs of other settings, faces or another key.
    """
    rows: list[dict[str, Any]] = []
    mask: MaskFile | None = None
    for name in ways:
        run = work / f"{name.replace(' ', '')}.run"
        settings = config.replace(**WAYS[name])
        trainer = MaskingTrainer(
            settings,
            faces,
            teacher,
            key,
            run,
            start=start,
            mask=mask,
            held_out=held_out,
            resume=(run / "checkpoint.safetensors").is_file(),
        )
        if trainer.step < trainer.steps:
            trainer.run(on_step=lambda step, _, name=name, total=trainer.steps: tell(name, step, total))
        collapse = trainer.write_choices()
        trainer.close()
        # The gates' choice is the first run's: other channels would be another comparison.
        mask = mask or MaskFile.load(trainer.mask_file)
        choices = json.loads((run / "strategy.json").read_text())["last_mixes"]
        (recognised,) = kept(
            run / "recognition.json", [trainer.step, fold], lambda run=run: measure([run], key, data, fold)
        )
        methods = ("linear",) if recovery is None else ("linear", "network")
        for method in methods:
            tell(f"{name}: attack by {method}", 0, 1)
            attacked = kept(
                run / f"attack.{method}.json",
                [trainer.step, judge.sha256, people, None if recovery is None else recovery.to_dict()],
                lambda run=run, method=method: (
                    attack(
                        run,
                        key,
                        data,
                        judge,
                        method,
                        as_trained=True,
                        people=people,
                        work=run / "attack",
                        config=recovery,
                        resume=(run / "attack" / "checkpoint.safetensors").is_file(),
                    ).row
                ),
            )
            more = {f"{k}_percent": round(100 * share, 2) for k, share in choices.items()}
            more["mixed_percent"] = settings.mixed_percent
            rows.append({"way": name, **recognised, **more, "collapse": collapse} | {**attacked, "run": run.name})
    return rows
