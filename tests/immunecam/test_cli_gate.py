"""``immunecam gate`` as a real process: from a key to a verified audit trail."""

from __future__ import annotations

import hashlib
import json
import os

import cv2
import numpy as np
import pytest

from immunecam.runtime.faces import face_finder

onnx = pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")
pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")


@pytest.fixture
def people(tmp_path, sample_clip):
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
def recognizer(tmp_path):
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


def test_from_a_key_to_a_verified_trail(run, tmp_path, people, recognizer):
    gate = ["--store", "door.gate", "--recognizer", "r.toml", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "IMMUNECAM_GATE_KEY_FILE": "door.key"}

    def call(*arguments, code=0):
        found = run("gate", *arguments, env=environment)
        assert found.returncode == code, found.stderr + found.stdout
        assert len(found.stderr.strip().splitlines()) <= 1
        return found

    call("keygen", "door.key")
    assert "exists already" in call("keygen", "door.key", code=3).stderr
    assert "there is no template store" in call("list", "--store", "door.gate", code=3).stderr
    call("enrol", "ann", people / "ann" / "0.png", people / "ann" / "1.png", *gate)
    assert "no threshold" in call("identify", people / "ann" / "3.png", *gate, code=2).stderr
    told = call("calibrate", "--data", people, "--fmr", "1e-4", *gate, code=3)
    assert "needs 30,000 independent comparisons" in told.stderr
    assert "without purification: threshold" in told.stdout
    assert "with purification: threshold" in told.stdout
    call("enrol-all", people, "--replace", "--json", "all.json", *gate)
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert [row["person"] for row in rows] == ["ann", "bob"]
    granted = call("verify", "ann", people / "ann" / "3.png", "--threshold", "0.9", "--json", "v.json", *gate)
    assert granted.stdout.startswith("granted ann, score ")
    event = json.loads((tmp_path / "v.json").read_text())["rows"][0]
    assert (event["event"], event["person"], event["mode"]) == ("granted", "ann", "verify")
    # 5, for a shell opens a door on 0.
    assert call("verify", "bob", people / "ann" / "3.png", "--threshold", "0.9", *gate, code=5).stdout.startswith(
        "denied"
    )
    assert call("identify", people / "bob", "--threshold", "0.9", *gate).stdout.count("granted bob") == 4
    assert (
        "nobody is enrolled as 'eve'"
        in call("verify", "eve", people / "ann" / "3.png", "--threshold", "0", *gate, code=3).stderr
    )
    assert "another purification setting" in call("identify", people / "bob", "--no-purify", *gate, code=3).stderr
    call("list", "--store", "door.gate", "--json", "list.json")
    assert [row["person"] for row in json.loads((tmp_path / "list.json").read_text())["rows"]] == ["ann", "bob"]
    call("delete", "ann", "--store", "door.gate")
    trail = ("audit", "verify", "door.gate.audit")
    whole = call(*trail, "--store", "door.gate", "--json", "audit.json").stdout
    assert "are as they were written" in whole
    head = json.loads((tmp_path / "audit.json").read_text())["rows"][0]["head"]
    assert "nothing was known of the end" in call(*trail).stdout
    call(*trail, "--head", head)
    assert "must be SEQ:HASH" in call(*trail, "--head", "7", code=2).stderr
    (file,) = (tmp_path / "door.gate.audit").glob("*.jsonl")
    lines = file.read_bytes().splitlines(True)
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds == ["genesis", *["enrolment"] * 3, *["decision"] * 6, "deletion"]
    file.write_bytes(b"".join(lines[:-1]))
    assert "were cut off its end" in call(*trail, "--store", "door.gate", code=3).stderr
    assert "were cut off its end" in call(*trail, "--head", head, code=3).stderr
    file.write_bytes(b"".join(lines).replace(b'"event":"denied"', b'"event":"granted"'))
    assert "was changed" in call(*trail, code=3).stderr


def test_a_missing_library_is_named(run, tmp_path):
    (tmp_path / "cryptography.py").write_text("raise ImportError('hidden by the test')")
    (tmp_path / "door.key").write_text("ab" * 31 + "cd")
    hidden = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = run("gate", "audit", "image", ".", "x", "-o", "y.png", "--key-file", "door.key", env=hidden)
    assert found.returncode == 4
    assert "pip install 'immunecam[gate]'" in found.stderr
