"""What a mask lets through is recovered, and what it does not is not."""

from __future__ import annotations

import pytest
import torch

from immunecam.mask_key import MaskKey
from immunecam.models.frequency import FrequencyMask, channel_statistics
from immunecam.models.mask_spec import MaskSpec
from immunecam.training.attacks.inversion import LinearRecovery, recovery_scores


def mask_of(frequencies, positions, faces):
    mean, std = channel_statistics(faces.batches(40), positions)
    return FrequencyMask(
        MaskSpec.of(frequencies, positions), mean, std, pairing=torch.randperm(len(frequencies)).tolist()
    )


def test_all_frequencies_are_the_face(faces, recognizer):
    torch.manual_seed(0)
    mask = mask_of(range(64), 28, faces)
    attack = LinearRecovery.fitted(mask, [next(faces.batches(8))], ridge=1e-10)
    scores = recovery_scores(attack, mask, [next(faces.batches(4))], recognizer, 0.9)
    assert scores.ssim > 0.99
    assert scores.psnr_db > 33
    assert scores.verified == 1
    assert scores.faces == 4


def test_one_frequency_is_not(faces, recognizer):
    torch.manual_seed(0)
    mask = mask_of([63], 14, faces)
    scores = recovery_scores(
        LinearRecovery.fitted(mask, [next(faces.batches(8))]), mask, [next(faces.batches(4))], recognizer, 1.1
    )
    assert scores.ssim < 0.5
    assert scores.verified == 0
    assert set(scores.to_dict()) == {"ssim", "psnr_db", "cosine", "verified", "identified", "faces", "privacy"}


def test_one_known_pair_tells_all_that_a_fixed_key_does(faces):
    """As docs/masking.md says: who knows how faces are masked needs one face and its masked form."""
    key = MaskKey(bytes(range(32)))
    mean, std = channel_statistics(faces.batches(40), 14)
    mask = FrequencyMask(
        MaskSpec.of(range(1, 37), 14), mean, std, key.permutation(36, "pairs"), key.permutation(36, "")
    )
    open_channels = FrequencyMask(MaskSpec.of(range(64), 14), torch.zeros(64), torch.ones(64))  # no key, no statistics

    def blocks(channels: torch.Tensor) -> torch.Tensor:
        return channels.double().permute(0, 2, 3, 1).flatten(0, 2)

    def known(shown: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(blocks(open_channels(shown)), (0, 1), value=1.0)

    shown = torch.rand(1, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1
    solved = torch.linalg.lstsq(known(shown), blocks(mask(shown))).solution
    others = next(faces.batches(4))
    assert torch.allclose(known(others) @ solved, blocks(mask(others)), atol=1e-3)


def test_what_must_raise(recognizer):
    with pytest.raises(ValueError, match="fitted to faces, got none"):
        LinearRecovery.fitted(lambda x: x, [])
    with pytest.raises(ValueError, match="scored on faces, got none"):
        recovery_scores(lambda x: x, lambda x: x, [], recognizer, 0.5)
