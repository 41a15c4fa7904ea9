"""``immunecam bench`` where it must refuse; what it measures is tested with its parts."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest

from immunecam.runtime.bundle import default_bundle

EDGE = str(default_bundle())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--seconds", "0"), 2, "a block takes 0 s, but it must take more than 0"),
        (("--rounds", "0"), 2, "number of rounds is 0"),
        (("--threads", "4096"), 2, "number of threads is 4096, but this process may use"),
        (("--pin", "100000"), 2, "cores to pin to are '100000'"),
        (("--provider", "moon"), 2, "moon"),
        (("--provider", "cuda"), 4, "'cuda'"),
        (("--provider", "tensorrt"), 4, "TensorRT"),
        (("--precision", "int8", "--precision", "fp32"), 3, "no bundle has a basis in fp32 (edge.immune has int8)"),
        (("--bundle", "none.immune"), 3, "none.immune"),
        (("--bundle", EDGE, "--bundle", EDGE), 2, "two bundles are called 'edge'"),
        (("--provider", "auto", "--provider", "cpu"), 2, "the providers auto and cpu are both cpu here"),
        (("--source", "none.mp4"), 3, "none.mp4"),
        (("--source", "grey.png"), 3, "no face is found"),
        (("--json", "none/report.json"), 2, "no folder 'none'"),
        (("--plots", "none"), 2, "does not exist"),
        (("--html", "none/page.html"), 2, "no folder 'none'"),
        (("--json", "a.json", "--docs", "a.json"), 2, "two outputs are both"),
        (("--compare", "a.json", "b.json"), 3, "'a.json' cannot be read"),
        (("--compare", "a.json", "b.json", "--docs", "page.md"), 2, "--compare measures nothing"),
        (("--compare", "a.json"), 2, "2 arguments"),
    ],
)
def test_a_refusal_is_one_sentence(run, tmp_path, arguments, code, words):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((99, 99, 3), 7, np.uint8))
    done = run("bench", "--no-paper", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert os.listdir(tmp_path) == ["grey.png"]


def test_reports_are_compared_under_names_that_look_like_markup(run, tmp_path):
    row = {"bundle": "[b]", "beside": None, "provider": "cpu", "threads": 1, "batch": 1, "form": "faces"}
    beside = row | {"bundle": None, "beside": "[b]", "batch": None, "form": "reference"}
    for name, times in (("[i]old.json", [4.0, 4.1, 3.9]), ("new.json", [2.0, 2.1, 1.9])):
        rows = [row | {"launch_medians_ms": times}, beside | {"launch_medians_ms": [1.0, 1.01, 0.99]}]
        (tmp_path / name).write_text(json.dumps({"schema": "immunecam.bench/1", "machine": "[red]", "rows": rows}))
    done = run("bench", "--compare", "[i]old.json", "new.json", "--json", "verdicts.json")
    assert done.returncode == 0, done.stderr
    assert "[b] faces, as shipped" in done.stdout
    (verdict,) = json.loads((tmp_path / "verdicts.json").read_text())["rows"]
    assert verdict["verdict"] == "faster"
    assert verdict["ratio"][1] < 0.5 < verdict["ratio"][2]


def test_without_pytorch_and_matplotlib_it_says_what_to_install(run, tmp_path):
    blocker = (
        "import importlib.util, sys\n"
        "kept = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *m: None if n in ('torch', 'matplotlib') else kept(n, *m)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(blocker)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for extra, arguments in (("train", ["--paper"]), ("plots", ["--plots", "."]), ("plots", ["--html", "page.html"])):
        done = run("bench", *arguments, env=environment)
        assert done.returncode == 4, done.stderr
        assert f"immunecam[{extra}]" in done.stderr
