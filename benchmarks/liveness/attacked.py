"""Faces attacked, and what networks say of them; each step is kept in the work folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immunecam.benchmarks.evaluation.store import Store, digest
from immunecam.benchmarks.liveness.protocol import CHUNK, LivenessProtocol
from immunecam.benchmarks.liveness.victim import LivenessVictim
from immunecam.models.liveness_loss import LIVE, SPOOF
from immunecam.training.attacks.liveness_attacks import LIVENESS_ATTACKS, SignAttack
from immunecam.training.attacks.liveness_goal import FeatureBank, LivenessGoal
from immunecam.training.faces import from_uint8, to_uint8
from immunecam.training.liveness import LivenessSet
from immunecam.training.liveness.errors import live_scores

__all__ = ["PURIFIED_ATTACK", "AttackedFaces", "LivenessJob", "drawn"]

PURIFIED_ATTACK = "PGD-10"
"""Whose faces are purified, too: through the head live, with SFA and without."""


def drawn(faces: LivenessSet, count: int) -> LivenessSet:
    """The first `count` of each class, or as many as there are."""
    numbers = [torch.nonzero(faces.labels.live == value).flatten()[:count] for value in (LIVE, SPOOF)]
    return faces.at(torch.cat(numbers))


@dataclass(frozen=True)
class LivenessJob:
    """Faces to attack.

    Attributes
    ----------
    victim : LivenessVictim
        Who is attacked, and judges.
    head : str
        Whose loss is driven up.
    name : str
        Of the base attack.
    attack : SignAttack
        With its settings; an `SFA` where features are augmented.
    sfa : bool
        Whether it is one.
    level : float
        Budget in grey levels.
    """

    victim: LivenessVictim
    head: str
    name: str
    attack: SignAttack
    sfa: bool
    level: float

    @property
    def title(self) -> str:
        """What it is, for people."""
        over = "SFA over " if self.sfa else ""
        return f"{self.victim.name}: {over}{self.name} on {self.head}, {self.level:g}/255"


class AttackedFaces:
    """Attacks on one set of faces.

    Parameters
    ----------
    protocol : LivenessProtocol
    faces : LivenessSet
        Those to attack.
    others : LivenessSet
        Of the same kind, which the attacker has; the bank of SFA.
    store : Store
        Work folder.
    device : str
    tell : callable, optional
        Called with (what, done, total) as work goes on.
    """

    def __init__(
        self,
        protocol: LivenessProtocol,
        faces: LivenessSet,
        others: LivenessSet,
        store: Store,
        *,
        device: str = "cpu",
        tell: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.protocol, self.faces, self.store = protocol, faces, store
        self._others, self._device = drawn(others, protocol.bank), device
        self._tell = tell or (lambda what, done, total: None)
        self._bank: tuple[str, FeatureBank] | None = None
        self.sha256, self._others_sha256 = faces.sha256, self._others.sha256

    def jobs(self, victims: Sequence[LivenessVictim]) -> list[LivenessJob]:
        """Every head, attack and budget, without SFA and with it."""
        return [
            LivenessJob(victim, head, name, self.protocol.attack(name, sfa=sfa), sfa, level)
            for victim in victims
            for head in victim.network.heads
            if self.faces.labels.of(head) is not None
            for name in LIVENESS_ATTACKS
            for level in self.protocol.levels
            for sfa in (False, True)
        ]

    def clean_scores(self, victim: LivenessVictim) -> NDArray[np.float32]:
        """(N,) before any attack."""
        return live_scores(victim.network, self.faces).numpy()

    def judged(self, victim: LivenessVictim, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N,) scores of pictures (N, 3, side, side) uint8 RGB that were made of these faces."""
        return live_scores(victim.network, self._as(self.faces, torch.from_numpy(pixels))).numpy()

    def scores(self, job: LivenessJob, count: int | None = None) -> NDArray[np.float32]:
        """(N,) scores of attacked faces; of the first `count` of each class, if that is given."""
        kept = job.head == "live" and job.name == PURIFIED_ATTACK and job.level in self.protocol.purified_levels

        def compute(part: LivenessSet, key: dict[str, Any]) -> dict[str, NDArray[Any]]:
            pixels = self._attack(job, part, key)
            arrays: dict[str, NDArray[Any]] = {
                "scores": live_scores(job.victim.network, self._as(part, pixels)).numpy()
            }
            return arrays | ({"faces": pixels.numpy()} if kept and count is None else {})

        return np.concatenate([found["scores"] for found in self._parts(job, count, compute)])

    def pixels(self, job: LivenessJob) -> NDArray[np.uint8]:
        """(N, 3, side, side) attacked faces of a job whose faces are kept: `PURIFIED_ATTACK` at `purified_levels`."""

        def compute(part: LivenessSet, key: dict[str, Any]) -> dict[str, NDArray[Any]]:
            pixels = self._attack(job, part, key)
            return {"scores": live_scores(job.victim.network, self._as(part, pixels)).numpy(), "faces": pixels.numpy()}

        return np.concatenate([found["faces"] for found in self._parts(job, None, compute)])

    def _parts(
        self,
        job: LivenessJob,
        count: int | None,
        compute: Callable[[LivenessSet, dict[str, Any]], dict[str, NDArray[Any]]],
    ) -> Iterator[dict[str, NDArray[Any]]]:
        faces = self.faces if count is None else drawn(self.faces, count)
        total = -(-len(faces) // CHUNK)
        for number in range(total):
            self._tell(job.title, number, total)
            part = faces.at(torch.arange(number * CHUNK, min(len(faces), (number + 1) * CHUNK)))
            key = {**self._key(job), "chunk": number, "size": CHUNK, "count": count}
            yield self.store.get(key, lambda part=part, key=key: compute(part, key))  # type: ignore[misc]

    def _key(self, job: LivenessJob) -> dict[str, Any]:
        return {
            "kind": "attacked liveness/1",
            "faces": self.sha256,
            "bank": self._others_sha256 if job.sfa else None,
            "network": job.victim.sha256,
            "head": job.head,
            "attack": [type(job.attack).__name__, dataclasses.asdict(job.attack), job.attack.version],
            "level": job.level,
            "purified_levels": list(self.protocol.purified_levels),
            "seed": self.protocol.seed,
        }

    def _attack(self, job: LivenessJob, faces: LivenessSet, key: dict[str, Any]) -> Tensor:
        """(n, 3, side, side) uint8, by random numbers of its own, so that the order of jobs does not matter."""
        torch.manual_seed(int(digest(key)[:15], 16))
        bank = self._bank_of(job.victim) if job.sfa else None
        goal = LivenessGoal(job.victim.network, faces.labels.to(self._device), job.head, bank)
        pictures = from_uint8(faces.pixels).to(self._device)
        return to_uint8(job.attack(goal, pictures, job.level / 127.5).cpu())

    def _bank_of(self, victim: LivenessVictim) -> FeatureBank:
        if self._bank is None or self._bank[0] != victim.sha256:
            pictures = from_uint8(self._others.pixels).to(self._device)
            self._bank = victim.sha256, FeatureBank(victim.network, pictures, self._others.labels.live.to(self._device))
        return self._bank[1]

    @staticmethod
    def _as(faces: LivenessSet, pixels: Tensor) -> LivenessSet:
        return dataclasses.replace(faces, pixels=pixels)
