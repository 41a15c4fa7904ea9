"""A training run, read back as a network and its eigenspace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from immunecam.errors import InputError
from immunecam.models import AIS, PIN, Eigenspace, build_model, model_options

__all__ = ["TrainedNetwork"]


@dataclass(frozen=True)
class TrainedNetwork:
    """What a run folder holds, ready to export.

    Attributes
    ----------
    kind : str
        "ais", "pin" or "edge".
    options : dict
        Named options of the model, defaults included.
    network : AIS or PIN
        In evaluation mode.
    eigenspace : Eigenspace
        Float32.
    provenance : dict
        Configuration, data and recognisers (by name and SHA-256), step and training time reached.
    faces : Tensor
        (N, 112, 112) float32 training faces in [-1, 1] for the parity check.
    """

    kind: str
    options: dict[str, Any]
    network: AIS | PIN
    eigenspace: Eigenspace
    provenance: dict[str, Any]
    faces: Tensor

    @classmethod
    def load(cls, folder: str | Path) -> TrainedNetwork:
        """Read `config.json`, `checkpoint.safetensors`, `eigenspace.safetensors` and `sample.safetensors`.

        Raises
        ------
        InputError
            If the folder is no run, or a file in it is damaged.
        """
        folder = Path(folder)
        if not (folder / "checkpoint.safetensors").is_file():
            raise InputError(f"{str(folder)!r} holds no training run (no checkpoint.safetensors): train one first")
        try:
            identity = json.loads((folder / "config.json").read_text())
            config = identity["config"]
            kind, k, options = config["kind"], int(config["k"]), config["model_options"]
            network = build_model(kind, k, options)
            tensors = load_file(folder / "checkpoint.safetensors")
            network.load_state_dict(
                {name.removeprefix("network."): v for name, v in tensors.items() if name.startswith("network.")}
            )
            eigenspace = Eigenspace(**load_file(folder / "eigenspace.safetensors"))
            pixels = load_file(folder / "sample.safetensors")["pixels"]
            with safe_open(folder / "checkpoint.safetensors", "pt") as file:
                metadata = file.metadata() or {}
                step, seconds = int(metadata.get("step", 0)), float(metadata.get("seconds", 0))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"training run {str(folder)!r} cannot be read ({reason}): train it again") from None
        if eigenspace.k != network.k:
            raise InputError(
                f"training run {str(folder)!r} has a network of {network.k} eigenfaces and an eigenspace of "
                f"{eigenspace.k}: train it again"
            )
        return cls(
            kind,
            model_options(kind, options),
            network.eval().requires_grad_(False),
            eigenspace,
            {**identity, "steps_done": step, "seconds_done": seconds, "torch": torch.__version__},
            pixels.float() / 127.5 - 1,
        )
