"""Frequency masking: a face as the channels of a block DCT, some of them, normalised, mixed and shuffled by a key.

After PPFR-FD (Wang et al., AAAI 2022), whose text and code were not at hand, nor those of the adaptive hybrid masking
strategy that builds on it (Wang et al., arXiv 2403.10558). Known: YCbCr, upsampling by 8, block DCT, the mean dropped,
36 channels a colour kept, normalised, mixed in pairs and shuffled. Reconstructed here, and ours: what a pair becomes
(sum and difference over the square root of two, which keeps energy and can be undone), how pairs and order follow from
a key, the conversion's range, and that all of it is folded into one convolution.

All steps are affine. So a mask with a fixed order is no cipher: who has one face and its masked form can solve for it,
and mixing masked faces is masking a mixed face.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from immunecam.mask_matrix import mask_matrix
from immunecam.models.block_dct import FREQUENCIES, block_inverse, block_kernels, block_margin, block_stride
from immunecam.models.mask_spec import COLOURS, MaskSpec

__all__ = ["CONSTANT", "FrequencyMask", "channel_statistics", "luminance", "permuted", "planes_wanted"]

# JPEG's full-range conversion of ITU-R BT.601. With R, G, B in [-1, 1] all three planes are in [-1, 1].
_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.886 / 1.772),
    (0.701 / 1.402, -0.587 / 1.402, -0.114 / 1.402),
)
CONSTANT = 1e-6  # a channel whose deviation is less does not vary, as chroma of grey faces does not


def luminance(faces: Tensor) -> Tensor:
    """(N, 1, H, W) grey faces of (N, 3, H, W) RGB, or of (N, H, W), which are grey already."""
    if faces.ndim == 3:
        return faces.unsqueeze(1)
    return (faces * faces.new_tensor(_YCBCR[0]).reshape(3, 1, 1)).sum(1, keepdim=True)


def planes_wanted(faces: Tensor, colours: str) -> Tensor:
    """(N, 1 or 3, H, W): the input of a mask of these colours."""
    if faces.ndim not in (3, 4) or (faces.ndim == 4 and faces.shape[1] != 3):
        raise ValueError(f"faces to mask must be (N, H, W) grey or (N, 3, H, W) RGB, got {tuple(faces.shape)}")
    if colours == "grey":
        return luminance(faces)
    return faces.unsqueeze(1).expand(-1, 3, -1, -1) if faces.ndim == 3 else faces


def _all_kernels(positions: int, colours: str) -> Tensor:
    """(64 or 192, 1 or 3, w, w) float64: every frequency of every colour plane, from grey or from RGB."""
    kernels = block_kernels(positions // 14)
    if colours == "grey":
        return kernels
    matrix = torch.tensor(_YCBCR, dtype=torch.float64)
    return torch.einsum("ck,fij->cfkij", matrix, kernels[:, 0]).reshape(-1, 3, *kernels.shape[2:])


def _convolved(faces: Tensor, weight: Tensor, bias: Tensor | None, upsampling: int) -> Tensor:
    margin = block_margin(upsampling)
    if margin:
        faces = F.pad(faces, (margin,) * 4, mode="replicate")
    return F.conv2d(faces, weight, bias, stride=block_stride(upsampling))


@torch.no_grad()
def channel_statistics(batches: Iterable[Tensor], positions: int = 112, colours: str = "grey") -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, over faces and positions.

    Parameters
    ----------
    batches : iterable of Tensor
        Training faces in [-1, 1], (N, 112, 112) or (N, 3, 112, 112).
    positions, colours
        Of the mask.

    Returns
    -------
    mean, std : Tensor
        (64,) or (192,) float64.

    Raises
    ------
    ValueError
        If there are no faces.
    """
    kernels = _all_kernels(positions, colours)
    total, count = torch.zeros(2, len(kernels), dtype=torch.float64), 0
    for faces in batches:
        channels = _convolved(planes_wanted(faces, colours), kernels.to(faces), None, positions // 14).double()
        total = total + torch.stack([channels.sum((0, 2, 3)), channels.square().sum((0, 2, 3))]).cpu()
        count += channels[:, 0].numel()
    if not count:
        raise ValueError("a mask's statistics need faces, got none")
    mean = total[0] / count
    return mean, (total[1] / count - mean.square()).clamp_min(0).sqrt()


class FrequencyMask(nn.Module):
    """Faces to masked channels: one convolution, whose weights hold the secret.

    Parameters
    ----------
    spec : MaskSpec
        What is kept.
    mean, std : Tensor
        (64,) or (192,) of `channel_statistics`.
    pairing : sequence of int
        A permutation of the channels, two neighbours of which are mixed; of an odd number the last is left alone.
        Empty: nothing is mixed.
    order : sequence of int
        A permutation: place i of the result holds channel order[i]. Empty: as they are.

    Raises
    ------
    ValueError
        If a part does not fit the others.
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        spec: MaskSpec,
        mean: Tensor,
        std: Tensor,
        pairing: Sequence[int] = (),
        order: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.spec = spec
        everything = FREQUENCIES * COLOURS[spec.colours]
        if mean.shape != (everything,) or std.shape != (everything,):
            raise ValueError(
                f"a mask of {spec.colours} needs statistics of {everything} channels, got {tuple(mean.shape)} and "
                f"{tuple(std.shape)}"
            )
        for name, permutation in (("pairing", pairing), ("order", order)):
            if permutation and sorted(permutation) != list(range(spec.channels)):
                raise ValueError(f"a mask's {name} must be a permutation of its {spec.channels} channels")
        self.pairing, self.order = tuple(pairing), tuple(order) or tuple(range(spec.channels))
        chosen = spec.index()
        self._mean, self._std = mean.detach().cpu().double()[chosen], std.detach().cpu().double()[chosen]
        self._std[self._std < CONSTANT] = 1  # nothing is to be seen there, and its rounding must not be blown up
        kernels = _all_kernels(spec.positions, spec.colours)[chosen]
        weight = kernels / self._std.reshape(-1, 1, 1, 1)
        matrix = self.matrix()
        # Not saved with a network's weights: they would give the key's permutations away.
        self.register_buffer("weight", torch.einsum("oc,ckij->okij", matrix, weight).float(), persistent=False)
        self.register_buffer("bias", (matrix @ (-self._mean / self._std)).float(), persistent=False)

    def matrix(self) -> Tensor:
        """(C, C) float64 orthogonal: mixing in pairs, then the order."""
        return torch.from_numpy(mask_matrix(self.spec.channels, self.pairing, self.order))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """(C,) float64 mean and standard deviation of the kept channels in their own order; 1 where nothing varies."""
        return self._mean, self._std

    def forward(self, faces: Tensor, orders: Tensor | None = None) -> Tensor:
        """Masked channels.

        Parameters
        ----------
        faces : Tensor
            (N, 112, 112) grey or (N, 3, 112, 112) RGB in [-1, 1].
        orders : Tensor, optional
            (N, C) int64: a permutation for each face, such as that of an enrolment, which comes on top of the mask's.

        Returns
        -------
        Tensor
            (N, C, positions, positions), of mean 0 and variance 1 over the training faces where pairs are uncorrelated.

        Raises
        ------
        ValueError
            If the faces have another form.
        """
        channels = _convolved(planes_wanted(faces, self.spec.colours), self.weight, self.bias, self.spec.upsampling)
        return channels if orders is None else permuted(channels, orders)

    def inverse(self, channels: Tensor, orders: Tensor | None = None) -> Tensor:
        """The faces again, exact but for rounding, where nothing was dropped.

        Returns
        -------
        Tensor
            (N, 1 or 3, 112, 112): grey or RGB.

        Raises
        ------
        ValueError
            If the mask drops frequencies.
        """
        if not self.spec.whole:
            raise ValueError(
                f"a mask that keeps {len(self.spec.frequencies[0])} of {FREQUENCIES} frequencies has no inverse"
            )
        if orders is not None:
            channels = permuted(channels, orders.argsort(1))
        planes = COLOURS[self.spec.colours]
        undone = torch.einsum("co,nohw->nchw", self.matrix().T.to(channels), channels)
        undone = undone * self._std.to(channels).reshape(-1, 1, 1) + self._mean.to(channels).reshape(-1, 1, 1)
        kernels = block_inverse(self.spec.upsampling).to(channels).repeat(planes, 1, 1, 1)
        faces = F.conv_transpose2d(undone, kernels, stride=block_stride(self.spec.upsampling), groups=planes)
        if planes == 1:
            return faces
        back = torch.linalg.inv(torch.tensor(_YCBCR, dtype=torch.float64)).to(channels)
        return torch.einsum("kc,nchw->nkhw", back, faces)


def permuted(channels: Tensor, orders: Tensor) -> Tensor:
    """Channels (N, C, H, W), those of face n in the order orders[n] (N, C)."""
    index = orders.to(channels.device).reshape(*orders.shape, 1, 1).expand_as(channels)
    return channels.gather(1, index)
