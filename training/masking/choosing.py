"""Which frequencies a mask keeps, learnt before the recogniser is trained: gates, a small network, and few steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from immunecam.models.block_dct import FREQUENCIES
from immunecam.models.channel_gates import ChannelGates
from immunecam.models.frequency import CONSTANT, FrequencyMask
from immunecam.models.mask_spec import COLOURS, MaskSpec
from immunecam.models.mobile_face import MobileFace
from immunecam.training.faces import FaceSet
from immunecam.training.masking.batches import draw_batch
from immunecam.training.masking.config import MaskingConfig
from immunecam.training.masking.objective import RecognitionLoss
from immunecam.training.masking.people import People
from immunecam.training.masking.starting import StartingWeights, train_mode
from immunecam.training.masking.teacher import TeacherEmbeddings
from immunecam.training.seeds import seed_of

__all__ = ["choose_frequencies"]

_WIDTH = 0.5  # of the network beside the gates, in parts of the recogniser's: it is thrown away afterwards
_RATE = 0.05  # of the gates, which have few steps to go far


def choose_frequencies(
    config: MaskingConfig,
    faces: FaceSet,
    people: People,
    teacher: TeacherEmbeddings | None,
    mean: Tensor,
    std: Tensor,
    size: int,
    *,
    start: StartingWeights | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> MaskSpec:
    """The mask's channels: those of the settings, or the ones that gates learn to keep.

    Parameters
    ----------
    config : MaskingConfig
    faces, people, teacher
        What the recogniser is to be trained on.
    mean, std : Tensor
        Of all channels, from `channel_statistics`.
    size : int
        Of an embedding.
    start : StartingWeights, optional
        The network beside the gates starts from them, too, and sees from the first step what each channel is worth.
    device : str or device
    progress : callable, optional
        Called with (done, total).

    Returns
    -------
    MaskSpec
    """
    if config.frequencies is not None:
        return MaskSpec.of(config.frequencies, config.positions, config.colours)
    device = torch.device(device)
    torch.manual_seed(seed_of(f"masking gates/{config.seed}"))
    planes = COLOURS[config.colours]
    energy = torch.where(std < CONSTANT, 0.0, std.square()).reshape(planes, FREQUENCIES)
    gates = ChannelGates(energy, config.keep).to(device)
    everything = FrequencyMask(MaskSpec.of(range(FREQUENCIES), config.positions, config.colours), mean, std).to(device)
    width = config.width if start is not None else _WIDTH * config.width
    network = MobileFace(everything.spec.channels, config.positions, size, width, unmasking=start is not None)
    if start is not None:
        start.start(network, everything.cpu(), faces)
        everything = everything.to(device)
        train_mode(network, frozen=True)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = RecognitionLoss(config, people.count, size)
    if start is not None and teacher is not None:
        objective.start(teacher.plain, people.labels)
    objective.to(device)
    optimizer = torch.optim.AdamW(
        [
            {"params": [*network.parameters(), *objective.parameters()], "lr": config.lr},
            {"params": gates.parameters(), "lr": _RATE, "weight_decay": 0.0},
        ],
        weight_decay=config.weight_decay,
    )
    alone = torch.zeros(config.batch, 1, dtype=torch.int64, device=device)
    for step in range(config.gate_steps):
        batch = draw_batch(faces, people, teacher, config.batch, config.augment, device)
        channels = gates(everything(batch.faces)).contiguous(memory_format=torch.channels_last)
        each, _ = objective(
            network(channels), batch.labels.unsqueeze(1), torch.ones_like(alone, dtype=torch.float32), batch.targets
        )
        loss = each.mean() + config.gate_penalty * gates.penalty()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if progress is not None:
            progress(step + 1, config.gate_steps)
    return MaskSpec(gates.chosen(), config.positions, config.colours)
