"""The figures of a table, from cosines written by hand; and what is asked of defences and recognisers for them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.defences import Filter
from immunecam.benchmarks.evaluation.pairs import Pairs
from immunecam.benchmarks.evaluation.protocol import QUICK, Planned
from immunecam.benchmarks.evaluation.run import Evaluation, Job, Victim
from immunecam.benchmarks.evaluation.store import Store
from immunecam.training.attacks import PGD, Goal, LinfAttack
from immunecam.training.faces import from_uint8
from immunecam.training.recognizer import Recognizer

SAME = np.array([True, True, False, False])
PROTOCOL = dataclasses.replace(QUICK, name="by hand", judge_draws=4, resubmissions=4, adaptive_pairs=0)


class Drawing(Filter):
    """Draws by turning the first antibody of each side over and halving in all others; notes what it is asked for."""

    draws = True

    def __init__(self) -> None:
        super().__init__("drawing", None)
        self.asked: list[tuple[str, int]] = []
        self.gradients: list[str] = []
        self.names: dict[bytes, str] = {}

    def purify(self, faces: NDArray[np.uint8], draw: int = 0) -> NDArray[np.uint8]:
        self.asked.append((self.names[faces.tobytes()], draw))
        return 255 - faces if draw < 2 else faces // 2

    def seen(self, faces: torch.Tensor, gradient: str) -> torch.Tensor:
        self.gradients.append(gradient)
        return -faces


@pytest.fixture
def pairs() -> Pairs:
    """Four pairs of random squares, two of them said to be the same."""
    squares = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8), dtype=np.uint8)
    return Pairs(*np.kron(squares, np.ones((14, 14), np.uint8)), SAME)


@pytest.fixture
def victims(recognizers) -> list[Victim]:
    """Accept from 0.5 on, at the low false match rate from 0.7; the second from 0.4."""
    first, second = (Recognizer.load(path) for path in recognizers)
    return [Victim(first, 0.5, 0.7), Victim(second, 0.4, 0.6)]


@pytest.fixture
def defence(pairs) -> Drawing:
    drawing = Drawing()
    drawing.names = {pairs.left.tobytes(): "probe", pairs.right.tobytes(): "enrolled"}
    return drawing


@pytest.fixture
def evaluation(pairs, victims, defence, tmp_path) -> Evaluation:
    return Evaluation(PROTOCOL, pairs, victims, [Filter("none", None)], [defence], Store(tmp_path))


def array(*draws: list[float]) -> NDArray[np.float32]:
    return np.array(draws, np.float32)


# Cosines of four draws (rows) and four pairs, the first two the same person: what lies below 0.5 there, and above it in
# the last two, is the attacker's.
ONE = array([0.4, 0.55, 0.6, 0.4], [0.4, 0.55, 0.6, 0.4], [0.6, 0.8, 0.2, 0.4], [0.6, 0.8, 0.6, 0.4])
TWO = array([0.6, 0.4, 0.6, 0.45], [0.6, 0.9, 0.2, 0.45], [0.3, 0.3, 0.6, 0.9], [0.3, 0.6, 0.6, 0.9])


def told(evaluation: Evaluation, table: dict[tuple[str, str], dict[str, Any]], monkeypatch) -> list[int]:
    """Have an evaluation find the cosines of (attack, defence) in a table; gives the numbers of draws it asks for."""
    asked = []

    def cosines(job, defence, draws):
        asked.append(draws)
        return table[job.planned.name if job.planned else "none", defence.name]

    monkeypatch.setattr(evaluation, "cosines", cosines)
    return asked


def figures(row: dict[str, Any]) -> tuple[float, ...]:
    """Percentages: same accepted, different rejected, their mean; same accepted at the low false match rate."""
    names = ("same_accepted_percent", "different_rejected_percent", "accuracy_percent", "tar_at_fmr_percent")
    return tuple(row[name] for name in names)


def test_figures_of_attacks_through_a_defence(evaluation, victims, defence, monkeypatch):
    """Each attack alone, then the strongest of both: chosen pair by pair in two draws, judged in the two others."""
    combined = {"mean": array([0.6, 0.6, 0.6, 0.1]), "medoid": array([0.1, 0.1, 0.1, 0.1])}
    table = {
        (name, "drawing"): {"both": both, "probe": 1 - both, **combined} for name, both in (("one", ONE), ("two", TWO))
    }
    asked = told(evaluation, table, monkeypatch)
    jobs = [
        Job("adaptive", victims[0], Planned(name, PGD(steps=1), 8.0), victims[0], defence, 4) for name in ("one", "two")
    ]
    rows = {(row["threat"], row["attack"], row["purified"]): row for row in evaluation.rows(jobs)}
    wanted = {
        # Means of four draws: 0.5 and 1 of the same ones are accepted, 0.25 and 1 of the different ones rejected.
        ("adaptive", "one", "both"): (75.0, 62.5, 68.75, 25.0),
        ("adaptive", "two", "both"): (50.0, 37.5, 43.75, 12.5),
        # Three of four are needed to be accepted.
        ("adaptive", "one", "vote of 4"): (50.0, 50.0, 50.0, 0.0),
        ("adaptive", "two", "vote of 4"): (0.0, 50.0, 25.0, 0.0),
        ("adaptive", "one", "mean of 4"): (100.0, 50.0, 75.0, 0.0),
        ("adaptive", "two", "mean of 4"): (100.0, 50.0, 75.0, 0.0),
        ("adaptive", "one", "medoid of 4"): (0.0, 100.0, 50.0, 0.0),
        ("adaptive", "two", "medoid of 4"): (0.0, 100.0, 50.0, 0.0),
        # One success in four presentations is enough for the attacker.
        ("resubmission", "one, best of 4 submissions", "both"): (50.0, 50.0, 50.0, 0.0),
        ("resubmission", "two, best of 4 submissions", "both"): (0.0, 0.0, 0.0, 0.0),
        # By the first two draws: one (judged 0.6, 0.6); two, which has one success and the worse mean (0.3, 0.6); one
        # (0.2, 0.6); and two, which is nearer to success where neither has it (0.9, 0.9).
        ("adaptive", "strongest of 2", "both"): (75.0, 25.0, 50.0, 0.0),
        # By all four: two, two, one of equals, and two.
        ("resubmission", "strongest of 2, best of 4 submissions", "both"): (0.0, 0.0, 0.0, 0.0),
    }
    assert {name: figures(row) for name, row in rows.items()} == wanted
    assert {name: row["draws"] for name, row in rows.items() if row["purified"] == "both"} == {
        ("adaptive", "one", "both"): 4,
        ("adaptive", "two", "both"): 4,
        ("resubmission", "one, best of 4 submissions", "both"): 1,
        ("resubmission", "two, best of 4 submissions", "both"): 1,
        ("adaptive", "strongest of 2", "both"): 2,
        ("resubmission", "strongest of 2, best of 4 submissions", "both"): 1,
    }
    assert set(asked) == {4}


def test_figures_of_clean_faces(evaluation, victims, monkeypatch):
    """What a defence costs is the accuracy without it less that with it; of the probe alone, too."""
    bare = array([0.9, 0.6, 0.1, 0.1])
    table = {
        ("none", "none"): {"both": bare, "probe": bare},
        ("none", "drawing"): {"both": ONE, "probe": TWO, "mean": array([0.8] * 4), "medoid": array([0.2] * 4)},
    }
    asked = told(evaluation, table, monkeypatch)
    job = Job("clean", victims[0], None, victims[0], None, 4)
    rows = {(row["defence"], row["purified"]): row for row in evaluation.rows([job])}
    assert {name: figures(row) for name, row in rows.items()} == {
        ("none", "both"): (100.0, 100.0, 100.0, 50.0),
        ("none", "probe"): (100.0, 100.0, 100.0, 50.0),
        ("drawing", "both"): (75.0, 62.5, 68.75, 25.0),
        ("drawing", "probe"): (50.0, 37.5, 43.75, 12.5),
        ("drawing", "vote of 4"): (50.0, 50.0, 50.0, 0.0),
        ("drawing", "mean of 4"): (100.0, 0.0, 50.0, 100.0),
        ("drawing", "medoid of 4"): (0.0, 100.0, 50.0, 0.0),
    }
    drops = {
        name[1]: (row["drop_points"], row["tar_drop_points"]) for name, row in rows.items() if "drop_points" in row
    }
    assert drops == {
        "both": (31.25, 25.0),
        "probe": (56.25, 37.5),
        "vote of 4": (50.0, 50.0),
        "mean of 4": (50.0, -50.0),
        "medoid of 4": (50.0, 50.0),
    }
    for name, row in rows.items():
        assert ("drop_points" in row) == (name[0] == "drawing")
        if "drop_points" in row:
            assert 0 <= row["drop_low_points"] <= row["drop_points"] <= row["drop_high_points"]
    assert set(asked) == {1, 4}  # without draws every presentation is the same


def test_no_antibody_purifies_both_sides(evaluation, victims, defence, pairs):
    """Probes have the even numbers, enrolled faces the odd ones; a probe's row has the bare enrolled face."""
    victim = victims[0]
    found = evaluation.cosines(Job("clean", victim, None, victim, None, 4), defence, 4)
    assert sorted(defence.asked) == [*(("enrolled", n) for n in (1, 3, 5, 7)), *(("probe", n) for n in (0, 2, 4, 6))]

    def embedded(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.no_grad():
            return victim.recognizer(from_uint8(torch.from_numpy(pixels))).numpy()

    def mean(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.rint((255.0 - pixels + 3.0 * (pixels // 2)) / 4).astype(np.uint8)

    left, right = pairs.left, pairs.right
    probes = [embedded(255 - left), *[embedded(left // 2)] * 3]
    enrolled = [embedded(255 - right), *[embedded(right // 2)] * 3]
    wanted = {
        "both": [(p * e).sum(1) for p, e in zip(probes, enrolled, strict=True)],
        "probe": [(p * embedded(right)).sum(1) for p in probes],
        "clean": [(p * embedded(left)).sum(1) for p in probes],
        # Three of the four antibodies agree, so the medoid is one of them.
        "medoid": [(probes[1] * enrolled[1]).sum(1)],
        "mean": [(embedded(mean(left)) * embedded(mean(right))).sum(1)],
    }
    assert found.keys() == wanted.keys()
    for way, value in wanted.items():
        np.testing.assert_allclose(found[way], value, atol=1e-5, err_msg=way)


@dataclass(frozen=True)
class Noting(LinfAttack):
    """Changes nothing, and notes the goals that it is given."""

    goals: ClassVar[list[Goal]] = []

    def _run(self, goal: Goal, faces: torch.Tensor, epsilon: float) -> torch.Tensor:
        goal(faces)
        self.goals.append(goal)
        return faces


@pytest.fixture
def goals() -> list[Goal]:
    Noting.goals.clear()
    return Noting.goals


@pytest.mark.parametrize("gradient", ["expected", "straight-through"])
def test_an_attack_takes_the_gradient_that_it_is_named_after(gradient, evaluation, victims, defence, goals):
    """The enrolled face that it aims at, or away from, is behind the expected antibody in both cases."""
    job = Job("adaptive", victims[0], Planned("noting", Noting(), 8.0, gradient=gradient), victims[0], defence, 4)
    evaluation.crafted(job)
    assert defence.gradients == ["expected", gradient, gradient]
    assert [goal.impersonate for goal in goals] == [False, True]
    with torch.no_grad():
        wanted = victims[0].recognizer(-from_uint8(torch.from_numpy(evaluation.pairs.right)))
    torch.testing.assert_close(torch.cat([goal.reference for goal in goals]), wanted)


def test_a_transferred_attack_is_crafted_on_the_other_recogniser(evaluation, victims, defence, goals, pairs):
    """By its embeddings and its threshold, and judged by the victim."""
    victim, source = victims
    job = Job("transfer", victim, Planned("noting", Noting(), 8.0), source, None, 4)
    assert (evaluation.crafted(job) == pairs.left).all()
    assert len(goals) == 2
    right = from_uint8(torch.from_numpy(pairs.right))
    for goal, rows in zip(goals, (SAME, ~SAME), strict=True):
        assert goal.embed is source.recognizer
        assert goal.threshold == source.best
        with torch.no_grad():
            torch.testing.assert_close(goal.reference, source.recognizer(right[torch.from_numpy(rows)]))
    assert defence.gradients == []
    with torch.no_grad():
        left, right = (victim.recognizer(from_uint8(torch.from_numpy(side))) for side in (pairs.left, pairs.right))
    found = evaluation.cosines(job, evaluation.baselines[0], 1)["both"]
    np.testing.assert_allclose(found[0], (left * right).sum(1).numpy(), atol=1e-5)
