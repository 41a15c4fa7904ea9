"""The eigenspace against numpy's SVD in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.models import Eigenspace


def low_rank(n: int = 300, side: int = 20, rank: int = 30, seed: int = 0) -> torch.Tensor:
    """Faces with a falling spectrum and a mean."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, rank)) * 0.9 ** np.arange(rank)
    directions = np.linalg.qr(rng.standard_normal((side * side, rank)))[0].T
    faces = 0.2 + 0.01 * rng.standard_normal((n, side * side)) + scores @ directions
    return torch.from_numpy(faces.reshape(n, side, side)).float()


def reference(faces: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    x = faces.flatten(1).double().numpy()
    _, s, v = np.linalg.svd(x - x.mean(0), full_matrices=False)
    return v[:k], s[:k] ** 2 / (len(x) - 1)


@pytest.mark.parametrize("max_rows", [16384, 64], ids=["thin", "covariance"])
def test_fit_is_the_svd(max_rows):
    faces = low_rank()
    space = Eigenspace.fit(faces.split(50), 20, max_rows=max_rows)
    basis, variance = reference(faces, 20)
    np.testing.assert_allclose(space.mean.numpy(), faces.flatten(1).mean(0).numpy(), atol=1e-5)
    np.testing.assert_allclose(space.variance.numpy(), variance, rtol=1e-3)
    # Up to sign, row by row.
    agreement = np.abs(np.sum(space.basis.numpy() * basis, axis=1))
    np.testing.assert_allclose(agreement, 1, atol=1e-3)
    assert (space.basis @ space.basis.T - torch.eye(20)).abs().max() < 1e-5
    assert (space.variance.diff() <= 0).all()
    again = Eigenspace.fit(faces.split(50), 20, max_rows=max_rows)
    assert torch.equal(space.basis, again.basis)


def test_fit_does_not_touch_the_global_generator():
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    Eigenspace.fit([low_rank(60)], 5)
    assert torch.equal(torch.rand(4), wanted)


@pytest.mark.parametrize(
    ("faces", "k", "words"),
    [
        ([low_rank(20)], 20, "more faces"),
        ([], 3, "more faces"),
        ([low_rank(20), low_rank(20, side=16)], 3, "in one fit"),
        ([torch.full((9, 4, 4), torch.nan)], 3, "NaN"),
        ([low_rank(20)], 0, "eigenfaces"),
    ],
)
def test_bad_fits(faces, k, words):
    with pytest.raises(ValueError, match=words):
        Eigenspace.fit(faces, k)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_projection_identities(seed):
    generator = torch.Generator().manual_seed(seed)
    k, side = 9, 8
    basis = torch.linalg.qr(torch.randn(side * side, k, generator=generator, dtype=torch.float64))[0].T
    mean = torch.randn(side * side, generator=generator, dtype=torch.float64)
    space = Eigenspace(mean, basis, torch.ones(k, dtype=torch.float64))
    x = torch.randn(4, side, side, generator=generator, dtype=torch.float64)
    m = torch.bernoulli(torch.full((4, k), 0.5, dtype=torch.float64), generator=generator)
    purified = space.purify(x, m)
    torch.testing.assert_close(space.purify(purified, m), purified)  # a projection
    a = space.coefficients(x)
    energy = space.outside(x, a) + ((1 - m) * a.square()).sum(1)
    torch.testing.assert_close((purified - x).flatten(1).square().sum(1), energy)
    # Never the published form, but the same result: (V * m) (V * m)^T.
    masked = basis.T[None] * m[:, None]
    flat = (x.flatten(1) - mean).unsqueeze(2)
    torch.testing.assert_close(purified.flatten(1), mean + (masked @ (masked.mT @ flat)).squeeze(2))


def test_leading():
    space = Eigenspace.fit([low_rank()], 20)
    assert torch.equal(space.leading(4).basis, space.basis[:4])
    with pytest.raises(ValueError, match="from 1 to 20"):
        space.leading(21)
    with pytest.raises(ValueError, match="mean"):
        Eigenspace(space.mean[:-1], space.basis, space.variance)


def test_fit_of_real_faces(shared_data):
    from immunecam.training.faces import FaceSet

    faces = FaceSet.load(shared_data / "lfw" / "dev_112.zip")
    space = Eigenspace.fit(faces.batches(200), 300)
    assert (space.basis @ space.basis.T - torch.eye(300)).abs().max() < 1e-5
    assert (space.variance.diff() <= 0).all()
    x = torch.cat(list(faces.batches(200)))
    a = space.coefficients(x)
    # The variance that is written down is the variance that is there.
    torch.testing.assert_close(a.var(0), space.variance, rtol=2e-2, atol=1e-4)
