"""The other commands, and what it costs to import the package."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest
import torch

from immunecam import __version__
from immunecam.runtime.bundle import Bundle


def test_doctor(run, tmp_path):
    done = run("doctor", "--json", "report.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {row["part"]: row for row in report["rows"]}
    assert rows["purifier on the CPU"]["available"]
    assert rows["face finder"]["available"]
    assert not rows["TensorRT"]["available"]
    if importlib.util.find_spec("cuda") is None:
        assert "immunecam[cuda13]" in " ".join(done.stdout.split())  # brackets are no markup
    assert all(row["why"] for row in rows.values())


def test_version_and_help(run):
    assert run("--version").stdout.strip() == f"immunecam {__version__}"
    text = run("--help").stdout
    for command in ("purify", "train", "export", "doctor"):
        assert command in text
    assert run("fly").returncode == 2


@pytest.fixture(scope="session")
def training_set(tmp_path_factory):
    """A zip of smooth random faces and a recogniser as TorchScript."""
    folder = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "faces.zip", "w") as archive:
        for number in range(40):
            noise = rng.normal(size=(14, 14)).astype(np.float32)
            face = np.clip(127 + 50 * cv2.resize(noise, (112, 112), interpolation=cv2.INTER_CUBIC), 0, 255)
            archive.writestr(f"p{number % 9}/{number}.png", cv2.imencode(".png", face.astype(np.uint8))[1].tobytes())
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(588, 16))
    torch.jit.script(network).save(str(folder / "recognizer.pt"))
    return folder


def test_train_resume_export_purify(run, training_set, tmp_path):
    data, recognizer = training_set / "faces.zip", training_set / "recognizer.pt"
    common = ("train", "edge", "--data", data, "--recognizer", recognizer, "--out", "mine.immune", "--k", "16")
    common += ("--lr", "4e-3")
    # The paper preset counts epochs, so forty faces are a handful of steps.
    done = run(*common, "--preset", "paper", "--steps", "3")
    assert done.returncode == 0, done.stderr
    first = Bundle.load(tmp_path / "mine.immune")
    assert first.k == 16
    assert first.manifest.provenance["faces"]["count"] == 40
    assert first.manifest.provenance["config"]["lr"] == 4e-3
    curves = (tmp_path / "mine.run" / "curves.csv").read_text().splitlines()
    assert curves[0].startswith("step,phase,loss")
    assert (tmp_path / "mine.run" / "curves.png").stat().st_size > 1000

    assert run(*common, "--preset", "paper", "--steps", "3").returncode == 2  # is there already
    assert run(*common, "--preset", "paper", "--steps", "3", "--resume").returncode == 0

    few = run("train", "pin", "--data", data, "--out", "few.immune", "--k", "400")
    assert few.returncode == 3
    assert "from 40 faces" in few.stderr

    assert run("export", "mine.immune").returncode == 2  # is there already
    done = run("export", "mine.immune", "--precision", "fp16", "--overwrite")
    assert done.returncode == 0, done.stderr
    again = Bundle.load(tmp_path / "mine.immune")
    assert again.manifest.precision["basis"] == "fp16"
    assert again.manifest.parity["max_grey_levels"] <= 1

    # Trained on from the bundle alone, which is verified first.
    further = [*common, "--preset", "paper", "--steps", "2", "--start-from", "mine.immune"]
    further[further.index("--out") + 1] = "next.immune"
    done = run(*further)
    assert done.returncode == 0, done.stderr
    after = Bundle.load(tmp_path / "next.immune")
    assert after.manifest.provenance["started_from"]["bundle"] == again.sha256
    learner = [*common, "--preset", "paper", "--steps", "1", "--teacher", "mine.immune"]
    learner[learner.index("--out") + 1] = "learner.immune"
    done = run(*learner)
    assert done.returncode == 0, done.stderr
    learnt = Bundle.load(tmp_path / "learner.immune").manifest.provenance
    assert learnt["teacher"]["bundle"] == again.sha256
    assert learnt["config"]["distillation_weight"] > 0
    done = run(*learner, "--k", "8", "--resume")
    assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
    shutil.copytree(tmp_path / "mine.immune", tmp_path / "other.immune")
    with (tmp_path / "other.immune" / "analyzer.onnx").open("ab") as file:
        file.write(b"\0")
    for wrong, words in (("other.immune", "analyzer.onnx"), ("none.immune", "none.immune"), ("none", "no run")):
        bad = run(*further[:-1], wrong, "--resume")
        assert (bad.returncode, words in bad.stderr, "Traceback" in bad.stderr) == (3, True, False), bad.stderr

    assert run("purify", training_set / "faces.zip", "--bundle", "mine.immune").returncode == 3
    cv2.imwrite(str(tmp_path / "in.png"), np.full((99, 99, 3), 7, np.uint8))
    assert run("purify", "in.png", "-o", "out.png", "--bundle", "mine.immune").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("train", "edge", "--data", "none.zip", "--out", "a.immune"), 2, "--recognizer"),
        (("train", "pin", "--data", "none.zip", "--out", "a.immune"), 3, "none.zip"),
        (("train", "pin", "--data", "none.zip", "--out", "a.bundle"), 2, ".immune"),
        (("train", "pin", "--data", "none.zip", "--out", "a.immune", "--lr", "0"), 2, "--lr is 0, but"),
        (("train", "pin", "--data", "none.zip", "--out", "a.immune", "--lr", "nan"), 2, "--lr is nan, but"),
        (("train", "ais", "--data", "none.zip", "--out", "a.immune", "--preset", "robust"), 2, "no preset 'robust'"),
        (("train", "pin", "--data", "none.zip", "--out", "a.immune", "--device", "cuda:9"), 4, "cuda:9"),
        (("train", "pin", "--data", "none.zip", "--out", "a.immune", "--device", "moon"), 4, "moon"),
        (("export", "none.immune"), 3, "no training run"),
    ],
)
def test_bad_training_input_is_one_sentence(run, arguments, code, words):
    done = run(*arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_import_is_light():
    """`import immunecam` costs less than 0.3 s more than numpy and OpenCV, and never loads PyTorch or a backend."""
    code = (
        "import time, sys, numpy, cv2; began = time.perf_counter(); import immunecam; immunecam.Purifier;"
        "print(time.perf_counter() - began);"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'typer') if m in sys.modules])"
    )
    shortest = 9.0
    for _ in range(3):
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        seconds, modules = out.splitlines()
        shortest = min(shortest, float(seconds))
        assert modules == "[]"
    assert shortest < 0.3


def test_purify_without_training_extra_needs_no_torch(run, tmp_path):
    """The whole command, with PyTorch and onnx made impossible to import."""
    blocker = "import sys; sys.modules['torch'] = sys.modules['onnx'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(blocker)
    cv2.imwrite(str(tmp_path / "in.png"), np.full((99, 99, 3), 7, np.uint8))
    import os

    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = run("purify", "in.png", "-o", "out.png", env=environment)
    assert done.returncode == 0, done.stderr
    done = run("train", "edge", "--data", "x.zip", "--out", "a.immune", env=environment)
    assert done.returncode == 4
    assert "immunecam[train]" in done.stderr
