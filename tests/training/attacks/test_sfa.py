"""Attacks on liveness networks, with features augmented and without: every one keeps its promises."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LivenessLabels, liveness_loss
from immunecam.models.liveness_trunks import LAYERS
from immunecam.training.attacks import round_to_8bit
from immunecam.training.attacks.liveness_attacks import LIVENESS_ATTACKS, SignAttack
from immunecam.training.attacks.liveness_goal import FeatureBank, LivenessGoal
from immunecam.training.attacks.sfa import LAWS, OPERATORS, SFA, sfa_sweep

_EPSILON = 8 * 2 / 255
_ALL = {**LIVENESS_ATTACKS, **{f"SFA of {name}": SFA.over(base, draws=2) for name, base in LIVENESS_ATTACKS.items()}}


def small(attack: SignAttack) -> SignAttack:
    return dataclasses.replace(attack, steps=min(attack.steps, 3))


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Sixteen faces of noise, of which the last eight have stripes."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(16, 3, 64, 64, generator=generator) - 0.5
    pictures[8:, :, ::2] += 0.3
    return round_to_8bit(pictures)


@pytest.fixture(scope="module")
def network(pictures) -> LivenessNetwork:
    """A network that knows stripes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = LivenessNetwork("vgg", attributes=3, side=64)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 0.5  # so few steps would not move the usual averages far enough
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(20):
        loss, _ = liveness_loss(network(pictures), labels())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval().requires_grad_(False)


def labels() -> LivenessLabels:
    live = torch.tensor([0] * 8 + [1] * 8)
    maps = torch.full((16, 1, 14, 14), 0.5)
    return LivenessLabels(live, torch.ones(16, 3), 2 * live, live, maps, maps.repeat(1, 3, 1, 1))


@pytest.fixture
def goal(network, pictures) -> LivenessGoal:
    return LivenessGoal(network, labels(), bank=FeatureBank(network, pictures, labels().live))


@pytest.mark.parametrize("name", _ALL)
def test_promises(name, goal, pictures):
    torch.manual_seed(0)
    attacked = small(_ALL[name])(goal, pictures, _EPSILON)
    assert attacked.shape == pictures.shape
    assert not attacked.requires_grad
    assert float((attacked - pictures).abs().max()) <= _EPSILON + 1e-6
    assert float(attacked.abs().max()) <= 1
    assert torch.equal(round_to_8bit(attacked), attacked)
    noise = pictures + _EPSILON * (2 * torch.randint(0, 2, pictures.shape) - 1)
    with torch.no_grad():
        assert (goal(attacked) > goal(noise.clamp(-1, 1))).float().mean() > 0.7


@pytest.mark.parametrize("name", _ALL)
def test_no_faces(name, goal):
    nobody = goal.of(torch.arange(0))
    assert small(_ALL[name])(nobody, torch.zeros(0, 3, 64, 64), _EPSILON).shape == (0, 3, 64, 64)


@pytest.mark.parametrize("name", LIVENESS_ATTACKS)
def test_a_network_without_defence_breaks(name, goal, pictures):
    assert not goal.reached(pictures).any()
    attacked = LIVENESS_ATTACKS[name](goal, pictures, 4 * _EPSILON)
    assert goal.reached(attacked).float().mean() > 0.7


@pytest.mark.parametrize("head", ["live", "attributes", "spoof_type", "illumination", "depth", "reflection"])
def test_any_head_is_a_target(head, goal, pictures):
    torch.manual_seed(0)
    target = dataclasses.replace(goal, head=head)
    attacked = SFA(steps=3, draws=2)(target, pictures, _EPSILON)
    with torch.no_grad():
        assert float(target(attacked).mean()) > float(target(pictures).mean())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("layer", LAYERS)
def test_features_move_towards_the_other_class(operator, layer, goal, pictures):
    torch.manual_seed(0)
    features = goal.network.features(pictures, layer)
    attack = SFA(layer=layer, operator=operator, law="fixed", strength=1.0)
    moved = attack.augmented(features, labels().live, goal.bank)
    own, other = (features[part].mean((0, 2, 3)) for part in (slice(0, 8), slice(8, 16)))
    now = moved[:8].mean((0, 2, 3))
    assert float((now - other).norm()) < 0.7 * float((own - other).norm())
    nothing = dataclasses.replace(attack, strength=1e-9).augmented(features, labels().live, goal.bank)
    torch.testing.assert_close(nothing, features, atol=1e-4, rtol=1e-4)


