"""How often a liveness network is wrong, in the words of ISO/IEC 30107-3.

APCER: share of attack presentations of one species that pass as live; BPCER: share of live ones taken for attacks;
ACER: the mean of BPCER and the worst species' APCER. On a synthetic set these are synthetic figures, and no
certification.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from immunecam.files import written_whole
from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LIVE
from immunecam.training.faces import from_uint8
from immunecam.training.liveness.faces import LivenessSet
from immunecam.training.spoof.labels import SPECIES

__all__ = [
    "ERRORS",
    "PresentationErrors",
    "equal_error_threshold",
    "has_errors",
    "live_scores",
    "presentation_errors",
    "species_of",
    "write_errors",
]

ERRORS = "errors.json"
"""Of a run folder."""

_THRESHOLD = 0.5


@dataclass(frozen=True)
class PresentationErrors:
    """Errors at one threshold.

    Attributes
    ----------
    apcer : dict
        By species of spoof, in [0, 1].
    bpcer : float
        In [0, 1].
    """

    apcer: dict[str, float]
    bpcer: float

    @property
    def acer(self) -> float:
        """Mean of BPCER and the worst APCER."""
        return (self.bpcer + max(self.apcer.values())) / 2

    def to_dict(self, *, synthetic: bool) -> dict[str, Any]:
        """Plain values for JSON, which say whether they are synthetic."""
        return {"synthetic": synthetic, "apcer": self.apcer, "bpcer": self.bpcer, "acer": self.acer}


@torch.no_grad()
def live_scores(network: LivenessNetwork, faces: LivenessSet, batch: int = 64) -> Tensor:
    """(N,) probabilities of "live"."""
    network.eval()
    device = next(network.parameters()).device
    parts = [
        network(from_uint8(faces.pixels[start : start + batch]).to(device))["live"].softmax(1)[:, LIVE].cpu()
        for start in range(0, len(faces), batch)
    ]
    return torch.cat(parts)


def presentation_errors(scores: Tensor, faces: LivenessSet, threshold: float = _THRESHOLD) -> PresentationErrors:
    """Errors if faces from this probability of "live" on pass.

    Parameters
    ----------
    scores : Tensor
        (N,) in [0, 1].
    faces : LivenessSet
        Of both classes.
    threshold : float

    Raises
    ------
    InputError
        If there are faces of one class only.
    """
    faces.check(())
    passes, live = scores >= threshold, faces.labels.live == LIVE
    species = species_of(faces)
    apcer = {
        name: float(passes[torch.from_numpy(species == name)].float().mean())
        for name in sorted(set(species.tolist()) - {"live"})
    }
    return PresentationErrors(apcer, float((~passes[live]).float().mean()))


def write_errors(run: Path, network: LivenessNetwork, faces: LivenessSet) -> PresentationErrors:
    """Measure a run's network on faces that it was not trained on, and keep that in the run folder."""
    errors = presentation_errors(live_scores(network, faces), faces)
    report = {"set": faces.origin, "set_sha256": faces.sha256, "faces": faces.counts(), "threshold": _THRESHOLD}
    with written_whole(run / ERRORS) as partial:
        partial.write_text(json.dumps(report | errors.to_dict(synthetic=faces.synthetic), indent=1))
    return errors


def has_errors(run: Path, faces: LivenessSet) -> bool:
    """Whether `write_errors` has measured the run on just these faces."""
    try:
        return bool(json.loads((run / ERRORS).read_text())["set_sha256"] == faces.sha256)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def species_of(faces: LivenessSet) -> NDArray[np.str_]:
    """(N,) "live", or the species of the spoof; "spoof" where the set names no types."""
    if faces.labels.spoof_type is None:
        return np.where(faces.labels.live.numpy() == LIVE, "live", "spoof")
    names = np.array([SPECIES.get(name, name) for name in faces.type_names])
    found: NDArray[np.str_] = np.where(
        faces.labels.live.numpy() == LIVE, "live", names[faces.labels.spoof_type.numpy()]
    )
    return found


def equal_error_threshold(scores: Tensor, faces: LivenessSet) -> float:
    """The threshold at which spoofs pass as often as live faces are stopped, from faces that nothing is reported of.

    Of thresholds that do equally well the middle one. In (0, 1), so that no score of 0 passes.

    Parameters
    ----------
    scores : Tensor
        (N,) in [0, 1].
    faces : LivenessSet
        Of both classes.

    Raises
    ------
    InputError
        If there are faces of one class only.
    """
    faces.check(())
    live = (faces.labels.live == LIVE).numpy()
    values = scores.double().numpy()
    levels = np.unique(np.concatenate([[0.0], values, [1.0]]))
    candidates = (levels[1:] + levels[:-1]) / 2
    of_live, of_spoof = np.sort(values[live]), np.sort(values[~live])
    stopped = np.searchsorted(of_live, candidates, "left") / len(of_live)
    passing = 1 - np.searchsorted(of_spoof, candidates, "left") / len(of_spoof)
    best = np.flatnonzero(np.isclose(gap := np.abs(stopped - passing), gap.min()))
    return float(candidates[best[len(best) // 2]])
