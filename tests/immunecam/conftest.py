"""A clip with faces on it, made in the test, and a way to run the command line as a user does."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest

from immunecam.runtime.faces import face_finder

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
def people(tmp_path: Path, sample_clip: Path) -> Path:
    """A folder for each of two people of the sample clip, enlarged, one face a picture."""
    capture, finder = cv2.VideoCapture(str(sample_clip)), face_finder()
    skin = cv2.GaussianBlur(np.random.default_rng(0).standard_normal((420, 420, 1)).astype(np.float32), (0, 0), 3)
    skin = 9 * (skin / skin.std())[..., None]
    for number in range(4):
        _, image = capture.read()
        faces = sorted(finder.find(image), key=lambda face: face.box[0])
        for name, face in (("ann", faces[0]), ("bob", faces[-1])):
            x, y, w, h = face.box.astype(int)
            part = image[max(0, y - h // 2) : y + 3 * h // 2, max(0, x - w // 2) : x + 3 * w // 2]
            canvas = np.full((420, 420, 3), 100, np.float32)
            canvas[10:410, 10:410] = cv2.resize(part, (400, 400), interpolation=cv2.INTER_CUBIC)
            canvas += skin  # the clip is soft, which the gate would refuse
            canvas = canvas.clip(0, 255).astype(np.uint8)
            (tmp_path / "people" / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "people" / name / f"{number}.png"), canvas)
    return tmp_path / "people"


@pytest.fixture
def recognizer(tmp_path: Path) -> Path:
    """A recogniser of averaged 8x8 blocks and a random matrix, and its description."""
    onnx = pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")
    h, types = onnx.helper, onnx.TensorProto
    matrix = np.random.default_rng(3).standard_normal((3 * 14 * 14, 32)).astype(np.float32)
    nodes = [
        h.make_node("AveragePool", ["face"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        h.make_node("Flatten", ["pooled"], ["flat"]),
        h.make_node("ReduceMean", ["flat"], ["mean"], axes=[1], keepdims=1),
        h.make_node("Sub", ["flat", "mean"], ["centred"]),
        h.make_node("MatMul", ["centred", "matrix"], ["embedding"]),
    ]
    graph = h.make_graph(
        nodes,
        "r",
        [h.make_tensor_value_info("face", types.FLOAT, ["n", 3, 112, 112])],
        [h.make_tensor_value_info("embedding", types.FLOAT, ["n", 32])],
        [onnx.numpy_helper.from_array(matrix, "matrix")],
    )
    data = h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8).SerializeToString()
    (tmp_path / "r.onnx").write_bytes(data)
    (tmp_path / "r.toml").write_text(
        f'name = "small"\n[model]\nfile = "r.onnx"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n[input]\n'
        'width = 112\nheight = 112\nlayout = "NCHW"\ncolour = "BGR"\nrange = [0, 255]\n'
    )
    return tmp_path / "r.toml"
