"""Who is shown, what is tried and what is drawn, on the small world of the benchmarks' tests."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="needs matplotlib to draw (pip install 'immunecam[plots]')")

from immunecam.benchmarks.demonstration.clip import write_clip
from immunecam.benchmarks.demonstration.panel import noise
from immunecam.benchmarks.demonstration.people import People
from immunecam.benchmarks.demonstration.sheet import title_of, write_sheet
from immunecam.benchmarks.demonstration.trial import Judge, Trial, counted, margin_threshold, run_trials
from immunecam.errors import InputError
from immunecam.runtime.purifier import Purifier
from immunecam.training.recognizer import Recognizer

LEVEL = 40.0
"""Grey levels: it takes many to move a linear recogniser of smooth faces."""


@pytest.fixture(scope="module")
def people(data) -> People:
    return People.from_data(data, 3)


@pytest.fixture(scope="module")
def judge(recognizers, bundle, people) -> Judge:
    judge = Judge(Recognizer.load(recognizers[0]), Purifier.load(bundle, seed=5), 0.0)
    return Judge(judge.recognizer, judge.purifier, margin_threshold(judge, people))


@pytest.fixture(scope="module")
def trials(people, judge) -> list[Trial]:
    torch.manual_seed(0)
    return run_trials(people, judge, LEVEL)


def test_people_of_the_data(people):
    assert people.names == ("P100", "P101", "P102")
    assert people.enrolled.shape == people.probes.shape == (3, 112, 112)
    assert not np.array_equal(people.enrolled, people.probes)
    assert people.of([2]).names == ("P102",)


def test_people_of_the_installed_clip():
    found = People.from_clip()
    assert found.names == ("left", "middle", "right")
    distance = np.abs(found.enrolled.astype(int)[:, None] - found.probes).mean((2, 3))
    assert (distance.argmin(1) == np.arange(3)).all()


def test_people_of_a_folder(data, tmp_path):
    """Two pictures of one, one of the other, who is seen again turned; nothing else counts."""
    with zipfile.ZipFile(data / "lfw" / "dev_112.zip") as archive:
        pictures = [archive.read(f"P10{n}/P10{n}_000{m}.jpg") for n, m in ((0, 0), (0, 1), (1, 0))]
    (tmp_path / "Ann_$x$_with_a_very_long_name").mkdir()
    for number, picture in enumerate(pictures[:2]):
        (tmp_path / "Ann_$x$_with_a_very_long_name" / f"{number}.png").write_bytes(picture)
    (tmp_path / "bob.png").write_bytes(pictures[2])
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty").mkdir()
    torch.manual_seed(0)
    found = People.from_folder(tmp_path, 9)
    assert found.names == ("Ann $x$ with a very l…", "bob")
    ann = cv2.imdecode(np.frombuffer(pictures[1], np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(found.probes[0], ann)
    change = np.abs(found.probes[1].astype(int) - found.enrolled[1]).mean()
    assert 0.05 < change < 5  # these faces have hardly an edge to lose
    assert "1 of them with one picture" in found.origin
    assert len(People.from_folder(tmp_path, 2)) == 2


def test_a_face_is_found_in_a_larger_picture(tmp_path):
    """The installed clip's frame shows three: the largest is taken, and aligned."""
    from immunecam.runtime.bundle import default_bundle

    frame = cv2.VideoCapture(str(default_bundle().with_name("sample.mp4"))).read()[1]
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), frame)
    found = People.from_folder(tmp_path, 2)
    whole = People.from_clip()
    distance = np.abs(found.enrolled[0].astype(int) - whole.enrolled).mean((1, 2))
    assert distance.min() < 3


@pytest.mark.parametrize(
    ("files", "words"),
    [({}, "shows 0 people"), ({"a.png": "face"}, "shows 1 people"), ({"a.png": "flat", "b.png": "flat"}, "no face")],
)
def test_folders_that_cannot_be_shown(tmp_path, files, words):
    for name, kind in files.items():
        side = 112 if kind == "face" else 200
        cv2.imwrite(str(tmp_path / name), np.full((side, side, 3), 99, np.uint8))
    with pytest.raises(InputError, match=words):
        People.from_folder(tmp_path, 4)
    with pytest.raises(InputError, match="are no folder"):
        People.from_folder(tmp_path / "none", 4)


def test_the_threshold_lies_in_the_middle_of_the_gap(judge, people):
    table = (judge.embeddings(people.probes) @ judge.embeddings(people.enrolled).T).numpy()
    same, different = np.diag(table), table[~np.eye(3, dtype=bool)]
    assert same.min() > different.max()
    assert margin_threshold(judge, people) == pytest.approx((same.min() + different.max()) / 2, abs=1e-4)


