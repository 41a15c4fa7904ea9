"""What is measured of liveness networks: how many faces, budgets, attacks, and the settings of SFA."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from immunecam.training.attacks.liveness_attacks import LIVENESS_ATTACKS, SignAttack
from immunecam.training.attacks.sfa import SFA, sfa_sweep

__all__ = ["CHUNK", "FULL", "GOAL_POINTS", "MATRIX", "PLAIN_BELOW", "QUICK", "LivenessProtocol"]

CHUNK = 50
"""Faces that are attacked together, and kept together."""

GOAL_POINTS = 20.0
"""Points that SFA is to add to the success of an attack, on average."""

PLAIN_BELOW = 60.0
"""... at the smallest budget at which the attack alone succeeds less often than this, in percent."""


@dataclass(frozen=True)
class LivenessProtocol:
    """Everything that the figures depend on, apart from networks and faces.

    Attributes
    ----------
    name : str
        "full", "quick" or "matrix".
    faces : int
        To attack, of each class; as many as there are, if that is fewer.
    bank : int
        Faces of each class that the attacker has for SFA, none of them attacked.
    levels : tuple of float
        Budgets in grey levels of 255, L-infinity; whole ones, for an attacked picture has 8 bits like any other.
    sfa : SFA
        Its settings; steps, step size, momentum and start are those of the attack that it is put over.
    sweep_faces : int
        Of each class, where the settings of SFA are tried; 0 leaves that out.
    whole_sweep : bool
        Try every combination of settings; else one setting at a time is another than in `sfa`.
    purified_levels : tuple of float
        Budgets of `levels` at which faces are purified, too.
    seed : int
        Of everything random.
    """

    name: str
    faces: int
    bank: int = 100
    levels: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    sfa: SFA = field(default_factory=SFA)
    sweep_faces: int = 40
    whole_sweep: bool = True
    purified_levels: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if any(level < 1 or level != int(level) for level in self.levels):
            raise ValueError(f"the budgets are {self.levels}, but they must be whole grey levels of 1 or more")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, attacks with their settings."""
        plain = dataclasses.asdict(self)
        attacks = {name: dataclasses.asdict(attack) for name, attack in LIVENESS_ATTACKS.items()}
        return plain | {"sfa": self.sfa_settings, "attacks": attacks, "faces_attacked_together": CHUNK}

    @property
    def sfa_settings(self) -> dict[str, Any]:
        """Those of SFA that no base attack has."""
        return {name: getattr(self.sfa, name) for name in ("layer", "operator", "draws", "law", "strength")}

    def attack(self, name: str, *, sfa: bool) -> SignAttack:
        """An attack of `LIVENESS_ATTACKS`, with SFA over it or without."""
        base = LIVENESS_ATTACKS[name]
        return SFA.over(base, **self.sfa_settings) if sfa else base

    def sweep(self, name: str) -> Iterator[SFA]:
        """SFA over an attack, with other settings."""
        base, own = LIVENESS_ATTACKS[name], self.sfa_settings
        for made in sfa_sweep(base):
            settings = {key: getattr(made, key) for key in own}
            others = {key for key in own if settings[key] != own[key]}
            # A law and its strength are one setting.
            if self.whole_sweep or len(others - {"strength"}) <= 1:
                yield made


FULL = LivenessProtocol("full", faces=100)
MATRIX = LivenessProtocol(
    "matrix", faces=25, bank=60, levels=(1.0, 2.0, 4.0), sweep_faces=20, whole_sweep=False, purified_levels=(4.0,)
)
"""Few faces and many networks: what is concluded are means over these."""

QUICK = LivenessProtocol(
    "quick", faces=40, bank=60, levels=(1.0, 4.0), sweep_faces=20, whole_sweep=False, purified_levels=(4.0,)
)
