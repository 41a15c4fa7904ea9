"""Whether training in bfloat16 pays where it runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from immunecam.training.config import TrainConfig

__all__ = ["computes_bfloat16", "in_precision_of"]


def computes_bfloat16(device: str | torch.device) -> bool:
    """Whether a device has instructions for bfloat16 (AVX512-BF16, AMX, Arm BF16; cards from compute capability 8.0).

    Without them it is emulated: on an AVX2 processor a convolution of 128 channels took 40 times as long as in float32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
    return False


def in_precision_of(config: TrainConfig, device: str | torch.device, resumed: Path | None = None) -> TrainConfig:
    """A configuration that does not ask a device for a bfloat16 that it would emulate.

    Parameters
    ----------
    config : TrainConfig
    device : str or torch.device
    resumed : path, optional
        Folder of the run that is gone on with: it goes on in its own precision, wherever it was begun.
    """
    if resumed is not None:
        try:
            begun = json.loads((resumed / "config.json").read_text())["config"]["precision"]
            return config.replace(precision=begun)
        except (OSError, ValueError, KeyError, TypeError):
            pass  # a run that cannot be read is refused by who resumes it
    return config.replace(precision="fp32") if not computes_bfloat16(device) else config
