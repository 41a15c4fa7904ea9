"""What a training run does, as plain values that a manifest can carry, and the presets."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from immunecam.training.attack_bank import BankConfig

__all__ = ["PRESETS", "Attack", "Phase", "TrainConfig", "preset"]

_ATTACK_GRADIENTS = ("projection", "straight-through", "expected")


@dataclass(frozen=True)
class Attack:
    """The training attacker.

    Attributes
    ----------
    steps : tuple of int
        Fewest and most gradient steps, drawn for every batch.
    epsilon : tuple of float
        Smallest and largest budget in grey levels (1/255 of the range), drawn for every face.
    through : float
        Fraction of the attacked faces that are attacked through the purifier's slow copy; the others attack the bare
        recogniser.
    gradient : str or tuple of str
        How the attacker differentiates the purifier: "projection" keeps the antibody of the unattacked face fixed (the
        paper's hard mask); "straight-through" and "expected" see the selector (see `Purification.antibody`). Of
        several one is drawn for every batch.
    impersonation : float
        Fraction of faces that want to be somebody else; the others want not to be recognised (the paper's).
    momentum : float
        Fraction of batches whose steps gather momentum (MI-FGSM).
    random_start : bool
        Start at a random point of the ball.
    """

    steps: tuple[int, int] = (1, 1)
    epsilon: tuple[float, float] = (5.1, 5.1)
    through: float = 1.0
    gradient: str | tuple[str, ...] = "projection"
    impersonation: float = 0.0
    momentum: float = 0.0
    random_start: bool = False

    def __post_init__(self) -> None:
        for name in (self.gradient,) if isinstance(self.gradient, str) else self.gradient:
            if name not in _ATTACK_GRADIENTS:
                raise ValueError(f"attack gradient must be of {', '.join(_ATTACK_GRADIENTS)}, got {name!r}")
        if not 1 <= self.steps[0] <= self.steps[1]:
            raise ValueError(f"attack steps must be two rising numbers from 1, got {self.steps}")


@dataclass(frozen=True)
class Phase:
    """A stretch of training.

    Attributes
    ----------
    name : str
        For curves and logs; "autoencoder" trains PIN's denoiser.
    steps : int
        Batches; with `epochs` above 0 it is computed from the data instead.
    epochs : float
        Passes over the data.
    adversarial : float
        Fraction of the other faces of a batch that are attacked; the rest gets Gaussian noise.
    clean : float
        Fraction of the faces of a batch that are left as they are.
    bank : float
        Fraction of a batch that comes attacked from the configuration's bank; the fractions above are of the rest.
    """

    name: str
    steps: int = 0
    epochs: float = 0.0
    adversarial: float = 0.0
    clean: float = 0.0
    bank: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on, apart from the faces and recognisers.

    Attributes
    ----------
    kind, k, model_options
        Of `models.build_model`.
    batch, clones : int
        Faces a step, antibodies a face.
    estimator : str
        Gradient of the selection: "reinforce" (the papers), or "straight-through" (deviation: the pixel and sparsity
        terms by their exact expectation, the identity term through the bits as if they were the probabilities).
    noise : str
        "gaussian" (fixed sigma) or "l2" (PIN: L2 norm relative to the batch's).
    noise_level : float
        Sigma in [-1, 1] units, or the relative norm.
    pixel_reduction : str
        "sum" or "mean" over the pixels of the squared error. The papers write MSE; by the mean, the sparsity term would
        outweigh the variance of all but the first nine eigenfaces of LFW, so theirs is taken to be the sum.
    pixel_weight, sparsity_weight, identity_weight : float
        Of squared error, number of active eigenfaces, and 1 - cos.
    clean_weight : float
        By how much more the identity term of an untouched face counts. Above 1 it keeps `target_weight` from making
        every face less like anybody, attacked or not.
    target_weight : float
        Of what an impersonation leaves: by how much the purified face is nearer than the clean one to
        whom the attacker wants to be. 1 - cos asks for the whole face back, and forgives what it leaves of an attack.
    restoration_weight : float
        Of the mean absolute error of the restored face, where the model has a restorer.
    distillation_weight : float
        Of the Kullback-Leibler divergence of the antibody from a teacher's, who looks at the same faces: the mean of
        the eigenfaces' bits, in nats (soft targets, Hinton et al. 2015, at temperature 1).
    cross_recognizer : float
        Fraction of steps whose identity term may come from another recogniser than the attacked one, which minds a
        perturbation much less: it teaches what all recognisers want, and less of the attack.
    precision : str
        "fp32", or "bf16": the trained networks (neither projection nor recognisers) in mixed precision.
    optimizer : str
        "sgd" (momentum 0.9) or "adam".
    lr : float
        Learning rate.
    schedule : str
        "constant", "cosine" (to zero), or "halve" (x0.5 every tenth of a phase, as PIN does).
    clip : float, optional
        Largest L2 norm of a step's gradient; longer ones are scaled to it. Deviation from the papers, which name none:
        of their summed squared error, norms of 1,000 to 16,000 were measured at the start. None leaves them.
    bank : BankConfig, optional
        Faces attacked before training, for the phases that ask for them.
    ema_decay : float
        Of the copy that the attacker is aimed at.
    augment : bool
        Mirror, and vary brightness and contrast.
    quantisation_aware : bool
        Convolutions and linear layers round as they will in int8 (`training.quantisation_aware`).
    resampled : float
        Fraction of steps whose faces, attacked ones with their perturbation, have been in a frame (`Resampling`).
    seed : int
        Of everything random in training. A step depends on (seed, step) alone, so a resumed run is the same run.
    """

    kind: str = "edge"
    k: int = 832
    model_options: dict[str, Any] = field(default_factory=dict)
    phases: tuple[Phase, ...] = ()
    batch: int = 16
    clones: int = 25
    estimator: str = "reinforce"
    noise: str = "gaussian"
    noise_level: float = 0.04
    pixel_reduction: str = "sum"
    pixel_weight: float = 1.0
    sparsity_weight: float = 3e-3
    identity_weight: float = 8.0
    clean_weight: float = 1.0
    target_weight: float = 0.0
    restoration_weight: float = 1.0
    distillation_weight: float = 0.0
    cross_recognizer: float = 0.0
    precision: str = "fp32"
    optimizer: str = "sgd"
    lr: float = 1e-2
    schedule: str = "constant"
    clip: float | None = 5.0
    attack: Attack = field(default_factory=Attack)
    bank: BankConfig | None = None
    ema_decay: float = 0.9
    augment: bool = False
    quantisation_aware: bool = False
    resampled: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("estimator", ("reinforce", "straight-through")),
            ("noise", ("gaussian", "l2")),
            ("pixel_reduction", ("sum", "mean")),
            ("optimizer", ("sgd", "adam")),
            ("schedule", ("constant", "cosine", "halve")),
            ("precision", ("fp32", "bf16")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"clip must be finite and above 0, or None, got {self.clip}")
        if self.model_options.get("restorer") and self.estimator == "reinforce":
            raise ValueError("a restorer is trained by the straight-through estimator only, not by reinforce")
        if self.target_weight and self.estimator == "reinforce":
            raise ValueError("target_weight is used by the straight-through estimator only, not by reinforce")
        if self.target_weight and not self.identity_weight:
            raise ValueError("target_weight needs the identity term: give an identity_weight above 0")
        if self.bank is not None and self.bank.zoom != (1.0, 1.0) and self.estimator == "reinforce":
            raise ValueError("a bank with zoom is judged at its size by the straight-through estimator only")
        if self.bank is None and any(phase.bank > 0 for phase in self.phases):
            raise ValueError("a phase draws from a bank of attacked faces, but the configuration has none")
        for name in ("k", "batch", "clones"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def needs_recognizer(self) -> bool:
        """Whether an identity term or an attacker asks for a recogniser."""
        attacked = any(phase.adversarial > 0 or phase.bank > 0 for phase in self.phases)
        return self.identity_weight > 0 or attacked

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)


# "paper": the authors' choices as far as their code tells them, without the defects listed in the models.
# "fast": a few thousand steps on two cores; every difference is visible as a value here and in the manifest.
PRESETS: dict[tuple[str, str], TrainConfig] = {
    ("ais", "paper"): TrainConfig(
        kind="ais",
        k=1500,
        phases=(Phase("warm-up", epochs=1), Phase("adversarial", epochs=5, adversarial=1.0)),
        batch=4,
        attack=Attack(),
    ),
    ("pin", "paper"): TrainConfig(
        kind="pin",
        k=2500,
        phases=(Phase("autoencoder", epochs=20), Phase("selection", epochs=200)),
        batch=20,
        clones=30,
        noise="l2",
        sparsity_weight=0.015,
        identity_weight=0.0,
        schedule="halve",
    ),
    ("edge", "paper"): TrainConfig(
        kind="edge",
        phases=(Phase("warm-up", epochs=1), Phase("adversarial", epochs=5, adversarial=1.0)),
        batch=16,
    ),
}
_FAST_ATTACK = Attack(
    steps=(1, 3), epsilon=(2.0, 10.0), through=0.25, gradient="expected", impersonation=0.5, random_start=True
)
for _kind, _k, _batch in (("ais", 1500, 8), ("edge", 832, 16)):
    PRESETS[_kind, "fast"] = TrainConfig(
        kind=_kind,
        k=_k,
        model_options={"prior": (4.0, 0.0)},
        phases=(
            Phase("warm-up", steps=200),
            Phase("adversarial", steps=2400, adversarial=1.0, clean=0.2),
        ),
        batch=_batch,
        clones=1,
        estimator="straight-through",
        pixel_weight=0.002,
        sparsity_weight=2e-3,
        identity_weight=8.0,
        optimizer="adam",
        lr=1e-3,
        schedule="cosine",
        attack=_FAST_ATTACK,
        augment=True,
    )
PRESETS["pin", "fast"] = PRESETS["pin", "paper"].replace(
    k=1500,
    model_options={"prior": (4.0, 0.0)},
    phases=(Phase("autoencoder", steps=300), Phase("selection", steps=1000)),
    batch=8,
    estimator="straight-through",
    optimizer="adam",
    lr=5e-5,  # at 3e-4 all probabilities are 0 or 1 after 20 steps; here it takes hundreds, and they are as alike
    schedule="cosine",
)
# "full": restoration, against a bank of strong attackers who do not know the defence, most of whose faces have been in
# a camera's frame since, and for int8. The shipped bundles are the ends of chains of such runs (docs/training.md says
# which, and in what they differed), this is one from scratch: some two hours on two cores, a sixth of it for the bank.
for _kind, _k in (("ais", 1000), ("edge", 512)):
    PRESETS[_kind, "full"] = PRESETS[_kind, "fast"].replace(
        k=_k,
        model_options={
            "prior": (4.0, 1.0),
            "act": "relu",
            "restorer": {"widths": [48, 64], "depths": [2, 2], "base": "face", "sees_noise": True, "act": "relu"},
        }
        | ({"pooled": True} if _kind == "ais" else {}),
        phases=(Phase("restore", steps=6000, clean=1.0, bank=0.75),),
        batch=16,
        lr=2e-3,
        sparsity_weight=5e-4,
        restoration_weight=1.5,
        clean_weight=8.0,
        target_weight=12.0,
        cross_recognizer=0.1,
        precision="bf16",
        bank=BankConfig(
            attacks=(
                "PGD-10",
                "PGD-10",
                "MI-FGSM-10",
                "APGD-10",
                "FGSM",
                "DI-FGSM-10",
                "TI-FGSM-10",
                "TI-FGSM-10",
                "L2-PGD-10",
            ),
            epsilon=(3.0, 10.0),
            zoom=(0.7, 1.5),
        ),
        ema_decay=0.995,
        quantisation_aware=True,
        resampled=0.7,
    )
# "robust": against attackers who know the defence, at a price in clean faces. The networks of "full", best started from
# them: more than half of the faces are attacked through the whole purifier, beside those of the bank and clean ones.
# Seen by hand, in no committed report: attacks of one or two steps taught it to hide its gradient instead; they failed
# soon, and ten steps got through.
PRESETS["edge", "robust"] = PRESETS["edge", "full"].replace(
    phases=(Phase("robust", steps=4000, adversarial=1.0, clean=0.2, bank=0.25),),
    lr=1e-3,
    clean_weight=2.0,
    cross_recognizer=0.0,
    quantisation_aware=False,
    resampled=0.3,
    ema_decay=0.98,  # an attacker of a copy that lags far behind is no attacker of the network
    attack=Attack(
        steps=(3, 6),
        epsilon=(1.0, 6.0),
        through=1.0,
        gradient=("projection", "expected", "straight-through"),
        impersonation=0.5,
        random_start=True,
    ),
)


def preset(kind: str, name: str) -> TrainConfig:
    """The named preset of a model kind.

    Raises
    ------
    ValueError
        If there is none.
    """
    if (kind, name) not in PRESETS:
        known = ", ".join(f"{k} {n}" for k, n in PRESETS)
        raise ValueError(f"no preset {name!r} for {kind!r}: use one of {known}")
    return PRESETS[kind, name]
