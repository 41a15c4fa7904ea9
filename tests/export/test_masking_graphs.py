"""Exported masks are the mask, exported recognisers see what the network sees, and rectifiers are quicker and equal."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx", reason="needs onnx (pip install 'immunecam[train]')")
pytest.importorskip("cryptography")

from small_masking import FREQUENCIES, small_faces, small_recognizer  # noqa: E402

from immunecam.errors import InputError  # noqa: E402
from immunecam.export.graph_check import check_graph  # noqa: E402
from immunecam.export.masking_graphs import masking_graphs  # noqa: E402
from immunecam.export.plan_parity import run_graph  # noqa: E402
from immunecam.export.quick_slopes import with_quick_slopes  # noqa: E402
from immunecam.export.torch_graph import graph_from_module  # noqa: E402
from immunecam.models.frequency import FrequencyMask  # noqa: E402
from immunecam.models.mask_spec import MaskSpec  # noqa: E402
from immunecam.models.masked_recognizer import MaskedRecognizer  # noqa: E402
from immunecam.models.mobile_face import MobileFace  # noqa: E402


@pytest.mark.parametrize(("positions", "unmasking"), [(14, True), (28, False)])
def test_graphs_are_the_mask_and_the_network(positions, unmasking):
    recognizer = small_recognizer(positions, unmasking=unmasking)
    faces = small_faces(3)
    exported = masking_graphs(recognizer, faces)
    assert sorted(exported.graphs) == ["mask", "picture", "recognizer"]
    assert exported.parity["faces"] == 3
    assert exported.parity["max_abs_channel"] < 1e-4
    spec = recognizer.mask.spec
    plain = FrequencyMask(spec, *whole(recognizer.mask))
    channels = run_graph(exported.graphs["mask"], "channels")({"faces": faces})
    assert np.allclose(channels, plain(torch.from_numpy(faces)).numpy(), atol=1e-4)
    # The key's order is in none of them: the mask's own graph gives the channels as they are.
    assert not np.allclose(channels, recognizer.mask(torch.from_numpy(faces)).numpy(), atol=1e-2)
    for role, graph in exported.graphs.items():
        assert check_graph(graph, 8, role).unsupported == ()  # TensorRT's parser knows every operator


def whole(mask: FrequencyMask) -> tuple[torch.Tensor, torch.Tensor]:
    """Statistics of all 64 frequencies, of which the mask keeps some."""
    mean, std = torch.zeros(64, dtype=torch.float64), torch.ones(64, dtype=torch.float64)
    for place, value in zip(mask.spec.frequencies[0], range(len(FREQUENCIES)), strict=True):
        mean[place], std[place] = (part[value] for part in mask.statistics())
    return mean, std


def test_a_picture_of_all_frequencies_but_the_mean_is_the_face_less_its_blocks_means():
    faces = torch.from_numpy(small_faces(2))
    spec = MaskSpec.of(range(1, 64), 14)
    mask = FrequencyMask(spec, torch.zeros(64, dtype=torch.float64), torch.ones(64, dtype=torch.float64))
    recognizer = MaskedRecognizer(mask, MobileFace(63, 14, 8, 0.125)).eval()
    graphs = masking_graphs(recognizer, faces.numpy()).graphs
    channels = run_graph(graphs["mask"], "channels")({"faces": faces.numpy()})
    seen = run_graph(graphs["picture"], "faces")({"channels": channels})
    blocks = faces.reshape(2, 14, 8, 14, 8)
    wanted = (blocks - blocks.mean((2, 4), keepdim=True)).reshape(2, 112, 112)
    assert np.allclose(seen, wanted.numpy(), atol=1e-5)


def test_rectifiers_are_the_same_function():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.PReLU(8), torch.nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.linspace(-1, 2, 8))  # slopes beyond 1 and below 0 are learnt, too
    graph = graph_from_module(network, ["input"], "y", shape=(3, 12, 12))
    quick = with_quick_slopes(graph)
    assert "PRelu" in {row.operator for row in check_graph(graph, 2, "before").operators}
    assert "PRelu" not in {row.operator for row in check_graph(quick, 2, "after").operators}
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(np.float32)
    assert np.allclose(run_graph(graph, "y")({"input": x}), run_graph(quick, "y")({"input": x}), atol=1e-5)


def test_what_must_raise():
    with pytest.raises(InputError, match="sees plain faces"):
        masking_graphs(MaskedRecognizer(None, MobileFace(1, 112, 8, 0.125)).eval(), small_faces(1))
    colour = FrequencyMask(
        MaskSpec.of([1, 2], 14, "ycbcr"), torch.zeros(192, dtype=torch.float64), torch.ones(192, dtype=torch.float64)
    )
    with pytest.raises(InputError, match="purified faces are grey"):
        masking_graphs(MaskedRecognizer(colour, MobileFace(6, 14, 8, 0.125)).eval(), small_faces(1))
