"""Train the five-point landmark model of the default face finder.

``python -m immunecam.training.landmarks --data ../shared/data --out runtime/assets``

The model looks at one square crop around a possible face and says where the five points are and
whether this is a face at all. The crops it will see in use come from OpenCV's frontal Haar cascade
run without grouping, so the negatives are that cascade's own false alarms on the training pictures,
besides random background and parts of faces. A YuNet file, needed for training only, marks the
unlabelled bystanders so that they are never taken for background.

Geometry, shared with ``immunecam.runtime.faces.landmarks``: the *canonical square* of a face is
the 112x112 ArcFace crop moved so that (56, 72) of the template is its centre, without rotation.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LandmarkNet", "main"]

SIDE = 48
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
CENTRE = np.array([56.0, 72.0])
MIRROR = [1, 0, 2, 4, 3]
# Mean place of the cascade's box in the canonical square, measured on 500 training pictures.
CASCADE_SCALE, CASCADE_DOWN = 0.88, 0.083


class LandmarkNet(nn.Module):
    """Five points and a face logit from a grey crop.

    Input ``crops`` (N,1,48,48) float32 in 0..255. Output ``points`` (N,5,2), in crop widths with
    (0,0) the crop's top left corner, and ``logit`` (N,). The crop is standardised inside the
    network (mean 0, deviation 1), so gain and offset of the light do not matter.
    """

    def __init__(self) -> None:
        super().__init__()
        plan = [(1, 16, 2), (16, 24, 1), (24, 48, 2), (48, 64, 1), (64, 80, 2), (80, 80, 1), (80, 48, 2)]
        layers: list[nn.Module] = []
        for inputs, outputs, stride in plan:
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        self.features = nn.Sequential(*layers)
        self.hidden = nn.Linear(48 * 3 * 3, 96)
        self.head = nn.Linear(96, 11)
        nn.init.normal_(self.head.weight, std=0.01)
        with torch.no_grad():
            mean = (TEMPLATE - CENTRE) / 112 + 0.5
            self.head.bias.copy_(torch.tensor([*mean.reshape(-1), 0.0]))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        centred = crops - crops.mean((1, 2, 3), keepdim=True)
        deviation = (centred * centred).mean((1, 2, 3), keepdim=True).sqrt()
        features = self.features(centred / (deviation + 4.0)).flatten(1)
        out = self.head(functional.relu(self.hidden(features)))
        return out[:, :10].reshape(-1, 5, 2), out[:, 10]


@dataclass
class Pictures:
    """Half-size grey pictures (M,125,125) uint8, their points (M,5,2) and squares (M,3) cx, cy, side."""

    names: list[str]
    images: np.ndarray
    points: np.ndarray
    squares: np.ndarray


def canonical_square(points: np.ndarray) -> np.ndarray:
    """Centre x, y and side of the canonical square of five points (5,2), by a least-squares similarity."""
    target = TEMPLATE - TEMPLATE.mean(0)
    source = points - points.mean(0)
    # As complex numbers a rotation with scale is one factor: a = <source, target> / <source, source>.
    s, t = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    factor = np.vdot(s, t) / np.vdot(s, s)
    offset = complex(*(CENTRE - TEMPLATE.mean(0))) / factor
    centre = points.mean(0) + (offset.real, offset.imag)
    return np.array([*centre, 112 / abs(factor)])


def read_pictures(data: Path, archive: str, every: int = 1) -> Pictures:
    """Read every ``every``-th labelled picture of an archive, halved (area average) to save memory."""
    table = np.load(data / "lfw" / "landmarks5_250.npz")
    known = dict(zip(table["names"].tolist(), table["points"], strict=True))
    with zipfile.ZipFile(data / "lfw" / archive) as file:
        names = sorted(name for name in file.namelist() if name in known)[::every]
        images = np.empty((len(names), 125, 125), np.uint8)
        for row, name in enumerate(names):
            grey = cv2.imdecode(np.frombuffer(file.read(name), np.uint8), cv2.IMREAD_GRAYSCALE)
            images[row] = cv2.resize(grey, (125, 125), interpolation=cv2.INTER_AREA)
    # Pixel centres: full-size x lies at (x + .5)/2 - .5 of the half-size picture.
    points = np.stack([(known[name].astype(np.float64) + 0.5) / 2 - 0.5 for name in names])
    return Pictures(names, images, points, np.stack([canonical_square(p) for p in points]))


def cascade_squares(images: np.ndarray) -> list[np.ndarray]:
    """Canonical squares (n,3) that the ungrouped Haar cascade suggests in each half-size picture."""
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    found = []
    for image in images:
        boxes = np.array(cascade.detectMultiScale(image, 1.1, 0, 0, (20, 20)), np.float64).reshape(-1, 4)
        side = boxes[:, 2] / CASCADE_SCALE
        x, y = boxes[:, 0] + boxes[:, 2] / 2, boxes[:, 1] + boxes[:, 3] / 2 + CASCADE_DOWN * side
        found.append(np.stack([x, y, side], 1))
    return found


def overlap(squares: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of squares (n,3) with others (m,3), both cx, cy, side: (n,m)."""
    half_a, half_b = squares[:, None, 2] / 2, others[None, :, 2] / 2
    sides = [
        np.clip(
            np.minimum(squares[:, None, k] + half_a, others[None, :, k] + half_b)
            - np.maximum(squares[:, None, k] - half_a, others[None, :, k] - half_b),
            0,
            None,
        )
        for k in (0, 1)
    ]
    both = sides[0] * sides[1]
    return both / (4 * half_a**2 + 4 * half_b**2 - both)


