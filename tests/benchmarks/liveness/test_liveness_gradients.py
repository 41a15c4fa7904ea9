"""Gradients that are there and gradients that are not, told apart; and the page says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_liveness_run import small_run, striped_faces

from immunecam.benchmarks.liveness.victim import load_victims
from immunecam.benchmarks.liveness_gradients import MarginGoal, gradient_rows, surer
from immunecam.training.attacks.liveness_goal import LivenessGoal
from immunecam.training.attacks.sfa import SFA
from immunecam.training.faces import from_uint8

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def victim(tmp_path_factory):
    faces = striped_faces(32, seed=1)
    (found,) = load_victims([small_run(tmp_path_factory.mktemp("runs") / "plain")], faces, "cpu")
    return found


def test_a_surer_network_decides_alike(victim):
    faces = from_uint8(striped_faces(6).pixels)
    with torch.no_grad():
        before, after = (network(faces)["live"] for network in (victim.network, surer(victim.network, 100.0)))
    torch.testing.assert_close(after, 100 * before, rtol=1e-4, atol=1e-3)
    assert victim.network.classifiers["live"].weight.abs().max() < 50


def test_the_margin_has_a_gradient_where_cross_entropy_has_none(victim):
    faces = striped_faces(6)
    network, pictures = surer(victim.network, 1e4), from_uint8(faces.pixels).requires_grad_(True)
    sizes = {}
    for kind in (LivenessGoal, MarginGoal):
        goal = kind(network, faces.labels, "live")
        (gradient,) = torch.autograd.grad(goal(pictures).sum(), pictures)
        sizes[kind] = gradient.abs().flatten(1).sum(1)
    assert (sizes[LivenessGoal] == 0).all()
    assert (sizes[MarginGoal] > 0).all()


def test_what_is_measured_tells_them_apart(victim):
    faces = striped_faces(8, seed=2)
    sfa = (SFA(draws=1),)
    sure, rows = gradient_rows(victim, faces, striped_faces(8), levels=(16.0,), scales=(1.0, 1e4), sfa=sfa)
    assert [row["faces_without_gradient_percent"] for row in sure] == [0.0, 100.0]
    assert sure[1]["margin_quartiles"][1] == pytest.approx(1e4 * sure[0]["margin_quartiles"][1], rel=1e-2)
    found = {(row["scale"], row["attack"]): row["percent"] for row in rows}
    assert found[1.0, "PGD-10"] >= 50
    assert found[1e4, "PGD-10"] < found[1.0, "PGD-10"]
    assert found[1e4, "PGD-10, margin"] == pytest.approx(found[1.0, "PGD-10, margin"], abs=13)
    assert (1.0, "PGD-100, margin") in found
    assert all(np.isfinite(row["percent"]) for row in rows)


def test_the_page_says_what_was_measured():
    report = json.loads((ROOT / "benchmarks" / "results" / "liveness_gradients.json").read_text())
    text = " ".join((ROOT / "docs" / "liveness.md").read_text().split())
    found = {(row["run"], row["scale"], row["attack"]): row for row in report["rows"] if row["level"] == 1.0}
    with_sfa = {name: f"{name} + SFA stage1 mix uniform 0.5" for name in ("FGSM", "PGD-10")}
    gains, opens = {1.0: [], 100.0: []}, {1.0: [], 100.0: []}
    for run in report["runs"]:
        for scale, title in ((1.0, "as it is"), (100.0, "logits times 100")):
            for name in ("FGSM", "PGD-10"):
                forms = (name, with_sfa[name], f"{name}, margin")
                cells = [found[run["run"], scale, form]["percent"] for form in forms]
                row = " | ".join(f"{cell:.1f}" for cell in cells)
                assert f"| {run['backbone']} | {title} | {name} | {row} |" in text
                gains[scale].append(cells[1] - cells[0])
                opened = [found[run["run"], scale, form]["opens_percent"] for form in forms]
                opens[scale].append(opened[1] - opened[0])
        most = found[run["run"], 1.0, "PGD-100, margin"]["percent"]
        assert f"{most:.1f} % ({run['backbone']})" in text
    assert f"SFA takes {np.mean(gains[1.0]):+.1f} points as it is and {np.mean(gains[100.0]):+.1f} points" in text
    assert (
        f"of spoofs alone SFA takes {np.mean(opens[1.0]):+.1f} points as it is and {np.mean(opens[100.0]):+.1f}" in text
    )
    same = [row["sfa_same_sign_percent"] for row in report["sureness"] if row["scale"] == 1.0]
    assert f"the same sign in {min(same):.0f} to {max(same):.0f} % of the values" in text
    assert report["synthetic"] is True
    assert "all of this synthetic" in text
