"""The protocol on a small world, as Python calls and as real processes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from immunecam.benchmarks import robustness
from immunecam.benchmarks.evaluation import run as evaluation_run
from immunecam.benchmarks.evaluation.defences import BundleDefence, Filter, baselines, fitted_eigenspace
from immunecam.benchmarks.evaluation.joined import check_joinable
from immunecam.benchmarks.evaluation.page import _range, page
from immunecam.benchmarks.evaluation.pairs import Pairs, drawn_pairs, load_pairs, read_table
from immunecam.benchmarks.evaluation.protocol import QUICK, Planned
from immunecam.benchmarks.evaluation.purified import PurifiedFaces
from immunecam.benchmarks.evaluation.run import Evaluation
from immunecam.benchmarks.evaluation.store import Store
from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.training.attacks import L2PGD, PGD
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.recognizer import Recognizer

SMALL = dataclasses.replace(
    QUICK,
    name="small",
    pairs=16,
    adaptive_pairs=16,
    unbounded_pairs=6,
    grey_box=tuple(Planned("PGD-40", PGD(steps=10), level) for level in (4.0, 8.0)),
    transfer=(Planned("PGD-40", PGD(steps=10), 8.0),),
    resampled=(Planned("PGD-40", PGD(steps=10), 8.0),),
    adaptive_steps=8,
    adaptive_draws=2,
    square_levels=(8.0,),
    square_queries=20,
    adaptive_others=(Planned("expected L2-PGD-40", L2PGD(steps=8), 1.5, gradient="expected"),),
    baseline_levels=(8.0,),
    projections=(16,),
    other_faces=12,
)


@pytest.fixture(scope="module")
def whole(data, recognizers, bundle, tmp_path_factory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("whole")
    found = robustness.evaluate(
        data, recognizers, [bundle], SMALL, folder / "work", report=folder / "report.json", markdown=folder / "page.md"
    )
    return found, folder


def rows(report, **wanted):
    return [row for row in report["rows"] if all(row[name] == value for name, value in wanted.items())]


def test_it_measures_everything(whole, bundle):
    report, folder = whole
    assert json.loads((folder / "report.json").read_text())["rows"] == report["rows"]
    assert {row["threat"] for row in report["rows"]} == {
        *("clean", "grey-box", "resampled", "transfer", "adaptive", "resubmission")
    }
    (turned,) = rows(report, recognizer="linear1", threat="resampled", defence="none", purified="both")
    assert report["bundles"] == ["small (sample)", "small (expected)"]
    assert report["bundle_files"]["small"]["analyzer.onnx"] == bundle.manifest.files["analyzer.onnx"].sha256
    assert all(check["holds"] for check in report["sanity"])
    checked = " ".join(check["name"] for check in report["sanity"])
    for name in ("not weaker than transfer", "without", "expected PGD-8 is not weaker than expected PGD-2", "128/255"):
        assert name in checked
    (clean,) = rows(report, recognizer="linear1", threat="clean", defence="none", purified="both")
    assert clean["accuracy_percent"] > 90
    (attacked,) = rows(report, recognizer="linear1", threat="grey-box", defence="none", purified="both", budget="8/255")
    assert attacked["accuracy_percent"] < clean["accuracy_percent"] - 10
    assert turned["accuracy_percent"] != attacked["accuracy_percent"]
    assert turned["accuracy_percent"] < clean["accuracy_percent"]
    for row in report["rows"]:
        assert row["accuracy_low_percent"] <= row["accuracy_percent"] + 1e-6
        assert row["accuracy_percent"] <= row["accuracy_high_percent"] + 1e-6
    # Ten tries are not worse for the attacker than one.
    for again in rows(report, threat="resubmission"):
        attack = again["attack"].split(",")[0]
        once = [
            row
            for row in rows(report, recognizer=again["recognizer"], defence=again["defence"], budget=again["budget"])
            if row["attack"] == attack and row["purified"] == "both" and row["threat"] != "resubmission"
        ]
        assert once
        assert again["same_accepted_percent"] <= once[0]["same_accepted_percent"] + 1e-6
    names = {row["attack"] for row in rows(report, threat="adaptive", defence="small (sample)", budget="8/255")}
    drawn = {"straight-through EOT-PGD-8x2 after PGD-8", "expected Square-20 after PGD-8", "strongest of 4"}
    assert names == {"expected PGD-8", "expected PGD-2", *drawn}
    assert {row["purified"] for row in rows(report, threat="adaptive", defence="small (expected)")} == {"both"}
    norms = {row["attack"] for row in rows(report, threat="adaptive", defence="small (sample)", budget="L2 1.5")}
    assert norms == {"expected L2-PGD-40", "strongest of 1"}
    assert "adaptive L2-PGD" in (folder / "page.md").read_text()
    ways = {row["purified"] for row in rows(report, threat="clean", defence="small (sample)")}
    assert ways == {"both", "probe", "vote of 2", "mean of 2", "medoid of 2"}
    assert {row["purified"] for row in rows(report, defence="small (expected)")} == {"both", "probe"}
    assert all(report["milliseconds"][name] > 0 for name in report["bundles"])


def test_clean_faces_of_other_cameras(whole):
    report, folder = whole
    (row,) = [
        r
        for r in report["other_cameras"]["ORL"]
        if (r["recognizer"], r["defence"], r["purified"]) == ("linear1", "small (expected)", "both")
    ]
    assert row["pairs"] == 12
    assert "drop_points" in row
    assert "Extended Yale B" not in report["other_cameras"]  # is not there
    assert "## Other cameras" in (folder / "page.md").read_text()


def test_the_page(whole):
    report, folder = whole
    text = (folder / "page.md").read_text()
    for wanted in ("## Sanity block", "physical presentation".capitalize(), "recommended one", "first 16 eigenfaces"):
        assert wanted in text
    (clean,) = rows(report, recognizer="linear2", threat="clean", defence="none", purified="both")
    assert f"{clean['accuracy_percent']:.1f} ({clean['accuracy_low_percent']:.1f}" in text
    assert "Never seen in the training of: small." in text
    settings = "queries 20, first_area 0.3, margin 0.2, on what expected PGD-8 leaves"
    assert f"| expected Square-20 after PGD-8 | 8/255 | {settings} |" in text
    for plot in ("budgets", "roc", "price"):
        assert f"(page/{plot}.png)" in text
    for plot in ("glance", "budgets", "roc", "price"):
        for kind in ("png", "svg"):
            assert (folder / "page" / f"{plot}.{kind}").stat().st_size > 5000
    page = (folder / "work" / "robustness.html").read_text()  # one file, with the plots in it
    assert page.count("<svg") == 4
    assert "page/" not in page
    for wanted in ("Sanity block", "success of the attacker, %", "small (sample), adaptive", "first 16 eigenfaces"):
        assert wanted in page
    assert (folder / "work" / "contact_sheet.png").is_file()


def test_the_page_recommends_by_what_all_were_measured_in(whole):
    report, _ = whole
    assert "By what was measured of all (clean + grey-box + adaptive)" in page(report)
    spared = [row for row in report["rows"] if (row["threat"], row["defence"]) != ("adaptive", "small (sample)")]
    text = page({**report, "rows": spared})
    assert "By what was measured of all (clean + grey-box), on" in text
    assert "`small (sample)` was not attacked so here." in text
    assert "`small (expected)`: impersonation succeeds in " in text


def test_the_page_tells_how_many_checks_hold(whole):
    report, _ = whole
    count = len(report["sanity"])
    assert f"<summary>All {count} checks: {count} hold</summary>" in page(report)
    first, *others = report["sanity"]
    text = page({**report, "sanity": [{**first, "holds": None}, *others]})
    assert f"<summary>All {count} checks: {count - 1} hold, 1 not measured</summary>" in text
    assert f"- not measured: {first['name']}" in text


def test_rates_of_several_recognisers_are_a_range():
    assert [_range([100.0, 100.0]), _range([3.2, 99.9]), _range([7.0])] == ["100", "3 to 100", "7"]


def test_the_page_says_what_training_met(whole, bundle):
    report, _ = whole
    assert robustness.trained_on(bundle) == ""
    said = robustness.trained_on(Bundle.load(default_bundle()))
    attacks = "PGD-10, MI-FGSM-10, APGD-10, FGSM, DI-FGSM-10, TI-FGSM-10, L2-PGD-10"
    assert said.startswith(f"{attacks} at 3 to 10/255 on the bare recognisers; 70 % of steps")
    known = {**report, "trained_on": {"small": said}}
    assert f"Attacks met in the last run of training (small: {said})." in robustness.page_with_plots(known, "page")


def test_nothing_is_done_twice(whole, data, recognizers, bundle, monkeypatch):
    """A second run finds everything in the work folder, and says the same."""
    report, folder = whole
    monkeypatch.setattr(evaluation_run.Evaluation, "_attack", None)
    again = robustness.evaluate(data, recognizers, [bundle], SMALL, folder / "work")
    assert again["rows"] == report["rows"]


def test_an_interruption_costs_a_chunk(whole, data, recognizers, bundle, tmp_path, monkeypatch):
    report, _ = whole
    genuine, done = evaluation_run.Evaluation._attack, []

    def cut(self, job, pairs, key, before):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(key)
        return genuine(self, job, pairs, key, before)

    monkeypatch.setattr(evaluation_run.Evaluation, "_attack", cut)
    with pytest.raises(KeyboardInterrupt):
        robustness.evaluate(data, recognizers, [bundle], SMALL, tmp_path)
    first = list(done)
    done[:] = []

    def count(self, job, pairs, key, before):
        done.append(key)
        return genuine(self, job, pairs, key, before)

    monkeypatch.setattr(evaluation_run.Evaluation, "_attack", count)
    again = robustness.evaluate(data, recognizers, [bundle], SMALL, tmp_path)
    assert again["rows"] == report["rows"]
    assert not [key for key in done if key in first]


def test_parts_merge(whole, data, recognizers, bundle, tmp_path, monkeypatch):
    report, _ = whole
    for number in (1, 2):
        arguments = (data, recognizers, [bundle], SMALL, tmp_path / f"part{number}")
        assert robustness.evaluate(*arguments, part=(number, 2)) is None
    monkeypatch.setattr(evaluation_run.Evaluation, "_attack", None)
    merged = robustness.evaluate(data, recognizers, [bundle], SMALL, tmp_path / "part1", merge=[tmp_path / "part2"])
    assert merged["rows"] == report["rows"]


def test_a_report_grows_by_a_recogniser(whole, data, recognizers, bundle, tmp_path):
    both, folder = whole
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    robustness.evaluate(data, recognizers[:1], [bundle], SMALL, folder / "work", report=first)
    added = robustness.evaluate(data, recognizers[1:], [bundle], SMALL, folder / "work", report=second, earlier=first)
    assert json.loads(second.read_text())["rows"] == added["rows"]
    # No transfer between them, for neither was there for the other.
    alone = [row for row in both["rows"] if row["threat"] != "transfer"]
    names = [path.stem for path in recognizers]
    assert sorted(map(str, added["rows"])) == sorted(map(str, alone))
    assert added["thresholds"] == both["thresholds"]
    assert {row["recognizer"] for row in added["other_cameras"]["ORL"]} == set(names)
    assert [one["recognizers"] for one in added["earlier"]] == [names[:1]]
    assert f"Taken over from an earlier report ({added['machine']['cores']} cores" in page(added)
    # A part of it once more changes nothing but the list of what was taken in, and no row's place.
    again = robustness.evaluate(data, recognizers[:1], [bundle], SMALL, folder / "work", earlier=second)
    for key in ("rows", "roc", "sanity", "other_cameras", "bundles", "trained_with"):
        assert again[key] == added[key]
    other = dataclasses.replace(SMALL, seed=1)
    with pytest.raises(InputError, match="another protocol"):
        robustness.evaluate(data, recognizers[1:], [bundle], other, tmp_path / "work", earlier=first)


def test_reports_of_other_things_are_not_joined(whole):
    report, _ = whole
    for change, words in (
        ({"pairs_sha256": "0"}, "another pairs"),
        ({"thresholds": {name: {"best_accuracy": 0.0} for name in report["thresholds"]}}, "another recogniser"),
        ({"bundle_files": {report["bundles"][0].partition(" ")[0]: {"basis": "0"}}}, "another bundle"),
    ):
        with pytest.raises(InputError, match=words):
            check_joinable(report, {**report, **change}, "report.json")


def test_a_damaged_file_is_made_again(whole, data, recognizers, bundle, tmp_path):
    report, folder = whole
    shutil.copytree(folder / "work", tmp_path / "work")
    for file in sorted((tmp_path / "work").glob("*.safetensors"))[:40]:
        file.write_bytes(file.read_bytes()[:30])
    again = robustness.evaluate(data, recognizers, [bundle], SMALL, tmp_path / "work")
    assert again["rows"] == report["rows"]


def test_a_table_with_a_weak_attacker_is_refused(data, recognizers, bundle, tmp_path):
    """An attack that gets weaker with more steps is what gradient masking looks like."""
    weak = Planned("PGD-40", PGD(steps=1, step_size=0.01), 8.0)
    grey_box = (Planned("PGD-10", PGD(steps=10), 8.0), weak)
    protocol = dataclasses.replace(SMALL, pairs=64, grey_box=grey_box, transfer=(), resampled=())
    with pytest.raises(InputError, match=r"refused.*PGD-40 is not weaker than PGD-10") as caught:
        robustness.evaluate(
            data, recognizers[:1], [bundle], protocol, tmp_path, adaptive=False, report=tmp_path / "report.json"
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.json").exists()
    assert not (tmp_path / "robustness.md").exists()
    refused = json.loads((tmp_path / "refused.json").read_text())
    assert refused["schema"] == "immunecam.robustness/1-refused"
    assert {check["holds"] for check in refused["sanity"]} == {True, False, None}
    with pytest.raises(InputError, match="sanity block fails"):
        robustness.write_page(refused, tmp_path / "page.md")


def test_defences(data, bundle, tmp_path):
    faces = FaceSet.load(data / "lfw" / "dev_112.zip").pixels[:3]
    training = FaceSet.load(data / "lfw" / "train_112.zip")
    store = Store(tmp_path)
    space, origin = fitted_eigenspace(training, 16, store)
    again, _ = fitted_eigenspace(training, 16, store)
    assert torch.equal(space.basis, again.basis)
    other, elsewhere = fitted_eigenspace(dataclasses.replace(training, pixels=training.pixels.flip(2)), 16, store)
    assert elsewhere != origin
    assert not torch.equal(other.basis, space.basis)
    pixels = faces.numpy()
    for defence in baselines(space, (8, 16), origin):
        out = defence.purify(pixels)
        assert out.shape == pixels.shape
        assert out.dtype == np.uint8
        assert (defence.name == "none") == bool((out == pixels).all())
        x = from_uint8(faces).requires_grad_(True)
        seen = defence.seen(x, "expected")
        assert np.abs((seen.detach().numpy() + 1) * 127.5 - out).max() <= 0.51
        weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        (seen * weight).sum().backward()
        if defence.name.startswith("Gaussian"):  # is linear: the gradient is that of the filter itself
            step = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).numpy()
            blurred = np.stack([cv2.GaussianBlur(face, (9, 9), 1.5) for face in step])
            assert float((x.grad * torch.from_numpy(step)).sum()) == pytest.approx(
                (blurred * weight.numpy()).sum(), 1e-3
            )
        elif "eigenfaces" not in defence.name:
            assert torch.equal(x.grad, weight)
    sample, expected = (BundleDefence(bundle, mode) for mode in ("sample", "expected"))
    assert (sample.purify(pixels, 3) == sample.purify(pixels, 3)).all()
    assert (sample.purify(pixels, 3) != sample.purify(pixels, 4)).any()
    assert (expected.purify(pixels, 3) == expected.purify(pixels, 4)).all()
    assert sample.milliseconds(pixels, 2) > 0


def test_pairs(data, tmp_path):
    faces = FaceSet.load(data / "lfw" / "dev_112.zip")
    pairs = load_pairs(data / "lfw" / "pairs.csv", faces, range(8, 9))
    assert len(pairs) == 64
    few = pairs.first(10)
    assert few.same.sum() == 5
    for count in (7, 1000):
        with pytest.raises(UsageError, match=str(count)):
            pairs.first(count)
    with pytest.raises(InputError, match="0 same and 0 different"):
        load_pairs(data / "lfw" / "pairs.csv", faces, range(9, 10))
    for wrong in ("a,b\n1,2\n", "fold,left,right,same\n8,a,b,True\n", "fold,left,right,same\n8,a,b," + "1" * 200_000):
        (tmp_path / "pairs.csv").write_text(wrong)
        with pytest.raises(InputError, match="columns fold, left, right, same"):
            read_table(tmp_path / "pairs.csv", range(8, 9))
    assert isinstance(few, Pairs)


def test_drawn_pairs(data):
    faces = FaceSet.load(data / "lfw" / "dev_112.zip")
    pairs = drawn_pairs(faces, 40)
    assert pairs.same.sum() == 20
    number = {face.tobytes(): name.split("/")[0] for face, name in zip(faces.pixels.numpy(), faces.names, strict=True)}
    for left, right, same in zip(pairs.left, pairs.right, pairs.same, strict=True):
        assert (number[left.tobytes()] == number[right.tobytes()]) == same
        assert (left != right).any()
    assert (drawn_pairs(faces, 40, seed=1).left != pairs.left).any()
    assert (drawn_pairs(faces, 40).left == pairs.left).all()
    with pytest.raises(InputError, match="show 1 people"):
        drawn_pairs(FaceSet(faces.pixels[:2], faces.names[:2]), 4)


class Counted(Filter):
    """Turns grey levels over, and counts how often it is asked."""

    draws = True

    def __init__(self):
        super().__init__("counted", None)
        self.asked = []

    def purify(self, faces, draw=0):
        self.asked.append(draw)
        return 255 - faces


def test_faces_are_purified_once():
    defence, faces = Counted(), np.random.default_rng(0).integers(0, 256, (2, 112, 112), dtype=np.uint8)
    kept = PurifiedFaces(limit=3 * faces.nbytes)
    for draw in (0, 1, 0, 2):
        assert np.array_equal(kept.of(faces, defence, draw), 255 - faces)
    assert defence.asked == [0, 1, 2]
    assert np.array_equal(kept.of(faces[::-1], defence, 0), 255 - faces[::-1])  # other faces; draw 1 gives way
    kept.of(faces, defence, 0)
    assert defence.asked == [0, 1, 2, 0]
    kept.of(faces, defence, 1)
    assert defence.asked == [0, 1, 2, 0, 1]
    small = PurifiedFaces(limit=1)
    assert np.array_equal(small.of(faces, defence, 3), small.of(faces, defence, 3))
    assert defence.asked[5:] == [3]


def test_faces_that_several_recognisers_judge_are_one_group(whole, data, recognizers, bundle):
    _, folder = whole
    asked, purify = [], BundleDefence.purify
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BundleDefence, "purify", lambda self, faces, draw=0: asked.append(1) or purify(self, faces, draw))
        store = Store(folder / "again")
        training, judged = robustness.load_faces(data)
        table = data / "lfw" / "pairs.csv"
        known, pairs = load_pairs(table, training, robustness.TRAINING_FOLDS), load_pairs(table, judged, range(8, 9))
        victims = [robustness.find_victim(Recognizer.load(path), known, store, "cpu") for path in recognizers]
        defence = BundleDefence(bundle, "expected")
        none = baselines(fitted_eigenspace(training, 4, store)[0], (), "")[0]
        evaluation = Evaluation(SMALL, pairs.first(16), victims, [none], [defence], store)
        groups = evaluation.groups(evaluation.jobs(adaptive=False))
        assert [job.threat for job in groups[0]] == ["clean"] * len(victims)
        shared = next(g for g in groups if {"grey-box", "resampled", "transfer"} == {job.threat for job in g})
        assert {job.source.name for job in shared} == {shared[0].source.name}
        assert {job.victim.name for job in shared} == {victim.name for victim in victims}
        list(evaluation.rows(shared))
    # Probes as they are and resampled, and the enrolled faces: once each, whoever judges.
    assert len(asked) == 3


def test_store(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.arange(3)}

    store = Store(tmp_path / "one")
    for _ in range(2):
        assert (store.get({"x": 1}, compute)["a"] == np.arange(3)).all()
    other = Store(tmp_path / "two", [tmp_path / "one"])
    other.get({"x": 1}, compute)
    assert len(calls) == 1
    assert not list((tmp_path / "two").iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="--work"):
        Store(tmp_path / "file" / "below")
    with pytest.raises(InputError, match="does not exist"):
        Store(tmp_path / "three", [tmp_path / "missing"])


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "immunecam", "evaluate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )


def test_command(data, recognizers, bundle, tmp_path):
    done = command(
        *("--data", data, "--recognizer", recognizers[0], "--bundle", bundle.path, "--quick", "--no-adaptive"),
        *("--json", "report.json", "--docs", "page.md", "--mode", "expected"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema"] == "immunecam.robustness/1"
    assert report["pairs"] == 60
    assert report["bundles"] == ["small (expected)"]
    assert "quick form" in (tmp_path / "page.md").read_text()
    again = command("--page-of", "report.json", "--docs", "again.md", "--html", "again.html", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    text = (tmp_path / "again.md").read_text()
    assert text.replace("(again/", "(page/") == (tmp_path / "page.md").read_text()
    assert "quick form" in (tmp_path / "again.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "give both"),
        (["--data", "D", "--recognizer", "R", "--adaptive-pairs", "60"], 2, "100 or more"),
        (["--data", "D", "--recognizer", "R", "--quick", "--adaptive-pairs", "61"], 2, "even numbers"),
        (["--page-of", "EMPTY", "--docs", "b.md"], 3, "measure again"),
        (["--page-of", "a.json"], 2, "--docs"),
        (["--page-of", "a.json", "--docs", "page"], 2, "page.md"),
        (["--data", "D", "--recognizer", "R", "--mode", "sample", "--mode", "sample"], 2, "given twice"),
        (["--page-of", "a.json", "--docs", "b.md"], 3, "cannot be read"),
        (["--data", "nowhere", "--recognizer", "R"], 3, "has no folder lfw"),
        (["--data", "D", "--recognizer", "missing.pt"], 3, "missing.pt"),
        (["--data", "D", "--recognizer", "R", "--part", "3/2"], 2, "I/N"),
        (["--data", "D", "--recognizer", "R", "--mode", "maybe"], 2, "maybe"),
        (["--data", "D", "--recognizer", "R", "--bundle", "missing.immune"], 3, "missing.immune"),
        (["--data", "D", "--recognizer", "R", "--recognizer", "R"], 2, "given twice"),
        (["--data", "D", "--recognizer", "R", "--merge", "missing"], 3, "missing"),
        (["--data", "D", "--recognizer", "R", "--add-to", "EMPTY"], 3, "another protocol"),
        (["--data", "D", "--recognizer", "R", "--add-to", "missing.json"], 3, "cannot be read"),
        (["--data", "D", "--recognizer", "R", "--device", "cuda:9"], 4, "cuda:9"),
    ],
)
def test_wrong_calls(arguments, code, words, data, recognizers, tmp_path):
    empty = tmp_path / "empty.json"
    empty.write_text('{"schema": "immunecam.robustness/1"}')
    given = [{"D": data, "R": recognizers[0], "EMPTY": empty}.get(argument, argument) for argument in arguments]
    done = command(*given, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("immunecam: ")
    assert words in last


def test_the_installed_bundle_is_the_default(monkeypatch):
    from immunecam.runtime.bundle import default_bundle

    assert Bundle.load(default_bundle()).name == "edge"
