"""Trains the five-point landmark model of the default face finder.

``python -m immunecam.training.landmarks --data FOLDER --out runtime/assets`` where FOLDER holds `train_250.zip`,
`dev_250.zip` (Name/Name_0001.jpg, grey, not aligned) and `landmarks5_250.npz` (names, points (N, 5, 2)).

The model sees what the cascade hands it: an upright square around a head, off by a fifth, of a face from 16 pixels up,
or no face at all. It gives five points and a logit that says which.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["LandmarkNet", "main", "train"]

_SIDE = 48  # as in runtime.faces.crop, which training may not import
_MIRROR = [1, 0, 2, 4, 3]


class LandmarkNet(nn.Module):
    """(N, 48, 48) grey in [-1, 1] -> points (N, 5, 2) in crop units and logit (N,) that it is a face; 4.6 MMAC."""

    def __init__(self) -> None:
        super().__init__()

        def block(i: int, o: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

        self.trunk = nn.Sequential(
            *block(1, 16, 2), *block(16, 32, 2), *block(32, 32, 1), *block(32, 64, 2), *block(64, 64, 1),
            nn.Flatten(), nn.Linear(64 * 36, 64), nn.ReLU(),
        )  # fmt: skip
        self.points = nn.Linear(64, 10)
        self.face = nn.Linear(64, 1)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.trunk(crops.unsqueeze(1))
        return self.points(feature).reshape(-1, 5, 2), self.face(feature).squeeze(1)


@dataclass(frozen=True)
class _Pictures:
    images: NDArray[np.uint8]
    points: NDArray[np.float32]

    @classmethod
    def load(cls, data: Path, archive: str) -> _Pictures:
        table = np.load(data / "landmarks5_250.npz", allow_pickle=False)
        known = dict(zip(table["names"].tolist(), table["points"], strict=True))
        with zipfile.ZipFile(data / archive) as file:
            names = sorted(name for name in file.namelist() if name in known)
            images = [cv2.imdecode(np.frombuffer(file.read(name), np.uint8), cv2.IMREAD_GRAYSCALE) for name in names]
        return cls(np.stack(images), np.stack([known[name] for name in names]).astype(np.float32))


def _frame_of(points: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """Centre and side of the square that frames a face, as runtime.faces.crop.box_from_landmarks."""
    p = points.astype(np.float64)
    eyes, mouth = p[:2].mean(0), p[3:].mean(0)
    length = max(float(np.hypot(*(p[1] - p[0]))), float(np.hypot(*(mouth - eyes))), 1e-3)
    return (eyes + mouth) / 2, 2.9 * length


def _cut(
    image: NDArray[np.uint8], centre: NDArray[np.float64], side: float, angle: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A rotated square at 48x48 and the (2, 3) matrix from picture to crop pixels."""
    scale, radians = _SIDE / side, np.deg2rad(angle)
    c, s = scale * np.cos(radians), scale * np.sin(radians)
    linear = np.array([[c, -s], [s, c]])
    matrix = np.column_stack([linear, np.full(2, _SIDE / 2 - 0.5) - linear @ centre])
    source = image
    if side > 2 * _SIDE:  # against aliasing
        source = cv2.GaussianBlur(image, (0, 0), 0.4 * side / _SIDE)
    crop = cv2.warpAffine(source, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return crop, matrix


def _degrade(crop: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What cameras do: few pixels, blur, light, noise."""
    if rng.random() < 0.4:
        small = int(rng.integers(12, _SIDE))
        crop = cv2.resize(cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA), (_SIDE, _SIDE))
    value = crop.astype(np.float32)
    value = (value - 128) * rng.uniform(0.5, 1.4) + 128 + rng.uniform(-50, 50)
    if rng.random() < 0.3:
        value = 255 * (np.clip(value, 0, 255) / 255) ** rng.uniform(0.5, 2.0)
    if rng.random() < 0.5:
        value += rng.normal(0, rng.uniform(1, 12), crop.shape)
    return np.clip(value, 0, 255).astype(np.uint8)


def _sample(
    pictures: _Pictures, alarms: list[tuple[int, NDArray[np.float64], float]], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32], bool]:
    if rng.random() < 0.4:
        if alarms and rng.random() < 0.4:
            number, centre, side = alarms[int(rng.integers(len(alarms)))]
            centre = centre + rng.normal(0, 0.1 * side, 2)
            side *= rng.uniform(0.8, 1.25)
        else:
            number = int(rng.integers(len(pictures.images)))
            face, extent = _frame_of(pictures.points[number])
            for _ in range(20):
                side = float(np.exp(rng.uniform(np.log(16), np.log(150))))
                centre = rng.uniform(0, 250, 2)
                # A part of a face, or a square with a small face in it, is no face either.
                if np.abs(centre - face).max() > 0.45 * max(side, extent) or not 0.4 < side / extent < 2.5:
                    break
        crop, _ = _cut(pictures.images[number], centre, side, rng.uniform(-20, 20))
        return _degrade(crop, rng), np.zeros((5, 2), np.float32), False
    number = int(rng.integers(len(pictures.images)))
    points = pictures.points[number]
    centre, side = _frame_of(points)
    side *= float(np.exp(rng.normal(0, 0.15)))
    centre = centre + rng.normal(0, 0.07, 2) * side
    crop, matrix = _cut(pictures.images[number], centre, side, rng.normal(0, 12))
    target = points @ matrix[:, :2].T + matrix[:, 2]
    target = (target + 0.5) / (_SIDE / 2) - 1
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
        target = (target * [-1, 1])[_MIRROR]
    return _degrade(np.ascontiguousarray(crop), rng), target.astype(np.float32), True


def _false_alarms(pictures: _Pictures, count: int) -> list[tuple[int, NDArray[np.float64], float]]:
    """What a loose cascade takes for a face in the training pictures although it is none."""
    cascade = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"))
    found = []
    for number in np.linspace(0, len(pictures.images) - 1, count).astype(int):
        face, extent = _frame_of(pictures.points[number])
        for x, y, w, _ in cascade.detectMultiScale(pictures.images[number], 1.1, 0, minSize=(16, 16)):
            centre, side = np.array([x + w / 2, y + 0.55 * w]), float(w)
            if np.abs(centre - face).max() > 0.5 * max(side, extent) or not 0.35 < side / extent < 2.8:
                found.append((int(number), centre, side))
    return found


def train(
    data: Path, *, steps: int = 3000, batch: int = 128, seed: int = 0, log: bool = True
) -> tuple[LandmarkNet, dict]:
    """Train and measure; returns the network in evaluation mode and its figures on the dev pictures."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pictures = _Pictures.load(data, "train_250.zip")
    alarms = _false_alarms(pictures, min(2500, len(pictures.images)))
    network = LandmarkNet()
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        crops, points, labels = _batch(pictures, alarms, batch, rng)
        predicted, logit = network(crops)
        distance = F.smooth_l1_loss(predicted[labels], points[labels], beta=0.03)
        loss = 10 * distance + F.binary_cross_entropy_with_logits(logit, labels.float())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if log and step % 200 == 0:
            print(f"step {step}: loss {float(loss.detach()):.4f}", flush=True)
    network.eval()
    return network, _measure(network, _Pictures.load(data, "dev_250.zip"), seed)


def _batch(
    pictures: _Pictures,
    alarms: list[tuple[int, NDArray[np.float64], float]],
    size: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    samples = [_sample(pictures, alarms, rng) for _ in range(size)]
    crops = torch.from_numpy(np.stack([s[0] for s in samples])).float() / 127.5 - 1
    return crops, torch.from_numpy(np.stack([s[1] for s in samples])), torch.tensor([s[2] for s in samples])


@torch.no_grad()
def _measure(network: LandmarkNet, dev: _Pictures, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed + 1)
    crops, points, labels = _batch(dev, _false_alarms(dev, len(dev.images)), 4000, rng)
    predicted, logit = network(crops)
    apart = (points[labels][:, 0] - points[labels][:, 1]).norm(dim=1)
    error = (predicted[labels] - points[labels]).norm(dim=2).mean(1) / apart
    return {
        "dev_crops": len(labels),
        "mean_error_percent_of_eye_distance": round(float(error.mean()) * 100, 2),
        "median_error_percent_of_eye_distance": round(float(error.median()) * 100, 2),
        "faces_accepted_percent": round(float((logit[labels] > 0).float().mean()) * 100, 2),
        "non_faces_accepted_percent": round(float((logit[~labels] > 0).float().mean()) * 100, 2),
    }


def _without_traces(content: bytes) -> bytes:
    """The model without the exporter's stack traces, which name the folders of the machine that trained it."""
    import onnx

    model = onnx.load_from_string(content)
    for item in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del item.metadata_props[:]
    for item in (*model.graph.input, *model.graph.output):
        del item.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def main(arguments: list[str] | None = None) -> None:
    """Train, export `landmarks5.onnx`, and write its manifest `landmarks5.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    network, figures = train(given.data, steps=given.steps, seed=given.seed)
    program = torch.onnx.export(
        network, (torch.zeros(2, _SIDE, _SIDE),), dynamo=True, opset_version=20, verbose=False,
        input_names=["crops"], output_names=["points", "logit"],
        dynamic_shapes={"crops": {0: torch.export.Dim("N", min=1, max=4096)}},
    )  # fmt: skip
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    content = _without_traces(buffer.getvalue())
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "landmarks5.onnx").write_bytes(content)
    manifest = {
        "file": "landmarks5.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "input": "crops (N, 48, 48) float32 grey in [-1, 1]",
        "output": "points (N, 5, 2) in crop units [-1, 1], logit (N,) that the crop is a face",
        "trained_on": "LFW identities outside folds 8-10, 250x250 grey; random squares and false alarms as non-faces",
        "command": f"python -m immunecam.training.landmarks --steps {given.steps} --seed {given.seed}",
        "quality": figures,
    }
    (given.out / "landmarks5.json").write_text(json.dumps(manifest, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
