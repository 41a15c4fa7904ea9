"""A small world: people made of low frequencies, a linear recogniser, a bundle."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from immunecam.export.to_onnx import export_bundle
from immunecam.runtime.bundle import Bundle
from immunecam.training.config import Phase, TrainConfig
from immunecam.training.faces import FaceSet
from immunecam.training.trainer import Trainer


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


def _picture(person: int, number: int) -> np.ndarray:
    rng = np.random.default_rng(person)
    base = rng.standard_normal((8, 8))
    noise = np.random.default_rng([person, number]).standard_normal((8, 8))
    large = cv2.resize(base + 0.45 * noise, (112, 112), interpolation=cv2.INTER_CUBIC)
    return np.clip(127 + 35 * large, 0, 255).astype(np.uint8)


def _people(folder: Path, name: str, people: range, pictures: int) -> None:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for person in people:
            for number in range(pictures):
                _, data = cv2.imencode(".png", _picture(person, number))
                archive.writestr(f"P{person:03d}/P{person:03d}_{number:04d}.jpg", data.tobytes())


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lfw/ with its two sets and its table: fold 1 for thresholds, fold 8 for judging."""
    lfw = tmp_path_factory.mktemp("data") / "lfw"
    lfw.mkdir()
    _people(lfw, "train_112.zip", range(40), 3)
    _people(lfw, "dev_112.zip", range(100, 132), 2)
    (lfw.parent / "faces").mkdir()
    _people(lfw.parent / "faces", "orl_112.zip", range(200, 206), 2)
    with (lfw / "pairs.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["fold", "left", "right", "same"])
        for fold, people in ((1, range(40)), (8, range(100, 132))):
            for person in people:
                other = people[(person - people.start + 1) % len(people)]
                name = f"P{person:03d}/P{person:03d}_"
                table.writerow([fold, name + "0000.jpg", name + "0001.jpg", 1])
                table.writerow([fold, name + "0000.jpg", f"P{other:03d}/P{other:03d}_0001.jpg", 0])
    return lfw.parent


class _Linear(torch.nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.pool = torch.nn.AvgPool2d(14)
        self.line = torch.nn.Linear(192, 24, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line((self.pool(x) - 127.0).flatten(1))


@pytest.fixture(scope="session")
def recognizers(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("recognizers")
    for seed in (1, 2):
        traced = torch.jit.trace(_Linear(seed).eval(), torch.zeros(2, 3, 112, 112))
        traced.save(str(folder / f"linear{seed}.pt"))
    return [folder / "linear1.pt", folder / "linear2.pt"]


@pytest.fixture(scope="session")
def bundle(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    config = TrainConfig(
        k=32,
        # Probabilities of 0.95: a table of antibodies that are coin tosses may well fail the sanity block.
        model_options={"width": 8, "dim": 16, "prior": (3.0, 3.0), "restorer": {"widths": [8], "depths": [1]}},
        phases=(Phase("warm-up", steps=2),),
        batch=4,
        clones=1,
        estimator="straight-through",
        optimizer="adam",
        identity_weight=0.0,
    )
    Trainer(config, FaceSet.load(data / "lfw" / "train_112.zip"), [], folder / "small.run").run()
    return export_bundle(folder / "small.run", folder / "small.immune")[0]
