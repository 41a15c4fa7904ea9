"""``immunecam liveness`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")


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
        (("make", "-o", "no/a.safetensors"), 2, "make it first"),
        (("make", "-o", "a.safetensors", "--aligned", "nothing"), 3, "neither a folder nor a zip archive"),
        (("train", "--data", "a.safetensors", "-o", "run"), 3, "make one by `immunecam liveness make`"),
        (("train", "--data", "x", "-o", "run", "--side", "48"), 2, "48 px wide, but they must be 64 or more"),
        (("train", "--data", "x", "-o", "run", "--tasks", "heat"), 2, "unknown liveness task 'heat'"),
        (("train", "--data", "x", "-o", "run", "--backbone", "heat"), 2, "unknown backbone 'heat'"),
        (("train", "--data", ".", "-o", "run"), 3, "give the folder of CelebA-Spoof that holds metas/"),
    ],
)
def test_bad_input_is_one_sentence(run, arguments, code, said):
    done = run("liveness", *arguments)
    assert done.returncode == code, done.stderr
    # The bar of a command that was under way may come before; the sentence is the last line.
    assert done.stderr.splitlines()[-1].startswith("immunecam: ")
    assert said in done.stderr.splitlines()[-1]
