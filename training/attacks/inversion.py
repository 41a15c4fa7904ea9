"""Attacks that try to see the face in masked channels, and what they saw.

The attacker knows pairs of faces and masked faces of other people, which whoever owns a device can make.
`LinearRecovery` solves for the face in closed form: a mask is affine, so this is the least that any attacker can do. A
U-Net (`training.attacks.recovery_trainer`) knows besides what faces look like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from immunecam.models.frequency import luminance
from immunecam.models.similarity import psnr, ssim
from immunecam.models.unmasking import REACH
from immunecam.training.faces import from_uint8, to_uint8
from immunecam.training.recognizer import Recognizer

__all__ = ["LinearRecovery", "RecoveryScores", "picture_scores", "recovery_scores"]

_SIDE = 112
_JUDGED = 32
_AT_ONCE = 8  # faces, for the neighbourhoods of one take megabytes


class LinearRecovery(nn.Module):
    """Every pixel as an affine function of the channels around it, found by ridge regression.

    Parameters
    ----------
    weight : Tensor
        (planes * s * s, C, 3, 3) for s pixels a position.
    bias : Tensor
        (planes * s * s,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, larger: int) -> None:
        super().__init__()
        self.larger = larger
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, channels: Tensor) -> Tensor:
        """(N, planes, 112, 112), clipped to [-1, 1]."""
        padded = F.pad(channels, (REACH // 2,) * 4, mode="replicate")
        return F.pixel_shuffle(F.conv2d(padded, self.weight, self.bias), self.larger).clamp(-1, 1)

    @classmethod
    @torch.no_grad()
    def fitted(
        cls, mask: Callable[[Tensor], Tensor], batches: Iterable[Tensor], *, ridge: float = 1e-6
    ) -> LinearRecovery:
        """The best one for an attacker's faces.

        Parameters
        ----------
        mask : callable
            Faces to masked channels (N, C, P, P).
        batches : iterable of Tensor
            Faces (N, 112, 112) or (N, 3, 112, 112) in [-1, 1].
        ridge : float
            Added to the diagonal of the normal equations, in parts of its mean.

        Raises
        ------
        ValueError
            If there are no faces.
        """
        normal, right, shape = None, None, None
        for batch in batches:
            for faces in batch.split(_AT_ONCE):
                channels = mask(faces)
                shape = channels.shape[1], _SIDE // channels.shape[2]
                padded = F.pad(channels, (REACH // 2,) * 4, mode="replicate")
                seen = F.unfold(padded, REACH).transpose(1, 2).reshape(-1, channels.shape[1] * REACH**2)
                seen = torch.cat([seen, seen.new_ones(len(seen), 1)], 1)
                planes = faces if faces.ndim == 4 else faces.unsqueeze(1)
                wanted = F.pixel_unshuffle(planes, shape[1]).permute(0, 2, 3, 1).flatten(0, 2)
                one, other = (seen.T @ seen).double(), (seen.T @ wanted).double()
                normal, right = (one, other) if normal is None or right is None else (normal + one, right + other)
        if normal is None or right is None or shape is None:
            raise ValueError("a recovery is fitted to faces, got none")
        normal = normal + ridge * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
        solved = torch.linalg.solve(normal, right).float()  # (C * 9 + 1, planes * s * s)
        weight = solved[:-1].T.reshape(-1, shape[0], REACH, REACH).contiguous()
        return cls(weight, solved[-1].contiguous(), shape[1])


@dataclass(frozen=True)
class RecoveryScores:
    """What an attacker saw, as means over faces. Less is more private.

    Attributes
    ----------
    ssim : float
        In [-1, 1], of luminance.
    psnr_db : float
        Of luminance.
    cosine : float
        Between original and recovered face, by a recogniser that knows of no mask.
    verified : float
        Share of recovered faces that this recogniser takes for the original's person, in [0, 1].
    identified : float
        Share whose nearest original, among all that are judged, is their own, in [0, 1].
    faces : int
        Over how many.
    """

    ssim: float
    psnr_db: float
    cosine: float
    verified: float
    identified: float
    faces: int

    @property
    def privacy(self) -> float:
        """``0.4 (1 - SSIM) + 0.6 (1 - verified)``, in [0, 1]; 1 is nothing to be seen.

        The weights of visual and attack term are those of the adaptive hybrid masking strategy (Wang et al., arXiv
        2403.10558), whose text was not at hand; which scores the terms are of is this project's choice.
        """
        return 0.4 * (1 - min(1.0, max(0.0, self.ssim))) + 0.6 * (1 - self.verified)

    def to_dict(self) -> dict[str, float]:
        """Plain values for JSON."""
        return asdict(self) | {"privacy": self.privacy}


@torch.no_grad()
def recovery_scores(
    recover: Callable[[Tensor], Tensor],
    mask: Callable[[Tensor], Tensor],
    batches: Iterable[Tensor],
    judge: Recognizer,
    threshold: float,
) -> RecoveryScores:
    """Scores on faces of people that the attacker did not have.

    Parameters
    ----------
    recover : callable
        Masked channels to faces (N, 1 or 3, 112, 112) in [-1, 1].
    mask : callable
        Faces to masked channels.
    batches : iterable of Tensor
        Faces (N, 112, 112) or (N, 3, 112, 112) in [-1, 1].
    judge : Recognizer
        An independent one; sees luminance, rounded to 8 bits as a picture is.
    threshold : float
        Cosine from which the judge accepts.

    Raises
    ------
    ValueError
        If there are no faces.
    """
    found, originals = [], []
    for faces in batches:
        found.append(recover(mask(faces)))
        originals.append(faces)
    if not found:
        raise ValueError("a recovery is scored on faces, got none")
    return picture_scores(torch.cat(found), torch.cat(originals), judge, threshold)


@torch.no_grad()
def picture_scores(found: Tensor, faces: Tensor, judge: Recognizer, threshold: float) -> RecoveryScores:
    """The same of pictures that were recovered in any way.

    Parameters
    ----------
    found : Tensor
        (N, 1 or 3, 112, 112) in [-1, 1].
    faces : Tensor
        (N, 112, 112) or (N, 3, 112, 112), one of each person.
    judge, threshold
        As of `recovery_scores`.
    """
    parts: list[Tensor] = []
    embeddings: list[Tensor] = []
    for recovered, original in zip(found.split(_JUDGED), faces.split(_JUDGED), strict=True):
        seen = from_uint8(to_uint8(luminance(recovered) if recovered.shape[1] == 3 else recovered))
        wanted = luminance(original)
        both = torch.stack([judge(seen[:, 0]), judge(wanted[:, 0])])
        cosine = both.prod(0).sum(1)
        parts.append(torch.stack([ssim(seen, wanted), psnr(seen, wanted), cosine, (cosine >= threshold).float()]))
        embeddings.append(both)
    seen, wanted = torch.cat(embeddings, 1)
    nearest = (seen @ wanted.T).argmax(1) == torch.arange(len(seen), device=seen.device)
    means = torch.cat(parts, 1).double().mean(1).tolist()
    return RecoveryScores(*means, identified=float(nearest.double().mean()), faces=len(seen))