def test_adain_takes_statistics_and_leaves_the_pattern(goal, pictures):
    features = goal.network.features(pictures, "stem")
    attack = SFA(layer="stem", operator="adain", law="fixed", strength=1.0)
    torch.manual_seed(1)
    moved = attack.augmented(features, labels().live, goal.bank)
    torch.manual_seed(1)
    opposite = goal.bank.opposite("stem", labels().live)
    torch.testing.assert_close(moved.mean((2, 3)), opposite.mean((2, 3)), atol=1e-4, rtol=1e-3)
    before, after = (x[0, 0] - x[0, 0].mean() for x in (features, moved))
    assert float((before * after).sum() / (before.norm() * after.norm())) > 0.999


def test_opposites_are_of_the_other_class(goal):
    torch.manual_seed(0)
    drawn = goal.bank.opposite("stem", labels().live)
    of_live, of_spoof = goal.bank.features("stem")
    for number, features in enumerate(drawn):
        pool = of_spoof if number < 8 else of_live
        assert (pool == features).flatten(1).all(1).any()


@pytest.mark.parametrize("law", LAWS)
@given(strength=st.floats(0.01, 1.0))
def test_shares_are_within_the_law(law, strength):
    share = SFA(law=law, strength=strength)._share(torch.zeros(64, 1, 1, 1))
    assert float(share.min()) >= 0
    assert float(share.max()) <= strength * (1 + 1e-6)
    assert (len(share.unique()) > 1) == (law != "fixed")


def test_the_gradient_is_the_mean_over_draws(goal, pictures):
    attack = SFA(draws=3, layer="stage1")
    faces = pictures.clone().requires_grad_(True)
    torch.manual_seed(5)
    loss = attack._loss(goal)(faces)
    assert loss.shape == (16,)
    torch.manual_seed(5)
    features = goal.network.features(pictures, "stage1")
    augmented = attack.augmented(features.repeat(3, 1, 1, 1), labels().live.repeat(3), goal.bank)
    one_by_one = [goal.loss(goal.network.from_features(part, "stage1")) for part in augmented.split(16)]
    torch.testing.assert_close(loss.detach(), torch.stack(one_by_one).mean(0), atol=1e-5, rtol=1e-4)
    (gradient,) = torch.autograd.grad(loss.sum(), faces)
    assert float(gradient.abs().sum()) > 0


def test_a_sweep_has_every_setting():
    sweep = list(sfa_sweep(LIVENESS_ATTACKS["MI-FGSM-10"]))
    assert len(set(sweep)) == len(sweep) == 4 * 3 * 3 * 3
    assert all(attack.momentum == 1.0 and attack.steps == 10 for attack in sweep)


def test_what_must_raise(network, pictures, goal):
    for changes, said in (
        ({"layer": "head"}, "layer of SFA must be one of stem"),
        ({"operator": "cut"}, "operator of SFA"),
        ({"law": "normal"}, "law of SFA"),
        ({"strength": 0.0}, "strength of SFA"),
        ({"strength": float("nan")}, "strength of SFA"),
        ({"draws": 0}, "draws of SFA"),
        ({"steps": 0}, "steps of SFA"),
        ({"momentum": -1.0}, "momentum must be"),
        ({"step_size": 0.0}, "step_size of SFA"),
    ):
        with pytest.raises(ValueError, match=said):
            SFA(**changes)
    with pytest.raises(ValueError, match="give the goal a FeatureBank"):
        SFA()(dataclasses.replace(goal, bank=None), pictures, _EPSILON)
    with pytest.raises(ValueError, match=r"must be float \(N, 3, side, side\)"):
        SFA()(goal, pictures[:, 0], _EPSILON)
    with pytest.raises(ValueError, match="2 faces for a goal of 16"):
        SFA()(goal, pictures[:2], _EPSILON)
    with pytest.raises(ValueError, match="has no spoofs"):
        FeatureBank(network, pictures[:8], labels().live[:8])
    with pytest.raises(ValueError, match="16 pictures has 2 labels"):
        FeatureBank(network, pictures, labels().live[:2])
    bare = LivenessNetwork("vgg", (), side=64)
    with pytest.raises(ValueError, match="has no head 'depth': use one of live"):
        LivenessGoal(bare, labels(), "depth")
    with pytest.raises(ValueError, match="no labels for 'depth'"):
        LivenessGoal(network, LivenessLabels(labels().live), "depth")
