"""Every attack of the table keeps its promises, and breaks a recogniser that has no defence."""

from __future__ import annotations

import csv
import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from immunecam.models import Eigenspace, Purification
from immunecam.training.attacks import (
    APGD,
    ATTACKS,
    EOTPGD,
    MIFGSM,
    PGD,
    Goal,
    LinfAttack,
    Square,
    dodging,
    impersonation,
    resubmitted,
    round_to_8bit,
    through,
)
from immunecam.training.attacks.apgd import checkpoints
from immunecam.training.attacks.base import linf_box
from immunecam.training.attacks.patch import patch_place
from immunecam.training.attacks.square import area_schedule
from immunecam.training.attacks.transfer import gaussian_kernel
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.recognizer import Recognizer

# The threshold of best accuracy of mobilefacenet_y1 on the pairs of folds 1 to 7.
_Y1_THRESHOLD = 0.239


def small(attack):
    """The attack with so little work that every test can afford it."""
    fields = {field.name for field in dataclasses.fields(attack)}
    if "attack" in fields:
        return dataclasses.replace(attack, attack=small(attack.attack))
    few = {"steps": 4, "queries": 12, "draws": 3, "binary_search_steps": 2}
    return dataclasses.replace(attack, **{name: value for name, value in few.items() if name in fields})


@pytest.fixture
def clean(faces) -> torch.Tensor:
    return from_uint8(faces.pixels[:6])


@pytest.fixture
def goal(recognizer, clean) -> Goal:
    with torch.no_grad():
        own = recognizer(clean)
    return dodging(recognizer, own, 0.9999)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("impersonate", [False, True])
def test_promises(name, impersonate, recognizer, clean):
    listed = ATTACKS[name]
    attack = small(listed.attack)
    with torch.no_grad():
        reference = recognizer(clean)
    if impersonate:  # faces are all alike to the small recogniser, so the victims are made up
        reference = torch.nn.functional.normalize(torch.randn(reference.shape), dim=1)
        reference = reference[:1].expand_as(reference) if "universal" in name else reference
    goal = Goal(recognizer, reference, impersonate, 1.0 if impersonate else -1.0)
    before = clean.clone()
    torch.manual_seed(0)
    attacked = attack(goal, clean, listed.epsilon)
    assert torch.equal(clean, before)
    assert attacked.shape == clean.shape
    assert attacked.dtype == clean.dtype
    assert not attacked.requires_grad
    assert torch.equal(round_to_8bit(attacked), attacked)
    change = attacked - clean
    if attack.norm == "linf":
        assert float(change.abs().max()) * 127.5 <= listed.epsilon * 127.5 + 1e-3
    elif attack.norm == "l2":
        # Half a level of rounding a pixel.
        assert float(change.flatten(1).norm(dim=1).max()) <= listed.epsilon + 112 * 0.5 / 127.5
    else:
        assert int((change != 0).flatten(1).sum(1).max()) <= listed.epsilon * 112 * 112
    with torch.no_grad():
        assert goal(attacked).mean() >= goal(clean).mean() - 1e-4
    torch.manual_seed(0)
    assert torch.equal(attack(goal, clean, listed.epsilon), attacked)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_faces(name, recognizer):
    listed = ATTACKS[name]
    goal = dodging(recognizer, torch.zeros(0, 16))
    assert listed.attack(goal, torch.zeros(0, 112, 112), listed.epsilon).shape == (0, 112, 112)


@pytest.mark.parametrize("name", ["PGD-40", "APGD-40", "DI-FGSM-40", "Square-5000", "EOT-PGD-40x20"])
def test_random_attacks_differ(name, goal, clean):
    goal = dataclasses.replace(goal, threshold=-1.0)
    attack = small(ATTACKS[name].attack)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(attack(goal, clean, ATTACKS[name].epsilon))
    assert not torch.equal(*found)


