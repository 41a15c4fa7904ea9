"""``immunecam demo`` where it must refuse; what it shows is tested with its parts."""

from __future__ import annotations

import os

import cv2
import numpy as np
import pytest


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "give --attack"),
        (("--attack",), 2, "give --recognizer FILE"),
        (("--attack", "--recognizer", "r.pt", "--epsilon", "0"), 2, "budget is 0 grey levels"),
        (("--attack", "--recognizer", "r.pt", "--threshold", "1.5"), 2, "threshold is 1.5"),
        (("--attack", "--recognizer", "r.pt", "--people", "1"), 2, "people"),
        (("--attack", "--recognizer", "r.pt", "--json", "none/r.json"), 2, "'none'"),
        (("--attack", "--recognizer", "r.pt", "-o", "two/a.png"), 2, "is a file"),
        (("--attack", "--recognizer", "r.pt", "--faces", "none"), 3, "'none' are no folder"),
        (("--attack", "--recognizer", "r.pt", "--data", "none"), 3, "none/lfw/dev_112.zip"),
        (("--attack", "--recognizer", "r.pt", "--faces", "two"), 3, "'r.pt' does not exist"),
        (("--attack", "--recognizer", "r.pt", "--device", "moon"), 4, "moon"),
        (("--attack", "--recognizer", "r.pt", "--provider", "cuda"), 4, "cuda"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(run, tmp_path, arguments, code, words):
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "two" / f"{name}.png"), np.full((112, 112, 3), 90, np.uint8))
    done = run("demo", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "attack-demo").exists()


@pytest.mark.parametrize(("missing", "extra"), [("torch", "train"), ("matplotlib", "plots")])
def test_without_an_extra_it_says_which(run, tmp_path, missing, extra):
    blocker = (
        "import importlib.util\n"
        "kept = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda n, *m: None if n == {missing!r} else kept(n, *m)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(blocker)
    done = run("demo", "--attack", "--recognizer", "r.pt", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 4, done.stderr
    assert missing in done.stderr
    assert f"immunecam[{extra}]" in done.stderr


def test_the_folder_of_data_may_come_from_the_environment(run, tmp_path):
    """It is looked for before the recogniser is loaded, which is not there."""
    environment = os.environ | {"IMMUNECAM_DATA": str(tmp_path / "gone")}
    done = run("demo", "--attack", "--recognizer", "r.pt", env=environment)
    assert done.returncode == 3
    assert "gone/lfw/dev_112.zip" in done.stderr
