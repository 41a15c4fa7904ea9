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
from immunecam.training.liveness.faces import LivenessSet
from immunecam.training.spoof.maker import BELOW_EYES, EYES

__all__ = ["check_fits", "crop_of", "load_trained"]

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


def check_fits(run: str | Path, network: LivenessNetwork, about: dict[str, Any], faces: LivenessSet) -> None:
    """Refuse faces that a run's network cannot be judged on: of other size, cut otherwise, or with other classes.

    Raises
    ------
    InputError
    """
    trained = about["faces"]
    if network.side != faces.side:
        raise InputError(
            f"the network of {str(run)!r} takes faces of {network.side} px and the set has {faces.side}: "
            "give a set that fits"
        )
    if trained["synthetic"] != faces.synthetic:
        raise InputError(
            f"the network of {str(run)!r} was trained on {trained['origin']!r} and the set is {faces.origin!r}, whose "
            "faces are cut otherwise: give a set like the one it was trained on"
        )
    names = {
        "attributes": (about["attribute_names"], faces.attribute_names),
        "spoof_type": (about["type_names"], faces.type_names),
        "illumination": (about["illumination_names"], faces.illumination_names),
    }
    for task, (known, given) in names.items():
        if task in network.tasks and list(known) != list(given):
            raise InputError(f"the run {str(run)!r} was trained with other classes of {task} than the set has")


def crop_of(about: dict[str, Any]) -> dict[str, Any]:
    """Which square of a picture a run's network was trained on, for `runtime.liveness_record.LivenessCrop`."""
    if not about["faces"]["synthetic"]:
        return {"around": "box", "size": BOX_SIDES, "down": 0.0}
    unit = _UNIT * sum(EYES) / 2
    return {"around": "landmarks", "size": round(1 / unit, 3), "down": round((BELOW_EYES - _LOWER) / _UNIT, 3)}
