"""What a run of masked training does, as plain values."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from immunecam.errors import InputError
from immunecam.models.block_dct import FREQUENCIES, POSITIONS
from immunecam.models.mask_spec import COLOURS
from immunecam.models.masking import LARGEST_SHARE, MIXED

__all__ = ["MIXINGS", "PERMUTATIONS", "MaskingConfig"]

MIXINGS = ("none", "fixed", "uniform", "adaptive")
PERMUTATIONS = ("fixed", "enrolment")


@dataclass(frozen=True)
class MaskingConfig:
    """Everything a run depends on, apart from the faces, the teacher and the key.

    Attributes
    ----------
    masked : bool
        False trains the same network on plain faces, for comparison; what concerns masks then has no effect.
    colours : str
        "grey" or "ycbcr".
    positions : int
        Blocks a side: 14, 28, 56 or 112. Of 14 all 64 frequencies say something of their own, and what is dropped is
        gone; of more, blocks overlap, so that dropping hides little (`models/block_dct.py`), and the described 112
        leave 9 that differ.
    keep : int
        Frequencies of every colour, of 1 to 63.
    frequencies : tuple of int, optional
        Those to keep, of 1 to 63; `keep` is then their number. Default: learnt by gates before the training.
    gate_steps : int
        Batches by which the gates are learnt.
    gate_penalty : float
        Weight of the energy that open gates let through.
    permutation : str
        "fixed": all faces in one order. "enrolment": every face in an order of its own, and a pair's in the same; the
        network then has to do with any order.
    mixing : str
        Of the training faces: "none", "fixed" (always `k` faces), "uniform" (2 to 6, each as likely), or "adaptive" (a
        strategy network chooses).
    k : int
        For "fixed", 2 to 6.
    mixed : float
        Share of a batch that is mixed, in (0, 1].
    largest_share : float
        Of a face in a mix, in [0.5, 1].
    arcface, distilled : float
        Weights of the two terms; one of them may be 0. ArcFace's gradient is `scale` times that of a cosine, so that
        0.02 lets both pull about alike.
    scale, margin : float
        Of ArcFace.
    size : int, optional
        Of an embedding. Default: the teacher's, or 128.
    width : float
        Of the network, in (0, 4]; 1 is MobileFaceNet's.
    started : bool
        The network starts from a recogniser of plain faces, behind an unmasking layer where faces are masked
        (`StartingWeights`), and keeps its normalisation as it is. Its order of channels is fixed.
    strategy_lr, entropy : float
        Of the strategy network: rate of Adam, and weight of the bonus for spread choices. Advantages have a deviation
        of 1, so what is learnt tends to choices in proportion to ``exp(advantage / entropy)``: with 0.01, 96 %
        of the mixes were of five or six faces after 40 steps.
    strategy_every : int
        Steps of the recogniser for one of the strategy.
    steps, batch : int
        Batches, and faces in each.
    lr, weight_decay : float
        Of AdamW; the rate rises over the first twentieth and falls as a cosine to zero.
    clip : float, optional
        Largest L2 norm of a step's gradient.
    ema_decay : float
        Of the slow copy that is evaluated.
    augment : bool
        Mirror, shift, and vary brightness and contrast.
    seed : int
        Of everything random. A step depends on (seed, step) alone, so a resumed run is the same run.
    """

    masked: bool = True
    colours: str = "grey"
    positions: int = 14
    keep: int = 36
    frequencies: tuple[int, ...] | None = None
    gate_steps: int = 200
    gate_penalty: float = 0.2
    permutation: str = "fixed"
    mixing: str = "adaptive"
    k: int = 2
    mixed: float = 1.0
    largest_share: float = LARGEST_SHARE
    arcface: float = 0.02
    distilled: float = 1.0
    scale: float = 32.0
    margin: float = 0.4
    size: int | None = None
    width: float = 1.0
    started: bool = False
    strategy_lr: float = 1e-3
    entropy: float = 0.5
    strategy_every: int = 1
    steps: int = 8000
    batch: int = 64
    lr: float = 2e-3
    weight_decay: float = 5e-4
    clip: float | None = 5.0
    ema_decay: float = 0.998
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (
            ("colours", tuple(COLOURS)),
            ("positions", POSITIONS),
            ("permutation", PERMUTATIONS),
            ("mixing", MIXINGS),
            ("k", MIXED),
        ):
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(map(str, values))}")
        if self.frequencies is not None:
            chosen = tuple(sorted(set(self.frequencies)))
            if not chosen or not 0 < chosen[0] <= chosen[-1] < FREQUENCIES or len(chosen) != len(self.frequencies):
                raise ValueError(
                    f"frequencies must be different ones of 1 to {FREQUENCIES - 1}, got {list(self.frequencies)}"
                )
            object.__setattr__(self, "frequencies", chosen)
            object.__setattr__(self, "keep", len(chosen))
        whole = {"keep": 1, "gate_steps": 1, "strategy_every": 1, "steps": 1, "batch": 2}
        for name, least in (whole if self.size is None else whole | {"size": 1}).items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
        if self.keep >= FREQUENCIES:
            raise ValueError(f"keep must be below {FREQUENCIES}, for the mean is dropped, got {self.keep}")
        if self.most_mixed > self.batch:
            raise ValueError(
                f"mixes of up to {self.most_mixed} faces cannot be made of batches of {self.batch}: raise batch, or "
                "lower k"
            )
        if not 0 < self.mixed <= 1 or not 0.5 <= self.largest_share <= 1:
            raise ValueError(
                f"mixed must be in (0, 1] and largest_share in [0.5, 1], got {self.mixed} and {self.largest_share}"
            )
        if not 0 < self.width <= 4:
            raise ValueError(f"width must be in (0, 4], got {self.width}")
        for name in ("lr", "strategy_lr", "scale", "clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and above 0, got {value}")
        for name in ("arcface", "distilled", "margin", "entropy", "gate_penalty", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and 0 or more, got {getattr(self, name)}")
        if self.started and self.permutation == "enrolment":
            raise ValueError(
                "a network that starts from another's weights knows one order of channels: use permutation fixed, or "
                "start from nothing"
            )
        if not self.arcface and not self.distilled:
            raise ValueError("arcface and distilled are both 0, so there is nothing to learn from: raise one")

    @classmethod
    def from_weights(cls) -> MaskingConfig:
        """What suits a network that starts from another's weights: a low rate, fewer steps, half of a batch unmixed."""
        return cls(started=True, lr=3e-4, batch=32, steps=6000, mixed=0.5, ema_decay=0.995)

    @property
    def most_mixed(self) -> int:
        """Faces of the largest mix that there may be."""
        return {"none": 1, "fixed": self.k}.get(self.mixing, MIXED[-1])

    @property
    def mixed_percent(self) -> float:
        """Of each batch, in [0, 100]: the other faces are masked alone."""
        return 0.0 if self.mixing == "none" else round(100 * self.mixed, 2)

    def replace(self, **changes: Any) -> MaskingConfig:
        """The same with other values."""
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MaskingConfig:
        """What `to_dict` gave, or some of it.

        Raises
        ------
        ValueError
            If a name is unknown, or a value of another kind or out of its range.
        """
        known = {field.name: field.default for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown setting {unknown[0]!r} of masked training: use some of {', '.join(known)}")
        found = dict(values)
        if isinstance(found.get("frequencies"), list):
            found["frequencies"] = tuple(found["frequencies"])
        try:
            return cls(**found)
        except TypeError as error:
            raise ValueError(f"a setting of masked training has a value of another kind ({error})") from None

    @classmethod
    def load(cls, path: str | Path) -> MaskingConfig:
        """Settings of a JSON file, such as a run's ``config.json``; what it does not name has its default.

        Raises
        ------
        InputError
            If it cannot be read or holds other settings.
        """
        try:
            found = json.loads(Path(path).read_text())
            if not isinstance(found, dict):
                raise ValueError("wanted one object of names and values")
            return cls.from_dict(found["config"] if isinstance(found.get("config"), dict) else found)
        except (OSError, ValueError) as error:
            raise InputError(f"the settings {str(path)!r} cannot be used: {error}") from None
