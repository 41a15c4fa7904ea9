"""What a change of a bundle costs in recognition, and the command that refuses one that costs too much."""

from __future__ import annotations

import json

import numpy as np
import pytest

from immunecam.benchmarks.evaluation.pairs import drawn_pairs
from immunecam.benchmarks.quantisation_cost import ATTACK, recognition_figures
from immunecam.cli import _run
from immunecam.kernels import Subspace
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_writer import write_bundle
from immunecam.runtime.subspace_file import subspace_to_bytes
from immunecam.training.faces import FaceSet
from immunecam.training.recognizer import Recognizer


@pytest.fixture(scope="module")
def pairs(data):
    return drawn_pairs(FaceSet.load(data / "lfw" / "dev_112.zip"), 24)


@pytest.fixture(scope="module")
def recognizer(recognizers):
    return Recognizer.load(recognizers[0])


def by_name(rows):
    return {(row["threat"], row["pairs"]): row["percent"] for row in rows}


def test_the_same_bundle_costs_nothing(bundle, pairs, recognizer):
    rows = recognition_figures([bundle, bundle], pairs, [recognizer])
    assert [row["count"] for row in rows] == [12] * 4
    found = by_name(rows)
    assert set(found) == {(threat, kind) for threat in ("clean", ATTACK) for kind in ("same", "different")}
    assert all(before == after for before, after in found.values())
    assert np.mean([found["clean", kind][0] for kind in ("same", "different")]) > 75


def test_a_bundle_that_forgets_faces_costs_all(bundle, pairs, recognizer, tmp_path):
    """Eigenfaces of next to nothing leave the mean face: everybody is the same person."""
    space, manifest = bundle.subspace, bundle.manifest
    blank = Subspace(space.mean, space.basis, np.full(space.k, 1e-6, np.float32))
    files = {"analyzer.onnx": bundle.files["analyzer.onnx"], "subspace.safetensors": subspace_to_bytes(blank)}
    precision = {"basis": manifest.precision["basis"], "analyzer": "fp32"}
    graphs = {"analyzer": "analyzer.onnx"}
    blind = write_bundle(
        tmp_path / "blind.immune", kind="edge", k=space.k, files=files, graphs=graphs, precision=precision
    )
    found = by_name(recognition_figures([bundle, blind], pairs, [recognizer]))
    assert found["clean", "different"][1] == 0
    assert found["clean", "same"][1] == 100


def quantize(*arguments):
    return _run(["bundle", "quantize", *map(str, arguments)])


def test_the_command(bundle, data, recognizers, tmp_path, capsys):
    out, report = tmp_path / "int8.immune", tmp_path / "report.json"
    faces = data / "lfw" / "train_112.zip"
    options = ("--faces", faces, "--calibration", 8, "--pairs", 20, "--most-p", 0.1, "--most-grey-levels", 9)
    assert quantize(bundle.path, out, *options, "--recognizer", recognizers[0], "--json", report) == 0
    said = capsys.readouterr().out
    assert "layers in int8" in said
    assert "linear1, clean, same pairs" in said
    made = Bundle.load(out)
    assert made.manifest.precision["analyzer"] == "int8"
    content = json.loads(report.read_text())
    assert content["bundle_sha256"] == made.sha256
    assert content["pairs"] == 20
    assert len(content["rows"]) == 4
    assert content["quantisation"] == json.loads((out / "manifest.json").read_text())["provenance"]["quantisation"]
    assert quantize(bundle.path, out, *options) == 2
    assert "is not replaced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--faces", "nowhere.zip"], 3, "do not exist"),
        (["--faces", "FACES", "--calibration", "3"], 2, "--calibration is 3"),
        (["--faces", "FACES", "--recognizer", "none.pt"], 3, "none.pt"),
        (["--faces", "FACES", "--json", "nowhere/report.json"], 2, "no folder 'nowhere'"),
        (["--faces", "FACES", "--json", "."], 2, "is a folder"),
    ],
)
def test_bad_input(bundle, data, tmp_path, capsys, options, code, words):
    faces = str(data / "lfw" / "train_112.zip")
    given = [faces if option == "FACES" else option for option in options]
    assert quantize(bundle.path, tmp_path / "a.immune", *given) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not list(tmp_path.iterdir())
