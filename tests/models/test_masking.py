"""Mixes: shares, labels, losses, and the network that chooses how many faces."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.models.arcface import ArcFace
from immunecam.models.channel_gates import ChannelGates
from immunecam.models.frequency import FrequencyMask, channel_statistics
from immunecam.models.mask_spec import MaskSpec
from immunecam.models.masking import MIXED, merged, mixed, mixing_shares
from immunecam.models.mobile_face import MobileFace
from immunecam.models.strategy import RewardScale, StrategyNetwork, strategy_loss


@given(seed=st.integers(0, 2**31), count=st.integers(1, 6), largest=st.floats(0.5, 1))
def test_shares(seed, count, largest):
    noise = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = mixing_shares(noise, torch.full((16,), count), largest)
    assert torch.allclose(shares.sum(1), torch.ones(16, dtype=torch.float64))
    assert bool((shares[:, count:] == 0).all())
    assert bool((shares[:, :count] > 0).all())
    assert count == 1 or float(shares.max()) <= largest + 1e-12


def test_what_is_cut_goes_to_the_others_in_proportion():
    shares = mixing_shares(torch.tensor([[8.0, -1.0, 1.0], [1.0, 1.0, 5.0]]), torch.tensor([3, 2]))
    assert torch.allclose(shares, torch.tensor([[0.65, 0.175, 0.175], [0.5, 0.5, 0.0]]))


def test_the_shares_of_a_person_twice_in_a_mix_are_merged():
    labels = torch.tensor([[4, 7, 4, -1], [-1, -1, 2, 2]])
    shares = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
    assert torch.allclose(merged(labels, shares), torch.tensor([[0.4, 0.2, 0.0, 0.0], [0.0, 0.0, 0.3, 0.0]]))


def test_mixing_masked_faces_is_masking_mixed_faces():
    """Said in the module's docstring, and true while all faces are in one order."""
    torch.manual_seed(0)
    faces = torch.rand(4, 112, 112) * 2 - 1
    mean, std = channel_statistics([faces])
    mask = FrequencyMask(MaskSpec.of(range(1, 37)), mean, std)
    partners = torch.tensor([[0, 1, 2], [3, 1, 0]])
    shares = mixing_shares(torch.randn(2, 3), torch.tensor([3, 2]))
    assert torch.allclose(mixed(mask(faces), partners, shares), mask(mixed(faces, partners, shares)), atol=1e-4)


