"""Analyzer, memory, generator, PIN and edge."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from immunecam.models import KINDS, AntigenMemory, build_model


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


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="unknown model kind"):
        build_model("gan", 4)
    with pytest.raises(ValueError, match="no such option"):
        build_model("edge", 4, {"depth": 3})


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
