"""Runs that answer which backbone and which auxiliary task is most robust: every one of them, trained in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from immunecam.models.liveness import AUXILIARY
from immunecam.models.liveness_trunks import TRUNKS
from immunecam.training.liveness.config import AdversarialTraining, LivenessConfig
from immunecam.training.liveness.errors import has_errors, write_errors
from immunecam.training.liveness.faces import LivenessSet
from immunecam.training.liveness.trainer import LivenessTrainer

__all__ = ["MatrixRun", "matrix_runs", "train_matrix"]


@dataclass(frozen=True)
class MatrixRun:
    """A run, and what its folder is called.

    Attributes
    ----------
    name : str
        Backbone and tasks, as "vgg-all", "vgg-none" or "vgg-depth", and what it is trained against, as
        "vgg-all-hardened" or, with SFA, "vgg-all-hardened-sfa".
    config : LivenessConfig
    """

    name: str
    config: LivenessConfig


def matrix_runs(
    tasks: Iterable[str] = AUXILIARY,
    *,
    backbones: Iterable[str] = tuple(TRUNKS),
    against: Iterable[AdversarialTraining] = (),
    **settings: Any,
) -> Iterator[MatrixRun]:
    """Every backbone with all tasks, with none, with all and against attacks, and with each task alone.

    What most is concluded from comes first, so that a matrix that was cut short says something.

    Parameters
    ----------
    tasks : iterable of str
        Those that the faces have labels for.
    backbones : iterable of str
    against : iterable of AdversarialTraining
        Attacks that runs with all tasks are trained against, too: at most one without SFA, and one with it.
    **settings
        Of every `LivenessConfig`.
    """
    tasks, backbones = tuple(tasks), tuple(backbones)
    kinds: list[tuple[str, tuple[str, ...], AdversarialTraining | None]] = [("all", tasks, None), ("none", (), None)]
    kinds += [("all-hardened-sfa" if how.sfa else "all-hardened", tasks, how) for how in against]
    kinds += [(task, (task,), None) for task in tasks] if len(tasks) > 1 else []
    for title, chosen, hardened in kinds if tasks else kinds[1:2]:
        for backbone in backbones:
            config = LivenessConfig(backbone=backbone, tasks=chosen, adversarial=hardened, **settings)
            yield MatrixRun(f"{backbone}-{title}", config)


def train_matrix(
    runs: Iterable[MatrixRun],
    faces: LivenessSet,
    test: LivenessSet,
    folder: Path,
    *,
    device: str = "cpu",
    tell: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Train what is not trained yet; started again, it goes on where it was.

    Parameters
    ----------
    runs : iterable of MatrixRun
    faces : LivenessSet
        To train on.
    test : LivenessSet
        Of other people, for the `errors.json` of every run.
    folder : Path
        Made if missing; gets a run folder of each name.
    device : str
    tell : callable, optional
        Called with (name, steps done, steps).

    Returns
    -------
    list of Path
        The run folders, in the order of the runs.

    Raises
    ------
    InputError
        If faces do not fit, or a folder holds a run of other settings or faces.
    """
    test.check_like(faces)
    test.check(())
    tell = tell or (lambda name, done, total: None)
    folders = []
    for run in runs:
        place = folder / run.name
        folders.append(place)
        trainer = LivenessTrainer(run.config, faces, place, resume=True, device=device)
        try:
            steps = run.config.steps
            tell(run.name, trainer.step, steps)
            if trainer.step < steps:
                trainer.run(on_step=lambda step, _, name=run.name, steps=steps: tell(name, step, steps))  # type: ignore[misc]
            if not has_errors(place, test):
                write_errors(place, trainer.slow.network, test)
        finally:
            trainer.close()
    return folders
