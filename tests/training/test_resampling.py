"""Resampling gives back the face, and takes it off its grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from immunecam.training.resampling import Resampling, zoomed


def smooth(count: int) -> torch.Tensor:
    torch.manual_seed(0)
    return F.interpolate(torch.rand(count, 1, 7, 7) * 1.6 - 0.8, size=112, mode="bicubic").clamp(-1, 1).squeeze(1)


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.8])
def test_it_gives_back_what_is_smooth(scale):
    faces = smooth(4)
    torch.manual_seed(1)
    again = Resampling(4, scale=(scale, scale))(faces)
    assert again.shape == faces.shape
    assert float((again - faces).abs()[:, 3:-3, 3:-3].mean()) < 0.01
    assert float(again.abs().max()) <= 1


def test_twins_go_the_same_way():
    faces = smooth(3)
    torch.manual_seed(2)
    place = Resampling(3)
    rows = torch.tensor([2, 0])
    assert torch.equal(place(faces[rows], rows), place(faces)[rows])
    assert not torch.allclose(place(faces[:1].expand(3, -1, -1))[0], place(faces[:1].expand(3, -1, -1))[1])


def test_a_perturbation_keeps_its_size_and_loses_its_grid():
    torch.manual_seed(3)
    signs = (torch.rand(8, 112, 112) < 0.5).float() * 0.12 - 0.06
    seen = Resampling(8, scale=(1.5, 1.5))(signs)
    assert 0.3 < float(seen.std() / signs.std()) < 0.95
    values = ((seen + 1) * 127.5).round().unique()
    assert len(values) > 8  # two before


def test_the_seed_decides():
    faces = smooth(2)
    torch.manual_seed(4)
    one = Resampling(2)(faces)
    torch.manual_seed(4)
    assert torch.equal(Resampling(2)(faces), one)


def test_zoomed_faces():
    faces = smooth(2)
    torch.testing.assert_close(zoomed(faces, torch.ones(2)), faces, atol=1e-5, rtol=0)
    # Twice as large: the middle 56 pixels fill the picture.
    middle = F.interpolate(faces[:, None, 28:84, 28:84], scale_factor=2, mode="bilinear").squeeze(1)
    torch.testing.assert_close(
        zoomed(faces, torch.tensor([2.0, 2.0]))[:, 2:-2, 2:-2], middle[:, 2:-2, 2:-2], atol=1e-4, rtol=0
    )
    again = zoomed(zoomed(faces, torch.tensor([0.8, 0.5])), torch.tensor([1.25, 2.0]))
    assert float((again - faces).abs()[:, 3:-3, 3:-3].mean()) < 0.01
