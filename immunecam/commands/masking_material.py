"""What masked training is made of, read once for the commands that train: faces, people held out, teacher, start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from immunecam.errors import InputError, UsageError

if TYPE_CHECKING:
    from immunecam.training.faces import FaceSet
    from immunecam.training.masking import MaskingConfig, TeacherEmbeddings
    from immunecam.training.masking.starting import StartingWeights

__all__ = ["TrainingMaterial", "check_lfw", "settings_of", "training_material"]

_LFW = ("train_112.zip", "dev_112.zip", "pairs.csv")

_Step = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class TrainingMaterial:
    """Arguments of a `MaskingTrainer`."""

    faces: FaceSet
    teacher: TeacherEmbeddings | None
    start: StartingWeights | None
    held_out: set[str]


def settings_of(config: Path | None, start_from: Path | None) -> MaskingConfig:
    """The settings of a file, or those that suit the start.

    Raises
    ------
    InputError
        If the file cannot be read or holds other settings.
    UsageError
        If they say that the network starts from weights, and there are none.
    """
    from immunecam.training.masking import MaskingConfig

    if config is None:
        return MaskingConfig() if start_from is None else MaskingConfig.from_weights()
    settings = MaskingConfig.load(config)
    if settings.started and start_from is None:
        raise UsageError("the settings say that the network starts from another's weights: give --start-from FILE")
    return settings


def check_lfw(data: Path, fold: int | None = None) -> None:
    """Refuse a folder that has not what recognition is measured on and attacks are judged on, before any of it begins.

    Parameters
    ----------
    data : Path
        Folder with lfw/train_112.zip, lfw/dev_112.zip and lfw/pairs.csv.
    fold : int, optional
        Of the pairs, that there must be.

    Raises
    ------
    InputError
        If something is missing.
    """
    from immunecam.benchmarks.masking.recognition import people_of_fold

    for name in _LFW:
        if not (data / "lfw" / name).exists():
            raise InputError(
                f"there is no {str(data / 'lfw' / name)!r}: give as --data a folder that has lfw/ with "
                f"{', '.join(_LFW[:-1])} and {_LFW[-1]}"
            )
    if fold is not None:
        people_of_fold(data / "lfw" / "pairs.csv", fold)


def training_material(
    settings: Any,
    data: Path,
    teacher: Path | None,
    start_from: Path | None,
    pairs: Path | None,
    hold_out: int,
    embeddings: Path,
    *,
    device: str,
    bar: Callable[[str], _Step],
) -> TrainingMaterial:
    """Read it; `settings` are a `MaskingConfig`, `embeddings` the file that keeps the teacher's."""
    from immunecam.benchmarks.masking.recognition import TRAINING_FOLDS, people_of_fold
    from immunecam.training.faces import FaceSet
    from immunecam.training.masking import TeacherEmbeddings
    from immunecam.training.masking.people import without
    from immunecam.training.masking.starting import StartingWeights
    from immunecam.training.recognizer import Recognizer

    if pairs is not None and hold_out not in TRAINING_FOLDS:
        raise UsageError(
            f"--hold-out is {hold_out}, but thresholds are set on people of a training fold: give one of "
            f"{TRAINING_FOLDS[0]} to {TRAINING_FOLDS[-1]}"
        )
    start = None if start_from is None else StartingWeights.load(start_from)
    held_out = people_of_fold(pairs, hold_out) if pairs is not None else set[str]()
    faces = FaceSet.load(data, colour=settings.colours == "ycbcr", progress=bar("reading"))
    if held_out:
        faces = without(faces, held_out)
    seen = None
    if settings.distilled and teacher is not None:
        recognizer = Recognizer.load(teacher, device=device)
        seen = TeacherEmbeddings.of(recognizer, faces, embeddings, device=device, progress=bar("teacher"))
    return TrainingMaterial(faces, seen, start, held_out)
