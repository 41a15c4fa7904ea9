"""What a thief sees who has the templates of masked faces, and the recogniser, or its scores: a GAN is searched for
faces that it takes for the same people, and an independent recogniser judges them.

The generator is trained on the training folds and never saw anybody who is judged. The template is of the very picture
that the recovered face is held against, which favours the attacker.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from immunecam.benchmarks.masking.privacy import Attacked, judge_threshold, one_of_each, score_columns
from immunecam.errors import InputError
from immunecam.mask_key import MaskKey
from immunecam.models.masked_recognizer import MaskedRecognizer
from immunecam.training.attacks.gan_trainer import GanConfig, GanTrainer
from immunecam.training.attacks.inversion import picture_scores
from immunecam.training.attacks.model_inversion import black_box_search, latents_of, white_box_search
from immunecam.training.faces import FaceSet, from_uint8, to_uint8
from immunecam.training.masking.teacher import TeacherEmbeddings
from immunecam.training.masking.trained import load_trained
from immunecam.training.recognizer import Recognizer

__all__ = ["BOXES", "SCHEMA", "attackers_gan", "invert"]

SCHEMA = "immunecam.masking-inversion/1"
BOXES = ("white", "black")
_SHOWN = 8


def attackers_gan(
    config: GanConfig,
    data: Path,
    own: Recognizer,
    work: Path,
    *,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
) -> GanTrainer:
    """The attacker's GAN, trained on as far as it is not yet.

    Parameters
    ----------
    config : GanConfig
    data : Path
        Folder with `lfw/train_112.zip`.
    own : Recognizer
        The attacker's, of plain faces, whose embeddings condition it.
    work : Path
        Gets its run folder and the embeddings.
    on_step : callable, optional
        Called after each step.

    Raises
    ------
    InputError
        If the folder cannot be made, or holds the run of another GAN.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the work folder {str(work)!r} cannot be made ({error.strerror}): name another") from None
    faces = FaceSet.load(data / "lfw" / "train_112.zip")
    seen = TeacherEmbeddings.of(own, faces, work / "embeddings.safetensors")
    run = work / "gan.run"
    resume = (run / "checkpoint.safetensors").is_file()
    trainer = GanTrainer(config, faces, seen.plain, seen.about["teacher"], run, resume=resume)
    if trainer.step < trainer.steps:
        trainer.run(on_step=on_step)
    trainer.close()
    trainer.generator.eval().requires_grad_(False)
    return trainer


def invert(
    run: Path,
    key: MaskKey | None,
    data: Path,
    judge: Recognizer,
    gan: GanTrainer,
    *,
    boxes: Sequence[str] = BOXES,
    people: int = 20,
    tries: int = 4,
    steps: int = 100,
    queries: int = 2000,
    seed: int = 0,
    tell: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[Attacked]:
    """A row for each box.

    Parameters
    ----------
    run : Path
        Folder of ``immunecam masking train``; a plain one is attacked all the same, to compare with.
    key : MaskKey or None
        Of its mask.
    data : Path
        Folder with `lfw/dev_112.zip`, whose people are judged, `lfw/train_112.zip` and `lfw/pairs.csv`.
    judge : Recognizer
        That had no part in anything.
    gan : GanTrainer
        Of `attackers_gan`.
    boxes : sequence of str
        Of `BOXES`.
    people : int
        Whose templates are inverted.
    tries, steps : int
        Starts of a white-box search, and its steps.
    queries : int
        Faces that a black-box search shows at most.
    seed : int
        Of the starts.
    tell : callable, optional
        Called with what is done, how far it is, and of how much.
    """
    if wrong := set(boxes) - set(BOXES):
        raise ValueError(f"a recogniser is attacked in a box of {', '.join(BOXES)}, got {', '.join(sorted(wrong))}")
    recognizer, about = load_trained(run, key)
    lfw = data / "lfw"
    known, others = FaceSet.load(lfw / "train_112.zip"), FaceSet.load(lfw / "dev_112.zip")
    faces = from_uint8(one_of_each(others, people))
    threshold = judge_threshold(judge, lfw / "pairs.csv", known)
    with torch.no_grad():
        templates = torch.cat([recognizer(part) for part in faces.split(32)])
    draws = torch.Generator().manual_seed(seed)
    found: list[Attacked] = []
    for box in boxes:
        tell(f"{box} box", 0, len(faces))
        latents, shown = [], 0
        for number, template in enumerate(templates):
            starts = latents_of(gan.embeddings, tries if box == "white" else max(20, queries // 10), draws)
            if box == "white":
                best = white_box_search(gan.generator, recognizer, template[None], starts, steps=steps)[0]
                shown += tries * steps
            else:
                score = _score(recognizer, template)
                best, asked = black_box_search(gan.generator, score, starts, queries=queries, draws=draws)
                shown += asked
            latents.append(best)
            tell(f"{box} box", number + 1, len(faces))
        with torch.no_grad():
            recovered = gan.generator(torch.stack(latents))
            fooled = torch.cat([recognizer(part[:, 0]) for part in recovered.split(32)])
        scores = picture_scores(recovered, faces, judge, threshold)
        row: dict[str, Any] = {
            "run": run.name,
            "masked": recognizer.mask is not None,
            "mixing": about["config"]["mixing"],
            "box": box,
            "queries_per_person": shown // len(faces),
            "gan_steps": gan.step,
            "template_cosine": round(float((fooled * templates).sum(1).mean()), 4),
            "judge": judge.name,
            "threshold_cosine": round(threshold, 4),
            **score_columns(scores),
        }
        shown_faces = to_uint8(faces[:_SHOWN]).numpy(), to_uint8(recovered[:_SHOWN, 0]).numpy()
        found.append(Attacked(row, *shown_faces))
    return found


def _score(recognizer: MaskedRecognizer, template: Tensor) -> Callable[[Tensor], Tensor]:
    def score(shown: Tensor) -> Tensor:
        return torch.cat([recognizer(part) @ template for part in shown.split(32)])

    return score
