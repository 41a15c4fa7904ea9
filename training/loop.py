"""A training loop in a run folder: seeded, resumable, with its curves on disk. What a step does is left open."""

from __future__ import annotations

import csv
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.training.curves import Panel
from immunecam.training.distributed import Workers
from immunecam.training.run_folder import Hold, claim_run, interrupt_later

__all__ = ["TrainingLoop", "reason_of"]

Values = TypeVar("Values")


def reason_of(error: Exception) -> str:
    """First line of a message; PyTorch's go on over many."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class TrainingLoop(ABC, Generic[Values]):
    """Steps, checkpoints, curves. The folder holds `config.json`, `checkpoint.safetensors` (nothing is pickled) and
    `curves.csv`, `curves.png` and `curves.svg`.

    A subclass calls `claim` before it writes into the folder, and `restore` when its networks are there; everything
    random in a step must follow from its number, so that a resumed run is the same run. `Values` is what a step gives.

    Parameters
    ----------
    folder : path
        Run folder, made if missing.
    steps : int
        Of the whole run.
    workers : Workers, optional
        Processes that train together; the first one alone writes the folder. Default: this process alone.

    Raises
    ------
    InputError
        If the folder cannot be made, or another trainer has it; it is this one's until `run` has ended or `close` is
        called.
    """

    def __init__(self, folder: str | Path, steps: int, workers: Workers | None = None) -> None:
        self.folder, self.steps, self.workers = Path(folder), steps, workers or Workers()
        self.step, self.seconds = 0, 0.0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"the run folder {str(self.folder)!r} cannot be made ({error.strerror}): name another"
            ) from None
        self._held = Hold(self.folder, self.workers.first)

    # -- what a subclass says ------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def modules(self) -> Mapping[str, nn.Module]:
        """What a checkpoint holds the weights of, by a name without a dot."""

    @property
    @abstractmethod
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Likewise."""

    @property
    @abstractmethod
    def panels(self) -> Sequence[Panel]:
        """Columns of the curves that are drawn."""

    @property
    def columns(self) -> Sequence[str]:
        """All columns of the curves, but for step, phase and seconds."""
        return [name for name, _, _ in self.panels]

    @property
    def about_curves(self) -> str:
        """What a reader of the curves should know."""
        return "A point is a mean over the steps since the one before."

    @property
    def phase(self) -> str:
        """What the step that comes next is part of, for the curves."""
        return "train"

    @abstractmethod
    def train_step(self) -> Values:
        """Do step number `self.step`."""

    def logged(self, values: Values) -> Mapping[str, float]:
        """A number for every column of what a step gave; by default it gave them."""
        return cast(Mapping[str, float], values)

    @property
    def metadata(self) -> dict[str, str]:
        """What a checkpoint is to say besides its step."""
        return {}

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        on_step: Callable[[int, Values], None] | None = None,
        log_every: int = 20,
        checkpoint_every: int = 200,
    ) -> None:
        """Train to the end; an interruption leaves a checkpoint to resume from.

        Ctrl-C waits for the end of its step (a second one does not): a step that is cut in the middle has already
        moved batch statistics and memory, so a checkpoint of it would not lead to the uninterrupted run's end.
        """
        self._held.take()  # again, if this trainer has run before
        if self.workers.first:
            self._trim_curves()
        began = time.monotonic() - self.seconds
        window: list[Values] = []
        whole = True
        try:
            with interrupt_later() as interrupted:
                while self.step < self.steps:
                    whole = False
                    phase, values = self.phase, self.train_step()
                    self.step += 1
                    whole = True
                    self.seconds = time.monotonic() - began
                    window.append(values)
                    if self.workers.first and (self.step % log_every == 0 or self.step == self.steps):
                        self._log(phase, window)
                        window = []
                    if on_step is not None:
                        on_step(self.step, values)
                    if self.step % checkpoint_every == 0:
                        self.save()
                    if self.workers.any(interrupted()):
                        raise KeyboardInterrupt
        finally:
            try:
                if whole:
                    self.save()
                if self.workers.first:
                    self.plot()
            finally:
                self.close()

    def close(self) -> None:
        """Let others have the run folder."""
        self._held.release()

    # -- the run folder ------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """The file of weights and optimisers."""
        return self.folder / "checkpoint.safetensors"

    @property
    def curves(self) -> Path:
        """The CSV file of the curves."""
        return self.folder / "curves.csv"

    def claim(self, identity: dict[str, Any], resume: bool) -> None:
        """Write, or compare with, what this folder is a run of.

        Raises
        ------
        InputError
            If it holds a run that is not to be resumed, or another one.
        """
        claim_run(self.folder, self.checkpoint, identity, resume=resume, mine=self.workers.first)

    def save(self) -> None:
        """Write the checkpoint; a cut leaves the previous one whole."""
        if not self.workers.first:
            return
        tensors: dict[str, Tensor] = {}
        for part, module in self.modules.items():
            tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
        for part, optimizer in self.optimizers.items():
            for number, state in optimizer.state_dict()["state"].items():
                tensors |= {f"{part}.{number}.{name}": torch.as_tensor(value) for name, value in state.items()}
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        metadata = {"step": str(self.step), "seconds": str(self.seconds)} | self.metadata
        with written_whole(self.checkpoint) as partial:
            save_file(tensors, partial, metadata=metadata)

    def restore(self) -> None:
        """Take over the checkpoint, if there is one.

        Raises
        ------
        InputError
            If it is damaged.
        """
        if not self.checkpoint.is_file():
            return
        try:
            with safe_open(self.checkpoint, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
            parts: dict[str, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                part, _, rest = name.partition(".")
                parts.setdefault(part, {})[rest] = value
            for part, module in self.modules.items():
                module.load_state_dict(parts.get(part, {}))
            for part, optimizer in self.optimizers.items():
                state: dict[int, dict[str, Tensor]] = {}
                for name, value in parts.get(part, {}).items():
                    number, _, key = name.partition(".")
                    state.setdefault(int(number), {})[key] = value
                groups = optimizer.state_dict()["param_groups"]
                optimizer.load_state_dict({"state": state, "param_groups": groups})
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"checkpoint {str(self.checkpoint)!r} is damaged ({reason_of(error)}): start anew without --resume"
            ) from None

    def _trim_curves(self) -> None:
        """Drop rows beyond the checkpoint; the steps after it are done again."""
        rows = []
        if self.step and self.curves.is_file():
            with self.curves.open(newline="") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= self.step]
        columns = ("step", "phase", *self.columns, "seconds")
        with self.curves.open("w", newline="") as file:
            csv.writer(file).writerows([columns, *rows])

    def _log(self, phase: str, window: list[Values]) -> None:
        rows = [self.logged(values) for values in window]
        means = [f"{sum(row[name] for row in rows) / len(rows):.6g}" for name in self.columns]
        with self.curves.open("a", newline="") as file:
            csv.writer(file).writerow([self.step, phase, *means, f"{self.seconds:.1f}"])

    def plot(self) -> None:
        """Draw `curves.png` and `curves.svg` from `curves.csv`; nothing of a run without a step."""
        from immunecam.training.curves import training_plot

        with self.curves.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if rows:
            training_plot(rows, self.panels, self.about_curves).write(self.folder)
