"""The training loop of liveness networks: seeded, resumable, with its curves on disk."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LIVE, SPOOF, LivenessLabels, liveness_loss
from immunecam.training.ema import ExponentialMovingAverage
from immunecam.training.faces import from_uint8
from immunecam.training.liveness.adversarial import attacked_batch
from immunecam.training.liveness.config import LivenessConfig
from immunecam.training.liveness.faces import LivenessSet
from immunecam.training.run_folder import Hold, claim_run, interrupt_later
from immunecam.training.seeds import seed_of

__all__ = ["LivenessTrainer"]

_UNITS = {
    "loss": "weighted sum of all terms",
    "live": "cross-entropy, nats",
    "attributes": "binary cross-entropy, nats",
    "spoof_type": "cross-entropy, nats",
    "illumination": "cross-entropy, nats",
    "depth": "mean squared error",
    "reflection": "mean squared error",
}
_SHIFT = 4  # pixels by which a face is moved at most


class LivenessTrainer:
    """Trains one liveness network in a run folder.

    The folder holds `config.json`, `checkpoint.safetensors` (network, slow copy and optimiser; nothing is pickled),
    `curves.csv`, `curves.png` and `curves.svg`.

    Parameters
    ----------
    config : LivenessConfig
        What to do.
    faces : LivenessSet
        Of both classes, with labels for every task.
    folder : path
        Run folder, made if missing.
    resume : bool
        Go on from the folder's checkpoint; without it a folder that holds one is refused.
    device : str
        Where to train.

    Raises
    ------
    InputError
        If the faces do not fit the tasks, the folder holds another run, its checkpoint is damaged, or another trainer
        has it.
    """

    def __init__(
        self,
        config: LivenessConfig,
        faces: LivenessSet,
        folder: str | Path,
        *,
        resume: bool = False,
        device: str = "cpu",
    ) -> None:
        faces.check(config.tasks)
        self.config, self.faces, self.folder = config, faces, Path(folder)
        self.device = torch.device(device)
        self.step, self.seconds = 0, 0.0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the run folder {str(folder)!r} cannot be made ({error.strerror}): name another"
            ) from None
        self._held = Hold(self.folder, True)
        try:
            self._claim(resume)
            torch.manual_seed(config.seed)
            network = LivenessNetwork(config.backbone, config.tasks, **self._classes())
            # Colours side by side in memory: the same network, and a step of convolutions takes a quarter less time.
            self.network = network.to(self.device, memory_format=torch.channels_last)
            self.slow = ExponentialMovingAverage(self.network, config.ema_decay)
            self.optimizer = torch.optim.AdamW(self.network.parameters(), config.lr, weight_decay=config.weight_decay)
            if resume and self._checkpoint.is_file():
                self._load()
        except BaseException:
            self.close()
            raise
        self._numbers = [torch.nonzero(faces.labels.live == value).flatten() for value in (LIVE, SPOOF)]

    def _classes(self) -> dict[str, int]:
        return {
            "attributes": len(self.faces.attribute_names),
            "types": len(self.faces.type_names),
            "illuminations": len(self.faces.illumination_names),
            "side": self.faces.side,
        }

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def curves(self) -> Path:
        """The CSV file of the curves."""
        return self.folder / "curves.csv"

    def run(
        self,
        *,
        on_step: Callable[[int, dict[str, float]], None] | None = None,
        log_every: int = 20,
        checkpoint_every: int = 200,
    ) -> None:
        """Train to the end; an interruption waits for the end of its step and leaves a checkpoint to resume from."""
        self._held.take()  # again, if this trainer has run before
        self._trim_curves()
        began = time.monotonic() - self.seconds
        window: list[dict[str, float]] = []
        whole = True
        try:
            with interrupt_later() as interrupted:
                while self.step < self.config.steps:
                    whole = False
                    values = self._train_step()
                    self.step += 1
                    whole = True
                    self.seconds = time.monotonic() - began
                    window.append(values)
                    if self.step % log_every == 0 or self.step == self.config.steps:
                        self._log(window)
                        window = []
                    if on_step is not None:
                        on_step(self.step, values)
                    if self.step % checkpoint_every == 0:
                        self.save()
                    if interrupted():
                        raise KeyboardInterrupt
        finally:
            if whole:
                self.save()
            self.plot()
            self.close()

    def close(self) -> None:
        """Let others have the run folder."""
        self._held.release()

    def _train_step(self) -> dict[str, float]:
        # Everything random in a step follows from seed and step, so resuming needs no generator state.
        torch.manual_seed(seed_of(f"liveness/{self.config.seed}/{self.step}"))
        pictures, labels = self._batch()
        rate = self._lr()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        if self.config.adversarial is not None:
            pictures = attacked_batch(self.network, pictures, labels, self.config.adversarial)
            self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            outputs = self.network(pictures)
        loss, terms = liveness_loss({head: output.float() for head, output in outputs.items()}, labels)
        if not torch.isfinite(loss):
            raise InputError(f"the loss became {float(loss.detach())} at step {self.step}: lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        # While there are few steps to average, fewer are averaged: the start's weights must not stay in it.
        self.slow.decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        self.slow.update(self.network)
        return {"loss": float(loss.detach())} | {head: float(term.detach()) for head, term in terms.items()}

    def _batch(self) -> tuple[Tensor, LivenessLabels]:
        half = self.config.batch // 2
        shares = (half, self.config.batch - half)
        chosen = torch.cat([n[torch.randint(len(n), (k,))] for n, k in zip(self._numbers, shares, strict=True)])
        labels = self.faces.labels.at(chosen)
        pictures = from_uint8(self.faces.pixels[chosen])
        if self.config.augment:
            pictures, labels = _augmented(pictures, labels, self.faces.attribute_names)
        return pictures.to(self.device, memory_format=torch.channels_last), labels.to(self.device)

    def _lr(self) -> float:
        warm = max(1, self.config.steps // 20)
        if self.step < warm:
            return self.config.lr * (self.step + 1) / warm
        done = (self.step - warm) / max(1, self.config.steps - warm)
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * done))

    # -- the run folder ------------------------------------------------------------------------------------------

    def _claim(self, resume: bool) -> None:
        """Write, or compare with, what this folder is a run of."""
        identity = {
            "config": self.config.to_dict(),
            "classes": self._classes(),
            "attribute_names": self.faces.attribute_names,
            "type_names": self.faces.type_names,
            "illumination_names": self.faces.illumination_names,
            "faces": {
                "origin": self.faces.origin,
                "synthetic": self.faces.synthetic,
                "counts": self.faces.counts(),
                "sha256": self.faces.sha256,
            },
        }
        claim_run(self.folder, self._checkpoint, identity, resume=resume)

    def save(self) -> None:
        """Write the checkpoint; a cut leaves the previous one whole."""
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"slow.{name}": value for name, value in self.slow.network.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        metadata = {"step": str(self.step), "seconds": str(self.seconds)}
        with written_whole(self._checkpoint) as partial:
            save_file(tensors, partial, metadata=metadata)

    def _load(self) -> None:
        try:
            with safe_open(self._checkpoint, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
            parts: dict[str, dict[str, Tensor]] = {"network": {}, "slow": {}, "optimizer": {}}
            for name, value in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = value
            self.network.load_state_dict(parts["network"])
            self.slow.network.load_state_dict(parts["slow"])
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"checkpoint {str(self._checkpoint)!r} is damaged ({reason}): start anew without --resume"
            ) from None
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in parts["optimizer"].items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    @property
    def _columns(self) -> tuple[str, ...]:
        return ("step", "phase", "loss", "live", *self.config.tasks, "lr", "seconds")

    def _trim_curves(self) -> None:
        """Drop rows beyond the checkpoint; the steps after it are done again."""
        rows = []
        if self.step and self.curves.is_file():
            with self.curves.open(newline="") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= self.step]
        with self.curves.open("w", newline="") as file:
            csv.writer(file).writerows([self._columns, *rows])

    def _log(self, window: list[dict[str, float]]) -> None:
        names = ("loss", "live", *self.config.tasks)
        means = [f"{sum(values[name] for values in window) / len(window):.6g}" for name in names]
        with self.curves.open("a", newline="") as file:
            csv.writer(file).writerow([self.step, "train", *means, f"{self._lr():.3g}", f"{self.seconds:.1f}"])

    def plot(self) -> None:
        """Draw `curves.png` and `curves.svg` from `curves.csv`; nothing of a run without a step."""
        from immunecam.training.curves import training_plot

        with self.curves.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if rows:
            panels = [
                (name, name.replace("_", " ").capitalize(), _UNITS[name])
                for name in ("loss", "live", *self.config.tasks)
            ]
            training_plot(rows, panels, "Every task is shown by itself, before its weight in the loss.").write(
                self.folder
            )


def _augmented(pictures: Tensor, labels: LivenessLabels, names: tuple[str, ...]) -> tuple[Tensor, LivenessLabels]:
    """Mirrored, shifted and lit anew; maps and left or right of the labels go with the picture."""
    count = len(pictures)
    flip = torch.rand(count) < 0.5
    pictures[flip] = pictures[flip].flip(3)
    for maps in (labels.depth, labels.reflection):
        if maps is not None:
            maps[flip] = maps[flip].flip(3)
    if labels.attributes is not None:
        mirrored = [
            names.index(other) if (other := _other_side(name)) in names else place for place, name in enumerate(names)
        ]
        labels.attributes[flip] = labels.attributes[flip][:, mirrored]
    for number, (x, y) in enumerate(torch.randint(-_SHIFT, _SHIFT + 1, (count, 2)).tolist()):
        # A roll by a few pixels; what comes in at the other side is as good a border as any.
        pictures[number] = pictures[number].roll((y, x), (1, 2))
    gain = torch.empty(count, 1, 1, 1).uniform_(0.8, 1.2)
    offset = torch.empty(count, 1, 1, 1).uniform_(-0.1, 0.1)
    return (pictures * gain + offset).clamp(-1, 1), labels


def _other_side(name: str) -> str:
    """The attribute that a mirror makes of it."""
    return name.replace("left", "right") if "left" in name else name.replace("right", "left")
