"""A mask and a recogniser of masked faces small enough to be made in a test; it has learnt nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from immunecam.export.masking_graphs import MaskingGraphs, masking_graphs
from immunecam.mask_key import MaskKey
from immunecam.models.frequency import FrequencyMask, channel_statistics
from immunecam.models.mask_spec import MaskSpec
from immunecam.models.masked_recognizer import MaskedRecognizer
from immunecam.models.mobile_face import MobileFace
from immunecam.runtime.bundle import default_bundle
from immunecam.runtime.bundle_masking import put_masking
from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.masking_record import MaskingRecord

__all__ = ["FREQUENCIES", "GATE_KEY", "KEY", "bundle_with_masking", "small_export", "small_faces", "small_recognizer"]

GATE_KEY = GateKey(bytes(range(32)))
KEY = MaskKey(GATE_KEY.derive("masking"))
FREQUENCIES = (1, 2, 3, 8, 9, 16)


def small_faces(count: int = 6) -> np.ndarray:
    """(N, 112, 112) float32 in [-1, 1], smooth and different."""
    drawn = torch.rand(count, 1, 10, 10, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(drawn, 112, mode="bicubic")[:, 0].clamp(-1, 1).numpy()


def small_recognizer(positions: int = 14, *, unmasking: bool = True) -> MaskedRecognizer:
    """Of six frequencies."""
    torch.manual_seed(0)
    faces = torch.from_numpy(small_faces())
    mean, std = channel_statistics([faces], positions)
    count = len(FREQUENCIES)
    order = KEY.permutation(count, "pairs"), KEY.permutation(count, "order")
    mask = FrequencyMask(MaskSpec.of(FREQUENCIES, positions), mean, std, *order)
    network = MobileFace(count, positions, 16, 0.125, unmasking=unmasking)
    with torch.no_grad():  # statistics that a training would have left, without which all faces look alike
        network.train()
        for _ in range(8):
            network(mask(faces))
    return MaskedRecognizer(mask, network).eval().requires_grad_(False)


def small_export(recognizer: MaskedRecognizer) -> tuple[MaskingGraphs, MaskingRecord]:
    """Its graphs, and what a manifest says of them."""
    exported = masking_graphs(recognizer, small_faces())
    spec = recognizer.mask.spec
    record = MaskingRecord(
        {}, FREQUENCIES, spec.positions, recognizer.network.size, KEY.check_value, parity=exported.parity
    )
    return exported, record


def bundle_with_masking(folder: Path) -> Path:
    """The installed bundle with it, below `folder`."""
    path = folder / "door.immune"
    shutil.copytree(default_bundle(), path)
    exported, record = small_export(small_recognizer())
    put_masking(path, exported.graphs, record, KEY)
    return path
