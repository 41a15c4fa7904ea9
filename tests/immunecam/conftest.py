"""A clip with faces on it, made in the test, and a way to run the command line as a user does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_gate import write_people, write_recognizer

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs ``immunecam ARGS`` in a real process, in an empty folder."""

    def call(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "immunecam", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, **options)  # type: ignore[call-overload,no-any-return]

    return call


@pytest.fixture(scope="session")
def sample_clip() -> Path:
    """The bundled clip of people who do not exist."""
    return Path(str(resources.files("immunecam") / "data" / "sample.mp4"))


@pytest.fixture(scope="session")
def sample_frame(sample_clip: Path) -> np.ndarray:
    """Its first frame."""
    found, image = cv2.VideoCapture(str(sample_clip)).read()
    assert found
    return image


@pytest.fixture(scope="session")
def clip(sample_frame: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six frames at 23.976 a second: the faces slide, and the last two frames are empty."""
    path = tmp_path_factory.mktemp("clip") / "made.mp4"
    height, width = sample_frame.shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 24000 / 1001, (width, height))
    for index in range(6):
        image = np.roll(sample_frame, 3 * index, axis=1) if index < 4 else np.full_like(sample_frame, 90)
        writer.write(image)
    writer.release()
    return path


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A folder for each of two people of the sample clip."""
    return write_people(tmp_path / "people")


@pytest.fixture
def recognizer(tmp_path: Path) -> Path:
    """The description of a small recogniser."""
    pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")
    return write_recognizer(tmp_path)
