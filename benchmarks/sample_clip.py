"""Makes the sample clip of `make demo`: people who do not exist, two of them under attack.

``python -m immunecam.benchmarks.sample_clip --data FOLDER --recognizer R --out immunecam/data/sample.mp4``

and, for figures with one face, ``--faces 1 --size 640 480 --frames 60 --rate 30 --out
benchmarks/clips/one_face_640x480.mp4``.

The faces are drawn at random from a Gaussian over the leading eigenfaces of portraits (FOLDER/lfw/train_250.zip,
aligned with a wide margin), so each is a blend of thousands and shows nobody. An L-infinity perturbation of 8/255,
crafted by PGD against R in the recogniser's own frame, is laid over the second and third face and moves with them.
"""

from __future__ import annotations

import argparse
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.models import Eigenspace
from immunecam.runtime.faces import TEMPLATE, similarity
from immunecam.runtime.frames.sink import VideoSink
from immunecam.training.attacks import dodging, pgd
from immunecam.training.recognizer import Recognizer

__all__ = ["main"]

_SIDE = 192
# The wide template: the ArcFace points at 0.85 of their scale, with hair and chin around them.
_WIDE = (TEMPLATE - 56) * 0.85 + (_SIDE / 2, _SIDE / 2 + 8)
_SKIN = ((146, 112), (152, 108), (141, 116))  # Cr, Cb


@dataclass(frozen=True)
class _Portraits:
    space: Eigenspace

    @classmethod
    def fit(cls, data: Path, *, k: int, limit: int) -> _Portraits:
        table = np.load(data / "lfw" / "landmarks5_250.npz", allow_pickle=False)
        points = dict(zip(table["names"].tolist(), table["points"], strict=True))
        rows = []
        with zipfile.ZipFile(data / "lfw" / "train_250.zip") as archive:
            for name in sorted(n for n in archive.namelist() if n in points)[:: max(1, 9502 // limit)]:
                image = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_GRAYSCALE)
                rows.append(cv2.warpAffine(image, _wide(points[name]), (_SIDE, _SIDE), borderMode=cv2.BORDER_REPLICATE))
        faces = torch.from_numpy(np.stack(rows)).float() / 127.5 - 1
        return cls(Eigenspace.fit([faces], k))

    def draw(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """A portrait that shows nobody: (192, 192) grey."""
        # Cut at 1.5 sigma and drawn in a little, where the blends look most like people.
        z = np.clip(rng.standard_normal(self.space.k), -1.5, 1.5) * 0.8
        a = torch.from_numpy(z).float() * self.space.variance.sqrt()
        picture = self.space.reconstruct(a[None]).reshape(_SIDE, _SIDE).numpy()
        return np.clip((picture + 1) * 127.5, 0, 255).astype(np.uint8)


def _wide(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Similarity from a picture to the wide frame, by way of the 112 x 112 one."""
    m = similarity(points) * 0.85
    m[:, 2] += np.array([_SIDE / 2, _SIDE / 2 + 8]) - 0.85 * 56
    return m


def _perturbation(portrait: NDArray[np.uint8], recognizer: Recognizer) -> NDArray[np.float32]:
    """Grey levels to add to a portrait, (192, 192)."""
    to_crop = similarity(_WIDE)
    crop = cv2.warpAffine(portrait, to_crop, (112, 112))
    face = torch.from_numpy(crop[None]).float() / 127.5 - 1
    with torch.no_grad():
        own = recognizer(face)
    attacked = pgd(dodging(recognizer, own), face, 8 / 127.5, steps=20)
    noise = ((attacked - face)[0] * 127.5).numpy()
    return cv2.warpAffine(
        noise,
        cv2.invertAffineTransform(to_crop),
        (_SIDE, _SIDE),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )


def _frame(portraits: list[NDArray[np.float32]], time: float, width: int, height: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    grey = 95 + 40 * columns / width - 25 * rows / height + 6 * np.sin(columns / 37) * np.cos(rows / 29)
    canvas = np.dstack([grey, np.full_like(grey, 124), np.full_like(grey, 132)])  # Y, Cr, Cb
    y, x = np.mgrid[0:_SIDE, 0:_SIDE].astype(np.float32)
    radius = np.hypot((x - _SIDE / 2) / 66, (y - _SIDE / 2 - 4) / 88)
    oval = np.clip((1.05 - radius) / 0.12, 0, 1)
    for number, portrait in enumerate(portraits):
        phase = time * 2 * np.pi + 2.1 * number
        scale = 1.5 * (0.92, 1.1, 0.8)[number] * (1 + 0.04 * np.sin(phase))
        angle = np.deg2rad(5 * np.sin(0.7 * phase))
        across = 0.5 + 0.31 * (number - (len(portraits) - 1) / 2)
        centre = np.array([width * across + 18 * np.cos(phase), height * 0.52 + 15 * np.sin(1.3 * phase)])
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = np.column_stack([turn, centre - turn @ np.array([_SIDE / 2, _SIDE / 2])])
        cr, cb = _SKIN[number]
        layer = np.dstack([portrait, np.full_like(portrait, cr), np.full_like(portrait, cb)])
        warped = cv2.warpAffine(layer, matrix, (width, height), flags=cv2.INTER_LINEAR)
        weight = cv2.warpAffine(oval, matrix, (width, height))[..., None]
        canvas = canvas * (1 - weight) + warped * weight
    return cv2.cvtColor(np.clip(canvas, 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2BGR)


def main(arguments: list[str] | None = None) -> None:
    """Write the clip."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--recognizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--faces", type=int, choices=(1, 2, 3), default=3)
    parser.add_argument("--size", type=int, nargs=2, default=(960, 408), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--rate", type=float, default=12.0, help="frames a second")
    parser.add_argument("--seed", type=int, default=11)
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    source = _Portraits.fit(given.data, k=80, limit=3000)
    recognizer = Recognizer.load(given.recognizer)
    faces = []
    for number in range(given.faces):
        portrait = source.draw(rng)
        noise = _perturbation(portrait, recognizer) if number else 0
        faces.append((portrait + noise).astype(np.float32))
    width, height = given.size
    with VideoSink(given.out, fps=given.rate, width=width, height=height) as sink:
        for index in range(given.frames):
            sink.write(_frame(faces, index / given.frames, width, height))
    print(f"wrote {given.out}: {given.frames} frames, {given.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