@given(st.floats(0.3, 40), st.integers(0, 255))
def test_the_box_never_exceeds_the_budget(levels, value):
    face = from_uint8(torch.full((1, 1, 1), value, dtype=torch.uint8))
    low, high = linf_box(face, levels / 127.5)
    for end in (low, high):
        assert torch.allclose(round_to_8bit(end), end, atol=1e-6)
        assert float((end - face).abs().max()) * 127.5 <= levels + 2e-3
    assert float(high) >= float(face) - 1e-6
    if levels >= 1 and value <= 254:
        assert float(high) > float(face)


def test_more_starts_are_not_worse(goal, clean):
    goal = dataclasses.replace(goal, threshold=-1.0)
    with torch.no_grad():
        torch.manual_seed(0)
        once = goal(PGD(steps=2, restarts=1)(goal, clean, 0.02))
        torch.manual_seed(0)
        thrice = goal(PGD(steps=2, restarts=3)(goal, clean, 0.02))
    assert (thrice >= once).all()
    assert (thrice > once).any()


def test_apgd_keeps_its_best_point_and_beats_pgd(goal, clean):
    torch.manual_seed(0)
    with torch.no_grad():
        ours = goal(APGD(steps=20)(goal, clean, 0.05))
        theirs = goal(PGD(steps=20)(goal, clean, 0.05))
    assert ours.mean() >= theirs.mean() - 0.02


def test_apgd_checkpoints_are_the_papers():
    # For 100 steps the paper's p_j are .22, .41, .57, .70, .80, .87, .93, .99.
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_square_takes_no_gradient(goal, clean):
    asked = 0

    def embed(faces):
        nonlocal asked
        assert not torch.is_grad_enabled()
        asked += 1
        return goal.embed(faces)

    Square(queries=9)(dataclasses.replace(goal, embed=embed, threshold=-1.0), clean, 0.1)
    assert asked == 9


def test_square_leaves_faces_that_are_through(recognizer, clean):
    """With a threshold that everything fails, the first stripes are the end."""
    with torch.no_grad():
        own = recognizer(clean)
    asked = []

    def embed(faces):
        asked.append(len(faces))
        return recognizer(faces)

    Square(queries=50)(Goal(embed, own, False, 1.0), clean, 0.1)
    assert asked == [len(clean)]
    sizes = [area_schedule(0.3, query, 1000) for query in range(1, 1000)]
    assert sizes[0] == 0.3
    assert all(a >= b for a, b in itertools.pairwise(sizes))


class _Drawing:
    """An embedding that draws a mask at every call."""

    def __init__(self, recognizer) -> None:
        self.recognizer, self.calls = recognizer, 0

    def __call__(self, faces):
        self.calls += 1
        keep = torch.rand(112, generator=torch.Generator().manual_seed(self.calls)) < 0.7
        return self.recognizer(faces * keep)


def test_eot_averages_gradients(recognizer, clean):
    with torch.no_grad():
        own = recognizer(clean)
    drawing = _Drawing(recognizer)
    found = EOTPGD(draws=5).gradient(dodging(drawing, own), clean)
    again = _Drawing(recognizer)
    wanted = torch.zeros_like(clean, dtype=torch.float64)
    for _ in range(5):
        x = clean.clone().requires_grad_(True)
        wanted += torch.autograd.grad(dodging(again, own)(x).sum(), x)[0].double() / 5
    assert torch.allclose(found.double(), wanted, atol=1e-7)
    assert drawing.calls == 5


def test_eot_stops_only_where_it_is_through(recognizer, clean):
    with torch.no_grad():
        own = recognizer(clean)
    similarity = lambda x: (recognizer(x) * own).sum(1)  # noqa: E731
    torch.manual_seed(0)
    long = EOTPGD(steps=6, draws=1, stop_early=False)(dodging(recognizer, own, 0.9995), clean, 0.05)
    torch.manual_seed(0)
    short = EOTPGD(steps=6, draws=1)(dodging(recognizer, own, 0.9995), clean, 0.05)
    with torch.no_grad():
        through_long, through_short = similarity(long) < 0.9995, similarity(short) < 0.9995
    assert through_short[through_long].all()


