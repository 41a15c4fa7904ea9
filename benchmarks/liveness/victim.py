"""A liveness network under attack, with the threshold that it decides by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.errors import UsageError
from immunecam.models.liveness import LivenessNetwork
from immunecam.training.liveness import LivenessSet
from immunecam.training.liveness.errors import equal_error_threshold, live_scores
from immunecam.training.liveness.trained import check_fits, load_trained

__all__ = ["LivenessVictim", "in_detail", "load_victims"]

_MANY = 8


@dataclass(frozen=True, eq=False)
class LivenessVictim:
    """A trained network.

    Attributes
    ----------
    name : str
        Of its run folder.
    network : LivenessNetwork
        In evaluation mode.
    about : dict
        The run's `config.json`.
    threshold : float
        Score from which a face passes: that of equal errors on the validation faces.
    sha256 : str
        Of the weights.
    """

    name: str
    network: LivenessNetwork
    about: dict[str, Any]
    threshold: float
    sha256: str

    @property
    def backbone(self) -> str:
        """Of its trunk."""
        return self.network.backbone

    @property
    def adversarial(self) -> dict[str, Any] | None:
        """How it was trained against attacks; None if it was not."""
        found: dict[str, Any] | None = self.about["config"].get("adversarial")
        return found

    @property
    def same_but_attacks(self) -> str:
        """Equal for two runs that differ in adversarial training alone."""
        config = {key: value for key, value in self.about["config"].items() if key != "adversarial"}
        return repr((sorted(config.items(), key=lambda item: item[0]), self.about["faces"]["sha256"]))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "run": self.name,
            "backbone": self.backbone,
            "tasks": list(self.network.tasks),
            "heads": list(self.network.heads),
            "adversarial": self.adversarial,
            "threshold": self.threshold,
            "trained_on": self.about["faces"]["origin"],
            "trained_on_synthetic": bool(self.about["faces"]["synthetic"]),
            "steps": self.about["config"]["steps"],
            "weights_sha256": self.sha256,
        }

    def passes(self, scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether faces of these scores pass as live."""
        found: NDArray[np.bool_] = scores >= self.threshold
        return found


def in_detail(victims: Sequence[LivenessVictim]) -> list[LivenessVictim]:
    """Of many networks those that are compared one by one: with most tasks, and not trained against attacks."""
    if len(victims) <= _MANY:
        return list(victims)
    usual = [victim for victim in victims if victim.adversarial is None] or list(victims)
    most = max(len(victim.network.tasks) for victim in usual)
    return [victim for victim in usual if len(victim.network.tasks) == most][:_MANY]


def load_victims(runs: Sequence[Path], validation: LivenessSet, device: str) -> list[LivenessVictim]:
    """The networks of run folders, each with its threshold on the validation faces.

    Raises
    ------
    InputError
        If a folder holds no run, or its network takes faces of another size or classes.
    UsageError
        If two are called the same.
    """
    victims = []
    for run in runs:
        network, about = load_trained(run)
        check_fits(run, network, about, validation)
        network = network.to(device, memory_format=torch.channels_last)
        sha256 = hashlib.sha256()
        for key, value in sorted(network.state_dict().items()):
            sha256.update(key.encode() + value.cpu().contiguous().numpy().tobytes())
        threshold = equal_error_threshold(live_scores(network, validation), validation)
        victims.append(LivenessVictim(run.resolve().name, network, about, threshold, sha256.hexdigest()))
    names_given = [victim.name for victim in victims]
    if twice := {name for name in names_given if names_given.count(name) > 1}:
        raise UsageError(
            f"two runs are called {sorted(twice)[0]!r}, and the report could not tell them apart: rename one"
        )
    return victims
