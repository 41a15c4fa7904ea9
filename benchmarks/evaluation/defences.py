"""What is put before the recogniser: nothing, the classical filters, plain projections, and bundles."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from immunecam.benchmarks.evaluation.remembered import RememberedAnalysis
from immunecam.benchmarks.evaluation.store import Store, digest
from immunecam.models import Eigenspace, Purification
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.engines import OnnxRuntimeEngine
from immunecam.runtime.purifier import Purifier
from immunecam.training.attacks import through
from immunecam.training.deployed import purification_from_bundle
from immunecam.training.faces import FaceSet, from_uint8, to_uint8

__all__ = ["BundleDefence", "Defence", "Filter", "Projection", "baselines", "fitted_eigenspace"]

_Pixels = NDArray[np.uint8]


class Defence(ABC):
    """Faces in, faces out; judged as it is deployed, attacked through its differentiable form.

    Attributes
    ----------
    name : str
        In the table.
    key : str
        Names everything that its output depends on.
    draws : bool
        Whether two calls may differ.
    provider : str
        ONNX Runtime's, of what is run by it: the last bits of its results are its own.
    """

    name: str
    key: str
    draws: bool = False
    provider: str = ""

    @abstractmethod
    def purify(self, faces: _Pixels, draw: int = 0) -> _Pixels:
        """Purified faces (N, 112, 112); `draw` numbers independent repetitions."""

    @abstractmethod
    def seen(self, faces: Tensor, gradient: str) -> Tensor:
        """The same for an attacker: float faces (N, 112, 112) in [-1, 1], with a gradient.

        `gradient` is "straight-through" (draws an antibody) or "expected"; without draws they are one.
        """

    def before(self, recognizer: Callable[[Tensor], Tensor], gradient: str) -> Callable[[Tensor], Tensor]:
        """The recogniser behind this defence, for an attacker's goal; `gradient` as for `seen`."""
        return lambda faces: recognizer(self.seen(faces, gradient))

    def milliseconds(self, faces: _Pixels, repeats: int = 20) -> float:
        """Median time for one face."""
        return _median_milliseconds(self.purify, faces, repeats)


class _Backward(torch.autograd.Function):
    """Forwards the filter, backwards the identity: BPDA (Athalye et al., ICML 2018)."""

    @staticmethod
    def forward(context: Any, faces: Tensor, purify: Callable[[_Pixels], _Pixels]) -> Tensor:
        pixels = to_uint8(faces.detach()).cpu().numpy()
        return from_uint8(torch.from_numpy(purify(pixels))).to(faces.device)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