def test_attacks_get_through_and_keep_to_their_budget(trials, judge):
    assert [(trial.goal, trial.attack) for trial in trials] == [
        *(("dodging", name) for name in ("PGD-10", "MI-FGSM-10")),
        *(("impersonation", name) for name in ("PGD-10", "MI-FGSM-10")),
    ]
    for trial in trials:
        assert trial.right("clean").all()
        assert not trial.right("attacked").any()
        change = np.abs(trial.faces["attacked"].astype(int) - trial.faces["clean"])
        assert LEVEL - 2 <= change.max() <= LEVEL
        assert all(name != aim for name, aim in zip(trial.names, trial.aims, strict=True)) == (
            trial.goal == "impersonation"
        )
        # What is reported is what the recogniser says of the pictures.
        said = judge.cosines(trial.faces["purified"], judge.purified(trial.faces["enrolled"]))
        assert np.allclose(trial.cosines["purified"], said, atol=1e-5)
        assert np.array_equal(trial.accepted("purified"), said >= judge.threshold)
    through = int((~trials[0].right("purified")).sum())
    assert counted(trials)[0] == f"dodging, PGD-10: 3 of 3 got through before purification, {through} after"
    row = trials[2].rows()[1]
    assert (row["person"], row["compared_with"]) == ("P101", "P102")
    assert row["attacked_accepted"] is True
    assert row["clean_purified_cosine"] == pytest.approx(float(trials[2].cosines["clean purified"][1]), abs=1e-4)


def test_the_same_seed_gives_the_same_attack(trials, people, judge):
    torch.manual_seed(0)
    again = run_trials(people, judge, LEVEL)
    assert [trial.rows() for trial in again] == [trial.rows() for trial in trials]


def test_people_whom_the_recogniser_does_not_tell_apart_are_refused(people, judge):
    with pytest.raises(InputError, match="knows 3 of these 3 people and tells 0 of them from another"):
        run_trials(people, Judge(judge.recognizer, judge.purifier, -0.999), 8.0)
    with pytest.raises(InputError, match="knows 0 of these 3 people"):
        run_trials(people, Judge(judge.recognizer, judge.purifier, 0.9999), 8.0)


def test_sheet_and_clip(trials, judge, tmp_path):
    write_sheet(trials, LEVEL, "three people", tmp_path / "sheet.png")
    first = (tmp_path / "sheet.png").read_bytes()
    write_sheet(trials, LEVEL, "three people", tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes() == first
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 1320
    # Both colours of a decision are on it: the attacks have succeeded.
    for colour in ("#0072B2", "#D55E00"):
        bgr = [int(colour[n : n + 2], 16) for n in (5, 3, 1)]
        assert (np.abs(sheet.astype(int) - bgr).max(2) < 3).sum() > 1000
    write_clip(trials[1:2], judge, LEVEL, tmp_path / "clip.mp4")
    clip, frames = cv2.VideoCapture(str(tmp_path / "clip.mp4")), []
    while True:
        found, image = clip.read()
        if not found:
            break
        frames.append(image)
    assert len(frames) == 33
    assert frames[0].shape == (480, 960, 3)
    # The frame around the bare face changes from right (blue) to wrong (red); its left edge is at 3 %.
    blue, red = (frame[150:300, 28:31].mean((0, 1)) for frame in (frames[0], frames[-1]))
    assert blue[0] > blue[2] + 40
    assert red[2] > red[0] + 40
    assert np.abs(frames[0].astype(int) - frames[20]).mean() > 2
    assert not list(tmp_path.glob(".*"))


def test_noise_is_shown_ten_times_as_strong():
    clean = np.full((2, 2), 100, np.uint8)
    attacked = np.array([[100, 108], [92, 120]], np.uint8)
    assert noise(clean, attacked).tolist() == [[128, 208], [48, 255]]


def test_titles_say_who_wants_what(trials):
    assert title_of(trials[0], 1, 8.0) == "dodging, PGD-10 at 8/255: P101 does not want to be recognised"
    assert title_of(trials[3], 2, 4.5) == "impersonation, MI-FGSM-10 at 4.5/255: P102 wants to be taken for P100"


def test_the_command(data, recognizers, tmp_path):
    """As a user runs it, on a folder of two people with the installed bundle."""
    folder = tmp_path / "people"
    with zipfile.ZipFile(data / "lfw" / "dev_112.zip") as archive:
        for name in ("P100", "P101"):
            (folder / name).mkdir(parents=True)
            for number in range(2):
                (folder / name / f"{number}.png").write_bytes(archive.read(f"{name}/{name}_000{number}.jpg"))
    command = ["demo", "--attack", "--recognizer", str(recognizers[0]), "--faces", "people", "-o", "out/deep"]
    done = subprocess.run(
        [sys.executable, "-m", "immunecam", *command, "--json", "report.json", "--seed", "3", "--epsilon", "40"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out" / "deep").iterdir()) == ["attack.mp4", "attack.png"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["schema"], report["seed"], report["people"]) == ("immunecam.demo/1", 3, 2)
    assert len(report["rows"]) == 8
    assert all(row["clean_accepted"] == (row["goal"] == "dodging") for row in report["rows"])
    assert "dodging, PGD-10: 2 of 2 got through before purification" in done.stdout
    assert "too few for a door" in done.stdout
    assert "wrote out/deep/attack.png, out/deep/attack.mp4, report.json" in done.stdout
