"""`immunecam liveness export` and `analyze`, and what the other commands do with a bundle that has a network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript", reason="needs onnxscript (pip install 'immunecam[train]')")

from small_celeba_spoof import celeba_spoof
from small_liveness import bundle_with_liveness
from small_liveness_run import small_run, striped_faces

from immunecam.cli import _run
from immunecam.runtime.bundle import Bundle, default_bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and a set."""
    folder = tmp_path_factory.mktemp("made")
    small_run(folder / "a.run")
    striped_faces(80, seed=1).save(folder / "test.safetensors")
    return folder


def test_from_a_run_into_a_bundle(run, made, tmp_path):
    shutil.copytree(default_bundle(), tmp_path / "door.immune")
    arguments = ("liveness", "export", made / "a.run", "--into", "door.immune", "--data", made / "test.safetensors")
    done = run(*arguments, "--calibration", "16", "--most-change", "0.05", "--json", "e.json")
    assert done.returncode == 0, done.stderr
    assert "vgg in int8" in done.stdout
    assert "40 faces of synthetic spoofs" in done.stdout
    assert done.stdout.strip().endswith("no certified presentation attack detection")
    (row,) = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert row["synthetic"] is True
    assert row["quality"]["synthetic"] is True
    assert row["quality"]["acer"] <= 0.1  # stripes are easy
    assert row["parity"]["max_abs_score"] < 1e-4
    assert row["crop"] == {"around": "landmarks", "size": 3.354, "down": 0.409}
    info = run("bundle", "info", "door.immune", "--json", "i.json")
    assert "liveness: vgg in int8, 64 px, a face passes from " in info.stdout
    assert "no certified presentation attack detection" in info.stdout
    facts = json.loads((tmp_path / "i.json").read_text())
    assert facts["liveness"]["threshold"] == row["threshold"]
    assert "liveness network, int8" in {one["is"] for one in facts["rows"]}
    refused = run(*arguments, "--precision", "int8", "--most-change", "0")
    assert refused.returncode == 3
    assert "export it with --precision fp32" in refused.stderr
    assert Bundle.load(tmp_path / "door.immune").sha256 == facts["bundle_sha256"]  # as it was