@given(seed=st.integers(0, 2**31), scale=st.floats(1, 64), margin=st.floats(0, 0.6))
@settings(deadline=None)
def test_arcface_by_its_definition(seed, scale, margin):
    torch.manual_seed(seed)
    head = ArcFace(5, 3, scale, margin).double()
    embeddings = F.normalize(torch.randn(4, 3, dtype=torch.float64), dim=1)
    labels, shares = torch.randint(5, (4, 2)), torch.rand(4, 2, dtype=torch.float64)
    weight = F.normalize(head.weight, dim=1)
    for n in range(4):
        expected = 0.0
        for label, share in zip(labels[n].tolist(), shares[n].tolist(), strict=True):
            angles = torch.acos((weight @ embeddings[n]).clamp(-1, 1)).tolist()
            own = angles[label]
            logits = [scale * math.cos(angle) for angle in angles]
            logits[label] = scale * (
                math.cos(own + margin) if own + margin < math.pi else math.cos(own) - margin * math.sin(margin)
            )
            top = max(logits)
            expected += share * (top + math.log(sum(math.exp(x - top) for x in logits)) - logits[label])
        found = head(embeddings[n : n + 1], labels[n : n + 1], shares[n : n + 1])
        assert float(found.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_face_without_a_label_has_no_term():
    torch.manual_seed(0)
    head = ArcFace(5, 3)
    embeddings = F.normalize(torch.randn(2, 3), dim=1)
    labels = torch.tensor([[-1, 2], [-1, -1]])
    found = head(embeddings, labels, merged(labels, torch.full((2, 2), 0.5)))
    assert float(found[0].detach()) == pytest.approx(
        0.5 * float(head(embeddings[:1], labels[:1, 1:], torch.ones(1, 1)).detach())
    )
    assert float(found[1].detach()) == 0


@pytest.mark.parametrize("positions", [14, 28, 56, 112])
def test_a_recogniser_of_any_positions(positions):
    torch.manual_seed(0)
    network = MobileFace(5, positions, 16, width=0.25)
    found = network(torch.randn(2, 5, positions, positions))
    assert tuple(found.shape) == (2, 16)
    assert torch.allclose(found.norm(dim=1), torch.ones(2))


def test_its_size_and_both_forms_of_its_rectifier():
    torch.manual_seed(0)
    network = MobileFace(36)
    assert 0.9e6 < sum(weight.numel() for weight in network.parameters()) < 1.1e6
    rectifier = network.trunk[2]
    x = torch.randn(2, 64, 3, 3)
    assert torch.allclose(rectifier.train()(x), rectifier.eval()(x))


def test_gates_learn_what_is_needed_and_what_is_seen():
    """Channel 5 tells the label, 7 too but with most of the energy: the first is to be kept, the second not."""
    torch.manual_seed(0)
    energy = torch.ones(1, 64)
    energy[0, 4], energy[0, 7] = 0, 500
    gates = ChannelGates(energy, keep=2)
    leave = torch.nn.Linear(64, 1)
    optimizer = torch.optim.Adam([*gates.parameters(), *leave.parameters()], 0.05)
    for _ in range(150):
        label = torch.randint(2, (64,)).float()
        x = torch.randn(64, 64, 1, 1)
        x[:, 5, 0, 0] = x[:, 7, 0, 0] = 2 * label - 1 + 0.1 * torch.randn(64)
        loss = F.binary_cross_entropy_with_logits(leave(gates(x).flatten(1))[:, 0], label) + gates.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (chosen,) = gates.chosen()
    assert 5 in chosen
    assert not {0, 4, 7} & set(chosen)
    kept = gates(torch.ones(1, 64, 1, 1)).detach().flatten()
    assert kept.nonzero().flatten().tolist() == list(chosen)


def test_gates_never_open_for_a_mean_or_an_empty_channel():
    torch.manual_seed(0)
    energy = torch.rand(3, 64) + 0.1
    energy[:, 30:] = 0
    energy[2] = 0  # no chroma at all: some have to be kept, but not the mean
    for plane in ChannelGates(energy, 20).chosen()[:2]:
        assert 1 <= min(plane) <= max(plane) < 30
    assert 0 not in ChannelGates(energy, 63).chosen()[2]


def test_the_strategy_finds_the_choice_that_pays():
    torch.manual_seed(0)
    network, scale = StrategyNetwork(4), RewardScale()
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    channels = torch.randn(32, 4, 28, 28)
    start = network(channels).detach().exp()
    assert torch.allclose(start, torch.full_like(start, 1 / len(MIXED)))
    for _ in range(60):
        found = network(channels)
        choices = torch.multinomial(found.detach().exp(), 1).squeeze(1)
        rewards = (choices == 3).float() + 0.1 * torch.randn(32)
        loss = strategy_loss(found, choices, scale(rewards), 0.01)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(network(channels).detach().exp()[:, 3].mean()) > 0.8


def test_rewards_are_scaled_by_what_came_before():
    scale = RewardScale(0.5)
    first = scale(torch.tensor([1.0, 3.0]))
    assert torch.allclose(first, torch.tensor([-1.0, 1.0]))
    later = scale(torch.tensor([10.0, 10.0]))
    assert bool((later > 0).all())


def test_an_entropy_bonus_pulls_towards_all_choices():
    logits = torch.tensor([[3.0, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    strategy_loss(F.log_softmax(logits, 1), torch.tensor([0]), torch.zeros(1), 1.0).backward()
    assert float(logits.grad[0, 0]) > 0
    assert bool((logits.grad[0, 1:] < 0).all())


def test_what_must_raise():
    with pytest.raises(ValueError, match="mixes of 1 to 7 faces were asked for, of 1 to 6"):
        mixing_shares(torch.zeros(2, 6), torch.tensor([1, 7]))
    with pytest.raises(ValueError, match=r"must be in \[0.5, 1\], got 0.4"):
        mixing_shares(torch.zeros(1, 2), torch.tensor([2]), 0.4)
    with pytest.raises(ValueError, match="at least 2 people apart, got 1"):
        ArcFace(1, 4)
    with pytest.raises(ValueError, match="64 frequencies of every colour were to be kept, of 1 to 63"):
        ChannelGates(torch.ones(1, 64), 64)
    with pytest.raises(ValueError, match="112, 56, 28 or 14 positions a side, got 100"):
        MobileFace(1, 100)
    with pytest.raises(ValueError, match=r"width in \(0, 4\], got 1, 128, 0"):
        MobileFace(1, width=0)
