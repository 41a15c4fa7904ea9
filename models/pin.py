"""PIN, perturbation inactivation: a frozen denoising auto-encoder before an eigenface selector (T-IFS 2022)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from immunecam.models.ais import AntigenAnalyzer
from immunecam.models.restorer import Restorer

__all__ = ["ESN", "PIN", "DenoisingAutoEncoder", "pin"]


class DenoisingAutoEncoder(nn.Module):
    """Three stride-2 encoder blocks (64, 128, 256, no normalisation), three transposed ones, tanh.

    (N, 1, 112, 112) in [-1, 1] -> the same. It is applied `passes` times with the same weights (2 in the paper).
    """

    def __init__(self, passes: int = 2) -> None:
        super().__init__()
        widths = (1, 64, 128, 256)
        down = [layer for i, o in pairwise(widths) for layer in (nn.Conv2d(i, o, 4, 2, padding=1), nn.PReLU(o))]
        up: list[nn.Module] = []
        for i, o in pairwise(widths[::-1]):
            up.append(nn.ConvTranspose2d(i, o, 4, 2, padding=1))
            up.append(nn.PReLU(o) if o > 1 else nn.Tanh())
        self.passes = passes
        self.encoder = nn.Sequential(*down)
        self.decoder = nn.Sequential(*up)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.passes):
            x = self.decoder(self.encoder(x))
        return x


class ESN(nn.Module):
    """Eigenface selection: the eight-block encoder without normalisation, Linear 25088 -> 512, PReLU, 512 -> K."""

    def __init__(self, k: int = 2500, *, prior: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.encoder = AntigenAnalyzer(norm=False)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(25088, 512), nn.PReLU(512))
        self.select = nn.Linear(512, k)
        with torch.no_grad():
            self.select.bias += torch.linspace(prior[0], prior[1], k)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) logits for (N, 1, 112, 112)."""
        return self.select(self.hidden(self.encoder(x)))


class PIN(nn.Module):
    """A face in, a probability for every eigenface out; the selector looks at the denoised face.

    Reading of the public code: the auto-encoder only prepares the selector's input, and the projection is of the
    face as it came. The auto-encoder is trained first and then frozen (`freeze`).
    """

    def __init__(self, autoencoder: DenoisingAutoEncoder, esn: ESN) -> None:
        super().__init__()
        self.autoencoder, self.esn = autoencoder, esn
        self.restorer: Restorer | None = None  # an option of `build_model`

    @property
    def k(self) -> int:
        """Number of eigenfaces."""
        return self.esn.select.out_features

    def freeze(self) -> None:
        """Stop training the auto-encoder; gradients still pass through it to the face."""
        self.autoencoder.requires_grad_(False)

    def denoise(self, faces: Tensor) -> Tensor:
        """Faces (N, 112, 112) in [-1, 1], denoised."""
        return self.autoencoder(faces.unsqueeze(1)).squeeze(1)

    def logits(self, faces: Tensor) -> Tensor:
        """(N, K) logits for faces (N, 112, 112) in [-1, 1]."""
        return self.esn(self.autoencoder(faces.unsqueeze(1)))

    def forward(self, faces: Tensor) -> Tensor:
        """(N, K) probabilities for faces (N, 112, 112) in [-1, 1]."""
        return torch.sigmoid(self.logits(faces))


def pin(k: int = 2500, *, passes: int = 2, prior: tuple[float, float] = (0.0, 0.0)) -> PIN:
    """The network of the paper; `prior` as in AIS."""
    return PIN(DenoisingAutoEncoder(passes), ESN(k, prior=prior))
