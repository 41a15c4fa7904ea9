"""The eigenface subspace that antibodies choose from (methods: AIS, IJCV 2024; PIN, T-IFS 2022)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Eigenspace"]

# Faces are kept in memory up to this many; beyond it the covariance is accumulated block by block, so a
# data set of any size is fitted in the memory of one block and one D x D matrix (630 MB at 112 x 112).
_MAX_ROWS = 16384
# Extra directions make the randomised range finder accurate for the last wanted ones (Halko et al., 2011).
_OVERSAMPLE = 100


class Eigenspace(nn.Module):
    """Mean face and orthonormal eigenfaces, sorted by the variance that they explain.

    Parameters
    ----------
    mean : Tensor
        (D,) float32, the mean face, values in [-1, 1].
    basis : Tensor
        (K, D) float32, one eigenface a row, orthonormal.
    variance : Tensor
        (K,) float32, variance of the training faces along each row, non-increasing.

    Notes
    -----
    The published code writes the subspace as V (D x K); rows here are its columns. Purification with an
    antibody m in {0,1}^K is ``x_hat = mu + V (m * (V^T (x - mu)))``; ``V * m`` is never formed.
    """

    mean: Tensor
    basis: Tensor
    variance: Tensor

    def __init__(self, mean: Tensor, basis: Tensor, variance: Tensor) -> None:
        super().__init__()
        if basis.ndim != 2 or mean.shape != basis.shape[1:] or variance.shape != basis.shape[:1]:
            raise ValueError(
                f"an eigenspace needs mean (D,), basis (K, D) and variance (K,), got {tuple(mean.shape)}, "
                f"{tuple(basis.shape)} and {tuple(variance.shape)}"
            )
        self.register_buffer("mean", mean)
        self.register_buffer("basis", basis)
        self.register_buffer("variance", variance)

    @property
    def k(self) -> int:
        """Number of eigenfaces."""
        return self.basis.shape[0]

    def leading(self, k: int) -> Eigenspace:
        """The subspace of the first `k` eigenfaces (sharing memory with this one)."""
        if not 1 <= k <= self.k:
            raise ValueError(f"k must be from 1 to {self.k}, the number of eigenfaces here, got {k}")
        return Eigenspace(self.mean, self.basis[:k], self.variance[:k])

    def coefficients(self, faces: Tensor) -> Tensor:
        """``V^T (x - mu)``: (N, K) coefficients of faces (N, H, W) or (N, D) in [-1, 1]."""
        return (faces.flatten(1) - self.mean) @ self.basis.T

    def reconstruct(self, coefficients: Tensor) -> Tensor:
        """``mu + V a``: (N, D) faces of (N, K) coefficients."""
        return torch.addmm(self.mean, coefficients, self.basis)

    def outside(self, faces: Tensor, coefficients: Tensor) -> Tensor:
        """(N,) energy of faces outside the subspace, ``|x - mu|^2 - |V^T (x - mu)|^2``."""
        energy = (faces.flatten(1) - self.mean).square().sum(1)
        return (energy - coefficients.square().sum(1)).clamp_min(0)

    def purify(self, faces: Tensor, antibody: Tensor) -> Tensor:
        """``mu + V (m * (V^T (x - mu)))`` for antibodies (N, K): faces of the input's shape, not clipped."""
        return self.reconstruct(antibody * self.coefficients(faces)).reshape(faces.shape)

    @classmethod
    def fit(
        cls,
        faces: Iterable[Tensor],
        k: int,
        *,
        power_iterations: int = 2,
        seed: int = 0,
        max_rows: int = _MAX_ROWS,
    ) -> Eigenspace:
        """Fit by a randomised thin SVD; no D x D eigenproblem is solved.

        Parameters
        ----------
        faces : iterable of Tensor
            Batches (n, H, W) or (n, D), float, in [-1, 1]; read once.
        k : int
            Number of eigenfaces, below the number of faces and D.
        power_iterations : int
            Subspace iterations of the range finder. With 2, on 2,000 real faces, the first four fifths of the
            eigenfaces come within 1 % of their exact variance, the last few within 8 %; all together within 0.03 %.
        seed : int
            Of the random test matrix; the same faces and seed give the same subspace.
        max_rows : int
            Faces kept in memory before the covariance route is taken.

        Raises
        ------
        ValueError
            If there are not more faces than `k`, sizes differ, or a value is not finite.
        """
        rows: list[Tensor] = []
        held = total = 0
        shift = moment = first = None  # of the covariance route
        for batch in faces:
            flat = batch.detach().flatten(1).to("cpu", torch.float32)
            if rows and flat.shape[1] != rows[0].shape[1]:
                raise ValueError(f"faces of {rows[0].shape[1]} and of {flat.shape[1]} pixels in one fit")
            if not torch.isfinite(flat).all():
                raise ValueError(f"a face between number {total} and {total + len(flat)} holds NaN or infinity")
            rows.append(flat)
            held += len(flat)
            total += len(flat)
            if held > max_rows:
                block = torch.cat(rows)
                rows, held = [block[:0]], 0
                if moment is None or shift is None or first is None:
                    shift = block.mean(0)
                    moment = torch.zeros(block.shape[1], block.shape[1])
                    first = torch.zeros(block.shape[1])
                block -= shift
                moment.addmm_(block.T, block)
                first += block.sum(0)
        if not rows or not 1 <= k < min(total, rows[0].shape[1]):
            pixels = rows[0].shape[1] if rows else 0
            raise ValueError(
                f"{k} eigenfaces were asked for from {total} faces of {pixels} pixels: give more faces than "
                "eigenfaces, or ask for fewer"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if moment is None or shift is None or first is None:
                data = torch.cat(rows)
                del rows, flat
                mean = data.mean(0)
                data -= mean
                weight = 1.0 / (total - 1)
                iterations = power_iterations
            else:
                rest = torch.cat(rows)
                rest -= shift
                moment.addmm_(rest.T, rest)
                first += rest.sum(0)
                mean = shift + first / total
                data = moment.addr_(first, first, alpha=-1.0 / total)
                weight = 1.0 / (total - 1)
                iterations = max(1, power_iterations // 2)  # every product with C is two with the faces
            size = min(k + _OVERSAMPLE, *data.shape)
            _, singular, right = torch.svd_lowrank(data, q=size, niter=iterations)
        variance = singular if moment is not None else singular.square()
        return cls(mean, _orthonormal_rows(right[:, :k]), variance[:k].contiguous() * weight)


def _orthonormal_rows(columns: Tensor) -> Tensor:
    """Remove float32 rounding from nearly orthonormal (D, K) columns; rows, with a fixed sign."""
    q, r = torch.linalg.qr(columns.double())
    q = q * r.diagonal().sign()
    strongest = q.abs().argmax(0, keepdim=True)
    return (q * q.gather(0, strongest).sign()).T.float().contiguous()
