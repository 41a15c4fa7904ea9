"""What is measured of training is the step that is trained with, in every form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from immunecam.benchmarks.liveness_training import FORMS, main, noise_set, step_forms
from immunecam.training.liveness import LivenessConfig

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("backbone", ["vgg", "swin"])
def test_every_form_is_a_step(backbone, tmp_path):
    torch.set_num_threads(1)
    forms = step_forms(backbone, noise_set(8, 64), tmp_path, 4)
    assert set(forms) == {*FORMS, "batch"}
    for name in FORMS:
        forms[name]()
    pictures, labels = forms["batch"]()
    assert pictures.shape == (4, 3, 64, 64)
    assert pictures.is_contiguous(memory_format=torch.channels_last)
    assert len(labels) == 4


def test_a_launch_has_every_row(tmp_path):
    report = tmp_path / "r.json"
    main(["--backbone", "vgg", "--batch", "2", "--threads", "1", "--repeats", "1", "--json", str(report)])
    rows = json.loads(report.read_text())["rows"]
    assert [(row["form"], row["memory_kept"]) for row in rows] == [
        (form, kept) for kept in (False, True) for form in (FORMS[0], "batch", *FORMS[1:])
    ]
    for row in rows:
        assert row["cpu_p50_ms"] > 0
        assert ("of_before" in row) == (row["form"] != "batch")


def test_a_backbone_trains_within_its_hour():
    report = json.loads((ROOT / "benchmarks" / "results" / "liveness_training.json").read_text())
    assert report["steps"] == LivenessConfig().steps
    steps = [row for row in report["rows"] if row["form"] != "batch"]
    assert {row["backbone"] for row in steps} == {"vgg", "resnet", "densenet", "swin"}
    alone = [row for row in steps if row["threads"] == 1 and row["form"] == FORMS[1]]
    assert len(alone) == 2 * 4
    assert all(row["within_budget"] for row in alone)
    # The trainer's own form is no slower than what it was.
    assert all(row["of_before"] < 1.05 for row in alone)
    minutes = sorted(row["default_run_minutes"] for row in alone)
    of_one = {(row["backbone"], row["memory_kept"], row["form"]): row for row in steps if row["threads"] == 1}
    for (backbone, kept, form), row in of_one.items():
        if form == FORMS[2]:
            share = row["default_run_minutes"] / of_one[backbone, kept, FORMS[1]]["default_run_minutes"]
            assert share == pytest.approx(0.5 if backbone == "swin" else 0.7, abs=0.06)
    text = " ".join((ROOT / "docs" / "liveness.md").read_text().split())
    assert f"takes one core {minutes[0]:.0f} to {minutes[-1] + 0.5:.0f} minutes" in text
    assert "computes in bfloat16 Swin takes half of that and the others seven tenths" in text
