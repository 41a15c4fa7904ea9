"""The training log keeps what it was told, and measures what it is given."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import pytest

from immunecam.benchmarks import training_log
from immunecam.training.config import preset

ROOT = Path(__file__).resolve().parents[2]


def _run(folder, identities, every=20, last=None, config=None):
    """A run with a row every so many steps, which `last` cuts the last one of."""
    folder.mkdir()
    steps = [every * (n + 1) for n in range(len(identities))]
    steps[-1] = last or steps[-1]
    lines = [f"{step},{value},{step / 2}" for step, value in zip(steps, identities, strict=True)]
    (folder / "curves.csv").write_text("\n".join(["step,identity,seconds", *lines]))
    (folder / "config.json").write_text(json.dumps({"config": config or {"lr": 0.002}}))
    return folder


def _logged(log, run, note=""):
    training_log.main(["--run", str(run), "--group", "g", "--note", note, "--log", str(log)])
    return json.loads(log.read_text())["runs"][-1]


def test_short_runs_by_the_end_of_their_curves(tmp_path):
    log = tmp_path / "training.json"
    for name, end in (("a", 0.2), ("b", 0.1)):
        _logged(log, _run(tmp_path / name, [0.9, 0.5, 0.7, end, end, end + 0.03]), f"run {name}")
    content = json.loads(log.read_text())
    assert [round(r["identity"], 9) for r in content["runs"]] == [0.21, 0.11]
    assert [r["last_steps"] for r in content["runs"]] == [60, 60]
    assert content["runs"][0]["config"] == {"lr": 0.002}
    text = log.with_suffix(".md").read_text()
    rows = [f"| g | run {name} | 120 | {end} | 60 | same | 0.50 |" for name, end in (("a", "0.2100"), ("b", "0.1100"))]
    assert "\n".join(rows) in text
    before = log.read_text(), text
    training_log.main(["--log", str(log)])
    assert (log.read_text(), log.with_suffix(".md").read_text()) == before


@pytest.mark.parametrize(
    ("identities", "every", "last", "wanted", "covered"),
    [
        ([1.0, 1.0, 0.1, 0.2, 0.3], 20, None, 0.2, 60),  # steps 41 to 100
        ([1.0, 0.3, 0.3, 0.3, 0.65], 20, 90, 0.35, 70),  # 21 to 90; the last row is the mean of ten steps
        ([1.0, *[0.1, 0.2] * 3], 10, None, 0.15, 60),
        ([0.2, 0.4], 20, 30, 0.8 / 3, 30),
        ([0.4], 200, None, 0.4, 200),
    ],
)
def test_the_mean_is_of_the_steps_that_it_says(identities, every, last, wanted, covered, tmp_path):
    entry = _logged(tmp_path / "training.json", _run(tmp_path / "run", identities, every, last))
    assert entry["identity"] == pytest.approx(wanted)
    assert entry["last_steps"] == covered


def test_runs_that_see_other_faces_or_another_judge_are_told(tmp_path):
    """By their configurations; the preset's attack says nothing where no face is attacked in the step."""
    log = tmp_path / "training.json"
    phase = {"name": "restore", "steps": 200, "clean": 1.0, "adversarial": 0.0, "bank": 0.75}
    plain = {"phases": [phase], "cross_recognizer": 0.1, "attack": {"steps": [1, 3]}}
    configs = {
        "plain": plain,
        "longer": {**plain, "phases": [{**phase, "steps": 400}], "lr": 1e-3},
        "another attack": {**plain, "attack": {"steps": [2, 2]}},
        "noise": {**plain, "phases": [{**phase, "clean": 0.5}]},
        "judge": {**plain, "cross_recognizer": 0.5},
        "both": {**plain, "phases": [{**phase, "adversarial": 1.0}], "cross_recognizer": 0.5},
    }
    for name, config in configs.items():
        _logged(log, _run(tmp_path / name, [0.5] * 5, config=config), name)
    rows = [line.split(" | ") for line in log.with_suffix(".md").read_text().splitlines() if line.startswith("| g |")]
    assert {cells[1]: cells[5] for cells in rows} == {
        "plain": "same",
        "longer": "same",
        "another attack": "same",
        "noise": "other faces",
        "judge": "other judge",
        "both": "other faces, other judge",
    }


def test_a_bundle_is_measured_on_fold_8(tmp_path, data, recognizers, bundle):
    log = tmp_path / "training.json"
    arguments = [str(bundle.path), "--data", str(data), "--recognizer", str(recognizers[0]), "--pairs", "8"]
    training_log.main([*arguments, "--note", "a first one", "--work", str(tmp_path / "work"), "--log", str(log)])
    (line,) = json.loads(log.read_text())["bundles"]
    assert (line["run"], line["note"], line["pairs"]) == (bundle.name, "a first one", 8)
    assert line["config"] == bundle.manifest.provenance["config"]
    (cells,) = line["results"].values()
    clean, adaptive = (
        [int(x) for x in cells[name].partition(" (")[0].split(" / ")] for name in ("clean", "adaptive PGD-20 8/255")
    )
    assert sum(clean) > 150
    # A linear recogniser of large blocks is hard to attack, but not by an attacker who does nothing.
    assert adaptive != clean
    assert cells["PGD-10 8/255"] != cells["clean"]
    assert [name for name in cells if name.startswith("resampled ")] == [
        "resampled PGD-10 8/255",
        "resampled MI-FGSM-10 8/255",
    ]
    training_log.main([*arguments, "--grey-box", "--work", str(tmp_path / "work"), "--log", str(log)])
    (again,) = json.loads(log.read_text())["bundles"][1]["results"].values()
    assert again == {name: cell for name, cell in cells.items() if "adaptive" not in name}
    assert "| a first one |" in log.with_suffix(".md").read_text()


def test_the_committed_log_is_rendered():
    results = ROOT / "benchmarks" / "results"
    log = json.loads((results / "training.json").read_text())
    assert (results / "training.md").read_text() == training_log.render(log)


def test_the_documented_chain_is_that_of_the_log():
    """Steps and rates of its table; and what its last three commands ask for is what those runs were trained with."""
    log = json.loads((ROOT / "benchmarks" / "results" / "training.json").read_text())
    runs = {line["run"]: line for line in log["bundles"]}
    page = (ROOT / "docs" / "training.md").read_text().partition("## How the shipped models came about")[2]
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    told = {cells[0][2:]: (int(cells[1].replace(",", "")), float(cells[2])) for cells in rows if cells[0][2:] in runs}
    assert told == {name: (runs[name]["steps"], runs[name]["config"]["lr"]) for name in told}
    assert list(told) == ["e3", "w16", "xc6", "e5", "e6", "e9", "a1", "a2"]
    lines = [shlex.split(line) for line in page.splitlines() if line.startswith("immunecam train ")]
    for name, words in zip(("e9", "a1", "a2"), lines[3:], strict=True):
        options = dict(zip(words[3::2], words[4::2], strict=True))
        config = preset(words[2], options["--preset"])
        changes = {"seed": int(options.get("--seed", 0)), "k": int(options.get("--k", config.k))}
        wanted = config.replace(
            **changes,
            lr=float(options.get("--lr", config.lr)),
            phases=(dataclasses.replace(config.phases[-1], steps=int(options["--steps"])),),
            precision=runs[name]["config"]["precision"],  # that of the machine
        )
        # A log may be older than options, whose defaults it had.
        assert {"distillation_weight": 0.0, **runs[name]["config"]} == json.loads(json.dumps(wanted.to_dict()))
