"""What a gate needs to be tried: pictures of two people who do not exist, and a recogniser that tells them apart."""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

from immunecam.runtime.faces import face_finder

__all__ = ["write_people", "write_recognizer"]


def write_people(folder: Path) -> Path:
    """A folder each for ann and bob of the sample clip: four pictures 0.png to 3.png, enlarged, one face each."""
    capture, finder = cv2.VideoCapture(str(resources.files("immunecam") / "data" / "sample.mp4")), face_finder()
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
            (folder / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / name / f"{number}.png"), canvas)
    return folder


def write_recognizer(folder: Path) -> Path:
    """r.onnx, averaged 8x8 blocks by a random matrix, and its description r.toml, whose path is returned."""
    import onnx

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
    (folder / "r.onnx").write_bytes(data)
    (folder / "r.toml").write_text(
        f'name = "small"\n[model]\nfile = "r.onnx"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n[input]\n'
        'width = 112\nheight = 112\nlayout = "NCHW"\ncolour = "BGR"\nrange = [0, 255]\n'
    )
    return folder / "r.toml"
