"""A folder like CelebA-Spoof's, with a few drawn faces."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

__all__ = ["celeba_spoof"]


def celeba_spoof(root: Path, *, entries: int = 44, part: str = "train", count: int = 8) -> dict[str, list[int]]:
    """Write pictures in CelebA-Spoof's folders, live faces and spoofs in turn, and give their labels."""
    rng = np.random.default_rng(0)
    labels = {}
    for number in range(count):
        live = number % 2 == 0
        name = f"Data/{part}/{100 + number // 4}/{'live' if live else 'spoof'}/{number:06d}.png"
        picture = np.full((60, 80, 3), 10, np.uint8)
        cv2.rectangle(picture, (30, 15), (49, 44), (50, 100, 200), -1)  # a face of 20 x 30 pixels, BGR
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), picture)
        box = [round(30 / 80 * 224), round(15 / 60 * 224), round(20 / 80 * 224), round(30 / 60 * 224)]
        (root / name).with_name(f"{number:06d}_BB.txt").write_text(" ".join(map(str, [*box, 0.99])) + "\n")
        attributes = rng.integers(0, 2, 40).tolist()
        environment = [] if entries == 43 else [0 if live else 1]
        labels[name] = [*attributes, 0 if live else 1 + number % 10, 0 if live else 2, *environment, 0 if live else 1]
    (root / "metas" / "intra_test").mkdir(parents=True, exist_ok=True)
    (root / "metas" / "intra_test" / f"{part}_label.json").write_text(json.dumps(labels))
    return labels
