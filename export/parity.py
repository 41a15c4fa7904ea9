"""Whether an exported bundle computes what the trained network computes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.export.run_folder import TrainedNetwork
from immunecam.kernels import Subspace, uniforms
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.engines import OnnxRuntimeEngine

__all__ = ["LIMIT_FACE", "LIMIT_P", "LIMIT_RESTORED", "Parity", "check_parity", "with_rounding"]

LIMIT_P = 1e-4
# One grey level: rounding of a value that lies between two may go either way. A restorer sees the projected face after
# its rounding, so there a level more is left to it.
LIMIT_FACE = 1.0
LIMIT_RESTORED = 2.0


@dataclass(frozen=True)
class Parity:
    """Largest differences between ONNX Runtime and PyTorch.

    Attributes
    ----------
    faces : int
        How many were compared, half of them random noise.
    max_abs_p_random, max_abs_p_real : float
        In a probability.
    max_abs_face : float
        In a projected pixel before rounding to 8 bits, between PyTorch and float64, in units of the range
        0..1 (so 1/255 is one grey level).
    max_abs_restored : float
        The same of a restored pixel, both sides given the same projected face; 0 without a restorer.
    max_grey_levels : int
        In a purified pixel after rounding, restoration included.
    pixels_off : float
        Fraction of pixels that differ by a level.
    bits_flipped : int
        Antibody bits that differ because a uniform lies between the two probabilities.
    basis_rms_grey_levels : float
        What the storage format of the basis changes in a purified face (every eigenface active), root mean square.
    weights_mean_abs_p, weights_rms_grey_levels : float
        What the storage format of the weights changes in a probability and in a purified real face.
    """

    faces: int
    max_abs_p_random: float
    max_abs_p_real: float
    max_abs_face: float
    max_abs_restored: float
    max_grey_levels: int
    pixels_off: float
    bits_flipped: int
    basis_rms_grey_levels: float
    weights_mean_abs_p: float = 0.0
    weights_rms_grey_levels: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """Plain values for the manifest."""
        return asdict(self)


def check_parity(bundle: Bundle, trained: TrainedNetwork, *, seed: int = 0) -> Parity:
    """Run bundle and network on random and on real faces.

    Raises
    ------
    InputError
        If a probability differs by `LIMIT_P` or more, or a purified pixel by more than one grey level, two where
        there is a restorer.
    """
    real = trained.faces.numpy().astype(np.float32)
    rng = np.random.default_rng(seed)
    random = (rng.integers(0, 256, real.shape) / 127.5 - 1).astype(np.float32)
    engine = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu")
    p_torch = {name: _torch_p(trained, faces) for name, faces in (("random", random), ("real", real))}
    p_onnx = {name: engine.analyze(faces) for name, faces in (("random", random), ("real", real))}
    faces = np.concatenate([random, real])
    drawn = uniforms(seed, np.arange(len(faces)), 1, bundle.manifest.k)[:, 0]
    purified, p = engine.purify(faces, drawn, False)
    bits = drawn < p
    reference = _project64(faces, bits, bundle.subspace)
    wanted, restored_off = np.rint(reference * 255), 0.0
    if trained.network.restorer is not None:
        projected = (wanted / 127.5 - 1).astype(np.float32)
        with torch.no_grad():
            restored = trained.network.restorer(torch.from_numpy(faces), torch.from_numpy(projected)).numpy()
        restored_off = float(np.abs(restored - engine.restore(faces, projected)).max()) / 2
        wanted = np.rint(((restored.astype(np.float64) + 1) * 127.5).clip(0, 255))
    levels = np.abs(purified.astype(np.int16) - wanted.astype(np.int16))
    full = np.ones((len(real), bundle.manifest.k), bool)
    exact = Subspace(trained.eigenspace.mean.numpy(), trained.eigenspace.basis.numpy())
    stored = _project64(real, full, bundle.subspace) - _project64(real, full, exact)
    parity = Parity(
        faces=len(faces),
        max_abs_p_random=float(np.abs(p_torch["random"] - p_onnx["random"]).max()),
        max_abs_p_real=float(np.abs(p_torch["real"] - p_onnx["real"]).max()),
        max_abs_face=float(np.abs(_torch_project(faces, bits, bundle.subspace) - reference).max()),
        max_abs_restored=restored_off,
        max_grey_levels=int(levels.max()),
        pixels_off=float((levels > 0).mean()),
        bits_flipped=int((bits != (drawn < np.concatenate([p_torch["random"], p_torch["real"]]))).sum()),
        basis_rms_grey_levels=float(np.sqrt(np.square(stored).mean()) * 255),
    )
    worst = max(parity.max_abs_p_random, parity.max_abs_p_real)
    if not worst < LIMIT_P:
        raise InputError(f"ONNX and PyTorch differ by {worst:.2g} in a probability, allowed is {LIMIT_P:g}")
    limit = LIMIT_FACE if trained.network.restorer is None else LIMIT_RESTORED
    off = max(parity.max_abs_face, parity.max_abs_restored) * 255
    if not (parity.max_grey_levels <= limit and off < LIMIT_FACE):
        raise InputError(
            f"ONNX and PyTorch differ by {max(parity.max_grey_levels, off):.2g} grey levels in a purified face, "
            f"allowed is {limit:g}"
        )
    return parity


def with_rounding(parity: Parity, exact: Bundle, stored: Bundle, faces: NDArray[np.float32]) -> Parity:
    """The same with what rounded weights change, measured on real faces (N, 112, 112) in [-1, 1].

    Both draw by the same uniforms, so a change of p shows in the face as it would on a device.
    """
    drawn = uniforms(0, np.arange(len(faces)), 1, exact.manifest.k)[:, 0]
    (before, p), (after, q) = (
        OnnxRuntimeEngine.from_bundle(bundle, provider="cpu").purify(faces, drawn, False) for bundle in (exact, stored)
    )
    change = before.astype(np.float64) - after
    return replace(
        parity,
        weights_mean_abs_p=float(np.abs(p - q).mean()),
        weights_rms_grey_levels=float(np.sqrt(np.square(change).mean())),
    )


@torch.no_grad()
def _torch_p(trained: TrainedNetwork, faces: NDArray[np.float32]) -> NDArray[np.float32]:
    return trained.network(torch.from_numpy(faces)).numpy()


def _torch_project(faces: NDArray[np.float32], bits: NDArray[np.bool_], subspace: Subspace) -> NDArray[np.float32]:
    """PyTorch's purified faces in 0..1, in float32 as trained, over the stored basis."""
    rows, mean = torch.from_numpy(subspace.dequantized()), torch.from_numpy(subspace.mean.copy())
    flat = torch.from_numpy(faces).flatten(1)
    out = torch.addmm(mean, torch.from_numpy(bits).float() * ((flat - mean) @ rows.T), rows)
    return ((out + 1) / 2).clamp(0, 1).reshape(faces.shape).numpy()


def _project64(faces: NDArray[np.float32], bits: NDArray[np.bool_], subspace: Subspace) -> NDArray[np.float64]:
    """Purified faces in 0..1, in float64."""
    rows, mean = subspace.dequantized().astype(np.float64), subspace.mean.astype(np.float64)
    flat = faces.reshape(len(faces), -1) - mean
    out = mean + (bits * (flat @ rows.T)) @ rows
    return ((out + 1) / 2).clip(0, 1).reshape(faces.shape)
