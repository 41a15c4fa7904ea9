"""The training of a recogniser of masked faces and, in turns, of the strategy that mixes them."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from immunecam.errors import InputError, UsageError
from immunecam.files import written_whole
from immunecam.mask_key import MaskKey
from immunecam.models.frequency import channel_statistics
from immunecam.models.mask_spec import COLOURS
from immunecam.models.masked_recognizer import MaskedRecognizer
from immunecam.models.masking import MIXED, mixed
from immunecam.models.mobile_face import MobileFace
from immunecam.training.curves import Panel
from immunecam.training.ema import ExponentialMovingAverage
from immunecam.training.faces import FaceSet
from immunecam.training.loop import TrainingLoop
from immunecam.training.masking.batches import draw_batch
from immunecam.training.masking.choosing import choose_frequencies
from immunecam.training.masking.config import MaskingConfig
from immunecam.training.masking.mask_file import MaskFile, trained_with
from immunecam.training.masking.mixer import Mixer, collapse_of
from immunecam.training.masking.objective import RecognitionLoss
from immunecam.training.masking.people import People
from immunecam.training.masking.starting import StartingWeights, train_mode
from immunecam.training.masking.teacher import TeacherEmbeddings
from immunecam.training.seeds import seed_of

__all__ = ["MaskingTrainer"]

_STATISTICS = 2000  # faces that a mask's statistics are of
_FITTED = 400  # faces that an unmasking layer is fitted to
_LAST = 0.1  # of a run, whose mixes tell whether the strategy has collapsed


class MaskingTrainer(TrainingLoop[dict[str, float]]):
    """Trains one recogniser in a run folder, which holds its mask, too (`mask.safetensors`, without the key).

    Parameters
    ----------
    config : MaskingConfig
        What to do.
    faces : FaceSet
        Training faces, in a folder for each person.
    teacher : TeacherEmbeddings or None
        Of these faces; needed for distillation.
    key : MaskKey or None
        Needed for a mask.
    folder : path
        Run folder, made if missing.
    start : StartingWeights, optional
        What the network starts from, if the settings say that it does.
    mask : MaskFile, optional
        Of another run, whose channels and statistics this one takes; None makes one of the faces.
    held_out : collection of str
        People that were left out of the faces, to be written down: a threshold may be set on them.
    resume : bool
        Go on from the folder's checkpoint; without it a folder that holds one is refused.
    device : str
        Where to train.
    progress : callable, optional
        Called with (done, total) while frequencies are chosen.

    Raises
    ------
    UsageError
        If key, teacher or the weights to start from are missing, or the mask is of other colours or positions than the
        settings.
    InputError
        If the faces show too few people, the folder holds another run, its checkpoint is damaged, another key was used,
        or another trainer has it.
    """

    def __init__(
        self,
        config: MaskingConfig,
        faces: FaceSet,
        teacher: TeacherEmbeddings | None,
        key: MaskKey | None,
        folder: str | Path,
        *,
        start: StartingWeights | None = None,
        mask: MaskFile | None = None,
        held_out: Collection[str] = (),
        resume: bool = False,
        device: str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if config.distilled and teacher is None:
            raise UsageError(
                "distillation needs a recogniser to learn from: give --teacher FILE, or set distilled to 0"
            )
        if config.masked and key is None:
            raise UsageError("a mask needs its key: give --key-file FILE, made by `immunecam gate keygen FILE`")
        if config.started != (start is not None):
            raise UsageError(
                "the settings and the weights to start from do not agree: give --start-from FILE where started is "
                "true, and only there"
            )
        if config.colours == "ycbcr" and faces.pixels.ndim != 4:
            raise InputError("a mask of ycbcr was asked for, but the training faces were read as grey: read colours")
        people = People.of(faces)
        if config.arcface:
            people.check()
        if teacher is not None:
            teacher.check(faces)
        if not config.distilled:
            teacher = None
        self.config, self.faces, self.people, self.teacher, self.start = config, faces, people, teacher, start
        if mask is not None and (mask.spec.positions, mask.spec.colours) != (config.positions, config.colours):
            raise UsageError(
                f"the mask is of {mask.spec.colours} at {mask.spec.positions} positions, but the settings are of "
                f"{config.colours} at {config.positions}: use settings of the mask's run"
            )
        self._given = mask if config.masked else None
        self.device = torch.device(device)
        super().__init__(folder, config.steps)
        try:
            self._prepare(key, held_out, resume, progress)
        except BaseException:
            self.close()
            raise

    def _prepare(
        self,
        key: MaskKey | None,
        held_out: Collection[str],
        resume: bool,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        config = self.config
        size = config.size or (self.teacher.size if self.teacher else 128)
        if self.teacher is not None and size != self.teacher.size:
            raise UsageError(
                f"embeddings of {size} numbers cannot be distilled from a teacher's of {self.teacher.size}: leave size "
                "out of the settings"
            )
        self.claim(self._identity(held_out), resume)
        mask, self.mask_identity = None, ""
        if config.masked and key is not None:
            found = self._mask(key, size, progress)
            mask, self.mask_identity = found.mask(key, f"the run {str(self.folder)!r}"), found.identity
        inputs = COLOURS[config.colours] if mask is None else mask.spec.channels
        torch.manual_seed(seed_of(f"masking start/{config.seed}"))
        positions = 112 if mask is None else config.positions
        unmasking = config.started and mask is not None
        network = MobileFace(inputs, positions, size, config.width, unmasking=unmasking)
        if self.start is not None and not (resume and self.checkpoint.is_file()):
            self.start.start(network, mask, FaceSet(*_every(self.faces, _FITTED)))
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = RecognitionLoss(config, self.people.count, size)
        if config.started and self.teacher is not None:
            self.objective.start(self.teacher.plain, self.people.labels)
        self.objective.to(self.device)
        self.mixer = Mixer(config, inputs).to(self.device)
        self.slow = ExponentialMovingAverage(self.network, config.ema_decay)
        weights = [*self.network.parameters(), *self.objective.parameters()]
        self.optimizer = torch.optim.AdamW(weights, config.lr, weight_decay=config.weight_decay)
        self.recognizer = MaskedRecognizer(None if mask is None else mask.to(self.device), self.network)
        if resume:
            self.restore()

    @property
    def mask_file(self) -> Path:
        """What is open of the mask."""
        return self.folder / "mask.safetensors"

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Network, slow copy, ArcFace's weights, strategy."""
        return {
            "network": self.network,
            "slow": self.slow.network,
            "objective": self.objective,
            "mixer": self.mixer,
        }

    @property
    def metadata(self) -> dict[str, str]:
        """The mask that the weights belong to."""
        return {"mask": self.mask_identity}

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Of the recogniser and, if there is one, of the strategy."""
        found: dict[str, torch.optim.Optimizer] = {"optimizer": self.optimizer}
        if self.mixer.optimizer is not None:
            found["strategist"] = self.mixer.optimizer
        return found

    @property
    def panels(self) -> Sequence[Panel]:
        """Terms, and of how many faces mixes are."""
        return (
            ("loss", "Loss", "weighted sum of both terms"),
            ("arcface", "ArcFace", "cross-entropy with a margin, nats"),
            ("distilled", "Distillation", "1 - cosine to the teacher's"),
            ("k", "Mixes", "mean number of faces"),
            ("entropy", "Strategy's choices", "entropy, nats"),
        )

    @property
    def columns(self) -> Sequence[str]:
        """Those of the panels, and the histogram of k."""
        return [*super().columns, *(f"k{k}" for k in MIXED)]

    def train_step(self) -> dict[str, float]:
        """The recogniser's step, and the strategy's where it is its turn."""
        config = self.config
        # Everything random in a step follows from seed and step, so resuming needs no generator state.
        torch.manual_seed(seed_of(f"masking/{config.seed}/{self.step}"))
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr()
        train_mode(self.network, frozen=config.started)
        batch = draw_batch(self.faces, self.people, self.teacher, config.batch, config.augment, self.device)
        channels = self.recognizer.channels(batch.faces, self._orders())
        mix = self.mixer.draw(channels)
        targets = batch.targets
        if config.mixing != "none":
            channels = mixed(channels, mix.partners, mix.shares)
            targets = None if targets is None else mixed(targets, mix.partners, mix.shares)
        losses, terms = self.objective(self.recognizer.embed(channels), batch.labels[mix.partners], mix.shares, targets)
        loss = losses.mean()
        if not torch.isfinite(loss):
            raise InputError(f"the loss became {float(loss.detach())} at step {self.step}: lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimizer.step()
        # While there are few steps to average, fewer are averaged: the start's weights must not stay in it.
        self.slow.decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        self.slow.update(self.network)
        values = {"loss": float(loss.detach())} | {name: float(term) for name, term in terms.items()}
        values |= mix.histogram() | {"k": float(mix.counts.float().mean()), "entropy": mix.entropy()}
        if self.step % config.strategy_every == 0:
            self.mixer.learn(mix, losses)
        return values

    def choices(self) -> dict[str, float]:
        """Share of each k among the mixes of the run's last tenth, as the curves have them."""
        with self.curves.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["step"]) > (1 - _LAST) * self.step]
        return {f"k{k}": sum(float(row[f"k{k}"]) for row in rows) / max(1, len(rows)) for k in MIXED}

    def write_choices(self) -> str | None:
        """Write `strategy.json`; a sentence if the strategy has collapsed."""
        histogram = self.choices()
        collapse = collapse_of(histogram) if self.config.mixing == "adaptive" else None
        found = {"mixing": self.config.mixing, "last_mixes": histogram, "collapse": collapse}
        with written_whole(self.folder / "strategy.json") as partial:
            partial.write_text(json.dumps(found, indent=1))
        return collapse

    def _orders(self) -> Tensor | None:
        """An order for every face, if that is what the network has to do with; drawn, for any may come."""
        mask = self.recognizer.mask
        if mask is None or self.config.permutation != "enrolment":
            return None
        return torch.rand(self.config.batch, mask.spec.channels).argsort(1).to(self.device)

    def _lr(self) -> float:
        warm = max(1, self.steps // 20)
        if self.step < warm:
            return self.config.lr * (self.step + 1) / warm
        done = (self.step - warm) / max(1, self.steps - warm)
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * done))

    def _mask(self, key: MaskKey, size: int, progress: Callable[[int, int], None] | None) -> MaskFile:
        """Of the folder, if the run has begun already; else the one that was given, or made from the faces."""
        if self.checkpoint.is_file():
            found = MaskFile.load(self.mask_file)
            found.check(trained_with(self.checkpoint), f"the run {str(self.folder)!r}")
            return found
        if self._given is not None:
            self._given.save(self.mask_file)
            return self._given
        config = self.config
        some = FaceSet(*_every(self.faces, _STATISTICS))
        mean, std = channel_statistics(some.batches(64), config.positions, config.colours)
        spec = choose_frequencies(
            config,
            self.faces,
            self.people,
            self.teacher,
            mean,
            std,
            size,
            start=self.start,
            device=self.device,
            progress=progress,
        )
        made = MaskFile(spec, mean, std, key.check_value)
        made.save(self.mask_file)
        return made

    def _identity(self, held_out: Collection[str]) -> dict[str, Any]:
        digest = self.faces.sha256
        return {
            "config": self.config.to_dict(),
            "faces": {"count": len(self.faces), "people": self.people.count, "sha256": digest},
            "teacher": None if self.teacher is None else self.teacher.about["teacher"],
            "start": None if self.start is None else self.start.sha256,
            "held_out": sorted(held_out),
            "mask": None if self._given is None else self._given.identity,
        }


def _every(faces: FaceSet, most: int) -> tuple[Tensor, tuple[str, ...]]:
    """At most so many faces, spread evenly."""
    step = -(-len(faces) // most)
    return faces.pixels[::step], faces.names[::step]
