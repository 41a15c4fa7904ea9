"""Liveness networks: small, switchable, and trained for what CelebA-Spoof's labels mean."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from immunecam.models.liveness import AUXILIARY, LivenessNetwork, check_side, check_tasks
from immunecam.models.liveness_loss import WEIGHTS, LivenessLabels, head_losses, liveness_loss
from immunecam.models.liveness_trunks import LAYERS, TRUNKS

_SHAPES = {
    "live": (2, 2),
    "attributes": (2, 40),
    "spoof_type": (2, 11),
    "illumination": (2, 5),
    "depth": (2, 1, 14, 14),
    "reflection": (2, 3, 14, 14),
}


def labels(live: list[int]) -> LivenessLabels:
    """Labels that break the convention on purpose: everything is set for everybody."""
    count = len(live)
    return LivenessLabels(
        torch.tensor(live),
        torch.ones(count, 40),
        torch.full((count,), 3),
        torch.full((count,), 2),
        torch.full((count, 1, 14, 14), 0.5),
        torch.full((count, 3, 14, 14), 0.25),
    )


@pytest.mark.parametrize("backbone", TRUNKS)
@pytest.mark.parametrize("side", [64, 112, 128])
def test_shapes_and_size(backbone, side):
    torch.manual_seed(0)
    network = LivenessNetwork(backbone, side=side).eval()
    assert sum(weight.numel() for weight in network.parameters()) <= 1_500_000
    outputs = network(torch.zeros(2, 3, side, side))
    assert {name: tuple(output.shape) for name, output in outputs.items()} == _SHAPES
    for name in ("depth", "reflection"):
        assert 0 < float(outputs[name].detach().min()) <= float(outputs[name].detach().max()) < 1


@pytest.mark.parametrize("backbone", TRUNKS)
def test_a_network_is_the_two_halves_at_any_layer(backbone):
    torch.manual_seed(0)
    network = LivenessNetwork(backbone, side=64).eval()
    pictures = torch.rand(3, 3, 64, 64) * 2 - 1
    whole = network(pictures)
    for layer in LAYERS:
        halves = network.from_features(network.features(pictures, layer), layer)
        assert all(torch.equal(whole[head], halves[head]) for head in network.heads)


@pytest.mark.parametrize("backbone", TRUNKS)
def test_a_few_steps_learn_two_classes(backbone):
    torch.manual_seed(0)
    network = LivenessNetwork(backbone, (), side=64)
    pictures = torch.rand(16, 3, 64, 64) - 0.5
    pictures[8:, :, ::2] *= 0.2  # half of them striped
    wanted = LivenessLabels(torch.tensor([0] * 8 + [1] * 8))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    first = None
    for _ in range(24):
        loss, _ = liveness_loss(network(pictures), wanted)
        first = float(loss.detach()) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * first


def test_swin_windows_see_across_their_border_only_after_a_shift():
    torch.manual_seed(0)
    stage = LivenessNetwork("swin", side=64).trunk.stages["stage1"]
    x = torch.zeros(1, 16, 16, 48)
    still, shifted, _ = stage.blocks
    changed = x.clone()
    changed[0, 3, 3] = torch.randn(48)  # the last place of the first window of 4
    reached = (still(changed) != still(x)).any(-1)[0].nonzero()
    assert int(reached.max()) == 3
    reached = (shifted(changed) != shifted(x)).any(-1)[0].nonzero()
    assert int(reached.min()) == 2
    assert int(reached.max()) == 5
    # The roll must not let opposite sides of the picture see each other.
    changed = x.clone()
    changed[0, 0, 0] = torch.randn(48)
    reached = (shifted(changed) != shifted(x)).any(-1)[0].nonzero()
    assert int(reached.max()) == 1


@pytest.mark.parametrize("tasks", [s for n in range(6) for s in itertools.combinations(AUXILIARY, n)][::3])
def test_any_subset_of_tasks(tasks):
    torch.manual_seed(0)
    network = LivenessNetwork("vgg", tasks, side=64)
    outputs = network(torch.zeros(2, 3, 64, 64))
    assert set(outputs) == {"live", *tasks} == set(network.heads)
    total, terms = liveness_loss(outputs, labels([0, 1]))
    assert set(terms) == set(outputs)
    assert total.item() == pytest.approx(sum(WEIGHTS[head] * term.item() for head, term in terms.items()), rel=1e-5)


def test_the_published_weights_by_hand():
    # Logits of zero and maps of a half: every cross-entropy is the logarithm of its number of classes.
    outputs = {name: torch.zeros(shape) for name, shape in _SHAPES.items()}
    outputs["depth"], outputs["reflection"] = torch.full((2, 1, 14, 14), 0.5), torch.full((2, 3, 14, 14), 0.5)
    total, terms = liveness_loss(outputs, labels([0, 1]))
    # A live face of depth 0.5 is met, a spoof's depth is zero; a spoof's reflection is 0.25, a live face's zero.
    depth, reflection = (0 + 0.25) / 2, (0.25 + 0.0625) / 2
    assert float(terms["depth"]) == pytest.approx(depth)
    assert float(terms["reflection"]) == pytest.approx(reflection)
    expected = 2 * math.log(2) + 0.1 * math.log(11) + 0.01 * math.log(5) + 0.1 * (depth + reflection)
    assert float(total) == pytest.approx(expected, rel=1e-6)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=8))
def test_the_convention_leaves_what_a_class_has(live):
    given_ = labels(live)
    kept = given_.conventional()
    for place, spoof in enumerate(live):
        for name in ("attributes", "depth"):
            assert float(kept.of(name)[place].sum()) == (0 if spoof else float(given_.of(name)[place].sum()))
        for name in ("spoof_type", "illumination", "reflection"):
            assert float(kept.of(name)[place].sum()) == (float(given_.of(name)[place].sum()) if spoof else 0)
    assert torch.equal(kept.live, given_.live)


def test_some_of_the_labels():
    some = labels([0, 1, 1]).at(torch.tensor([2]))
    assert len(some) == 1
    assert tuple(some.of("depth").shape) == (1, 1, 14, 14)
    assert LivenessLabels(torch.tensor([0, 1])).at(torch.tensor([True, False])).of("depth") is None


def test_what_must_raise():
    with pytest.raises(ValueError, match="48 px wide, but they must be 64 or more"):
        check_side(48)
    with pytest.raises(ValueError, match="a multiple of 16"):
        LivenessNetwork(side=100)
    with pytest.raises(ValueError, match="unknown backbone 'alexnet': use one of vgg, resnet"):
        LivenessNetwork("alexnet")
    with pytest.raises(ValueError, match="unknown liveness task 'heat'"):
        check_tasks(["depth", "heat"])
    with pytest.raises(ValueError, match="the task 'depth' has no labels"):
        head_losses({"depth": torch.zeros(1, 1, 14, 14)}, LivenessLabels(torch.tensor([0])))
