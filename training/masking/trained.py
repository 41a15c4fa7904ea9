"""A trained recogniser of masked faces, taken from its run folder by the key of its mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from immunecam.errors import InputError, UsageError
from immunecam.mask_key import MaskKey
from immunecam.models.masked_recognizer import MaskedRecognizer
from immunecam.models.mobile_face import MobileFace
from immunecam.training.loop import reason_of
from immunecam.training.masking.config import MaskingConfig
from immunecam.training.masking.mask_file import MaskFile, trained_with
from immunecam.training.masking.mixer import Mixer

__all__ = ["is_masked", "load_mixer", "load_trained"]


def load_trained(
    run: str | Path, key: MaskKey | None = None, *, mask: str | Path | None = None
) -> tuple[MaskedRecognizer, dict[str, Any]]:
    """The slow copy of a run, in evaluation mode, and the run's `config.json`.

    Parameters
    ----------
    run : path
        Folder of the run.
    key : MaskKey, optional
        Of its mask; a network that was trained on plain faces needs none.
    mask : path, optional
        Default: the run's own.

    Raises
    ------
    UsageError
        If the key is missing.
    InputError
        If the folder holds no such run, the key is another, or the mask is another set of channels than the recogniser
        was trained with.
    """
    run = Path(run)
    about, config = _about(run)
    try:
        weights = load_file(run / "checkpoint.safetensors")
        slow = {name.removeprefix("slow."): value for name, value in weights.items() if name.startswith("slow.")}
        unmasking = config.started and config.masked
        first, last = slow["enter.weight" if unmasking else "trunk.0.weight"], slow["leave.3.weight"]
        positions = config.positions if config.masked else 112
        network = MobileFace(first.shape[1], positions, len(last), config.width, unmasking=unmasking)
        network.load_state_dict(slow)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _no_run(run, error) from None
    if not config.masked:
        return _ready(MaskedRecognizer(None, network)), about
    found = MaskFile.load(run / "mask.safetensors" if mask is None else mask)
    if key is None:
        raise UsageError(f"the recogniser {str(run)!r} sees masked faces: give the key of its mask, --key-file FILE")
    made = found.mask(key, f"the mask of the recogniser {str(run)!r}")
    found.check(trained_with(run / "checkpoint.safetensors"), f"the recogniser {str(run)!r}")
    return _ready(MaskedRecognizer(made, network)), about


def load_mixer(run: str | Path) -> Mixer:
    """How a run mixed its training faces, its strategy included.

    Raises
    ------
    InputError
        If the folder holds no such run.
    """
    run = Path(run)
    _, config = _about(run)
    try:
        weights = load_file(run / "checkpoint.safetensors")
        own = {name.removeprefix("mixer."): value for name, value in weights.items() if name.startswith("mixer.")}
        first = own.get("strategy.body.1.weight")
        mixer = Mixer(config, 1 if first is None else first.shape[1])
        mixer.load_state_dict(own)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise _no_run(run, error) from None
    return mixer.eval().requires_grad_(False)


def is_masked(run: str | Path) -> bool:
    """Whether a run's recogniser sees masked faces, so that it needs a key.

    Raises
    ------
    InputError
        If the folder holds no such run.
    """
    return _about(Path(run))[1].masked


def _about(run: Path) -> tuple[dict[str, Any], MaskingConfig]:
    try:
        about = json.loads((run / "config.json").read_text())
        return about, MaskingConfig.from_dict(about["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _no_run(run, error) from None


def _no_run(run: Path, error: Exception) -> InputError:
    return InputError(
        f"{str(run)!r} is no run of masked training ({reason_of(error)}): give a folder that `immunecam masking train` "
        "made"
    )


def _ready(recognizer: MaskedRecognizer) -> MaskedRecognizer:
    recognizer.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return recognizer.eval().requires_grad_(False)
