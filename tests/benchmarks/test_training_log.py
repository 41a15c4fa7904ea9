"""The training log keeps what it was told, and measures what it is given."""

from __future__ import annotations

import json
from pathlib import Path

from immunecam.benchmarks import training_log


def _run(folder, identities):
    folder.mkdir()
    lines = [f"{10 * (n + 1)},{value},{5.0 * (n + 1)}" for n, value in enumerate(identities)]
    (folder / "curves.csv").write_text("\n".join(["step,identity,seconds", *lines]))
    (folder / "config.json").write_text(json.dumps({"config": {"lr": 0.002}}))
    return folder


def test_short_runs_by_the_end_of_their_curves(tmp_path):
    log = tmp_path / "training.json"
    for name, end in (("a", 0.2), ("b", 0.1)):
        run = _run(tmp_path / name, [0.9, 0.5, end, end, end, end, end + 0.05])
        training_log.main(["--run", str(run), "--group", "g", "--note", f"run {name}", "--log", str(log)])
    content = json.loads(log.read_text())
    assert [round(r["identity"], 9) for r in content["runs"]] == [0.21, 0.11]
    assert content["runs"][0]["config"] == {"lr": 0.002}
    text = log.with_suffix(".md").read_text()
    assert "| g | run a | 70 | 0.2100 | 0.50 |\n| g | run b | 70 | 0.1100 | 0.50 |" in text
    before = log.read_text(), text
    training_log.main(["--log", str(log)])
    assert (log.read_text(), log.with_suffix(".md").read_text()) == before


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
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    log = json.loads((results / "training.json").read_text())
    assert (results / "training.md").read_text() == training_log.render(log)
