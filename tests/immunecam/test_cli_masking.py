"""``immunecam masking`` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cryptography")

from small_lfw import write_lfw  # noqa: E402


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_lfw(tmp_path / "data", {7: "cd", 8: "ef"})


def test_from_faces_to_a_table(run, data, tmp_path):
    (tmp_path / "small.json").write_text(json.dumps({"width": 0.125, "size": 16, "gate_steps": 2, "keep": 8}))
    assert run("gate", "keygen", "key").returncode == 0
    lfw = data / "lfw"
    arguments = ("masking", "train", "--data", lfw / "train_112.zip", "--config", "small.json", "--distilled", "0")
    arguments += ("--arcface", "1", "--steps", "2", "--batch", "6", "--positions", "28", "--device", "cpu")
    arguments += ("--pairs", lfw / "pairs.csv")
    made = run(*arguments, "--key-file", "key", "-o", "a.run")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("trained on masked faces, mixing adaptive, 6 faces, in ")
    config = json.loads((tmp_path / "a.run" / "config.json").read_text())
    assert config["held_out"] == ["c", "d"]
    assert config["config"]["width"] == 0.125
    made = run(*arguments, "--plain", "--mixing", "none", "-o", "plain.run")
    assert made.returncode == 0, made.stderr
    told = run(
        "masking", "evaluate", "a.run", "plain.run", "--data", data, "--key-file", "key", "--json", "report.json"
    )
    assert told.returncode == 0, told.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema"] == "immunecam.masking/2"
    assert [row["masked"] for row in report["rows"]] == [True, False]
    for row in report["rows"]:
        assert row["pairs"] == 6
        assert row["accuracy_low_percent"] <= row["accuracy_percent"] <= row["accuracy_high_percent"]

    judge = torch.nn.Sequential(torch.nn.AvgPool2d(14), torch.nn.Flatten())
    torch.jit.trace(judge, torch.zeros(1, 3, 112, 112)).save(str(tmp_path / "judge.pt"))
    seen = ("masking", "attack", "a.run", "--data", data, "--recognizer", "judge.pt", "--key-file", "key")
    told = run(*seen, "--people", "2", "--method", "linear", "--json", "seen.json", "--sheet", "sheet.png")
    assert told.returncode == 0, told.stderr
    (row,) = json.loads((tmp_path / "seen.json").read_text())["rows"]
    assert row["people"] == 2
    assert (tmp_path / "sheet.png").is_file()
    refused = run(*seen, "--k", "2", "--per-enrolment")
    assert refused.returncode == 2
    assert "give either --per-enrolment or --k" in refused.stderr.splitlines()[-1]

    assert run("gate", "keygen", "other").returncode == 0
    wrong = run("masking", "evaluate", "a.run", "--data", data, "--key-file", "other")
    assert wrong.returncode == 3
    assert "'a.run' was made with another masking key" in wrong.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--distilled", "0"), 3, "the gate needs its key: give --key-file FILE"),
        ((), 2, "distillation needs a recogniser to learn from: give --teacher FILE, or --distilled 0"),
        (("--distilled", "0", "--batch", "4"), 2, "mixes of up to 6 faces cannot be made of batches of 4"),
        (
            ("--distilled", "0", "--mixing", "fixed", "--k", "5", "--batch", "4"),
            2,
            "mixes of up to 5 faces cannot be made of batches of 4",
        ),
        (("--distilled", "0", "--mixing", "fixed", "--k", "9"), 2, "k is 9, but must be one of 2, 3, 4, 5, 6"),
        (("--distilled", "0", "--positions", "7"), 2, "positions is 7, but must be one of 14, 28, 56, 112"),
        (("--config", "nothing.json"), 3, "the settings 'nothing.json' cannot be used"),
        (("--distilled", "0", "--plain"), 3, "training faces 'nothing' do not exist"),
    ],
)
def test_bad_input_is_one_sentence(run, arguments, code, said):
    done = run("masking", "train", "--data", "nothing", "-o", "a.run", "--device", "cpu", *arguments)
    last = done.stderr.splitlines()[-1]
    assert said in last, done.stderr
    assert last.startswith("immunecam: ")
    assert done.returncode == code


def test_too_few_people(run, tmp_path):
    folder = tmp_path / "faces" / "one"
    folder.mkdir(parents=True)
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((112, 112), 90 + number, np.uint8))
    done = run("masking", "train", "--data", "faces", "--plain", "--distilled", "0", "--batch", "6", "-o", "a.run")
    assert done.returncode == 3
    assert "2 faces show 1 people more than once, but ArcFace needs at least 2" in done.stderr.splitlines()[-1]
