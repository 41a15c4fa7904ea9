"""A trained liveness network, taken from its run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from immunecam.errors import InputError
from immunecam.models.liveness import LivenessNetwork

__all__ = ["load_trained"]


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
