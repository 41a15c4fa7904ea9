"""Live and spoofed faces as commands are given them: a set of ``liveness make``, or the folder of CelebA-Spoof."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from immunecam.errors import InputError

if TYPE_CHECKING:
    from immunecam.training.liveness import LivenessSet

__all__ = ["CelebaLimit", "CelebaMaps", "read_liveness_set"]

CelebaLimit = Annotated[int, typer.Option(min=2, help="Faces of CelebA-Spoof to draw, balanced.")]
CelebaMaps = Annotated[
    Optional[Path],  # noqa: UP045 (typer on Python 3.10)
    typer.Option(help="Folder of depth and reflection maps for CelebA-Spoof, NAME_depth.png, NAME_reflection.png."),
]


def read_liveness_set(
    path: Path, part: str, *, side: int, limit: int, seed: int = 0, maps: Path | None = None
) -> LivenessSet:
    """The set of a file; of a folder that part of CelebA-Spoof, to which the other parameters apply.

    Raises
    ------
    InputError
        If it does not exist, or cannot be read.
    """
    from immunecam.training.liveness import LivenessSet, load_celeba_spoof

    if path.is_dir():
        return load_celeba_spoof(path, part, side=side, limit=limit, seed=seed, maps=maps)
    if not path.exists():
        raise InputError(f"the set {str(path)!r} does not exist: make one by `immunecam liveness make`")
    return LivenessSet.load(path)
