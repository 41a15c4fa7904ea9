"""Analyzer, memory, generator, PIN and edge."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from immunecam.models import (
    KINDS,
    AntibodyGenerator,
    AntigenAnalyzer,
    AntigenFeature,
    AntigenMemory,
    DenoisingAutoEncoder,
    EdgeAnalyzer,
    PooledFeature,
    build_model,
    model_options,
)
from immunecam.models.layers import ResidualBlock


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def mmac(network: torch.nn.Module) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 112, 112))
    return counter.get_total_flops() / 2e6


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities(kind):
    torch.manual_seed(0)
    network = build_model(kind, 24).eval()
    faces = torch.rand(3, 112, 112) * 2 - 1
    with torch.no_grad():
        p = network(faces)
        assert p.shape == (3, 24)
        assert network.k == 24
        assert ((p > 0) & (p < 1)).all()
        torch.testing.assert_close(torch.sigmoid(network.logits(faces)), p)
        # An answer that depends on the other faces of the batch is defect 1 of the public code.
        torch.testing.assert_close(network(faces[1:2]), p[1:2], atol=1e-6, rtol=1e-5)


def test_sizes():
    assert mmac(build_model("ais", 1500).eval()) == pytest.approx(2640, rel=0.02)
    assert mmac(build_model("edge", 1500).eval()) <= 150
    assert mmac(build_model("edge", 1500, {"input_size": 56}).eval()) <= 50


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown model kind"):
        build_model("gan", 4)
    with pytest.raises(ValueError, match="no such option"):
        build_model("edge", 4, {"depth": 3})
    with pytest.raises(ValueError, match="56 or 112 pixels, not of 64"):
        build_model("edge", 4, {"input_size": 64})


def test_prior_sets_where_training_starts():
    torch.manual_seed(0)
    network = build_model("edge", 64, {"prior": (4.0, -4.0)}).eval()
    with torch.no_grad():
        p = network(torch.zeros(1, 112, 112))[0]
    assert p[:4].min() > 0.9
    assert p[-4:].max() < 0.1


def test_memory_moves_only_what_was_chosen():
    torch.manual_seed(0)
    memory = AntigenMemory(8, 5, decay=0.9)
    before = memory.slots.clone()
    feature = torch.stack([before[2] * 3, before[2] * 5, before[6] * 2])
    memory.train()
    memory(feature)
    chosen = [2, 6]
    others = [i for i in range(8) if i not in chosen]
    assert torch.equal(memory.slots[others], before[others])
    torch.testing.assert_close(memory.slots[2], 0.9 * before[2] + 0.1 * 4 * before[2])
    torch.testing.assert_close(memory.slots[6], 0.9 * before[6] + 0.1 * 2 * before[6])
    assert list(memory.parameters()) == []
    memory.eval()
    held = memory.slots.clone()
    memory(feature)
    assert torch.equal(memory.slots, held)


def test_memory_revives_dead_slots():
    torch.manual_seed(0)
    memory = AntigenMemory(6, 4, revive_after=3).train()
    feature = memory.slots[:1].clone()
    for _ in range(4):
        memory.write(feature)
    assert torch.equal(memory.slots[memory.idle == 0][-1], feature[0])
    norms = memory.slots.norm(dim=1)
    assert (norms > 0.1).all()  # nothing fades to zero
    never = AntigenMemory(6, 4, revive_after=0).train()
    start = never.slots.clone()
    for _ in range(20):
        never.write(start[:1])
    assert torch.equal(never.slots[1:], start[1:])


def test_memory_temperature_sharpens_the_read():
    torch.manual_seed(0)
    sharp, flat = AntigenMemory(128, 16, temperature=0.01), AntigenMemory(128, 16, temperature=1.0)
    flat.slots.copy_(sharp.slots)
    feature = sharp.slots[5:6]
    torch.testing.assert_close(sharp.read(feature), feature, atol=1e-2, rtol=1e-2)
    assert (flat.read(feature) - feature).norm() > 0.5 * feature.norm()
    with pytest.raises(ValueError, match="temperature"):
        AntigenMemory(temperature=0)


def test_pin_autoencoder_is_frozen_but_gradient_reaches_the_face():
    network = build_model("pin", 8)
    network.freeze()
    faces = torch.rand(1, 112, 112, requires_grad=True)
    assert network.denoise(faces).shape == faces.shape
    assert network.denoise(faces).abs().max() <= 1
    network(faces).sum().backward()
    assert faces.grad is not None
    assert faces.grad.abs().sum() > 0
    assert all(p.grad is None for p in network.autoencoder.parameters())
    assert all(p.grad is not None for p in network.esn.parameters())


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(4, 4, 1), (4, 8, 1), (4, 8, 2), (3, 5, 2)])
@pytest.mark.parametrize("side", [14, 7])
def test_shortcut_and_body_have_one_shape(inputs, outputs, stride, norm, side):
    block = ResidualBlock(inputs, outputs, stride, norm=norm).eval()
    x = torch.randn(2, inputs, side, side)
    wanted = (2, outputs, -(-side // stride), -(-side // stride))
    assert block.body(x).shape == block.shortcut(x).shape == block(x).shape == wanted
    # The stride is on the second convolution of the body, as the paper's encoder has it.
    convolutions = [m.stride[0] for m in block.body if isinstance(m, torch.nn.Conv2d)]
    assert convolutions == [1, stride]
    assert any(isinstance(m, torch.nn.BatchNorm2d) for m in block.modules()) is norm
    torch.testing.assert_close(block(x), block.body(x) + block.shortcut(x))


def test_ais_with_the_pooled_feature_has_half_of_the_weights():
    weights = [sum(p.numel() for p in build_model("ais", 24, {"pooled": pooled}).parameters()) for pooled in (0, 1)]
    assert weights[0] - weights[1] == 25088 * 512 - (512 * 49 + 2 * 512 + 512 * 512)
    assert build_model("ais", 24, {"pooled": True}).eval()(torch.zeros(2, 112, 112)).shape == (2, 24)


@torch.no_grad()
def test_analyzers_and_features():
    x = torch.rand(2, 1, 112, 112)
    with FlopCounterMode(display=False) as counter:
        found = AntigenAnalyzer().eval()(x[:1])
    assert found.shape == (1, 512, 7, 7)
    assert counter.get_total_flops() / 2 == pytest.approx(2.63e9, rel=0.02)
    assert AntigenFeature(512, 9).eval()(found).shape == (1, 9)
    small = EdgeAnalyzer(8).eval()(x)
    assert small.shape == (2, 32, 7, 7)
    assert PooledFeature(32, 9).eval()(small).shape == (2, 9)
    assert DenoisingAutoEncoder().eval()(x).shape == x.shape


@torch.no_grad()
def test_the_autoencoder_is_applied_twice():
    torch.manual_seed(0)
    twice, once = DenoisingAutoEncoder(2), DenoisingAutoEncoder(1)
    once.load_state_dict(twice.state_dict())  # the same weights in both passes
    x = torch.rand(1, 1, 112, 112)
    torch.testing.assert_close(twice(x), once(once(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_every_default_option_is_named(kind):
    options = model_options(kind)
    assert "k" not in options
    assert model_options(kind, {"prior": (1.0, 0.0)})["prior"] == (1.0, 0.0)
    network = build_model(kind, 5, options)
    assert network.k == 5
    assert network.state_dict().keys() == build_model(kind, 5).state_dict().keys()


@pytest.mark.parametrize(("batch_norm", "tied"), [(True, True), (False, False)])
def test_batch_norm_in_the_generator_ties_a_face_to_its_batch(batch_norm, tied):
    """Defect 1 of the public code is there when it is asked for, in training, and only then."""
    torch.manual_seed(0)
    generator = AntibodyGenerator(6, 10, batch_norm=batch_norm).train()
    feature = torch.randn(4, 6)
    other = torch.cat([feature[:1], torch.randn(3, 6)])
    assert torch.equal(generator(feature)[0], generator(other)[0]) is not tied
    generator.eval()
    torch.testing.assert_close(generator(feature)[0], generator(other)[0])


def test_memory_is_left_out_on_request():
    assert not any("memory" in name for name in build_model("edge", 4, {"memory_slots": 0}).state_dict())
    assert "memory.slots" in build_model("edge", 4, {"memory_slots": 3}).state_dict()


def test_memory_in_the_network_is_written_in_training_only():
    torch.manual_seed(0)
    network = build_model("edge", 4, {"width": 8, "dim": 6, "memory_slots": 3})
    faces = torch.rand(4, 112, 112)
    assert all("slots" not in name for name, _ in network.named_parameters())
    network.eval()
    before = network.memory.slots.clone()
    network(faces)
    assert torch.equal(network.memory.slots, before)
    assert int(network.memory.idle.sum()) == 0
    network.train()
    loss = network(faces).sum()
    assert not torch.equal(network.memory.slots, before)
    # The write must not spoil what the backward pass needs.
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_memory_reads_the_average_of_similar_slots():
    torch.manual_seed(0)
    memory = AntigenMemory(5, 4, temperature=0.3).eval()
    feature = torch.randn(3, 4)
    cosine = torch.nn.functional.cosine_similarity(feature[:, None], memory.slots[None], dim=2)
    torch.testing.assert_close(memory(feature), torch.softmax(cosine / 0.3, 1) @ memory.slots)


def test_pin_learns_in_one_part_at_a_time():
    network = build_model("pin", 4)
    assert all(p.requires_grad for p in network.parameters())
    network.freeze()
    assert not any(p.requires_grad for p in network.autoencoder.parameters())
    assert all(p.requires_grad for p in network.esn.parameters())
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in network.modules())
