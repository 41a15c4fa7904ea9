"""The training loop: seeded, resumable, with its curves on disk."""

from __future__ import annotations

import csv
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from immunecam.errors import InputError, UsageError
from immunecam.files import written_whole
from immunecam.models import AIS, PIN, Eigenspace, build_model
from immunecam.training.attack_bank import AttackBank, AttackedFaces
from immunecam.training.attacks import round_to_8bit
from immunecam.training.config import Phase, TrainConfig
from immunecam.training.distributed import Workers
from immunecam.training.ema import ExponentialMovingAverage
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.objective import Objective, StepValues
from immunecam.training.origin import Origin, origin_of
from immunecam.training.recognizer import Recognizer
from immunecam.training.resampling import Resampling
from immunecam.training.run_folder import Hold, claim_run, interrupt_later
from immunecam.training.seeds import seed_of

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["Trainer"]

_MEASURED = 256  # faces that the statistics of a bundle's normalisation are measured on
_SAMPLE = 32  # faces kept in the run folder for the export's parity check

_COLUMNS = (
    "step",
    "phase",
    "loss",
    "pixel",
    "identity",
    "sparsity",
    "specificity",
    "mutation",
    "lr",
    "seconds",
)


class Trainer:
    """Trains one antibody network in a run folder.

    The folder holds `config.json`, `eigenspace.safetensors`, `checkpoint.safetensors` (network, slow copy and
    optimiser; nothing is pickled), `sample.safetensors`, `curves.csv`, `curves.png`, `curves.svg` and `report.html`,
    and the attacked faces of the bank if there is one.

    Parameters
    ----------
    config : TrainConfig
        What to do.
    faces : FaceSet
        Training faces.
    recognizers : sequence of Recognizer
        For the identity term and the attacker.
    folder : path
        Run folder, made if missing.
    resume : bool
        Go on from the folder's checkpoint; without it a folder that holds one is refused.
    device : str
        Where to train.
    workers : Workers, optional
        Processes that train together (`Workers.join` under torchrun); each takes its share of every batch, and the
        first one alone writes the folder. Default: this process alone.
    eigenspace : Eigenspace, optional
        Default: fitted on `faces`.
    bank : path, optional
        Where the attacked faces of `config.bank` are, or are to be. Default: the folder `bank` of the run.
    start_from : path or Bundle, optional
        Folder of another run, whose weights (of the slow copy) are taken wherever name and shape agree: the restorer
        of a run with another analyzer, for instance. Or a bundle, whose run is gone: of one, the eigenfaces are taken
        as well if there are as many. Default: start anew.
    progress : callable, optional
        Called with (done, total) while the bank is made.

    Raises
    ------
    InputError
        If the folder holds another run, its checkpoint is damaged, or another trainer has it; it is this one's until
        `run` has ended or `close` is called.
    """

    def __init__(
        self,
        config: TrainConfig,
        faces: FaceSet,
        recognizers: Sequence[Recognizer],
        folder: str | Path,
        *,
        resume: bool = False,
        device: str = "cpu",
        eigenspace: Eigenspace | None = None,
        workers: Workers | None = None,
        bank: str | Path | None = None,
        start_from: str | Path | Bundle | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.config, self.faces, self.folder = config, faces, Path(folder)
        self.device = torch.device(device)
        self.workers = workers or Workers()
        if config.batch % self.workers.count:
            raise UsageError(f"a batch of {config.batch} faces cannot be shared by {self.workers.count} processes")
        if self.device.type == "cuda":
            # TF32 for convolutions and products: ten bits of mantissa, which training does not miss.
            torch.set_float32_matmul_precision("high")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._held = Hold(self.folder, self.workers.first)
        try:
            self._prepare(recognizers, resume, eigenspace, bank, start_from, progress)
        except BaseException:
            self.close()
            raise

    def _prepare(
        self,
        recognizers: Sequence[Recognizer],
        resume: bool,
        eigenspace: Eigenspace | None,
        bank: str | Path | None,
        start_from: str | Path | Bundle | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        config = self.config
        self.step = 0
        self.seconds = 0.0
        resuming = resume and self._checkpoint.is_file()
        origin = None if start_from is None else origin_of(start_from)
        if eigenspace is None and origin is not None and not resuming:
            theirs = origin.eigenspace()
            eigenspace = theirs if theirs is not None and theirs.k == config.k else None
        with self.workers.first_alone():
            self._claim(recognizers, resume, origin)
            self.eigenspace = self._eigenspace(eigenspace, resuming).to(self.device)
            self.bank = self._bank(recognizers, bank, progress)
        torch.manual_seed(config.seed)
        self.network = build_model(config.kind, config.k, config.model_options).to(self.device)
        if origin is not None and not resuming:
            self._take_over(origin)
        self.slow = ExponentialMovingAverage(self.network, config.ema_decay)
        self.objective = Objective(config, self.eigenspace, [r.to(self.device) for r in recognizers])
        self.phases = [self._counted(phase) for phase in config.phases]
        self.optimizer: torch.optim.Optimizer
        if config.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(self.network.parameters(), config.lr, momentum=0.9)
        else:
            self.optimizer = torch.optim.Adam(self.network.parameters(), config.lr)
        if resuming:
            self._load()
        self._stepper: nn.Module | None = None
        self._stepper_phase = ""

    @property
    def total_steps(self) -> int:
        """Steps of all phases together."""
        return sum(phase.steps for phase in self.phases)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def run(
        self,
        *,
        on_step: Callable[[int, Phase, StepValues], None] | None = None,
        log_every: int = 10,
        checkpoint_every: int = 200,
    ) -> None:
        """Train to the end; an interruption leaves a checkpoint to resume from.

        Ctrl-C waits for the end of its step (a second one does not): a step that is cut in the middle has already
        moved batch statistics and memory, so a checkpoint of it would not lead to the uninterrupted run's end.
        """
        self._held.take()  # again, if this trainer has run before
        try:
            self._run(on_step, log_every, checkpoint_every)
        finally:
            self.close()

    def close(self) -> None:
        """Let others have the run folder."""
        self._held.release()

    def _run(
        self, on_step: Callable[[int, Phase, StepValues], None] | None, log_every: int, checkpoint_every: int
    ) -> None:
        if self.workers.first:
            self._trim_curves()
        began = time.monotonic() - self.seconds
        window: list[StepValues] = []
        whole = True
        try:
            with interrupt_later() as interrupted:
                while self.step < self.total_steps:
                    phase, _ = self._phase()
                    whole = False
                    values = self._train_step(phase)
                    self.step += 1
                    whole = True
                    self.seconds = time.monotonic() - began
                    window.append(values)
                    if self.workers.first and (self.step % log_every == 0 or self.step == self.total_steps):
                        self._log(phase, window)
                        window = []
                    if on_step is not None:
                        on_step(self.step, phase, values)
                    if self.step % checkpoint_every == 0:
                        self.save()
                    if self.workers.any(interrupted()):
                        raise KeyboardInterrupt
        finally:
            if whole:
                self.save()
            if self.workers.first:
                self.plot()

    def _phase(self) -> tuple[Phase, int]:
        """The phase that this step is of, and its number there; after the end, the last one's."""
        left = self.step
        for phase in self.phases:
            if left < phase.steps:
                return phase, left
            left -= phase.steps
        return self.phases[-1], self.phases[-1].steps

    def _train_step(self, phase: Phase) -> StepValues:
        # Everything random in a step follows from seed, step and worker, so resuming needs no generator state.
        torch.manual_seed(seed_of(f"{self.config.seed}/{self.step}/{self.workers.rank}"))
        batch = self._batch(phase)
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr()
        self.network.train()
        loss, values = self._stepper_of(phase)(*batch, self.step)
        if not torch.isfinite(values.loss):
            raise InputError(
                f"the loss became {float(values.loss.detach())} at step {self.step}: lower the learning rate"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        self.slow.update(self.network)
        logged: StepValues = values
        return logged

    def _stepper_of(self, phase: Phase) -> nn.Module:
        """The step's loss as a module, which is what `DistributedDataParallel` can average the gradients of."""
        if self._stepper is None or self._stepper_phase != phase.name:
            if isinstance(self.network, PIN) and phase.name != "autoencoder":
                self.network.freeze()
            self._stepper = _Step(self.objective, self.network, self.slow.network, phase)
            if self.workers.count > 1:
                # A phase of PIN leaves one of its two networks out; looking for such weights takes time.
                unused = isinstance(self.network, PIN)
                self._stepper = DistributedDataParallel(self._stepper, find_unused_parameters=unused)
            self._stepper_phase = phase.name
        return self._stepper

    def _batch(self, phase: Phase) -> tuple[Tensor, AttackedFaces | None]:
        """Clean faces, and what the bank has of the first ones."""
        count = self.config.batch // self.workers.count
        clean = from_uint8(self.faces.pixels[torch.randint(len(self.faces), (count,))])
        ready = min(count, int(phase.bank * count + float(torch.rand(())))) if self.bank is not None else 0
        both, drawn = clean, None
        if self.bank is not None and ready:
            # Some of them weaker: an attacker may spend less than the budget.
            drawn = self.bank.draw(ready, self.step % len(self.objective.recognizers), self.faces, (0.4, 1.6))
            clean[:ready] = drawn.clean
            both = torch.cat([clean, drawn.attacked])
        both = both.to(self.device)
        # A face and its attacked copy are lit and resampled alike.
        twin = torch.cat([torch.arange(count), torch.arange(ready)])
        if self.config.augment:
            # Those of the bank are mirrored already if they are to be.
            flip = (torch.rand(count) < 0.5)[twin] & (twin >= ready)
            both[flip] = both[flip].flip(2)
            gain = torch.empty(count, 1, 1).uniform_(0.8, 1.2)[twin].to(self.device)
            offset = torch.empty(count, 1, 1).uniform_(-0.15, 0.15)[twin].to(self.device)
            both = (both * gain + offset).clamp(-1, 1)
        if self.config.resampled and float(torch.rand(())) < self.config.resampled:
            both = Resampling(count)(both, twin)
        if drawn is not None:
            drawn = replace(drawn, clean=both[:ready], attacked=round_to_8bit(both[count:])).to(self.device)
        return both[:count], drawn

    def _lr(self) -> float:
        done = self.step / max(1, self.total_steps)
        if self.config.schedule == "cosine":
            return float(self.config.lr * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done))))
        if self.config.schedule == "halve":
            phase, number = self._phase()
            return self.config.lr * 0.5 ** (10 * number // phase.steps)
        return self.config.lr

    def _counted(self, phase: Phase) -> Phase:
        if not phase.epochs:
            return phase
        steps = max(1, round(phase.epochs * len(self.faces) / self.config.batch))
        return replace(phase, steps=steps, epochs=0.0)

    # -- the run folder ------------------------------------------------------------------------------------------

    def _claim(self, recognizers: Sequence[Recognizer], resume: bool, origin: Origin | None) -> None:
        """Write, or compare with, what this folder is a run of."""
        digest = hashlib.sha256(self.faces.pixels.numpy().tobytes()).hexdigest()
        identity = {
            "config": json.loads(json.dumps(self.config.to_dict())),
            "faces": {"count": len(self.faces), "sha256": digest},
            "recognizers": [{"name": r.name, "sha256": r.sha256} for r in recognizers],
            "started_from": None if origin is None else origin.provenance,
        }
        self.identity = identity
        claim_run(self.folder, self._checkpoint, identity, resume=resume, mine=self.workers.first)
        if not self.workers.first:
            return
        # A few faces travel with the run, so that an export can be checked on real ones without the data set.
        sample = self.faces.pixels[:: max(1, len(self.faces) // _SAMPLE)][:_SAMPLE].contiguous()
        with written_whole(self.folder / "sample.safetensors") as partial:
            save_file({"pixels": sample}, partial)

    def _take_over(self, origin: Origin) -> None:
        """Weights of another run or of a bundle, where name and shape agree."""
        some = self.faces.pixels[:: max(1, len(self.faces) // _MEASURED)][:_MEASURED]
        theirs, ours = origin.weights(from_uint8(some)), self.network.state_dict()
        fitting = {name: value for name, value in theirs.items() if name in ours and value.shape == ours[name].shape}
        if not fitting:
            raise InputError(f"{origin.name} has no weight of this network's names and shapes to start from")
        self.network.load_state_dict(fitting, strict=False)

    def _eigenspace(self, given: Eigenspace | None, resuming: bool) -> Eigenspace:
        file = self.folder / "eigenspace.safetensors"
        if given is not None:
            space = given
        elif file.is_file() and (resuming or not self.workers.first):
            try:
                space = Eigenspace(**load_file(file))
            except (OSError, SafetensorError, TypeError, ValueError) as error:
                raise InputError(
                    f"eigenfaces {str(file)!r} are damaged ({_reason(error)}): start anew without --resume"
                ) from None
        else:
            try:
                space = Eigenspace.fit(self.faces.batches(500), self.config.k, seed=self.config.seed)
            except ValueError as error:
                raise InputError(str(error)) from None
        if not self.workers.first:
            return space
        tensors = {
            "mean": space.mean,
            "basis": space.basis.contiguous(),
            "variance": space.variance.contiguous(),
        }
        with written_whole(file) as partial:
            save_file(tensors, partial)
        return space

    def _bank(
        self,
        recognizers: Sequence[Recognizer],
        folder: str | Path | None,
        progress: Callable[[int, int], None] | None,
    ) -> AttackBank | None:
        if self.config.bank is None:
            return None
        on_device = [recognizer.to(self.device) for recognizer in recognizers]
        folder = self.folder / "bank" if folder is None else folder
        return AttackBank.make(self.config.bank, self.faces, on_device, folder, progress=progress)

    def save(self) -> None:
        """Write the checkpoint; a cut leaves the previous one whole."""
        if not self.workers.first:
            return
        tensors = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"slow.{name}": value for name, value in self.slow.network.state_dict().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{number}.{name}": value for name, value in state.items() if isinstance(value, Tensor)
            }
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
            self.network.load_state_dict(_part(tensors, "network."))
            self.slow.network.load_state_dict(_part(tensors, "slow."))
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"checkpoint {str(self._checkpoint)!r} is damaged ({_reason(error)}): start anew without --resume"
            ) from None
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _part(tensors, "optimizer.").items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": state, "param_groups": whole["param_groups"]})

    @property
    def curves(self) -> Path:
        """The CSV file of the curves."""
        return self.folder / "curves.csv"

    def _trim_curves(self) -> None:
        """Drop rows beyond the checkpoint; the steps after it are done again."""
        rows = []
        if self.step and self.curves.is_file():
            with self.curves.open(newline="") as file:
                rows = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= self.step]
        with self.curves.open("w", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, *rows])

    def _log(self, phase: Phase, window: list[StepValues]) -> None:
        def mean(name: str) -> str:
            return f"{sum(values.log()[name] for values in window) / len(window):.6g}"

        row = [
            self.step,
            phase.name,
            *(mean(name) for name in _COLUMNS[2:8]),
            f"{self._lr():.3g}",
            f"{self.seconds:.1f}",
        ]
        with self.curves.open("a", newline="") as file:
            csv.writer(file).writerow(row)

    def plot(self) -> None:
        """Draw `curves.png` and `curves.svg` from `curves.csv`, and write `report.html`; nothing of an empty run."""
        from immunecam.training.run_report import write_run_report

        write_run_report(self.folder)


class _Step(nn.Module):
    """One step of a phase: clean faces to the loss, and the same without its graph among the step's values."""

    def __init__(self, objective: Objective, network: AIS | PIN, slow: AIS | PIN, phase: Phase) -> None:
        super().__init__()
        self.network = network
        # Not the module's own: neither is trained.
        self._others = (objective, slow)
        self._phase = phase

    def forward(self, faces: Tensor, drawn: AttackedFaces | None, step: int) -> tuple[Tensor, StepValues]:
        objective, slow = self._others
        if isinstance(self.network, PIN) and self._phase.name == "autoencoder":
            values = objective.autoencoder(self.network, faces)
        else:
            values = objective.selection(self.network, slow, faces, self._phase, step, drawn)
        return values.loss, replace(values, loss=values.loss.detach())


def _reason(error: Exception) -> str:
    """First line of a message; PyTorch's go on over many."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
