"""The report on liveness: measured on a small network, kept in parts, and honest in its words."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_liveness_run import small_run, striped_faces

from immunecam.benchmarks.evaluation.store import Store
from immunecam.benchmarks.liveness.attacked import AttackedFaces, LivenessJob, drawn
from immunecam.benchmarks.liveness.figures import (
    DIRECTIONS,
    acer,
    best_sweep,
    gain_rows,
    rate,
    strongest,
    sweep_rows,
)
from immunecam.benchmarks.liveness.page import page
from immunecam.benchmarks.liveness.protocol import FULL, QUICK
from immunecam.benchmarks.liveness.purified import PurifiedPictures
from immunecam.benchmarks.liveness.ranking import rankings
from immunecam.benchmarks.liveness.victim import in_detail, load_victims
from immunecam.benchmarks.liveness_analysis import SCHEMA, analyze, load_report, write_page
from immunecam.errors import InputError, UsageError
from immunecam.models.liveness import LivenessNetwork
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.training.attacks.sfa import SFA
from immunecam.training.liveness import AdversarialTraining
from immunecam.training.liveness.errors import live_scores

TINY = dataclasses.replace(
    QUICK, faces=6, bank=6, levels=(1.0, 16.0), sfa=SFA(draws=2), sweep_faces=0, purified_levels=(16.0,)
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    against = AdversarialTraining(level=8.0, share=0.5, steps=1)
    return [small_run(folder / "plain"), small_run(folder / "hardened", adversarial=against)]


@pytest.fixture(scope="module")
def faces():
    return striped_faces(64, seed=1)


@pytest.fixture(scope="module")
def report(runs, faces, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    bundle = Bundle.load(default_bundle())
    whole = analyze(runs, faces, TINY, work, bundle=bundle, report=work / "r.json", markdown=work / "p.md")
    return whole, work


def test_every_attack_has_a_row_for_each_direction(report):
    whole, _ = report
    keys = {(r["run"], r["head"], r["attack"], r["sfa"], r["level"], r["direction"]) for r in whole["rows"]}
    assert len(keys) == len(whole["rows"]) == 2 * 2 * 3 * 2 * 2 * 2
    for row in whole["rows"]:
        assert row["faces"] <= 6
        if row["faces"]:
            assert 0 <= row["low_percent"] <= row["percent"] <= row["high_percent"] <= 100
    # The network knows stripes, which one level does not hide and sixteen do.
    opened = {
        level: max(
            row["percent"]
            for row in whole["rows"]
            if (row["run"], row["head"], row["direction"], row["level"]) == ("plain", "live", DIRECTIONS[0], level)
        )
        for level in (1.0, 16.0)
    }
    assert opened[1.0] < opened[16.0]
    assert opened[16.0] >= 75


def test_the_figures_are_those_of_the_attacks(report, runs, faces):
    whole, work = report
    assert whole["judged_faces"] + whole["validation_faces"] == len(faces)
    validation, judged = faces.halves()
    (victim, _) = load_victims(runs, validation, "cpu")
    attacked = AttackedFaces(TINY, drawn(judged, TINY.faces), validation, Store(work))
    job = LivenessJob(victim, "live", "PGD-10", TINY.attack("PGD-10", sfa=True), True, 16.0)
    pixels = attacked.pixels(job)
    change = np.abs(pixels.astype(int) - attacked.faces.pixels.numpy())
    assert change.max() == 16
    shown = dataclasses.replace(attacked.faces, pixels=torch.from_numpy(pixels))
    scores = live_scores(victim.network, shown).numpy()
    np.testing.assert_allclose(scores, attacked.scores(job), atol=1e-6)
    clean, live = attacked.clean_scores(victim), attacked.faces.labels.live.numpy() == 0
    right = victim.passes(clean) == live
    fooled = right & ~live & victim.passes(scores)
    (row,) = [
        r for r in whole["rows"]
        if (r["run"], r["head"], r["attack"], r["sfa"], r["level"], r["direction"])
        == ("plain", "live", "PGD-10", True, 16.0, DIRECTIONS[0])
    ]  # fmt: skip
    assert row["percent"] == pytest.approx(100 * fooled.sum() / (right & ~live).sum(), abs=0.01)


def test_what_was_computed_is_not_computed_again(report, runs, faces, monkeypatch):
    from immunecam.training.attacks.liveness_attacks import SignAttack

    whole, work = report
    before = sorted(path.name for path in work.glob("*.safetensors"))

    def never(*_):
        raise AssertionError("an attack was run again")

    monkeypatch.setattr(SignAttack, "__call__", never)
    again = analyze(runs, faces, TINY, work)
    assert again["rows"] == whole["rows"]
    assert again["gain"] == whole["gain"]
    assert sorted(path.name for path in work.glob("*.safetensors")) == before


def test_parts_together_are_the_whole(report, runs, faces, tmp_path):
    whole, _ = report
    for index in (1, 2):
        assert analyze(runs[:1], faces, TINY, tmp_path / f"w{index}", part=(index, 2)) is None
    assert not set(_names(tmp_path / "w1")) & set(_names(tmp_path / "w2"))
    merged = analyze(runs[:1], faces, TINY, tmp_path / "w1", merge=[tmp_path / "w2"])
    assert merged["rows"] == [row for row in whole["rows"] if row["run"] == "plain"]


def _names(folder):
    return [path.name for path in folder.glob("*.safetensors")]


def test_the_page_says_what_figures_are_worth(report, tmp_path):
    whole, work = report
    text = (work / "p.md").read_text()
    flat = " ".join(text.split())
    assert "**No certified presentation attack detection.**" in flat
    assert "Digital noise, which all attacks of this page are, is outside its scope" in flat
    assert "**This is the quick form**" in flat
    assert "APCER replay" in flat
    # No table of figures without the word.
    for table in [part for part in text.split("\n\n") if part.startswith("| ") and "%" in part.split("\n")[0]]:
        at = text.index(table)
        assert "synthetic" in text[max(0, at - 700) : at + len(table) + 300], table[:200]
    for name in ("opens", "shuts", "budgets", "species", "purified"):
        assert (work / "p" / f"{name}.png").stat().st_size > 1000
    loaded = load_report(work / "r.json")
    assert loaded["schema"] == SCHEMA
    assert loaded["certified"] is False
    assert page(loaded) == page(json.loads(json.dumps(whole)))
    write_page(loaded, None, tmp_path / "p.html")
    assert "<svg" in (tmp_path / "p.html").read_text()
    del loaded["goal"]
    with pytest.raises(InputError, match="the report lacks what a page shows"):
        write_page(loaded, tmp_path / "x.md")


def test_training_against_attacks_stands_beside_training_without(report):
    whole, _ = report
    assert [(row["before"], row["after"], row["level"]) for row in whole["adversarial"]] == [
        ("plain", "hardened", 1.0),
        ("plain", "hardened", 16.0),
    ]
    for row in whole["adversarial"]:
        assert row["how"]["level"] == 8.0
        for when, run in (("before", "plain"), ("after", "hardened")):
            assert row[f"{when}_acer_percent"] == acer(whole["errors"], run)["acer_percent"]
    text = " ".join(page(whole).split())
    assert "| attacks without SFA on 50 % of each batch, steps: 1, 8/255 | 1 | " in text
    row = whole["adversarial"][1]
    cells = []
    for key in ("opened", "shut"):
        for when in ("before", "after"):
            one = rate(round(row[f"{when}_{key}_percent"] * 6 / 100), 6)
            assert one["percent"] == pytest.approx(row[f"{when}_{key}_percent"], abs=0.01)
            cells.append(f"{one['percent']:.1f} ({one['low_percent']:.1f} to {one['high_percent']:.1f})")
    assert " | ".join(cells) in text
    # The standard's words are for faces that nobody has attacked.
    assert {row["figure"] for row in whole["errors"] if row["level"]} == {"spoofs that pass", "live faces stopped"}
    names = [row["run"] for row in whole["ranking"]["runs"]]
    shares = [row["opened_percent"] for row in whole["ranking"]["runs"]]
    assert sorted(names) == ["hardened", "plain"]
    assert shares == sorted(shares)


def test_more_heads_are_not_held_against_a_network_in_silence(report):
    whole, _ = report
    text = page(whole)
    for row in whole["ranking"]["runs"]:
        assert row["opened_through_live_percent"] <= row["opened_percent"]
        # Nor is a network praised that stops few spoofs to begin with.
        clean = acer(whole["errors"], row["run"])["acer_percent"]
        assert f"| {row['opened_through_live_percent']:.1f} | {clean:.1f} |" in text


def test_heads_are_compared_on_the_same_networks(runs, faces, tmp_path):
    bare = small_run(tmp_path / "bare", tasks=())
    victims = load_victims([*runs, bare], faces, "cpu")
    attacked = AttackedFaces(TINY, drawn(faces, 6), faces, Store(tmp_path / "w"))
    scored = {
        (victim.name, head, "FGSM", level, sfa): np.full(12, 0.5, np.float32)
        for victim in victims
        for head in victim.network.heads
        for level in TINY.levels
        for sfa in (False, True)
    }
    percents = {"plain": 40.0, "hardened": 0.0, "bare": 100.0}
    success = [
        {"run": run, "head": head, "direction": DIRECTIONS[0], "percent": percents[run]} for run, head, *_ in scored
    ]
    # The one without the other head would make an attack on the decision look better, the hardened one both worse.
    for one in rankings(attacked, victims, scored, success)["heads"]:
        assert one["opened_percent"] == 40.0
    hardened = [victim for victim in victims if victim.name == "hardened"]
    alone = rankings(attacked, hardened, scored, [row for row in success if row["run"] == "hardened"])
    assert [one["opened_percent"] for one in alone["heads"]] == [0.0, 0.0]


def test_of_many_networks_those_with_most_tasks_are_compared_one_by_one(report, runs, faces, tmp_path):
    whole, _ = report
    assert whole["in_detail"] == ["plain", "hardened"]
    plain, hardened = load_victims(runs, faces, "cpu")
    bare = dataclasses.replace(plain, network=LivenessNetwork("swin", (), side=64))
    many = [bare] * 7 + [plain, hardened]
    assert in_detail(many) == [plain]
    ranking = [
        {"run": "a", "backbone": "vgg", "tasks": "depth", "adversarial": False, "opened_percent": 10.0},
        {"run": "b", "backbone": "vgg", "tasks": "none", "adversarial": False, "opened_percent": 30.0},
        {"run": "c", "backbone": "vgg", "tasks": "none", "adversarial": True, "opened_percent": 1.0},
        {"run": "d", "backbone": "swin", "tasks": "none", "adversarial": False, "opened_percent": 50.0},
        {"run": "e", "backbone": "swin", "tasks": "none", "adversarial": False, "opened_percent": 70.0},
    ]
    around = {"low_percent": 5.0, "high_percent": 75.0}
    ranked = [row | around | {"opened_through_live_percent": row["opened_percent"] / 2} for row in ranking]
    backbones = [
        {"backbone": "vgg", "runs": 2, "opened_percent": 20.0, **around},
        {"backbone": "swin", "runs": 2, "opened_percent": 60.0, **around},
    ]
    tasks = [
        {"tasks": "depth", "runs": 1, "opened_percent": 50.0, **around},
        {"tasks": "none", "runs": 3, "opened_percent": 50.0, **around},
    ]
    tables = {**whole["ranking"], "runs": ranked, "backbones": backbones, "tasks": tasks, "leads": {"backbones": 97.5}}
    larger = {**whole, "ranking": tables, "in_detail": ["plain"]}
    write_page(larger, tmp_path / "m.md")
    text = (tmp_path / "m.md").read_text()
    assert "| auxiliary tasks | swin | vgg |" in text
    assert "| depth |  | 10.0 |" in text
    assert "| none | 60.0 | 30.0 |" in text
    # A leader is told with how often it leads, and what it is beside the same attacks for all.
    assert "| vgg | 2 | 20.0 (5.0 to 75.0) | 10.0 |  |" in text
    assert "vgg (20.0 %, synthetic); ahead of the next, swin, in 1 of 1 sets of auxiliary tasks that both have;" in text
    assert "that both have; 97.5 % of the draws of faces have it ahead." in text
    assert "depth and none are equal in front (50.0 %, synthetic), so no most robust auxiliary tasks was found." in text
    assert "of the networks with most auxiliary tasks; the report in JSON has the others" in text
    assert (tmp_path / "m" / "matrix.png").is_file()
    apart = page({**larger, "ranking": {**tables, "runs": [ranked[0], *ranked[3:]]}})
    assert "vgg (20.0 %, synthetic); no sets of auxiliary tasks were measured with the next, swin, too; 97.5 %" in apart


def test_transfer_is_from_each_network_to_the_other(report):
    whole, _ = report
    pairs = {(row["source"], row["run"], row["sfa"]) for row in whole["transfer"]}
    assert pairs == {(a, b, sfa) for a, b in (("plain", "hardened"), ("hardened", "plain")) for sfa in (False, True)}
    assert len(whole["transfer"]) == 2 * 2 * len(DIRECTIONS)
    means = {
        sfa: np.mean([r["percent"] for r in whole["transfer"] if (r["direction"], r["sfa"]) == (DIRECTIONS[0], sfa)])
        for sfa in (False, True)
    }
    words = f"{DIRECTIONS[0]}: {means[False]:.1f} % alone and {means[True]:.1f} % with SFA;"
    assert f"Means over all pairs (synthetic): {words}" in page(whole)


def test_purification_is_compared_on_the_same_faces(report):
    whole, _ = report
    rows = whole["purification"]
    assert {row["attack"] for row in rows} == {"none", "PGD-10"}
    for row in rows:
        if row["attack"] == "none":
            assert row["without_percent"] == 0  # of faces that were right
    assert whole["purified_by"]["faces"] == 12


def test_a_purified_picture_has_the_purified_face_in_it():
    pixels = striped_faces(3).pixels.numpy()
    pictures = PurifiedPictures(Bundle.load(default_bundle()), pixels, seed=1)
    assert pictures.found == 0
    purified = pictures.of(pixels)
    assert purified.shape == pixels.shape
    change = np.abs(purified.astype(int) - pixels).mean((0, 1))
    assert change[20:50, 20:44].mean() > 5
    assert change[:, :1].max() == change[:, -1:].max() == 0  # the face's square is narrower than the picture
    assert np.array_equal(purified, pictures.of(pixels))  # numbers of faces are the same every time


def test_the_goal_is_judged_at_the_smallest_budget_below(runs, faces, tmp_path):
    (victim,) = load_victims(runs[:1], faces, "cpu")
    protocol = dataclasses.replace(TINY, faces=10, levels=(1.0, 2.0, 4.0))
    attacked = AttackedFaces(protocol, drawn(faces, 10), faces, Store(tmp_path))
    live = attacked.faces.labels.live.numpy() == 0
    right = victim.passes(attacked.clean_scores(victim)) == live
    assert right.all()

    def fooling(count):
        """Scores that are wrong for the first faces of each class."""
        number = np.concatenate([np.arange(10), np.arange(10)])
        return np.where((number < count) != live, 1.0, 0.0).astype(np.float32)

    plain, with_sfa = {1.0: 7, 2.0: 5, 4.0: 9}, {1.0: 7, 2.0: 8, 4.0: 10}
    scored = {
        ("plain", "live", attack, level, sfa): fooling((with_sfa if sfa else plain)[level])
        for attack in ("FGSM", "PGD-10", "MI-FGSM-10")
        for level in protocol.levels
        for sfa in (False, True)
    }
    rows, goal = gain_rows(attacked, [victim], scored)
    judged = [(row["attack"], row["level"], row["gain_points"]) for row in rows if row["judged"]]
    assert judged == [("FGSM", 2.0, 30.0), ("PGD-10", 2.0, 30.0), ("MI-FGSM-10", 2.0, 30.0)]
    assert (goal["mean_gain_points"], goal["met"], goal["judged"], goal["pairs"]) == (30.0, True, 3, 3)
    (live_head,) = goal["by_head"]
    assert live_head["head"] == "live"
    assert live_head["mean_gain_at_all_budgets_points"] == pytest.approx((0 + 30 + 10) / 3, abs=0.01)
    assert all((row["sfa_margin"] > row["plain_margin"]) == (row["level"] > 1) for row in rows)
    no_room, unjudged = gain_rows(attacked, [victim], {key: fooling(9) for key in scored})
    assert not any(row["judged"] for row in no_room)
    assert (unjudged["met"], unjudged["mean_gain_points"]) == (None, None)
    assert rate(3, 8)["percent"] == 37.5
    assert rate(0, 0)["percent"] is None
    # The strongest of all makes a spoof score highest, and a live face lowest.
    found = strongest(attacked, victim, scored, 4.0)
    np.testing.assert_array_equal(found, fooling(10))


def test_the_page_tells_gains_by_direction(report):
    whole, _ = report
    about = {"run": "plain", "head": "live", "attack": "FGSM", "level": 1.0}
    (kept,) = [row for row in whole["gain"] if {key: row[key] for key in about} == about]
    percents = {(DIRECTIONS[0], False): 10.0, (DIRECTIONS[0], True): 15.0, (DIRECTIONS[1], False): 20.0}
    rows = [
        row | {"percent": percents.get((row["direction"], row["sfa"]), 60.0)}
        for row in whole["rows"]
        if {key: row[key] for key in about} == about
    ]
    goal = whole["goal"] | {"mean_gain_points": 22.5, "met": True}
    gain = [kept | {"judged": True, "gain_points": 22.5}]
    text = " ".join(page({**whole, "rows": rows, "gain": gain, "goal": goal}).split())
    assert "**Met**: +22.5 points on average, single pairs +22.5 to +22.5 (synthetic" in text
    assert "; on average spoof to live +5.0, live to spoof +40.0 points." in text
    harder = [row | {"run": "hardened", "percent": row["percent"] / 2} for row in rows]
    both = {"rows": rows + harder, "gain": [*gain, gain[0] | {"run": "hardened"}], "goal": goal}
    text = " ".join(page({**whole, **both}).split())
    assert "; on average spoof to live +3.8, live to spoof +30.0 points; of networks not trained" in text
    assert "; of networks not trained against attacks spoof to live +5.0, live to spoof +40.0 points." in text


def test_the_page_says_where_no_setting_of_sfa_gains(report):
    whole, _ = report
    row = {
        "run": "plain", "attack": "FGSM", "budget": "2/255", "layer": "stem", "operator": "mix", "draws": 4,
        "law": "uniform", "strength": 0.5, "faces": 7, "plain_percent": 50.0, "low_points": -9.0, "high_points": 3.0,
    }  # fmt: skip
    rows = [row | {"gain_points": -float(place)} for place in range(50)]
    text = page({**whole, "sweep": rows, "best_sweep": row | {"mean_gain_points": 0.0}})
    assert "on 7 faces at most of 1 network (50 rows" in text
    best = "layer stem, mix, K = 4, uniform 0.5"
    assert f"no setting gains anything; the best is {best}: +0.0 points. The first 40:" in text
    assert text.count("| plain | FGSM, 2/255 | stem |") == 40
    text = page({**whole, "sweep": rows[:2], "best_sweep": row | {"mean_gain_points": 1.5}})
    assert f"most is gained by {best}: +1.5 points. The best of many" in text
    assert "The first" not in text


def test_the_page_says_what_it_cannot_know(report):
    whole, _ = report
    steps = max(attack["steps"] for attack in whole["protocol"]["attacks"].values())
    text = page(whole)
    assert f"No attack takes more than {steps} gradient steps" in text
    lengths = {run["steps"] for run in whole["runs"]}
    assert ("trained once, for " in text) == (len(lengths) == 1)
    longer = [run | {"steps": run["steps"] + place} for place, run in enumerate(whole["runs"])]
    assert "- Every network was trained once. Another" in page({**whole, "runs": longer})


def test_the_sweep_tries_every_setting():
    whole, single = list(FULL.sweep("PGD-10")), list(QUICK.sweep("PGD-10"))
    assert len(whole) == len(set(whole)) == 4 * 3 * 3 * 3
    assert QUICK.attack("PGD-10", sfa=True) in single
    own = QUICK.sfa_settings
    for attack in single:
        changed = {key for key in ("layer", "operator", "draws", "law") if getattr(attack, key) != own[key]}
        assert len(changed) <= 1
        assert attack.steps == 10


def test_other_settings_are_tried_where_the_attack_alone_leaves_room(runs, faces, tmp_path):
    (victim,) = load_victims(runs[:1], faces, "cpu")
    protocol = dataclasses.replace(TINY, sweep_faces=2, sfa=SFA(draws=1), whole_sweep=False)
    attacked = AttackedFaces(protocol, drawn(faces, 4), faces, Store(tmp_path))
    judged = {"run": "plain", "head": "live", "attack": "FGSM", "level": 1.0, "judged": True}
    rows = sweep_rows(attacked, [victim], [judged])
    assert {(row["attack"], row["level"]) for row in rows} == {("FGSM", 1.0)}
    assert len(rows) == len(list(protocol.sweep("FGSM"))) >= 9
    assert all(row["faces"] <= 4 and -100 <= row["gain_points"] <= 100 for row in rows)
    best = best_sweep(rows)
    assert best["mean_gain_points"] == max(row["gain_points"] for row in rows)
    assert sweep_rows(attacked, [victim], [{**judged, "judged": False}]) == []
    with pytest.raises(ValueError, match="must be whole grey levels of 1 or more"):
        dataclasses.replace(TINY, levels=(0.5,))


def test_what_does_not_fit_is_one_sentence(runs, faces, tmp_path):
    with pytest.raises(InputError, match="all of them live faces: add spoofs"):
        analyze(runs, faces.at(faces.labels.live == 0), TINY, tmp_path)
    with pytest.raises(InputError, match="faces of a class to choose thresholds by, but 8 are the fewest"):
        analyze(runs, faces.at(torch.arange(20)), TINY, tmp_path)
    with pytest.raises(InputError, match="takes faces of 64 px and the set has 80"):
        analyze(runs, striped_faces(64, side=80), TINY, tmp_path)
    with pytest.raises(InputError, match="the faces to choose thresholds by are those to judge"):
        analyze(runs, faces, TINY, tmp_path, validation=faces)
    with pytest.raises(InputError, match=r"80 px wide and those of 'synthetic.* 64: make both alike"):
        analyze(runs, striped_faces(64, side=80), TINY, tmp_path, validation=faces)
    with pytest.raises(InputError, match="is no liveness run"):
        analyze([tmp_path], faces, TINY, tmp_path)
    with pytest.raises(UsageError, match="two runs are called 'plain'"):
        analyze([runs[0], runs[0]], faces, TINY, tmp_path)
    other = dataclasses.replace(faces, type_names=tuple(f"{name}?" for name in faces.type_names))
    with pytest.raises(InputError, match="trained with other classes of spoof_type"):
        analyze(runs, other, TINY, tmp_path)
