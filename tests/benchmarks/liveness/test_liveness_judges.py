"""Outside classifiers as judges: a made-up one by the figures, the real ones where they are."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_liveness_run import striped_faces

pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")

from immunecam.benchmarks.liveness_judges import Judge, judge_photos, judge_set, main
from immunecam.errors import InputError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def judge_file(tmp_path):
    """Calls bright pictures live; striped ones are darker. Takes one picture at a time."""
    import onnx

    h, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        h.make_node("ReduceMean", ["pictures", "axes"], ["mean"], keepdims=0),
        h.make_node("Sub", ["mean", "middle"], ["above"]),
        h.make_node("Mul", ["above", "steep"], ["live"]),
        h.make_node("Neg", ["live"], ["spoof"]),
        h.make_node("Unsqueeze", ["live", "one"], ["a"]),
        h.make_node("Unsqueeze", ["spoof", "one"], ["b"]),
        h.make_node("Concat", ["a", "b"], ["logits"], axis=1),
    ]
    values = {"axes": np.array([1, 2, 3]), "one": np.array([1]), "middle": np.float32(0.47), "steep": np.float32(200)}
    graph = h.make_graph(
        nodes,
        "judge",
        [h.make_tensor_value_info("pictures", kind, [1, 3, 128, 128])],
        [h.make_tensor_value_info("logits", kind, [1, 2])],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 20)])
    model.ir_version = 9
    path = tmp_path / "bright.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_judge_that_sees_stripes(judge_file, tmp_path):
    faces = striped_faces(40)
    faces.save(tmp_path / "s.safetensors")
    main(["--judge", str(judge_file), "--data", str(tmp_path / "s.safetensors"), "--json", str(tmp_path / "j.json")])
    report = json.loads((tmp_path / "j.json").read_text())
    assert report["synthetic"] is True
    rows = {row["shown"]: row for row in report["rows"]}
    assert set(rows) == {"live", "print", "replay", "cut-out mask", "poster", "all spoofs"}
    assert rows["live"]["live_percent"] == 100
    assert rows["all spoofs"]["live_percent"] == 0
    assert rows["all spoofs"]["area_under_roc"] == 1
    assert rows["all spoofs"]["faces"] == rows["live"]["faces"] == 20


def test_the_area_is_a_half_where_nothing_can_be_told(judge_file):
    faces = striped_faces(40)
    faces.pixels[:] = 130
    rows = {row["shown"]: row for row in judge_set(Judge.load(judge_file), faces)}
    assert rows["all spoofs"]["area_under_roc"] == 0.5


def test_photos_without_a_face_are_not_judged(judge_file, tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((200, 200, 3), 99, np.uint8))
    judge = Judge.load(judge_file)
    (row,) = judge_photos(judge, [(tmp_path / "grey.png", True)])
    assert (row["faces"], row["score"], row["right"]) == (0, None, None)
    with pytest.raises(InputError, match="is not a readable picture"):
        judge_photos(judge, [(judge_file, False)])
    with pytest.raises(InputError, match="cannot be read"):
        Judge.load(tmp_path / "none.onnx")


def test_the_outside_classifiers_know_the_three_photos(shared_data):
    folder = shared_data / "antispoof"
    if not folder.is_dir():
        pytest.skip("needs the outside live/spoof classifiers in antispoof/ of the local data")
    photos = [(folder / "image_T1.jpg", True), (folder / "image_F1.jpg", False), (folder / "image_F2.jpg", False)]
    for path in sorted(folder.glob("*.onnx")):
        rows = judge_photos(Judge.load(path), photos)
        assert [row["right"] for row in rows] == [True] * 3


def test_the_page_says_what_was_measured():
    rows = json.loads((ROOT / "benchmarks" / "results" / "liveness_judges.json").read_text())["rows"]
    text = (ROOT / "docs" / "liveness.md").read_text()
    judges = list(dict.fromkeys(row["judge"] for row in rows))
    found = {(row["judge"], row["shown"]): row for row in rows}
    for shown in ("print", "poster", "replay", "cut-out mask"):
        areas = [f"{found[judge, shown]['area_under_roc']:.2f}" for judge in judges]
        assert f"| {shown} | {' | '.join(areas)} |" in text
    live = [f"{found[judge, 'live']['live_percent']:.0f}" for judge in judges]
    assert f"They call {' and '.join(live)} % of the synthetic live faces live" in text
    photos = [row for row in rows if row["shown"].startswith("photo")]
    assert [row["right"] for row in photos] == [True] * 3 * len(judges)
    assert sum(found[judges[0], shown]["faces"] for shown in ("live", "all spoofs")) == 2400
