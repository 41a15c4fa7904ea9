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


@pytest.mark.parametrize("max_rows", [16384, 64], ids=["thin", "covariance"])
def test_purifying_with_every_eigenface_is_the_orthogonal_projection(max_rows):
    faces = low_rank()
    space = Eigenspace.fit(faces.split(70), 12, max_rows=max_rows)
    once = space.purify(faces, torch.ones(len(faces), 12))
    assert once.shape == faces.shape
    torch.testing.assert_close(space.purify(once, torch.ones(len(faces), 12)), once, atol=1e-5, rtol=0)
    # What is left over is orthogonal to every eigenface, and no antibody leaves the mean face.
    assert ((faces - once).flatten(1) @ space.basis.T).abs().max() < 1e-4
    nothing = space.purify(faces, torch.zeros(len(faces), 12))
    torch.testing.assert_close(nothing.flatten(1), space.mean.expand(len(faces), -1))


def test_both_routes_span_the_same_subspace_whatever_the_batches():
    faces = low_rank(200, rank=40)
    thin = Eigenspace.fit([faces], 15)
    for size, max_rows in ((200, 64), (33, 64), (64, 64), (65, 64), (1, 150)):
        other = Eigenspace.fit(faces.split(size), 15, max_rows=max_rows)
        torch.testing.assert_close(other.variance, thin.variance, rtol=1e-3, atol=0)
        torch.testing.assert_close(other.mean, thin.mean, atol=1e-5, rtol=0)
        # Principal angles: all cosines between two equal subspaces are 1.
        assert torch.linalg.svdvals(thin.basis @ other.basis.T).min() > 1 - 1e-4


def test_the_batching_of_the_thin_route_changes_nothing():
    faces = low_rank(120)
    whole, parts = Eigenspace.fit([faces], 10, seed=4), Eigenspace.fit(faces.split(7), 10, seed=4)
    assert torch.equal(whole.basis, parts.basis)
    assert torch.equal(whole.variance, parts.variance)


@pytest.mark.parametrize("max_rows", [16384, 8], ids=["thin", "covariance"])
def test_more_eigenfaces_than_the_faces_have_directions(max_rows):
    """Copies of one face leave directions of no variance; the basis must be orthonormal all the same."""
    torch.manual_seed(0)
    faces = torch.cat([torch.rand(1, 9, 9).expand(20, -1, -1), torch.rand(2, 9, 9)])
    space = Eigenspace.fit([faces], 8, max_rows=max_rows)
    assert (space.basis @ space.basis.T - torch.eye(8)).abs().max() < 1e-5
    assert space.variance[2:].abs().max() < 1e-4 * space.variance[0]
    torch.testing.assert_close(space.purify(faces, torch.ones(22, 8)), faces, atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_face_that_is_no_number_is_located(value):
    faces = low_rank(60)
    faces[43, 3, 3] = value
    with pytest.raises(ValueError, match="between number 40 and 50"):
        Eigenspace.fit(faces.split(10), 5)
    with pytest.raises(ValueError, match="between number 40 and 50"):
        Eigenspace.fit(faces.split(10), 5, max_rows=20)


def test_sizes_are_compared_beyond_the_memory_limit_too():
    with pytest.raises(ValueError, match="in one fit"):
        Eigenspace.fit([low_rank(40), low_rank(40), low_rank(5, side=16)], 3, max_rows=30)


def test_distance_to_the_clean_face_among_coefficients():
    """|x_hat - clean|^2 = outside(clean) + sum_k (m_k a_k - c_k)^2, for an attacked and a clean face that differ."""
    torch.manual_seed(1)
    basis = torch.linalg.qr(torch.randn(81, 7, dtype=torch.float64))[0].T
    space = Eigenspace(torch.randn(81, dtype=torch.float64), basis, torch.ones(7, dtype=torch.float64))
    clean, attacked = torch.randn(2, 5, 9, 9, dtype=torch.float64)
    m = torch.bernoulli(torch.full((5, 7), 0.5, dtype=torch.float64))
    a, c = space.coefficients(attacked), space.coefficients(clean)
    found = space.outside(clean, c) + (m * a - c).square().sum(1)
    torch.testing.assert_close((space.purify(attacked, m) - clean).flatten(1).square().sum(1), found)


def test_fit_of_2000_training_faces(shared_data):
    """Orthonormal and sorted at a real size, and the leading part is the exact one."""
    import zipfile

    import cv2

    with zipfile.ZipFile(shared_data / "lfw" / "train_112.zip") as archive:
        names = sorted(n for n in archive.namelist() if n.endswith(".jpg"))[:2000]
        pixels = [cv2.imdecode(np.frombuffer(archive.read(n), np.uint8), cv2.IMREAD_GRAYSCALE) for n in names]
    faces = torch.from_numpy(np.stack(pixels)).float() / 127.5 - 1
    assert len(faces) == 2000
    space = Eigenspace.fit(faces.split(500), 300)
    assert (space.basis @ space.basis.T - torch.eye(300)).abs().max() < 1e-5
    assert (space.variance.diff() <= 0).all()
    # The exact variances, from the 2000 x 2000 matrix of inner products in float64.
    x = faces.flatten(1).double()
    x -= x.mean(0)
    exact = torch.linalg.eigvalsh(x @ x.T / 1999).flip(0)[:300]
    found = space.variance.double()
    torch.testing.assert_close(found[:240], exact[:240], rtol=1e-2, atol=0)
    torch.testing.assert_close(found, exact, rtol=8e-2, atol=0)
    assert (1 - found.sum() / exact.sum()).abs() < 3e-4
    better = Eigenspace.fit(faces.split(500), 300, power_iterations=4).variance.double()
    assert (better - exact).abs().max() < 0.5 * (found - exact).abs().max()