def test_through_sees_the_selector(recognizer, clean):
    torch.manual_seed(0)
    space = Eigenspace(torch.zeros(12544), torch.linalg.qr(torch.randn(12544, 8))[0].T.contiguous(), torch.ones(8))
    weight = torch.randn(12544, 8) / 50
    purification = Purification(space, lambda x: torch.sigmoid(x.flatten(1) @ weight))
    gradients = {}
    for name in ("expected", "straight-through", "projection"):
        x = clean.clone().requires_grad_(True)
        torch.manual_seed(1)
        through(purification, recognizer, name)(x)[:, 0].sum().backward()
        gradients[name] = x.grad
    assert not torch.allclose(gradients["straight-through"], gradients["projection"])
    assert not torch.allclose(gradients["straight-through"], gradients["expected"])


def test_resubmission_counts_any_success():
    flips = iter(range(100))

    def embed(faces):
        n = next(flips)
        return torch.tensor([[1.0, 0.0], [0.0, 1.0]])[[int(n >= 3), 1]][-len(faces) :]

    reference = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    # The first face is the victim from the fourth presentation on, the second never is.
    assert resubmitted(impersonation(embed, reference, 0.5), torch.zeros(2, 4, 4), 3).tolist() == [False, False]
    flips = iter(range(100))
    found = resubmitted(impersonation(embed, reference, 0.5), torch.zeros(2, 4, 4), 10)
    assert found.tolist() == [True, False]


def test_averaged_goal_is_the_mean_loss(recognizer, clean):
    with torch.no_grad():
        own = recognizer(clean)
        found = dodging(_Drawing(recognizer), own).averaged(4)(clean)
        drawing = _Drawing(recognizer)
        wanted = torch.stack([dodging(drawing, own)(clean) for _ in range(4)]).mean(0)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_kernel_and_patch():
    kernel = gaussian_kernel(7, 1.5)
    assert float(kernel.sum()) == pytest.approx(1)
    assert torch.equal(kernel, kernel.T)
    assert int(kernel.argmax()) == 24
    rows, columns = patch_place(112, 112, 0.1)
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    assert 0.09 * 112**2 <= area <= 0.1 * 112**2


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "resubmission of PGD-40"])
def test_it_breaks_an_undefended_recogniser(name, shared_data):
    """Grey-box, 8/255 (or the budget of its own norm), 40 steps: above 95 % on both goals."""
    torch.manual_seed(0)
    recognizer = Recognizer.load(shared_data / "recognizers" / "mobilefacenet_y1.torchscript.pt")
    faces = FaceSet.load(shared_data / "lfw" / "dev_112.zip")
    number = {face: index for index, face in enumerate(faces.names)}
    with (shared_data / "lfw" / "pairs.csv").open(newline="") as file:
        pairs = [row for row in csv.DictReader(file) if row["fold"] == "8"]
    listed = ATTACKS[name]
    for impersonate in (False, True):
        chosen = [row for row in pairs if (row["same"] == "1") != impersonate][:4]
        left, right = (from_uint8(faces.pixels[[number[row[side]] for row in chosen]]) for side in ("left", "right"))
        with torch.no_grad():
            reference = recognizer(right)
        if "universal" in name and impersonate:
            reference = reference[:1].expand_as(reference)  # one patch has one victim
        goal = Goal(recognizer, reference, impersonate, _Y1_THRESHOLD)
        attacked = listed.attack(goal, left, listed.epsilon)
        assert goal.reached(attacked).float().mean() > 0.95


def test_settings_of_the_table():
    assert all(isinstance(ATTACKS[name].attack, LinfAttack) for name in ("FGSM", "PGD-40", "MI-FGSM-10", "APGD-40"))
    assert ATTACKS["MI-FGSM-10"].attack == MIFGSM(steps=10, decay=1.0)
    assert ATTACKS["EOT-PGD-40x20"].attack == EOTPGD(steps=40, draws=20)
