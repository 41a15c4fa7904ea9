"""The training attacker works for its goal, through what it is to go through, in the budget of every face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from immunecam.models import AIS, PIN, Eigenspace, Purification, build_model
from immunecam.training.attacks import impersonation, pgd
from immunecam.training.config import Attack, Phase, TrainConfig
from immunecam.training.faces import FaceSet
from immunecam.training.objective import Objective, _divergence
from immunecam.training.recognizer import Recognizer

K = 8
CONFIG = TrainConfig(
    kind="edge",
    k=K,
    model_options={"width": 8, "dim": 16, "restorer": {"widths": [4], "depths": [1], "base": "projected"}},
    clones=1,
    estimator="straight-through",
)


def network() -> AIS | PIN:
    """An untrained one, the same at every call."""
    torch.manual_seed(1)
    return build_model("edge", K, CONFIG.model_options).eval()


@dataclass
class Scene:
    """Six faces, whom each is and whom it may want to be, and the training attacker of them."""

    space: Eigenspace
    recognizer: Recognizer
    slow: AIS | PIN
    clean: Tensor
    own: Tensor
    others: Tensor

    def attacked(self, **attack: Any) -> Tensor:
        objective = Objective(CONFIG.replace(attack=Attack(**attack)), self.space, [self.recognizer])
        torch.manual_seed(0)
        return objective._attacked(self.slow, self.clean, self.own, self.others, self.recognizer)[0]

    @torch.no_grad()
    def cosine(self, faces: Tensor, reference: Tensor, *, behind: bool) -> Tensor:
        """Of the embeddings (N,), behind the expected antibody of the slow copy or of the faces as they are."""
        seen = Purification(self.space, self.slow, self.slow.restorer)(faces, "expected") if behind else faces
        return (self.recognizer(seen) * reference).sum(1)


@pytest.fixture(scope="module")
def space(faces: FaceSet) -> Eigenspace:
    return Eigenspace.fit(faces.batches(500), K)


@pytest.fixture
def scene(space: Eigenspace, faces: FaceSet, recognizer: Recognizer) -> Scene:
    clean = next(faces.batches(6))
    with torch.no_grad():
        own = recognizer(clean)
    torch.manual_seed(0)
    others = torch.nn.functional.normalize(torch.randn(own.shape), dim=1)
    return Scene(space, recognizer, network(), clean, own, others)


@pytest.mark.parametrize("gradient", ["projection", "straight-through", "expected"])
@pytest.mark.parametrize("goal", ["dodging", "impersonation"])
def test_the_attacker_gains_where_it_attacks(scene, gradient, goal):
    """Away from oneself or towards the other, more behind the slow copy if it goes through it, else more without it."""
    reference, sign = (scene.others, 1) if goal == "impersonation" else (scene.own, -1)
    attack = {"steps": (6, 6), "epsilon": (8.0, 8.0), "gradient": gradient, "random_start": True}
    attack["impersonation"] = float(goal == "impersonation")
    gained = {}
    for through in (0.0, 1.0):
        attacked = scene.attacked(through=through, **attack)
        gained[through] = [
            sign
            * (scene.cosine(attacked, reference, behind=behind) - scene.cosine(scene.clean, reference, behind=behind))
            for behind in (False, True)
        ]
    (bare, past), (aside, behind) = gained[0.0], gained[1.0]
    assert (bare > 0.1).all()
    assert (behind > 0.002).all()
    assert (bare > 5 * aside).all()
    assert (behind > 5 * past).all()


def test_the_hard_mask_is_drawn_once_and_the_other_attackers_see_the_selector(scene, monkeypatch):
    """The slow copy is asked for the antibody of the clean faces, or at every step for that of the attacked ones."""
    asked, drawn, genuine = [], [], Purification.antibody

    def antibody(self, probability, gradient):
        drawn.append(gradient)
        return genuine(self, probability, gradient)

    monkeypatch.setattr(Purification, "antibody", antibody)
    scene.slow.register_forward_hook(lambda network, faces, p: asked.append((faces[0].detach(), p.requires_grad)))
    for gradient in ("projection", "straight-through", "expected"):
        asked.clear()
        drawn.clear()
        scene.attacked(steps=(3, 3), through=0.5, gradient=gradient)
        assert [len(faces) for faces, _ in asked] == [3] * (1 if gradient == "projection" else 3)
        assert torch.equal(asked[0][0], scene.clean[:3])
        assert all(seen == (gradient != "projection") for _, seen in asked)
        assert not any(torch.equal(faces, scene.clean[:3]) for faces, _ in asked[1:])
        assert drawn == ([] if gradient == "projection" else [gradient] * 3)


def test_a_batch_draws_one_of_several_gradients(scene):
    calls = []
    scene.slow.register_forward_hook(lambda network, faces, p: calls.append(p.requires_grad))
    objective = Objective(
        CONFIG.replace(attack=Attack(gradient=("projection", "expected"))), scene.space, [scene.recognizer]
    )
    torch.manual_seed(0)
    for _ in range(12):
        objective._attacked(scene.slow, scene.clean[:1], scene.own[:1], scene.others[:1], scene.recognizer)
    assert len(calls) == 12
    assert 2 < sum(calls) < 10


def test_every_face_has_a_budget_of_its_own(scene):
    """Drawn between the lowest and the highest, and used up; rounded to the 8 bits of the face."""
    budgets = []
    for low, high in ((2.0, 12.0), (5.0, 5.0)):
        attacked = scene.attacked(steps=(4, 4), epsilon=(low, high), through=0.0)
        used = (attacked - scene.clean).abs().flatten(1).amax(1) * 127.5
        assert (used > low - 0.51).all()
        assert (used < high + 0.51).all()
        budgets.append(used.round().tolist())
    assert len(set(budgets[0])) >= 4
    assert max(budgets[0]) > 7
    assert set(budgets[1]) == {5.0}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_momentum_is_gathered_in_the_batches_that_are_to(scene, share):
    """On the bare recogniser the attacker is PGD, with momentum or without."""
    found = scene.attacked(steps=(4, 4), epsilon=(6.0, 6.0), through=0.0, impersonation=1.0, momentum=share)
    goal = impersonation(scene.recognizer, scene.others)
    plain, gathered = (
        pgd(goal, scene.clean, 6 / 127.5, steps=4, momentum=momentum, random_start=False) for momentum in (0.0, 1.0)
    )
    same = [float((found == wanted).float().mean()) for wanted in (plain, gathered)]
    assert same[int(share)] > 0.999
    assert same[1 - int(share)] < 0.9


@pytest.mark.parametrize("random_start", [False, True])
def test_steps_are_drawn_and_the_start_is_random_if_asked_for(scene, random_start):
    asked = []
    hook = scene.recognizer.register_forward_hook(lambda network, faces, found: asked.append(faces[0].detach()))
    objective = Objective(
        CONFIG.replace(attack=Attack(steps=(1, 3), through=0.0, random_start=random_start)),
        scene.space,
        [scene.recognizer],
    )
    torch.manual_seed(0)
    counts = set()
    for _ in range(12):
        asked.clear()
        objective._attacked(scene.slow, scene.clean, scene.own, scene.others, scene.recognizer)
        counts.add(len(asked))
        assert torch.equal(asked[0], scene.clean) != random_start
    hook.remove()
    assert counts == {1, 2, 3}


def test_an_impersonator_wants_to_be_somebody_else_of_the_batch(scene):
    """Every attacked face comes nearer to the face before it, which is not itself."""
    attack = Attack(steps=(6, 6), epsilon=(2.0, 2.0), through=0.0, impersonation=1.0)
    objective = Objective(CONFIG.replace(attack=attack), scene.space, [scene.recognizer])
    torch.manual_seed(0)
    phase = Phase("a", 1, adversarial=1.0)
    attacked, untouched, impersonates = objective._corrupt(scene.slow, scene.clean, scene.own, scene.recognizer, phase)
    assert untouched == 0
    assert impersonates.all()
    neighbour = scene.own.roll(1, 0)
    before, after = (scene.cosine(faces, neighbour, behind=False) for faces in (scene.clean, attacked))
    assert (1 - after < 0.3 * (1 - before)).all()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_an_impersonation_of_a_step_leaves_is_weighted(scene, monkeypatch, share):
    """The loss grows by what the impersonators, and they only, have gained on the faces before them."""
    config = CONFIG.replace(
        model_options=CONFIG.model_options | {"prior": (30.0, 30.0)},  # all eigenfaces, so nothing is left to chance
        attack=Attack(steps=(6, 6), epsilon=(8.0, 8.0), impersonation=share),
    )
    torch.manual_seed(1)
    scene.slow = build_model("edge", K, config.model_options).eval()
    found: list[tuple[Tensor, int, Tensor]] = []
    losses = []
    for weight in (0.0, 100.0):
        objective = Objective(config.replace(target_weight=weight), scene.space, [scene.recognizer])
        corrupt = objective._corrupt
        monkeypatch.setattr(objective, "_corrupt", lambda *args, c=corrupt: found.append(c(*args)) or found[-1])
        torch.manual_seed(3)
        phase = Phase("a", 1, adversarial=0.75, clean=0.25)
        losses.append(objective.selection(scene.slow, scene.slow, scene.clean, phase, 0).loss.item())
    (attacked, untouched, impersonates), again = found
    assert torch.equal(attacked, again[0])
    assert not impersonates[:untouched].any()
    assert untouched > 0
    assert share == 0.5 or impersonates.any() == (share == 1)
    wanted = scene.own.roll(1, 0)
    gain = scene.cosine(attacked, wanted, behind=True) - (scene.own * wanted).sum(1)
    expected = float(gain[impersonates].clamp_min(0).mean()) if impersonates.any() else 0.0
    assert losses[1] - losses[0] == pytest.approx(100 * expected, abs=2e-3)
    assert (expected > 0.01) == (share > 0)


def test_recognisers_are_attacked_in_turn_and_judged_by_another_as_often_as_asked_for(space, recognizer):
    recognizers = [Recognizer(recognizer.network, name) for name in ("a", "b")]
    judged = {}
    for share in (0.0, 0.5, 1.0):
        objective = Objective(CONFIG.replace(cross_recognizer=share), space, recognizers)
        torch.manual_seed(0)
        turns = [objective._turns(step) for step in range(80)]
        assert [victim.name for victim, _ in turns] == ["a", "b"] * 40
        judged[share] = sum(victim is not judge for victim, judge in turns)
    # A judge that is drawn is the victim as often as any other.
    assert judged[0.0] == 0
    assert 10 <= judged[0.5] <= 30
    assert 30 <= judged[1.0] <= 50
    assert Objective(CONFIG.replace(identity_weight=0.0), space)._turns(3) == (None, None)


@pytest.mark.parametrize("gradient", ["projection", "expected"])
@pytest.mark.parametrize(("precision", "wanted"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_compute_in_the_precision_asked_for_and_recognisers_in_float32(scene, precision, wanted, gradient):
    """A whole step: the trained network, its restorer, and both of the slow copy that is attacked."""
    trained = network().train()
    config = CONFIG.replace(precision=precision, attack=Attack(gradient=gradient))
    objective = Objective(config, scene.space, [scene.recognizer])
    found: dict[str, set[torch.dtype]] = {}

    def watch(name: str, module: torch.nn.Module) -> None:
        layer = next(layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d))
        layer.register_forward_hook(lambda layer, given, made: found.setdefault(name, set()).add(made.dtype))

    for name, whole in (("trained", trained), ("slow", scene.slow)):
        watch(f"{name} analyzer", whole.analyzer)
        watch(f"{name} restorer", whole.restorer)
    watch("recognizer", scene.recognizer)
    values = objective.selection(trained, scene.slow, scene.clean, Phase("a", 1, adversarial=1.0), 0)
    assert found.pop("recognizer") == {torch.float32}
    assert found == {f"{name} {part}": {wanted} for name in ("trained", "slow") for part in ("analyzer", "restorer")}
    assert values.loss.dtype == torch.float32
    values.loss.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained.parameters())


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_the_divergence_from_a_teacher_is_that_of_kullback_and_leibler(seed):
    generator = torch.Generator().manual_seed(seed)
    taught, ours = (torch.rand(5, K, generator=generator, dtype=torch.float64) for _ in range(2))
    taught[0, 0], taught[0, 1] = 0.0, 1.0  # a bundle's probabilities may be quite sure
    wanted = sum(torch.xlogy(t, t) - torch.xlogy(t, o) for t, o in ((taught, ours), (1 - taught, 1 - ours))).mean()
    assert _divergence(torch.logit(ours).float(), taught.float()) == pytest.approx(float(wanted), abs=1e-4)
    assert _divergence(torch.logit(ours).float(), ours.float()) == pytest.approx(0, abs=1e-5)
