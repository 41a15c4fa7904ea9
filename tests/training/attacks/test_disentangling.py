"""What many mixes of a face tell of it."""

from __future__ import annotations

import pytest
import torch

from immunecam.training.attacks.disentangling import disentangled, mixed_with_others


def test_a_mix_of_one_is_the_face():
    x = torch.randn(3, 2, 4, 4)
    assert torch.equal(mixed_with_others(x, x, 1), x)
    assert torch.allclose(disentangled([x], 1, torch.zeros(2, 4, 4)), x)


@pytest.mark.parametrize("k", [2, 4])
def test_more_encodings_tell_more(k):
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(200, 3, 8, 8, generator=generator) + 1
    faces = torch.randn(5, 3, 8, 8, generator=generator) + 1
    error = {}
    for count in (1, 16, 256):
        encodings = (mixed_with_others(faces, others, k, generator) for _ in range(count))
        found = disentangled(encodings, k, others.mean(0))
        error[count] = float((found - faces).square().mean())
    # Of an unbiased estimate the squared error falls as the number of encodings rises.
    assert error[16] < error[1] / 8
    assert error[256] < error[16] / 8


def test_what_must_raise():
    with pytest.raises(ValueError, match="from their encodings, got none"):
        disentangled([], 2, torch.zeros(1))