def mine_negatives(pictures: Pictures, yunet: Path, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
    """Squares without a face: cascade alarms and random ones, (picture, (3,)), clear of every face."""
    net = cv2.FaceDetectorYN.create(str(yunet), "", (250, 250), 0.3, 0.3, 5000)
    suggestions = cascade_squares(pictures.images)
    negatives = []
    for index, image in enumerate(pictures.images):
        double = cv2.resize(image, (250, 250), interpolation=cv2.INTER_LINEAR)
        _, found = net.detect(cv2.cvtColor(double, cv2.COLOR_GRAY2BGR))
        faces = [pictures.squares[index]]
        for row in found if found is not None else ():
            faces.append(canonical_square(row[4:14].reshape(5, 2).astype(np.float64) / 2))
        known = np.stack(faces)
        side = np.exp(rng.uniform(np.log(14), np.log(100), 12))
        random = np.stack([rng.uniform(0, 125, 12), rng.uniform(0, 125, 12), side], 1)
        # Small pieces of faces and squares around whole heads: what grouping in use must not keep.
        own = np.repeat(known[:1], 8, 0)
        own[:, :2] += rng.normal(0, 0.35, (8, 2)) * own[:, 2:]
        own[:, 2] *= np.exp(rng.choice([-1.0, 1.0], 8) * rng.uniform(0.5, 1.2, 8))
        for square in np.concatenate([suggestions[index], random, own]):
            if overlap(square[None], known).max() < 0.28:
                negatives.append((index, square))
    return negatives


def cut(image: np.ndarray, matrix: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Sample a (side,side) crop; ``matrix`` (2,3) maps crop pixels to picture pixels."""
    return cv2.warpAffine(
        image,
        matrix,
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def crop_matrix(square: np.ndarray, angle: float = 0.0, squeeze: float = 1.0, side: int = SIDE) -> np.ndarray:
    """Matrix (2,3) from crop pixels to picture pixels for a rotated, horizontally squeezed square."""
    scale = square[2] / side
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    linear = np.array([[c, -s], [s, c]]) @ np.diag([squeeze, 1.0])
    middle = np.full(2, (side - 1) / 2)
    return np.column_stack([linear, square[:2] - linear @ middle])


def degrade(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Small, blurred, dark, noisy, partly hidden or compressed, as cameras and crowds make faces."""
    if rng.random() < 0.5:
        small = int(rng.integers(12, SIDE))
        crop = cv2.resize(crop, (small, small), interpolation=cv2.INTER_AREA)
        crop = cv2.resize(crop, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.2:
        crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.4, 1.6))
    if rng.random() < 0.15:
        x, y = rng.integers(0, SIDE, 2)
        w, h = rng.integers(6, 20, 2)
        crop = crop.copy()
        crop[y : y + h, x : x + w] = rng.integers(0, 256)
    if rng.random() < 0.15:
        quality = int(rng.integers(25, 80))
        crop = cv2.imdecode(cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)
    value = crop.astype(np.float32)
    if rng.random() < 0.6:
        value = 255 * (value / 255) ** np.float32(np.exp(rng.normal(0, 0.35)))
        value = value * np.float32(rng.uniform(0.35, 1.2)) + np.float32(rng.uniform(-15, 40))
    if rng.random() < 0.3:
        ramp = np.linspace(-1, 1, SIDE, dtype=np.float32) * np.float32(rng.uniform(-0.5, 0.5))
        value = value * (1 + (ramp[None] if rng.random() < 0.7 else ramp[:, None]))
    if rng.random() < 0.3:
        value = value + rng.normal(0, rng.uniform(1, 10), value.shape).astype(np.float32)
    return np.clip(np.rint(value), 0, 255)


def positive(pictures: Pictures, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One jittered crop (48,48) of a labelled face and its points (5,2) in crop widths."""
    cx, cy, side = pictures.squares[index]
    calm = rng.random() < 0.3  # the second pass in use sees nearly centred, upright faces
    shift = np.clip(rng.normal(0, 0.03 if calm else 0.08, 2), -0.2, 0.2) * side
    scale = np.exp(np.clip(rng.normal(0, 0.05 if calm else 0.2), -0.42, 0.42))
    angle = np.deg2rad(np.clip(rng.normal(0, 4 if calm else 14), -40, 40))
    matrix = crop_matrix(
        np.array([cx + shift[0], cy + shift[1], side * scale]), angle, np.exp(rng.uniform(-0.1, 0.25))
    )
    crop = cut(pictures.images[index], matrix)
    points = (pictures.points[index] - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    points = (points + 0.5) / SIDE
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
        points = points[MIRROR] * (-1, 1) + (1, 0)
    return degrade(crop, rng), points


def make_batch(
    pictures: Pictures, negatives: list[tuple[int, np.ndarray]], size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Half faces, half not: crops (B,1,48,48), points (B,5,2), labels (B,)."""
    crops = np.empty((size, 1, SIDE, SIDE), np.float32)
    points = np.zeros((size, 5, 2), np.float32)
    faces = size // 2
    for row in range(size):
        if row < faces:
            crops[row, 0], points[row] = positive(pictures, int(rng.integers(len(pictures.images))), rng)
            continue
        index, square = negatives[int(rng.integers(len(negatives)))]
        square = square * (1, 1, np.exp(rng.normal(0, 0.1)))
        matrix = crop_matrix(square, np.deg2rad(rng.normal(0, 12)))
        crop = cut(pictures.images[index], matrix)
        crops[row, 0] = degrade(crop[:, ::-1] if rng.random() < 0.5 else crop, rng)
    labels = (torch.arange(size) < faces).float()
    return torch.from_numpy(crops), torch.from_numpy(points), labels


def train(
    pictures: Pictures, negatives: list[tuple[int, np.ndarray]], seconds: float, steps: int, seed: int
) -> tuple[LandmarkNet, int]:
    """AdamW with one cosine over ``steps`` (or ``seconds``, whichever ends first); returns the net and steps."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = LandmarkNet()
    average = LandmarkNet()
    average.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    start = time.monotonic()
    step = 0
    while True:
        done = max(step / steps, (time.monotonic() - start) / seconds)
        if done >= 1:
            break
        rate = 2e-3 * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * done)) + 1e-5
        for group in optimiser.param_groups:
            group["lr"] = rate
        crops, points, labels = make_batch(pictures, negatives, 128, rng)
        guess, logit = net(crops)
        faces = labels > 0
        # Smooth L1 with its bend at 1% of the crop: close to an L1 loss, which small errors need.
        place = functional.smooth_l1_loss(guess[faces], points[faces], beta=0.01)
        loss = 25 * place + functional.binary_cross_entropy_with_logits(logit, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        keep = min(0.995, step / (step + 10))
        with torch.no_grad():
            for mean, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
                mean.lerp_(new, 1 - keep) if mean.is_floating_point() else mean.copy_(new)
        step += 1
        if step % 100 == 0:
            print(f"step {step} {time.monotonic() - start:.0f} s place {place:.4f} loss {loss:.4f}", flush=True)
    return average.eval(), step


@torch.no_grad()
def measure(net: LandmarkNet, pictures: Pictures, threshold: float) -> dict[str, float]:
    """Cascade, then the model twice, on unseen pictures: error, recall, false alarms a picture."""
    errors, hits, alarms, alarm_squares, kept = [], 0, 0, 0, 0
    for index, squares in enumerate(cascade_squares(pictures.images)):
        truth, own = pictures.points[index], pictures.squares[index]
        if not len(squares):
            continue
        image = pictures.images[index]
        crops = np.stack([cut(image, crop_matrix(s)) for s in squares])[:, None].astype(np.float32)
        points, logit = net(torch.from_numpy(crops))
        score = torch.sigmoid(logit).numpy()
        wrong = overlap(squares, own[None])[:, 0] < 0.28
        alarm_squares += int(wrong.sum())
        kept += int((wrong & (score >= threshold)).sum())
        best = int(score.argmax())
        if score[best] < threshold:
            continue
        for _ in range(2):  # a second look at the square the first look found
            matrix = crop_matrix(squares[best])
            crop = cut(image, matrix).astype(np.float32)[None, None]
            local = net(torch.from_numpy(crop))[0][0].numpy().astype(np.float64) * SIDE - 0.5
            points = local @ matrix[:, :2].T + matrix[:, 2]
            squares[best] = canonical_square(points)
        if overlap(squares[best][None], own[None])[0, 0] >= 0.4:
            hits += 1
            eyes = np.linalg.norm(truth[1] - truth[0])
            errors.append(float(np.linalg.norm(points - truth, axis=1).mean() / eyes))
        else:
            alarms += 1
    count = len(pictures.images)
    return {
        "pictures": count,
        "recall_percent": round(100 * hits / count, 2),
        "best_face_elsewhere_per_picture": round(alarms / count, 4),
        "cascade_alarms_per_picture": round(alarm_squares / count, 2),
        "cascade_alarms_kept_per_picture": round(kept / count, 4),
        "mean_error_percent_of_interocular": round(100 * float(np.mean(errors)), 2),
        "p90_error_percent_of_interocular": round(100 * float(np.percentile(errors, 90)), 2),
    }


def export(net: LandmarkNet, path: Path) -> None:
    """Write the ONNX file (opset 20, dynamic batch, weights inside), under a temporary name first."""
    partial = path.with_suffix(".partial")
    crops = torch.rand(2, 1, SIDE, SIDE) * 255
    program = torch.onnx.export(
        net,
        (crops,),
        input_names=["crops"],
        output_names=["points", "logit"],
        opset_version=20,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=4096)},),
        verbose=False,
    )
    assert program is not None
    program.save(str(partial), external_data=False)
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> None:
    """Train, measure on the development identities, write ``landmarks5.onnx`` and ``landmarks5.json``."""
    parser = argparse.ArgumentParser(description="Train the five-point landmark model.")
    parser.add_argument("--data", type=Path, required=True, help="the shared data folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for landmarks5.onnx and .json")
    parser.add_argument("--seconds", type=float, default=720.0)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    pictures = read_pictures(options.data, "train_250.zip")
    third = slice(None, None, 3)
    some = Pictures(
        pictures.names[third], pictures.images[third], pictures.points[third], pictures.squares[third]
    )
    yunet = options.data / "finders" / "yunet_n_320_320.onnx"
    mined = mine_negatives(some, yunet, np.random.default_rng(options.seed))
    negatives = [(3 * index, square) for index, square in mined]
    print(f"{len(pictures.names)} pictures, {len(negatives)} negative squares", flush=True)
    net, steps = train(pictures, negatives, options.seconds, options.steps, options.seed)

    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "landmarks5.onnx"
    export(net, target)
    threshold = 0.5
    manifest = {
        "format": 1,
        "file": target.name,
        "sha256": hashlib.sha256(target.read_bytes()).hexdigest(),
        "input": {"name": "crops", "shape": ["batch", 1, SIDE, SIDE], "dtype": "float32", "range": [0, 255]},
        "outputs": {"points": ["batch", 5, 2], "logit": ["batch"]},
        "points_unit": "crop widths, (0, 0) is the crop's top left corner",
        "parameters": sum(p.numel() for p in net.parameters()),
        "training": {
            "command": "python -m immunecam.training.landmarks",
            "data": "LFW funnelled 250x250 grey, identities outside folds 8-10; five points by YuNet",
            "pictures": len(pictures.names),
            "negative_squares": len(negatives),
            "steps": steps,
            "batch": 128,
            "seed": options.seed,
            "torch": torch.__version__,
        },
        "measured": {
            "dev_250": measure(net, read_pictures(options.data, "dev_250.zip"), threshold),
            "threshold": threshold,
        },
    }
    text = json.dumps(manifest, indent=2) + "\n"
    partial = options.out / "landmarks5.json.partial"
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, options.out / "landmarks5.json")
    print(text)


if __name__ == "__main__":
    main()
