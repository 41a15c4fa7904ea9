"""Restoration: gives a projected face the detail back that recognisers miss, without the attack.

An addition of this project, in neither paper. The projection stops an attack by dropping eigenfaces and blurs the face
with them; this network sees the face as it came and as it was projected, and is trained so that recognisers find the
clean face's embedding in what it returns.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from immunecam.models.layers import activation
from immunecam.models.noise_level import NoiseLevel

__all__ = ["Restorer"]


class _Block(nn.Module):
    """Two 3x3 convolutions around an activation, added to their input; the second starts at zero.

    No batch normalisation: clean and attacked faces have different statistics, and one set of moving averages serves
    neither (Xie et al., CVPR 2020). Separable convolutions are a depth-wise and a 1x1 one each (Chollet, CVPR 2017).
    """

    def __init__(self, width: int, separable: bool, act: str) -> None:
        super().__init__()

        def convolution() -> list[nn.Conv2d]:
            if not separable:
                return [nn.Conv2d(width, width, 3, padding=1)]
            return [nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1)]

        first, last = convolution(), convolution()
        self.body = nn.Sequential(*first, activation(act, width), *last)
        nn.init.zeros_(last[-1].weight)
        assert last[-1].bias is not None
        nn.init.zeros_(last[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Restorer(nn.Module):
    """A small U-Net over pixel-unshuffled faces, whose output is added to one of them.

    Parameters
    ----------
    widths : sequence of int
        Channels at 56x56, 28x28, 14x14, as many levels as there are numbers.
    depths : sequence of int
        Residual blocks a level on the way down; the way up has one a level.
    base : str
        What the output is added to: "projected" (detail is put back) or "face" (the perturbation is taken away).
    sees : str
        "both" faces, or the "projected" one only: then nothing outside the subspace gets through, of the face as of the
        perturbation, and what an attacker can do is bounded by what the active eigenfaces let pass.
    sees_noise : bool
        Tell it the face's noise level (`NoiseLevel`), as denoisers for many levels are told (FFDNet, Zhang et al., TIP
        2018): what to leave alone in a clean face is then no guess from a small neighbourhood.

    Notes
    -----
    The last convolution starts at zero, so an untrained restorer returns its base.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 96),
        depths: Sequence[int] = (1, 2, 2),
        base: str = "projected",
        sees: str = "both",
        sees_noise: bool = False,
        separable: bool = False,
        act: str = "prelu",
    ) -> None:
        super().__init__()
        if len(widths) != len(depths) or not widths:
            raise ValueError(f"a restorer needs as many depths as widths, got {list(depths)} and {list(widths)}")
        if base not in ("projected", "face"):
            raise ValueError(f"a restorer's base must be 'projected' or 'face', got {base!r}")
        if sees not in ("both", "projected") or (sees == "projected" and (base == "face" or sees_noise)):
            raise ValueError(
                "a restorer that sees the 'projected' face only has it as its base, and no noise level of the face; "
                f"got sees {sees!r}, base {base!r}, sees_noise {sees_noise}"
            )
        self.base, self.sees = base, sees
        self.noise = NoiseLevel() if sees_noise else None
        self.enter = nn.Conv2d((8 if sees == "both" else 4) + int(sees_noise), widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(*(_Block(width, separable, act) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        pairs = list(itertools.pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in pairs)
        self.grow = nn.ModuleList(
            nn.Sequential(nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2)) for fine, coarse in pairs
        )
        self.up = nn.ModuleList(_Block(fine, separable, act) for fine, _ in pairs)
        self.leave = nn.Sequential(
            activation(act, widths[0]), nn.Conv2d(widths[0], 4, 3, padding=1), nn.PixelShuffle(2)
        )
        nn.init.zeros_(self.leave[1].weight)
        nn.init.zeros_(self.leave[1].bias)

    def forward(self, faces: Tensor, projected: Tensor) -> Tensor:
        """Restored faces.

        Parameters
        ----------
        faces, projected : Tensor
            (N, 112, 112) in [-1, 1]: as they came, and after the projection.

        Returns
        -------
        Tensor
            (N, 112, 112), not clipped.
        """
        seen = [faces, projected] if self.sees == "both" else [projected]
        x = nn.functional.pixel_unshuffle(torch.stack(seen, 1), 2)
        if self.noise is not None:
            x = torch.cat([x, self.noise(faces.unsqueeze(1), (56, 56))], 1)
        x = self.enter(x)
        skips = []
        for level, blocks in enumerate(self.down):
            x = blocks(x)
            if level < len(self.shrink):
                skips.append(x)
                x = self.shrink[level](x)
        for level in reversed(range(len(self.grow))):
            x = self.up[level](skips[level] + self.grow[level](x))
        return (projected if self.base == "projected" else faces) + self.leave(x).squeeze(1)
