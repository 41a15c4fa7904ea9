"""A liveness network small enough to be written in a test: a bright picture is live."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from immunecam.runtime.bundle import default_bundle
from immunecam.runtime.bundle_liveness import put_liveness
from immunecam.runtime.liveness_record import LivenessCrop, LivenessRecord

__all__ = ["LANDMARKS", "bundle_with_liveness", "small_graph", "small_record"]

LANDMARKS = LivenessCrop("landmarks", 3.354, 0.409)


def small_graph(side: int = 64) -> bytes:
    """ONNX: `scores` is the sigmoid of eight times the mean of `faces`."""
    import onnx

    h, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        h.make_node("ReduceMean", ["faces", "axes"], ["mean"], keepdims=0),
        h.make_node("Mul", ["mean", "eight"], ["logit"]),
        h.make_node("Sigmoid", ["logit"], ["scores"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
        onnx.numpy_helper.from_array(np.float32(8), "eight"),
    ]
    graph = h.make_graph(
        nodes,
        "liveness",
        [h.make_tensor_value_info("faces", kind, ["N", 3, side, side])],
        [h.make_tensor_value_info("scores", kind, ["N"])],
        constants,
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 20)])
    model.ir_version = 9
    return model.SerializeToString()


def small_record(threshold: float = 0.5, side: int = 64) -> LivenessRecord:
    """What a manifest says of it."""
    return LivenessRecord("", side, LANDMARKS, threshold, "fp32", True, quality={"acer": 0.25})


def bundle_with_liveness(folder: Path, threshold: float = 0.5) -> Path:
    """The installed bundle with it, below `folder`."""
    path = folder / "door.immune"
    shutil.copytree(default_bundle(), path)
    put_liveness(path, small_graph(), small_record(threshold))
    return path