class Filter(Defence):
    """A function of one 8-bit face; `smooth` is the same without rounding, (N, H, W) with a gradient.

    Without it the gradient is taken for the identity's.
    """

    def __init__(
        self,
        name: str,
        face: Callable[[_Pixels], _Pixels] | None,
        smooth: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.name, self.key = name, f"filter {name}" + (", differentiable" if smooth is not None else "")
        self._face, self._smooth = face, smooth

    def purify(self, faces: _Pixels, draw: int = 0) -> _Pixels:
        if self._face is None:
            return faces
        return np.stack([self._face(face) for face in faces]) if len(faces) else faces

    def seen(self, faces: Tensor, gradient: str) -> Tensor:
        if self._face is None:
            return faces
        found: Tensor = _Backward.apply(faces, self.purify)
        if self._smooth is None:
            return found
        smooth = self._smooth(faces)
        return found.detach() + (smooth - smooth.detach())


class Projection(Defence):
    """The first K eigenfaces, the same for every face; `origin` names the faces that they were fitted on."""

    def __init__(self, eigenspace: Eigenspace, origin: str) -> None:
        self.name = f"first {eigenspace.k} eigenfaces"
        self.key = f"{self.name} of {origin}"
        self._space = eigenspace

    def purify(self, faces: _Pixels, draw: int = 0) -> _Pixels:
        with torch.no_grad():
            return to_uint8(self.seen(from_uint8(torch.from_numpy(faces)), "expected")).numpy()

    def seen(self, faces: Tensor, gradient: str) -> Tensor:
        space = self._space.to(faces.device)
        return space.reconstruct(space.coefficients(faces)).reshape(faces.shape).clamp(-1, 1)


class BundleDefence(Defence):
    """A bundle in one of its mutation modes, run by the runtime.

    Parameters
    ----------
    bundle : Bundle
        Verified.
    mutation : str
        "sample", "threshold" or "expected".
    seed : int
        Of the antibodies that judge; the attacker draws its own.
    device : str
        Where the attacker computes.
    """

    def __init__(self, bundle: Bundle, mutation: str, *, seed: int = 0, device: str = "cpu") -> None:
        self.bundle, self.mutation = bundle, mutation
        self.name = f"{bundle.name} ({mutation})"
        self.draws = mutation == "sample"
        self._purifier = Purifier.load(bundle, mutation=mutation, seed=seed if self.draws else None)
        self.provider = self._purifier.provider
        self._judge = self._purifier
        if self.draws and bundle.manifest.kind != "edge" and self.provider == "cpu":
            # As many antibodies of a face as are asked for cost one look of the deep network; what runs is the same in
            # two graphs in place of one.
            engine = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu", whole=False)
            self._judge = Purifier(bundle, RememberedAnalysis(engine), mutation=mutation, seed=seed)
            self.provider = "cpu, graph by graph"
        # By the files that compute: a manifest also says what a bundle was measured at.
        files = {name: record.sha256 for name, record in bundle.manifest.files.items()}
        self.key = f"bundle {digest(files)} {mutation}"
        self._device = device
        self._purification: Purification | None = None

    def purify(self, faces: _Pixels, draw: int = 0) -> _Pixels:
        # A draw has numbers of its own, so what is judged does not depend on the order of judging.
        return self._judge.purify_batch(faces, first_image=draw << 32).purified

    def milliseconds(self, faces: _Pixels, repeats: int = 20) -> float:
        """Median time of the purifier for one face, every face analysed anew."""
        return _median_milliseconds(self._purifier.purify_batch, faces, repeats)

    def seen(self, faces: Tensor, gradient: str) -> Tensor:
        found: Tensor = self._differentiable()(faces, self._gradient(gradient))
        return found

    def before(self, recognizer: Callable[[Tensor], Tensor], gradient: str) -> Callable[[Tensor], Tensor]:
        return through(self._differentiable(), recognizer, self._gradient(gradient))

    def _differentiable(self) -> Purification:
        if self._purification is None:
            self._purification = purification_from_bundle(self.bundle, device=self._device)
        return self._purification

    def _gradient(self, gradient: str) -> str:
        if not self.draws and (self.mutation == "expected" or gradient != "expected"):
            return self.mutation
        return gradient


def _median_milliseconds(purify: Callable[[_Pixels], Any], faces: _Pixels, repeats: int) -> float:
    purify(faces[:1])
    times = []
    for number in range(repeats):
        began = time.perf_counter()
        purify(faces[number % len(faces)][None])
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def _jpeg(quality: int) -> Callable[[_Pixels], _Pixels]:
    def compress(face: _Pixels) -> _Pixels:
        _, data = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)

    return compress


def _blur(faces: Tensor) -> Tensor:
    """OpenCV's Gaussian of sigma 1.5, which for 8-bit pictures is 9 wide, mirrored at the border."""
    line = torch.from_numpy(cv2.getGaussianKernel(9, 1.5)).to(faces).flatten()
    padded = F.pad(faces.unsqueeze(1), (4, 4, 4, 4), mode="reflect")
    return F.conv2d(F.conv2d(padded, line[None, None, None]), line[None, None, :, None]).squeeze(1)


def _bit_depth(bits: int) -> Callable[[_Pixels], _Pixels]:
    steps = 2**bits - 1
    return lambda face: np.rint(np.rint(face / 255 * steps) / steps * 255).astype(np.uint8)


def _total_variation(face: _Pixels) -> _Pixels:
    result = np.zeros_like(face)
    cv2.denoise_TVL1([face], result, 1.0, 30)
    return result


def baselines(eigenspace: Eigenspace, sizes: tuple[int, ...], origin: str) -> list[Defence]:
    """No defence, the filters, and the projections on as many eigenfaces as there are sizes.

    `origin` names the faces that the eigenspace was fitted on.
    """
    return [
        Filter("none", None),
        Filter("JPEG 50", _jpeg(50)),
        Filter("bit depth 4", _bit_depth(4)),
        Filter("median 3", lambda face: np.asarray(cv2.medianBlur(face, 3), np.uint8)),
        Filter("Gaussian 1.5", lambda face: np.asarray(cv2.GaussianBlur(face, (0, 0), 1.5), np.uint8), _blur),
        Filter("total variation", _total_variation),
        *(Projection(eigenspace.leading(k), origin) for k in sizes if k <= eigenspace.k),
    ]


def fitted_eigenspace(faces: FaceSet, k: int, store: Store) -> tuple[Eigenspace, str]:
    """The first `k` eigenfaces of the training faces, kept in the store, and a name for what they were fitted on."""
    k = min(k, len(faces) - 1)
    origin = faces.sha256

    def fit() -> dict[str, NDArray[np.float32]]:
        space = Eigenspace.fit(faces.batches(500), k)
        return {name: value.numpy() for name, value in space.state_dict().items()}

    found = store.get({"kind": "eigenspace/1", "faces": origin, "k": k}, fit)
    return Eigenspace(**{name: torch.from_numpy(value) for name, value in found.items()}), origin[:16]
