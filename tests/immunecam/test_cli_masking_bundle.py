"""`immunecam masking export`, `mask` and a gate with `--masked`; the report; and every bad input in one sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript", reason="needs onnxscript (pip install 'immunecam[train]')")
pytest.importorskip("cryptography")

from small_gate import write_people  # noqa: E402
from small_lfw import write_lfw  # noqa: E402

from immunecam.benchmarks.masking.page import markdown  # noqa: E402
from immunecam.cli import _run  # noqa: E402
from immunecam.mask_key import MaskKey  # noqa: E402
from immunecam.models.mask_spec import MaskSpec  # noqa: E402
from immunecam.runtime.bundle import Bundle, default_bundle  # noqa: E402
from immunecam.runtime.gate.keys import GateKey  # noqa: E402
from immunecam.training.faces import FaceSet  # noqa: E402
from immunecam.training.masking import MaskFile, MaskingConfig, MaskingTrainer  # noqa: E402
from immunecam.training.masking.mask_file import steps_of  # noqa: E402
from immunecam.training.masking.people import without  # noqa: E402

Call = Callable[..., tuple[int, str, str]]
KEYED = ("--key-file", "key")
SPEED = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "masking_speed.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with faces, a key, a masked and a plain run, a judge, and a bundle with the masked run's part."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("made")
    write_lfw(folder / "data", {7: "cd", 8: "ef"})
    key = GateKey(bytes(range(32)))
    key.write(folder / "key")
    faces = without(FaceSet.load(folder / "data" / "lfw" / "train_112.zip"), {"c", "d"})
    config = MaskingConfig(keep=12, width=0.125, size=16, steps=2, batch=6, gate_steps=1, distilled=0.0)
    own = MaskKey(key.derive("masking"))
    MaskingTrainer(config, faces, None, own, folder / "a.run", held_out=["c", "d"]).run()
    orders = config.replace(permutation="enrolment", steps=1)
    MaskingTrainer(orders, faces, None, own, folder / "orders.run").run()
    plain = config.replace(masked=False, mixing="none", steps=1)
    MaskingTrainer(plain, faces, None, None, folder / "plain.run", held_out=["c", "d"]).run()
    judge = torch.nn.Sequential(torch.nn.AvgPool2d(14), torch.nn.Flatten())
    torch.jit.trace(judge, torch.zeros(1, 3, 112, 112)).save(str(folder / "judge.pt"))
    shutil.copytree(default_bundle(), folder / "door.immune")
    places = ("--into", folder / "door.immune", "--faces", folder / "data" / "lfw" / "dev_112.zip")
    places += ("--data", folder / "data", "--key-file", folder / "key", "--json", folder / "export.json")
    assert _run(["masking", "export", str(folder / "a.run"), *map(str, places)]) == 0
    return folder


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line in an empty folder: exit code, stdout, last line of stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMMUNECAM_GATE_KEY", raising=False)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = _run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, (err.splitlines() or [""])[-1]

    return run


def test_the_bundle_says_what_it_has(made, call):
    (row,) = json.loads((made / "export.json").read_text())["rows"]
    assert row["parity"]["max_one_minus_cosine"] < 1e-4
    assert row["quality"]["pairs"] == 6
    assert row["size"] == 16
    code, out, _ = call("bundle", "info", made / "door.immune", "--json", "info.json")
    assert code == 0
    assert "masking: 12 frequencies at 14 positions" in out
    assert "a mask is no encryption" in out
    facts = json.loads(Path("info.json").read_text())
    assert {"mask", "what a mask keeps", "recogniser of masked faces"} <= {one["is"] for one in facts["rows"]}
    secret = GateKey.from_file(made / "key").derive("masking")
    assert not any(secret in data for data in Bundle.load(made / "door.immune").files.values())


def test_a_picture_of_what_is_kept(made, call, tmp_path):
    write_people(tmp_path / "people")
    arguments = ("mask", "people/ann/0.png", "--bundle", made / "door.immune", "--key-file", made / "key")
    code, out, _ = call(*arguments, "-o", "kept.png", "--json", "kept.json")
    assert code == 0
    assert out.startswith("wrote kept.png: 12 of 64 frequencies at 14 positions are kept")
    sheet = cv2.imread("kept.png", cv2.IMREAD_GRAYSCALE)
    assert sheet.shape[1] >= 4 * 112
    assert sheet[:112, :112].std() > 5
    (row,) = json.loads(Path("kept.json").read_text())["rows"]
    assert 0 <= row["kept_energy_percent"] <= 100
    assert len(row["frequencies"]) == 12
    cv2.imwrite("nobody.png", np.full((300, 300, 3), 90, np.uint8))
    GateKey.generate().write(tmp_path / "other")
    before = Path("people/ann/0.png").read_bytes()
    for changed, code, said in (
        (("mask", "nothing.png", *arguments[2:], "-o", "k.png"), 3, "'nothing.png' does not exist"),
        ((*arguments[:-1], "other", "-o", "k.png"), 3, "door.immune was made with another masking key"),
        ((*arguments, "-o", "no/k.png"), 2, "there is no folder 'no' to write k.png into"),
        ((*arguments, "-o", "k.png", "--json", "."), 2, "the file to write, '.', is a folder"),
        ((*arguments, "-o", "k.png", "--json", "k.png"), 2, "two outputs are both to be written to 'k.png'"),
        ((*arguments, "-o", "people/ann/0.png"), 2, "'people/ann/0.png', is the one to read: name another file"),
        (("mask", "people/ann", *arguments[2:], "-o", "k.png"), 3, "'people/ann' is a folder, but one face is shown"),
        (("mask", "nobody.png", *arguments[2:], "-o", "k.png"), 3, "no face was found in 'nobody.png'"),
        ((*arguments, "-o", "k.jpg"), 2, "its name must end in .png"),
        ((*arguments, "--aligned", "-o", "k.png"), 3, "an aligned face has 112x112"),
        ((*arguments[:2], "--key-file", made / "key", "-o", "k.png"), 3, "has no mask: put one in by"),
    ):
        found, _, error = call(*changed)
        assert said in error
        assert found == code
    assert not list(tmp_path.glob("k.*"))
    assert Path("people/ann/0.png").read_bytes() == before


def test_a_gate_that_sees_masked_faces(made, call, tmp_path):
    write_people(tmp_path / "people")
    gate = ("--store", "door.gate", "--key-file", made / "key", "--bundle", made / "door.immune", "--masked")
    code, out, _ = call("gate", "enrol", "ann", "people/ann/0.png", *gate)
    assert code == 0
    assert "enrolled ann: 1 templates" in out
    verify = ("gate", "verify", "ann", "people/ann/1.png", "--threshold", "0.2", "--min-frames", "1")
    code, out, _ = call(*verify, *gate, "--json", "v.json")
    assert code == 0, out
    report = json.loads(Path("v.json").read_text())
    assert report["recognizer"] == "masked faces, 12 frequencies at 14 positions"
    assert report["purification"].startswith("purification by")
    code, _, error = call(*verify, *gate, "--save-images")
    assert (code, "no visible one is stored" in error) == (2, True)
    code, _, error = call(*verify, *gate, "--recognizer", "r.toml")
    assert (code, "own recogniser, but 'r.toml' is given as another" in error) == (2, True)
    code, _, error = call("serve", *gate, "--recognizer", "r.toml")
    assert (code, "own recogniser, but 'r.toml' is given as another" in error) == (2, True)
    GateKey.generate().write(tmp_path / "other")
    code, _, error = call(*verify, "--store", "new.gate", "--key-file", "other", *gate[4:])
    assert (code, "door.immune was made with another masking key" in error) == (3, True)
    decided = sum(path.read_bytes().count(b"\n") for path in Path("door.gate.audit").iterdir())
    code, _, error = call(*verify, *gate, "--json", "no/v.json")
    assert (code, "there is no folder 'no' to write v.json into" in error) == (2, True)
    assert sum(path.read_bytes().count(b"\n") for path in Path("door.gate.audit").iterdir()) == decided
    code, _, error = call(*verify, *gate[:-1])
    assert (code, "give --recognizer FILE.toml, or --masked" in error) == (2, True)
    code, _, error = call(*verify, "--store", "door.gate", "--key-file", made / "key", "--masked")
    assert (code, "has no mask" in error) == (3, True)


def test_the_report_is_one_command(made, call):
    arguments = ("masking", "evaluate", made / "a.run", made / "plain.run", "--data", made / "data")
    arguments += ("--key-file", made / "key", "--recognizer", made / "judge.pt", "--own", made / "judge.pt")
    arguments += ("--work", "work", "--people", "2", "--network-steps", "2", "--gan-steps", "2", "--inverted", "2")
    arguments += ("--search-steps", "2", "--queries", "40")
    code, _, error = call(*arguments, "--json", "r.json", "--docs", "page.md", "--pictures", "sheets", "--speed", SPEED)
    assert code == 0, error
    report = json.loads(Path("r.json").read_text())
    assert report["schema"] == "immunecam.masking/2"
    assert [row["masked"] for row in report["rows"]] == [True, False]
    assert (report["rows"][0]["mixed_percent"], report["rows"][0]["chosen_by"]) == (100, "gates")
    assert {row["run"] for row in report["recovery"]} == {"a.run"}
    seen = {row["seen"] for row in report["recovery"]}
    assert {"guess", "network", "network, mixed as trained", "linear, 30 mixes of 3", "linear, orders sought"} <= seen
    assert [(row["run"], row["box"]) for row in report["inversion"]] == [
        ("a.run", "white"),
        ("a.run", "black"),
        ("plain.run", "white"),
        ("plain.run", "black"),
    ]
    page = Path("page.md").read_text()
    assert page == markdown(report)
    assert "| purify, mask, recognise | 8 |" in page
    assert "has been broken" in page
    assert "freedom to operate" in page
    assert "broken by one known pair" in page
    assert len(list(Path("sheets").glob("*.png"))) == len(report["recovery"]) + 4
    before = {path: path.stat().st_mtime_ns for path in Path("work").rglob("*.json")}
    assert call(*arguments)[0] == 0
    assert before == {path: path.stat().st_mtime_ns for path in Path("work").rglob("*.json")}  # nothing was done anew


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("evaluate", "a.run", "--key-file", "other"), 3, "'a.run' was made with another masking key"),
        (("evaluate", "b.run", "--key-file", "key"), 3, "was trained with another set of channels"),
        (("evaluate", "a.run", "--key-file", "key", "--own", "judge.pt"), 2, "give --recognizer, too"),
        (("evaluate", "a.run", "a.run", "--key-file", "key"), 2, "two runs are called 'a.run'"),
        (
            ("evaluate", "a.run", "--key-file", "key", "--mixing", "judge.pt"),
            3,
            "give one of immunecam masking compare --json",
        ),
        (
            ("evaluate", "a.run", "--key-file", "key", "--speed", "small.json"),
            3,
            "is no report of immunecam.benchmarks.masking_speed",
        ),
        (("evaluate", "data", "--key-file", "key"), 3, "'data' is no run of masked training"),
        (("evaluate", "orders.run", "--key-file", "key"), 3, "was trained on people of every training fold"),
        (("evaluate", "a.run", "--key-file", "key", "--fold", "9"), 3, "has no pairs of fold 9"),
        (("evaluate", "a.run", "--key-file", "key", "--json", "."), 2, "the file to write, '.', is a folder"),
        (("evaluate", "a.run", "--key-file", "key", "--docs", "/proc/p.md"), 3, "nothing can be written into the fold"),
        (("evaluate", "a.run", "--key-file", "key", "--work", "/proc"), 3, "nothing can be written into the folder '/"),
        (("evaluate", "a.run", "--key-file", "key", "--work", "key"), 3, "the folder 'key' cannot be made"),
        (("train", "--config", "small.json", "--key-file", "key", "-o", "/proc"), 3, "nothing can be written into"),
        (
            (
                "train",
                "--config",
                "small.json",
                "--key-file",
                "key",
                "-o",
                "n.run",
                "--pairs",
                "p.csv",
                "--hold-out",
                "8",
            ),
            2,
            "--hold-out is 8, but thresholds are set on people of a training fold: give one of 1 to 7",
        ),
        (
            ("train", "--config", "small.json", "--key-file", "key", "-o", "n.run", "--embeddings", "no/e.safetensors"),
            2,
            "there is no folder 'no' to write e.safetensors into",
        ),
        (
            ("attack", "a.run", "--key-file", "key", "--recognizer", "judge.pt", "--json", "no/r.json"),
            2,
            "no folder 'no'",
        ),
        (
            ("attack", "a.run", "--key-file", "key", "--recognizer", "judge.pt", "--sheet", "s.jpg"),
            2,
            "the picture to write is 's.jpg', but its name must end in .png",
        ),
        (
            ("attack", "a.run", "--key-file", "key", "--recognizer", "judge.pt", "--encodings", "9"),
            2,
            "--encodings 9 are mixes of a face with others: give --k",
        ),
        (
            (
                "invert",
                "a.run",
                "--key-file",
                "key",
                "--recognizer",
                "judge.pt",
                "--own",
                "judge.pt",
                "--work",
                "/proc",
            ),
            3,
            "nothing can be written into the folder '/proc'",
        ),
        (
            ("compare", "--recognizer", "no.pt", "--work", "w", "--config", "even.json", "--key-file", "key"),
            3,
            "recognizer 'no.pt' does not exist",
        ),
        (
            ("compare", "--fold", "9", "--recognizer", "judge.pt", "--work", "w", "--config", "even.json", *KEYED),
            3,
            "has no pairs of fold 9",
        ),
        (("attack", "a.run", "--key-file", "other", "--recognizer", "judge.pt"), 3, "another masking key"),
        (
            ("invert", "a.run", "--key-file", "other", "--recognizer", "judge.pt", "--own", "judge.pt", "--work", "w"),
            3,
            "another masking key",
        ),
        (
            ("compare", "--recognizer", "judge.pt", "--work", "w", "--config", "started.json"),
            2,
            "the settings say that the network starts from another's weights: give --start-from FILE",
        ),
        (
            ("compare", "--recognizer", "judge.pt", "--work", "w", "--config", "small.json", "--way", "twice"),
            2,
            "--way is 'twice', but must be one of none, fixed 2, fixed 4, uniform, adaptive",
        ),
        (
            ("compare", "--recognizer", "judge.pt", "--work", "w", "--config", "small.json", "--key-file", "key"),
            2,
            "mixes of up to 4 faces cannot be made of batches of 3",
        ),
    ],
)
def test_bad_input_is_one_sentence_before_any_work(made, call, tmp_path, arguments, code, said):
    for name in ("a.run", "orders.run", "data", "key", "judge.pt"):
        (tmp_path / name).symlink_to(made / name)
    GateKey.generate().write(tmp_path / "other")
    shutil.copytree(made / "a.run", tmp_path / "b.run")
    own = MaskFile.load(tmp_path / "b.run" / "mask.safetensors")
    others = [f for f in range(1, 64) if f not in own.spec.frequencies[0]][:12]
    MaskFile(MaskSpec.of(others, 14), own.mean, own.std, own.key_check).save(tmp_path / "b.run" / "mask.safetensors")
    small = {"distilled": 0.0, "arcface": 1.0, "mixing": "none", "batch": 3}
    (tmp_path / "small.json").write_text(json.dumps(small))
    (tmp_path / "started.json").write_text(json.dumps(small | {"batch": 6, "started": True}))
    (tmp_path / "even.json").write_text(json.dumps(small | {"batch": 6}))
    found, out, error = call("masking", *arguments, "--data", "data")
    assert said in error
    assert error.startswith("immunecam: ")
    assert found == code
    assert not out


def test_an_interrupted_training_can_be_gone_on_with(made, call, tmp_path):
    small = {"distilled": 0.0, "arcface": 1.0, "keep": 4, "width": 0.125, "size": 8, "gate_steps": 1, "batch": 6}
    (tmp_path / "long.json").write_text(json.dumps(small | {"steps": 100_000}))
    arguments = ("masking", "train", "--data", made / "data" / "lfw" / "train_112.zip", "--config", "long.json")
    arguments += ("--key-file", made / "key", "-o", "l.run", "--device", "cpu")
    curves, over = Path("l.run/curves.csv"), threading.Event()

    def press() -> None:
        while not over.wait(0.05):
            if curves.is_file() and curves.read_text().count("\n") > 1:
                os.kill(os.getpid(), signal.SIGINT)
                return

    watcher = threading.Thread(target=press)
    watcher.start()
    try:
        code, _, error = call(*arguments)
    finally:
        over.set()
        watcher.join()
    assert (code, error) == (130, "immunecam: interrupted; nothing half-written was kept")
    assert steps_of("l.run/checkpoint.safetensors") >= 20
    assert not list(Path("l.run").glob("*partial*"))
    code, _, error = call(*arguments)
    assert (code, "'l.run' already holds a run: go on with --resume" in error) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("a.run", "--into", "nothing.immune", "--key-file", "key"), 3, "nothing.immune"),
        (("a.run", "--into", "door.immune", "--key-file", "other"), 3, "another masking key"),
        (("plain.run", "--into", "door.immune", "--key-file", "key"), 3, "the recogniser sees plain faces"),
        (("a.run", "--into", "door.immune"), 3, "the gate needs its key"),
        (("orders.run", "--into", "door.immune", "--key-file", "key"), 3, "an order of each enrolment's own, which"),
        (("a.run", "--into", "door.immune", "--key-file", "key", "--json", "no/r.json"), 2, "there is no folder 'no'"),
        (("a.run", "--into", "door.immune", "--key-file", "key", "--data", "no"), 3, "no 'no/lfw/train_112.zip': give"),
    ],
)
def test_exports_that_are_refused(made, call, tmp_path, arguments, code, said):
    for name in ("a.run", "plain.run", "orders.run", "data", "key"):
        (tmp_path / name).symlink_to(made / name)
    shutil.copytree(default_bundle(), tmp_path / "door.immune")
    GateKey.generate().write(tmp_path / "other")
    before = (tmp_path / "door.immune" / "manifest.json").read_bytes()
    found, _, error = call("masking", "export", *arguments, "--faces", "data/lfw/dev_112.zip")
    assert said in error
    assert found == code
    assert (tmp_path / "door.immune" / "manifest.json").read_bytes() == before
