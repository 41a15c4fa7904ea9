"""``immunecam liveness`` as a user runs it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")

from small_liveness_run import striped_faces

from immunecam.cli import _run
from immunecam.models.liveness_loss import LivenessLabels


@pytest.fixture
def aligned(tmp_path: Path) -> Path:
    """Four drawn faces at 112x112."""
    folder = tmp_path / "aligned"
    folder.mkdir()
    for number in range(4):
        face = np.full((112, 112, 3), 40 + 30 * number, np.uint8)
        cv2.ellipse(face, (56, 68), (38, 52), 0, 0, 360, (120, 150, 200), -1, cv2.LINE_AA)
        for x, y in ((38, 52), (74, 52), (56, 72), (42, 92), (71, 92)):
            cv2.circle(face, (x, y), 4, (20, 20, 30), -1, cv2.LINE_AA)
        cv2.imwrite(str(folder / f"{number}.png"), face)
    return folder


def test_from_pictures_to_errors(run, aligned, tmp_path):
    made = run("liveness", "make", "--aligned", aligned, "--count", "30", "--side", "64", "-o", "set.safetensors")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("wrote set.safetensors, synthetic: ")
    arguments = ("liveness", "train", "--data", "set.safetensors", "--test", "set.safetensors", "--backbone", "vgg")
    arguments += ("--tasks", "depth,attributes", "--steps", "2", "--batch", "4", "-o", "run", "--device", "cpu")
    trained = run(*arguments)
    assert trained.returncode == 0, trained.stderr
    assert "on synthetic spoofs, 30 faces: BPCER" in trained.stdout
    errors = json.loads((tmp_path / "run" / "errors.json").read_text())
    assert errors["synthetic"] is True
    assert errors["set"].startswith("synthetic: seed 0")
    assert 0 <= errors["acer"] <= 1
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["config"]["tasks"] == ["attributes", "depth"]
    again = run(*arguments)
    assert again.returncode == 3
    assert "already holds a run: go on with --resume" in again.stderr
    assert run(*arguments, "--resume").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("make", "-o", "a.safetensors"), 2, "give --data with --points, or --aligned"),
        (("make", "-o", "a.zip"), 2, "its name must end in .safetensors"),
        (("make", "-o", "a.safetensors", "--data", "x"), 2, "belong together"),
        (("make", "-o", "no/a.safetensors"), 2, "there is no folder"),
        (("make", "-o", "a.safetensors", "--aligned", "nothing"), 3, "neither a folder nor a zip archive"),
        (("train", "--data", "a.safetensors", "-o", "run"), 3, "make one by `immunecam liveness make`"),
        (("train", "--data", "x", "-o", "run", "--side", "48"), 2, "48 px wide, but they must be 64 or more"),
        (("train", "--data", "x", "-o", "run", "--tasks", "heat"), 2, "unknown liveness task 'heat'"),
        (("train", "--data", "x", "-o", "run", "--backbone", "heat"), 2, "unknown backbone 'heat'"),
        (("train", "--data", "x", "-o", "run", "--precision", "heat"), 2, "unknown precision 'heat'"),
        (("matrix", "--data", "x", "--test", "y", "-o", "m"), 3, "the set 'x' does not exist: make one by"),
        (("matrix", "--data", ".", "--test", "y", "-o", "m"), 3, "give the folder of CelebA-Spoof that holds metas/"),
        (("train", "--data", ".", "-o", "run"), 3, "give the folder of CelebA-Spoof that holds metas/"),
    ],
)
def test_bad_input_is_one_sentence(run, arguments, code, said):
    done = run("liveness", *arguments)
    assert done.returncode == code, done.stderr
    # The bar of a command that was under way may come before; the sentence is the last line.
    assert done.stderr.splitlines()[-1].startswith("immunecam: ")
    assert said in done.stderr.splitlines()[-1]


def test_bad_sets_are_one_sentence_before_anything_is_trained(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faces = striped_faces(12)
    faces.save("both.safetensors")
    faces.at(faces.labels.live == 0).save("live.safetensors")
    dataclasses.replace(faces, labels=LivenessLabels(faces.labels.live)).save("bare.safetensors")
    striped_faces(12, side=80).save("wide.safetensors")
    (tmp_path / "file").write_text("x")
    common = ["liveness", "train", "--backbone", "vgg", "--steps", "1", "--device", "cpu"]
    for arguments, said in (
        (("--data", "live.safetensors", "-o", "r"), "6 faces, all of them live faces: add spoofs"),
        (("--data", "both.safetensors", "--test", "live.safetensors", "-o", "r"), "all of them live faces: add spoofs"),
        (
            ("--data", "both.safetensors", "--test", "wide.safetensors", "-o", "r"),
            "80 px wide and those of 'synthetic: stripes' 64: make both alike",
        ),
        (
            ("--data", "bare.safetensors", "--tasks", "depth", "-o", "r"),
            "has no labels for depth: leave these tasks out",
        ),
        (("--data", "both.safetensors", "-o", "file"), "the run folder 'file' cannot be made (File exists)"),
    ):
        assert _run([*common, *arguments]) == 3
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("immunecam: ")
        assert said in last
    assert not (tmp_path / "r" / "checkpoint.safetensors").exists()
    make = ["liveness", "make", "--data", ".", "--points", "file", "-o", "a.safetensors"]
    assert _run(make) == 3
    assert "points 'file' are no .npz file" in capsys.readouterr().err


def test_the_matrix_is_one_command_that_goes_on(run, tmp_path):
    for name, seed in (("train", 0), ("test", 1)):
        faces = striped_faces(40, seed=seed)
        one_task = dataclasses.replace(faces, labels=dataclasses.replace(faces.labels, illumination=None))
        one_task.save(tmp_path / f"{name}.safetensors")
    arguments = ("liveness", "matrix", "--data", "train.safetensors", "--test", "test.safetensors", "-o", "m")
    arguments += ("--backbone", "vgg", "--batch", "4", "--device", "cpu", "--adversarial-steps", "1")
    trained = run(*arguments, "--steps", "2", "--train-only")
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout == "4 runs in m are trained\n"
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == ["vgg-all", "vgg-all-hardened", "vgg-all-hardened-sfa", "vgg-none"]
    before = (tmp_path / "m" / "vgg-all" / "checkpoint.safetensors").stat().st_mtime_ns
    analysed = run(*arguments, "--steps", "2", "--faces", "1", "--docs", "m.md", "--json", "m.json")
    assert analysed.returncode == 0, analysed.stderr
    assert (tmp_path / "m" / "vgg-all" / "checkpoint.safetensors").stat().st_mtime_ns == before
    report = json.loads((tmp_path / "m.json").read_text())
    assert sorted(one["run"] for one in report["runs"]) == names
    assert len(report["adversarial"]) == 2 * len(report["protocol"]["levels"])
    assert {row["how"]["sfa"] for row in report["adversarial"]} == {False, True}
    assert {row["run"] for row in report["rows"]} == set(names)
    assert "## Trained against attacks" in (tmp_path / "m.md").read_text()
    other = run(*arguments, "--steps", "3")
    assert other.returncode == 3
    assert "holds a run with other config" in other.stderr
