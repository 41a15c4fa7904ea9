"""Rankings: the most robust first, with intervals of the faces, which are the same for all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from small_liveness_run import small_run, striped_faces

from immunecam.benchmarks.evaluation.store import Store
from immunecam.benchmarks.liveness.attacked import AttackedFaces, drawn
from immunecam.benchmarks.liveness.protocol import QUICK
from immunecam.benchmarks.liveness.ranking import DRAWS, rankings
from immunecam.benchmarks.liveness.victim import load_victims

SPOOFS = 20
LEVELS = (1.0, 2.0)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    faces = striped_faces(2 * SPOOFS + 16, seed=1)
    protocol = dataclasses.replace(QUICK, faces=SPOOFS, levels=LEVELS)
    return AttackedFaces(protocol, drawn(faces, SPOOFS), faces, Store(tmp_path_factory.mktemp("work")))


@pytest.fixture(scope="module")
def victims(attacked, tmp_path_factory):
    """Of two backbones; what is ranked are the scores below, whatever they say."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        small_run(folder / name, backbone=backbone, steps=1)
        for name, backbone in (("a", "vgg"), ("b", "vgg"), ("c", "resnet"))
    ]
    return load_victims(runs, attacked.faces, "cpu")


def _scores(attacked, passing):
    """Scores of attacked faces, of whose spoofs the first `passing` pass."""
    live = attacked.faces.labels.live.numpy() == 0
    scores = np.where(live, 1.0, 0.0).astype(np.float32)
    scores[np.flatnonzero(~live)[:passing]] = 1.0
    return scores


def _ranked(attacked, victims, passing, monkeypatch):
    live = attacked.faces.labels.live.numpy() == 0
    monkeypatch.setattr(AttackedFaces, "clean_scores", lambda self, victim: np.where(live, 1, 0).astype(np.float32))
    scored = {
        (victim.name, "live", "FGSM", level, sfa): _scores(attacked, count)
        for victim, counts in zip(victims, passing, strict=True)
        for level, count in zip(LEVELS, counts, strict=True)
        for sfa in (False, True)
    }
    return rankings(attacked, victims, scored, [])


def test_a_network_has_the_interval_of_a_mean_over_faces(attacked, victims, monkeypatch):
    ranking = _ranked(attacked, victims, ((4, 8), (2, 4), (8, 16)), monkeypatch)
    assert [(row["run"], row["opened_percent"]) for row in ranking["runs"]] == [("b", 15.0), ("a", 30.0), ("c", 60.0)]
    share = np.repeat([1.0, 0.5, 0.0], [4, 4, 12])
    error = 100 * share.std() / np.sqrt(SPOOFS)
    row = ranking["runs"][1]
    assert row["low_percent"] == pytest.approx(30 - 1.96 * error, abs=4)
    assert row["high_percent"] == pytest.approx(30 + 1.96 * error, abs=4)
    assert ranking["draws"] == DRAWS


def test_backbones_are_means_and_who_leads_is_told_with_how_surely(attacked, victims, monkeypatch):
    ranking = _ranked(attacked, victims, ((4, 8), (2, 4), (8, 16)), monkeypatch)
    assert [(row["backbone"], row["runs"], row["opened_percent"]) for row in ranking["backbones"]] == [
        ("vgg", 2, 22.5),
        ("resnet", 1, 60.0),
    ]
    # Every face that passes a vgg network passes the resnet: no draw of faces has it the other way round.
    assert ranking["leads"] == {"backbones": 100.0}
    close = _ranked(attacked, [victims[0], victims[2]], ((5, 5), (5, 6)), monkeypatch)
    # They differ in one face at one budget, which 36 % of the draws leave out.
    assert close["leads"]["backbones"] == pytest.approx(100 * (1 - (1 - 1 / SPOOFS) ** SPOOFS), abs=5)


def test_where_all_faces_agree_the_interval_is_that_of_so_many(attacked, victims, monkeypatch):
    ranking = _ranked(attacked, victims, ((0, 0), (0, 0), (20, 20)), monkeypatch)
    safe, _, open_ = ranking["runs"]
    assert (safe["low_percent"], safe["opened_percent"]) == (0.0, 0.0)
    assert safe["high_percent"] == pytest.approx(100 * (1 - 0.025 ** (1 / SPOOFS)), abs=0.01)
    assert (open_["low_percent"], open_["high_percent"]) == (pytest.approx(100 * 0.025 ** (1 / SPOOFS), abs=0.01), 100)


def test_faces_that_were_wrong_before_do_not_count(attacked, victims, monkeypatch):
    ranking = _ranked(attacked, victims[:1], ((20, 20),), monkeypatch)
    assert ranking["runs"][0]["opened_percent"] == 100.0
    live = attacked.faces.labels.live.numpy() == 0
    monkeypatch.setattr(AttackedFaces, "clean_scores", lambda self, victim: np.ones(len(live), np.float32))
    scored = {
        ("a", "live", "FGSM", level, sfa): np.ones(len(live), np.float32) for level in LEVELS for sfa in (False, True)
    }
    (row,) = rankings(attacked, victims[:1], scored, [])["runs"]
    assert (row["opened_percent"], row["low_percent"], row["high_percent"]) == (None, None, None)
    assert rankings(attacked, victims[:1], scored, [])["leads"] == {}
