"""A folder laid out as LFW is: drawn faces of six people, three pictures each, and pairs of some folds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

__all__ = ["write_lfw"]


def write_lfw(root: Path, folds: Mapping[int, str]) -> Path:
    """People a to d in `lfw/train_112.zip` (a folder, which is read as well), e and f in `lfw/dev_112.zip`.

    Parameters
    ----------
    root : Path
        Made if missing.
    folds : Mapping
        By number the two people that a fold is of.

    Returns
    -------
    Path
        The root.
    """
    rng = np.random.default_rng(0)
    lfw = root / "lfw"
    for part, people in (("train_112.zip", "abcd"), ("dev_112.zip", "ef")):
        for person in people:
            folder = lfw / part / person
            folder.mkdir(parents=True)
            face = cv2.resize(rng.integers(0, 255, (8, 8), dtype=np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
            for number in range(3):
                noise = rng.integers(-20, 20, face.shape)
                cv2.imwrite(str(folder / f"{number}.png"), (face + noise).clip(0, 255).astype(np.uint8))
    rows = ["fold,left,right,same"]
    for fold, (one, other) in folds.items():
        for number in range(3):
            rows.append(f"{fold},{one}/{number}.png,{one}/{(number + 1) % 3}.png,1")
            rows.append(f"{fold},{one}/{number}.png,{other}/{number}.png,0")
    (lfw / "pairs.csv").write_text("\n".join(rows) + "\n")
    return root
