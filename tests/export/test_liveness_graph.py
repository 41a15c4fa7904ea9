"""Liveness networks as ONNX: the same scores as PyTorch's, and int8 only as far as it is borne."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="needs onnx (pip install 'immunecam[train]')")
pytest.importorskip("onnxscript", reason="needs onnxscript (pip install 'immunecam[train]')")

import onnx

from immunecam.errors import InputError
from immunecam.export.liveness_graph import LIMIT_SCORE, liveness_graph
from immunecam.export.quantisation import is_quantised
from immunecam.export.tensorrt_operators import ALWAYS, LATER
from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LIVE

_RNG = np.random.default_rng(0)
CALIBRATION, TRIAL = (_RNG.uniform(-1, 1, (8, 3, 64, 64)).astype(np.float32) for _ in range(2))
ALL_LIVE = np.ones(8, bool)


def network(backbone: str) -> LivenessNetwork:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = LivenessNetwork(backbone, ("depth",), side=64)
    with torch.no_grad():
        for _ in range(4):  # statistics of batches, without which a network that was never trained says nothing
            made.train()(torch.from_numpy(CALIBRATION))
        # Scores that are not all alike: else nothing can go wrong with them.
        made.classifiers["live"].weight.mul_(20)
    return made.eval()


def exported(made: LivenessNetwork, precision: str, **options):
    given = {"calibration": CALIBRATION, "trial": TRIAL, "live": ALL_LIVE, "threshold": 0.5, **options}
    return liveness_graph(made, precision=precision, **given)


@pytest.mark.parametrize("backbone", ["vgg", "resnet", "densenet", "swin"])
def test_float32_says_what_pytorch_says(backbone):
    made = network(backbone)
    graph = exported(made, "fp32")
    assert graph.parity["max_abs_score"] < LIMIT_SCORE
    faces = np.concatenate([TRIAL, CALIBRATION])[:5]  # another number of faces than it was exported with
    with torch.no_grad():
        wanted = made(torch.from_numpy(faces))["live"].softmax(1)[:, LIVE].numpy()
    np.testing.assert_allclose(graph.scores(faces), wanted, atol=LIMIT_SCORE)
    model = onnx.load_from_string(graph.data)
    assert [value.name for value in model.graph.output] == ["scores"]
    operators = {node.op_type for node in model.graph.node}
    assert operators <= ALWAYS | LATER
    assert "Conv" in operators
    assert "Resize" not in operators  # no head but live


def test_int8_is_near_and_says_by_how_much():
    graph = exported(network("vgg"), "int8", limit=0.05, most_points=100)
    assert is_quantised(graph.data)
    found = graph.parity["int8"]
    assert found["mean_abs_score"] <= 0.05
    assert found["calibration_faces"] == 8
    assert any(layer["quantised"] for layer in found["layers"])
    exact = exported(network("vgg"), "fp32")
    assert np.abs(graph.scores(TRIAL) - exact.scores(TRIAL)).mean() == pytest.approx(found["mean_abs_score"], abs=2e-3)
    model = onnx.load_from_string(graph.data)
    scales = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if "scale" in tensor.name
    }
    assert max(scale.size for scale in scales.values()) >= 24  # the weights have one for every channel
    points = {
        onnx.numpy_helper.to_array(tensor).dtype
        for tensor in model.graph.initializer
        if tensor.name in {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    }
    assert points == {np.dtype(np.uint8)}  # activations as a CPU wants them


def test_int8_that_changes_decisions_is_refused():
    made = network("vgg")
    exact = exported(made, "fp32").scores(TRIAL)
    changed = exported(made, "int8", limit=1.0, most_points=100).scores(TRIAL) - exact
    worst = int(np.abs(changed).argmax())
    one = {"trial": TRIAL[worst : worst + 1], "live": np.array([changed[worst] < 0])}
    between = float(exact[worst] + changed[worst] / 2)
    with pytest.raises(InputError, match=r"int8 costs 100.00 points of .* allowed are 0.5: nothing was written"):
        exported(made, "int8", threshold=between, limit=1.0, **one)
    with pytest.raises(InputError, match="no layer of the network bears int8 within 0 of a liveness score"):
        exported(made, "int8", limit=0.0)