def test_celeba_spoof_from_training_to_a_bundle(run, made, tmp_path):
    """Who has that set trains, looks and exports with its folder; faces that are cut otherwise are refused."""
    for part, count in (("train", 16), ("test", 80)):
        celeba_spoof(tmp_path / "celeba", part=part, count=count)
    shutil.copytree(default_bundle(), tmp_path / "door.immune")
    train = ("liveness", "train", "--data", "celeba", "--side", "64", "--limit", "320", "--backbone", "vgg")
    done = run(*train, "--steps", "2", "--batch", "4", "-o", "c.run", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    analyze = ("liveness", "analyze", "c.run", "--quick", "--faces", "2", "--no-sweep", "--device", "cpu")
    done = run(*analyze, "--data", "celeba", "--docs", "page.md", "--json", "report.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["set"], report["synthetic"]) == ("CelebA-Spoof test", False)
    export = ("liveness", "export", "c.run", "--into", "door.immune", "--precision", "fp32")
    done = run(*export, "--data", "celeba", "--json", "e.json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "e.json").read_text())["rows"]
    assert row["crop"]["around"] == "box"
    assert set(row["quality"]["apcer"]) == {"poster", "cut-out mask", "replay", "3D mask"}
    again = run(*analyze, "--data", "celeba", "--validation", "celeba")
    assert again.returncode == 3
    assert "the faces to choose thresholds by are those to judge ('CelebA-Spoof test')" in again.stderr
    mixed = run(*train, "--test", made / "test.safetensors", "-o", "d.run")
    assert mixed.returncode == 3
    assert "take two synthetic sets, or none" in mixed.stderr
    assert not (tmp_path / "d.run").exists()
    for refused in (
        run(*analyze, "--data", made / "test.safetensors"),
        run(*export, "--data", made / "test.safetensors"),
    ):
        assert refused.returncode == 3
        assert "was trained on 'CelebA-Spoof train'" in refused.stderr
        assert "give a set like the one it was trained on" in refused.stderr


def test_a_signed_bundle_stays_signed_or_is_refused(run, made, tmp_path):
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[sign]')")
    shutil.copytree(default_bundle(), tmp_path / "door.immune")
    assert run("bundle", "keygen", "k.pem").returncode == 0
    assert run("bundle", "sign", "door.immune", "--key", "k.pem", "--version", "3").returncode == 0
    arguments = ("liveness", "export", made / "a.run", "--into", "door.immune", "--data", made / "test.safetensors")
    refused = run(*arguments, "--precision", "fp32")
    assert refused.returncode == 2
    assert "is signed and would not be any more: give --sign" in refused.stderr
    done = run(*arguments, "--precision", "fp32", "--sign", "k.pem")
    assert done.returncode == 0, done.stderr
    verified = run("bundle", "verify", "door.immune", "--trust", "k.pub.pem")
    assert verified.returncode == 0, verified.stderr
    name = Bundle.load(tmp_path / "door.immune").manifest.liveness.file
    (tmp_path / "door.immune" / name).write_bytes(b"another network")
    assert run("bundle", "verify", "door.immune", "--trust", "k.pub.pem").returncode == 3


def test_purify_marks_faces_and_tells_scores(run, sample_frame, tmp_path):
    bundle_with_liveness(tmp_path, threshold=0.999)
    cv2.imwrite(str(tmp_path / "in.png"), sample_frame)
    plain = run("purify", "in.png", "-o", "plain.png", "--bundle", "door.immune", "--seed", "1")
    assert plain.returncode == 0, plain.stderr
    done = run("purify", "in.png", "-o", "out.png", "--bundle", "door.immune", "--seed", "1", "--liveness",
               "--json", "r.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 faces, 3 of them not live" in done.stdout
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    found = row["liveness"]
    assert (found["live"], found["not_live"], found["view"], found["synthetic"]) == (0, 3, "camera", True)
    assert [face["live"] for face in found["faces"]] == [False] * 3
    assert all(0 <= face["score"] < 0.999 for face in found["faces"])
    assert (cv2.imread(str(tmp_path / "out.png")) != cv2.imread(str(tmp_path / "plain.png"))).any()
    purified = run("purify", "in.png", "--bundle", "door.immune", "--seed", "1", "--liveness", "--liveness-view",
                   "purified", "--json", "p.json")  # fmt: skip
    assert purified.returncode == 0, purified.stderr
    other = json.loads((tmp_path / "p.json").read_text())["rows"][0]["liveness"]
    assert other["view"] == "purified"
    assert other["faces"] != found["faces"]
    without = run("purify", "in.png", "--liveness")
    assert without.returncode == 3
    assert "has no liveness network: put one in by `immunecam liveness export RUN --into BUNDLE`" in without.stderr


def test_the_gate_refuses_who_is_not_live(run, recognizer, people, tmp_path):
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")
    bundle_with_liveness(tmp_path, threshold=0.999)
    assert run("gate", "keygen", "k").returncode == 0
    bare = ("--store", "s.gate", "--key-file", "k", "--recognizer", recognizer, "--threads", "1")
    common = (*bare, "--bundle", "door.immune")
    assert run("gate", "enrol", "ann", people / "ann" / "0.png", *common).returncode == 0
    seen = ("gate", "verify", "ann", people / "ann" / "3.png", "--threshold", "0.9")
    assert run(*seen, *common).stdout.startswith("granted ann")  # liveness is asked only where it is wanted
    done = run(*seen, *common, "--liveness", "--json", "g.json")
    assert done.returncode == 5, done.stderr
    assert "no live face: liveness 0." in done.stdout
    (row,) = json.loads((tmp_path / "g.json").read_text())["rows"]
    assert (row["event"], row["person"], row["liveness_threshold"]) == ("suspected-attack", None, 0.999)
    print_of_bob = ("gate", "enrol", "bob", people / "bob" / "0.png", *common)
    refused = run(*print_of_bob, "--liveness")
    assert refused.returncode == 5, refused.stderr
    assert refused.stderr.startswith("immunecam: 'bob' was not enrolled, because the pictures do not show a live face")
    many = run("gate", "enrol-all", people, *common, "--liveness")
    assert many.returncode == 3
    assert "people were not enrolled" in many.stderr
    assert run("gate", "list", "--store", "s.gate", "--key-file", "k").stdout.startswith("ann: 1 templates")
    assert run(*print_of_bob, "--liveness", "--allow-not-live").returncode == 0
    without = run(*print_of_bob, "--allow-not-live")
    assert without.returncode == 2
    assert "--allow-not-live is for --liveness" in without.stderr
    refused = run(*seen, *bare, "--liveness")
    assert refused.returncode == 3
    assert "has no liveness network" in refused.stderr


def test_analyze_as_a_user_does(run, made, tmp_path):
    arguments = ("liveness", "analyze", made / "a.run", "--data", made / "test.safetensors", "--quick", "--faces", "4")
    arguments += ("--sfa-draws", "1", "--no-sweep", "--device", "cpu", "--work", "w")
    part = run(*arguments, "--part", "1/2")
    assert part.returncode == 0, part.stderr
    assert "part 1/2 is done" in part.stdout
    done = run(*arguments, "--json", "r.json", "--docs", "p.md")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("most robust: a.run (vgg; auxiliary tasks: spoof_type)")
    assert "(synthetic, mean over the budgets)" in done.stdout
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["schema"] == "immunecam.liveness/1"
    assert report["protocol"]["sfa"]["draws"] == 1
    assert (tmp_path / "w" / "liveness.html").is_file()
    again = run("liveness", "analyze", "--page-of", "r.json", "--docs", "q.md")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "q.md").read_text().replace("(q/", "(p/") == (tmp_path / "p.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("analyze",), 2, "needs run folders and --data SET"),
        (("analyze", "--page-of", "r.json"), 2, "needs --docs PAGE or --html PAGE"),
        (("analyze", "x", "--data", "y", "--sfa-layer", "roof"), 2, "layer of SFA must be one of stem"),
        (("analyze", "x", "--data", "y", "--part", "3/2"), 2, "must be I/N"),
        (("analyze", "x", "--data", "y", "--json", "no/r.json"), 2, "there is no folder 'no' to write r.json into"),
        (("analyze", "x", "--data", "y"), 3, "'x' is no liveness run"),
        (("export", "x", "--into", "none.immune", "--data", "y"), 3, "none.immune"),
        (
            ("train", "--data", "x", "-o", "run", "--adversarial", "0"),
            2,
            "0 grey levels: give more than 0, and 128 at most",
        ),
        (("train", "--data", "x", "-o", "r", "--adversarial", "2", "--adversarial-share", "2"), 2, "1 at most"),
    ],
)
def test_bad_input_is_one_sentence(capsys, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    found = told(capsys, "liveness", *arguments)
    assert found[0] == code, found
    assert found[1].startswith("immunecam: ")
    assert said in found[1]


def told(capsys, *arguments):
    """Exit code of a command in this process, and its sentence."""
    code = _run(list(arguments))
    return code, capsys.readouterr().err.splitlines()[-1]


def test_sets_that_nothing_can_be_learnt_from(capsys, tmp_path, monkeypatch):
    """Unlabelled folders, missing maps, one class alone, faces too small."""
    monkeypatch.chdir(tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    cv2.imwrite(str(pictures / "a.png"), np.zeros((112, 112, 3), np.uint8))
    both = striped_faces(40)
    both.at(both.labels.live == 0).save(tmp_path / "live.safetensors")
    both.save(tmp_path / "both.safetensors")
    for arguments, code, said in (
        (("train", "--data", "pictures", "-o", "r"), 3, "give the folder of CelebA-Spoof that holds metas/"),
        (("train", "--data", "live.safetensors", "-o", "r"), 3, "all of them live faces: add spoofs"),
        (("train", "--data", "both.safetensors", "-o", "r", "--tasks", "depth"), 3, "has no labels for depth"),
        (("train", "--data", "pictures", "-o", "r", "--side", "48"), 2, "48 px wide, but they must be 64 or more"),
        (("make", "--aligned", "pictures", "--side", "32", "-o", "s.safetensors"), 2, "they must be 64 or more"),
    ):
        found = told(capsys, "liveness", *arguments)
        assert found[0] == code, (arguments, found)
        assert said in found[1], (arguments, found)
