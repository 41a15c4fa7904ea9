"""Training of a purifier's networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from immunecam.errors import InputError, UsageError
from immunecam.files import written_whole
from immunecam.models import AIS, PIN, Eigenspace, Purification, build_model
from immunecam.training.attack_bank import AttackBank, AttackedFaces
from immunecam.training.attacks import round_to_8bit
from immunecam.training.config import Phase, TrainConfig
from immunecam.training.curves import DISTILLATION_PANEL, PURIFIER_PANELS, Panel
from immunecam.training.deployed import purification_from_bundle
from immunecam.training.distributed import Workers
from immunecam.training.ema import ExponentialMovingAverage
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.loop import TrainingLoop, reason_of
from immunecam.training.objective import Objective, StepValues
from immunecam.training.origin import Origin, origin_of
from immunecam.training.quantisation_aware import quantise_in_training
from immunecam.training.recognizer import Recognizer
from immunecam.training.resampling import Resampling
from immunecam.training.seeds import seed_of

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["Trainer"]

_WEIGHT, _BIAS = "generator.linear.weight", "generator.linear.bias"
_SURE = 5.0  # largest logit that an antibody of another analyzer begins with: nearly always, and still to be changed
_MEASURED = 256  # faces that the statistics of a bundle's normalisation are measured on
_ALIKE = 0.99  # least cosine of two eigenfaces that are taken to be the same one; storage in int8 leaves 0.999
_SAMPLE = 32  # faces kept in the run folder for the export's parity check


class Trainer(TrainingLoop[StepValues]):
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
        Default: the teacher's, those that it starts from if there are `config.k`, or else fitted on `faces`.
    bank : path, optional
        Where the attacked faces of `config.bank` are, or are to be. Default: the folder `bank` of the run.
    start_from : path or Bundle, optional
        Folder of another run, whose weights (of the slow copy) are taken wherever name and shape agree: the restorer
        of a run with another analyzer, for instance. Or a bundle, whose run is gone. The eigenfaces are taken as well
        if there are as many. Default: start anew.
    teacher : Bundle, optional
        Whose antibodies this network learns, by `config.distillation_weight`, and whose eigenfaces it gets.
    progress : callable, optional
        Called with (done, total) while the bank is made.

    Raises
    ------
    InputError
        If the folder holds another run, its checkpoint is damaged, or another trainer has it; it is this one's until
        `run` has ended or `close` is called. If the teacher's bits are of other eigenfaces.
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
        teacher: Bundle | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.config, self.faces = config, faces
        self.device = torch.device(device)
        if workers is not None and config.batch % workers.count:
            raise UsageError(f"a batch of {config.batch} faces cannot be shared by {workers.count} processes")
        self.phases = [self._counted(phase) for phase in config.phases]
        super().__init__(folder, sum(phase.steps for phase in self.phases), workers)
        if self.device.type == "cuda":
            # TF32 for convolutions and products: ten bits of mantissa, which training does not miss.
            torch.set_float32_matmul_precision("high")
        try:
            self._prepare(recognizers, resume, eigenspace, bank, start_from, teacher, progress)
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
        teacher: Bundle | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        config = self.config
        resuming = resume and self.checkpoint.is_file()
        origin = None if start_from is None else origin_of(start_from)
        taught = None if teacher is None else purification_from_bundle(teacher, device=self.device)
        if eigenspace is None and not resuming:
            if taught is not None:
                eigenspace = taught.eigenspace if taught.eigenspace.k == config.k else None
            elif origin is not None:
                theirs = origin.eigenspace()
                eigenspace = theirs if theirs.k == config.k else None
        with self.workers.first_alone():
            self._claim_for(recognizers, resume, origin, None if teacher is None else origin_of(teacher))
            self.eigenspace = self._eigenspace(eigenspace, resuming).to(self.device)
            self.bank = self._bank(recognizers, bank, progress)
        torch.manual_seed(config.seed)
        self.network = build_model(config.kind, config.k, config.model_options).to(self.device)
        if origin is not None and not resuming:
            self._take_over(origin)
        self.slow = ExponentialMovingAverage(self.network, config.ema_decay)
        if config.quantisation_aware:
            quantise_in_training(self.network)
        if taught is not None and teacher is not None:
            _check_teacher(teacher, taught, self.eigenspace)
        analyze = None if taught is None else taught.analyze
        self.objective = Objective(config, self.eigenspace, [r.to(self.device) for r in recognizers], analyze)
        self.optimizer: torch.optim.Optimizer
        if config.optimizer == "sgd":
            self.optimizer = torch.optim.SGD(self.network.parameters(), config.lr, momentum=0.9)
        else:
            self.optimizer = torch.optim.Adam(self.network.parameters(), config.lr)
        if resuming:
            self.restore()
        self._stepper: nn.Module | None = None
        self._stepper_phase = ""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Network and slow copy."""
        return {"network": self.network, "slow": self.slow.network}

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """The network's."""
        return {"optimizer": self.optimizer}

    @property
    def panels(self) -> Sequence[Panel]:
        """Terms of the objective, and what antibodies are like."""
        return (*PURIFIER_PANELS, DISTILLATION_PANEL) if self.config.distillation_weight else PURIFIER_PANELS

    @property
    def columns(self) -> Sequence[str]:
        """Those of the panels, and the learning rate."""
        return [*super().columns, "lr"]

    @property
    def phase(self) -> str:
        """Name of the phase that the next step is of."""
        return self._phase()[0].name

    def logged(self, values: StepValues) -> Mapping[str, float]:
        """The step's, and the learning rate of the next one."""
        return values.log() | {"lr": self._lr()}

    def _phase(self) -> tuple[Phase, int]:
        """The phase that this step is of, and its number there; after the end, the last one's."""
        left = self.step
        for phase in self.phases:
            if left < phase.steps:
                return phase, left
            left -= phase.steps
        return self.phases[-1], self.phases[-1].steps

    def train_step(self) -> StepValues:
        """One step of all networks that the phase trains, and of the slow copy."""
        phase, _ = self._phase()
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
        done = self.step / max(1, self.steps)
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

    def _claim_for(
        self, recognizers: Sequence[Recognizer], resume: bool, origin: Origin | None, teacher: Origin | None
    ) -> None:
        """Write, or compare with, what this folder is a run of."""
        digest = self.faces.sha256
        identity = {
            "config": self.config.to_dict(),
            "faces": {"count": len(self.faces), "sha256": digest},
            "recognizers": [{"name": r.name, "sha256": r.sha256} for r in recognizers],
            "started_from": None if origin is None else origin.provenance,
            "teacher": None if teacher is None else teacher.provenance,
        }
        self.claim(identity, resume)
        if not self.workers.first:
            return
        # A few faces travel with the run, so that an export can be checked on real ones without the data set.
        sample = self.faces.pixels[:: max(1, len(self.faces) // _SAMPLE)][:_SAMPLE].contiguous()
        with written_whole(self.folder / "sample.safetensors") as partial:
            save_file({"pixels": sample}, partial)

    def _take_over(self, origin: Origin) -> None:
        """Weights of another run or of a bundle, where name and shape agree.

        An antibody of another analyzer, for as many eigenfaces, begins as what that one draws on average: most
        eigenfaces are always on or always off, and a restorer knows the faces that those leave.
        """
        some = from_uint8(self.faces.pixels[:: max(1, len(self.faces) // _MEASURED)][:_MEASURED])
        theirs, ours = origin.weights(some), self.network.state_dict()
        fitting = {name: value for name, value in theirs.items() if name in ours and value.shape == ours[name].shape}
        if not fitting:
            raise InputError(f"{origin.name} has no weight of this network's names and shapes to start from")
        if _BIAS in fitting and _WEIGHT not in fitting:
            mean = origin.probabilities(some).mean(0)
            fitting[_BIAS] = torch.logit(mean).clamp(-_SURE, _SURE)
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
                    f"eigenfaces {str(file)!r} are damaged ({reason_of(error)}): start anew without --resume"
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

    def plot(self) -> None:
        """Draw `curves.png` and `curves.svg` from `curves.csv`, and write `report.html`; nothing of an empty run."""
        from immunecam.training.run_report import write_run_report

        write_run_report(self.folder)


def _check_teacher(teacher: Bundle, taught: Purification, space: Eigenspace) -> None:
    """That the bits of a teacher are of these eigenfaces, in this order; their signs do not matter to a bit."""
    theirs = taught.eigenspace
    if theirs.k != space.k:
        raise InputError(
            f"the teacher {str(teacher.path)!r} has {theirs.k} eigenfaces and this network {space.k}: "
            f"train with --k {theirs.k}, or take another teacher"
        )
    alike = (theirs.basis * space.basis).sum(1).abs()
    if float(alike.min()) < _ALIKE:
        raise InputError(
            f"the teacher {str(teacher.path)!r} has other eigenfaces (the {int(alike.argmin()) + 1}th agrees to "
            f"{float(alike.min()):.2f}): let this run have the teacher's"
        )


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
