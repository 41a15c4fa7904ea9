"""A trained liveness network, taken from its run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from immunecam.errors import InputError
from immunecam.models.liveness import LivenessNetwork
from immunecam.training.liveness.celeba_spoof import BOX_SIDES
from immunecam.training.spoof.maker import BELOW_EYES, EYES

__all__ = ["crop_of", "load_trained"]

# What `runtime.faces.liveness_crop` measures of a face's five points is this much more than the distance between the
# eyes that the generic face was fitted with, and the middle of the eyes is this much lower; medians over LFW.
_UNIT, _LOWER = 1.028, 0.03


def load_trained(run: str | Path) -> tuple[LivenessNetwork, dict[str, Any]]:
    """The slow copy of a run, in evaluation mode, and the run's `config.json`.

    Raises
    ------
    InputError
        If the folder holds no such run.
    """
    run = Path(run)
    try:
        about = json.loads((run / "config.json").read_text())
        config = about["config"]
        network = LivenessNetwork(config["backbone"], config["tasks"], **about["classes"])
        weights = load_file(run / "checkpoint.safetensors")
        slow = {name.removeprefix("slow."): value for name, value in weights.items() if name.startswith("slow.")}
        network.load_state_dict(slow)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{str(run)!r} is no liveness run ({reason}): give a folder that `immunecam liveness train` made"
        ) from None
    return network.eval().requires_grad_(False), about


def crop_of(about: dict[str, Any]) -> dict[str, Any]:
    """Which square of a picture a run's network was trained on, for `runtime.liveness_record.LivenessCrop`."""
    if not about["faces"]["synthetic"]:
        return {"around": "box", "size": BOX_SIDES, "down": 0.0}
    unit = _UNIT * sum(EYES) / 2
    return {"around": "landmarks", "size": round(1 / unit, 3), "down": round((BELOW_EYES - _LOWER) / _UNIT, 3)}
