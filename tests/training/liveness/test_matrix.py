"""The matrix has every run that a ranking needs, and is trained once."""

from __future__ import annotations

import json

import pytest

from immunecam.errors import InputError
from immunecam.models.liveness import AUXILIARY
from immunecam.models.liveness_trunks import TRUNKS
from immunecam.training.liveness import AdversarialTraining, matrix_runs, train_matrix


def test_every_backbone_meets_every_task():
    runs = list(matrix_runs(against=[AdversarialTraining(2.0, sfa=sfa) for sfa in (False, True)], steps=3))
    assert len({run.name for run in runs}) == len(runs) == len(TRUNKS) * (4 + len(AUXILIARY))
    assert {run.config.steps for run in runs} == {3}
    for backbone in TRUNKS:
        own = {run.config.tasks for run in runs if run.config.backbone == backbone and run.config.adversarial is None}
        assert own == {AUXILIARY, (), *((task,) for task in AUXILIARY)}
    hardened = [run for run in runs if run.config.adversarial is not None]
    assert {(run.config.backbone, run.config.tasks) for run in hardened} == {(name, AUXILIARY) for name in TRUNKS}
    assert {run.name for run in hardened if run.config.adversarial.sfa} == {f"{n}-all-hardened-sfa" for n in TRUNKS}
    # What is cut short has compared the backbones already.
    assert [run.name for run in runs[: len(TRUNKS)]] == [f"{name}-all" for name in TRUNKS]
    assert [run.name for run in matrix_runs((), backbones=("vgg",))] == ["vgg-none"]
    assert [run.name for run in matrix_runs(("depth",), backbones=("vgg",))] == ["vgg-all", "vgg-none"]


def test_it_goes_on_where_it_was(small_set, tmp_path):
    runs = list(matrix_runs(("depth",), backbones=("vgg",), steps=3, batch=4))
    told = []

    def stop(name, done, total):
        told.append((name, done))
        if (name, done) == ("vgg-none", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_matrix(runs, small_set, small_set, tmp_path, tell=stop)
    first = (tmp_path / "vgg-all" / "checkpoint.safetensors").stat()
    told.clear()
    folders = train_matrix(
        runs, small_set, small_set, tmp_path, tell=lambda name, done, total: told.append((name, done))
    )
    assert told == [("vgg-all", 3), ("vgg-none", 2), ("vgg-none", 3)]
    assert (tmp_path / "vgg-all" / "checkpoint.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    assert [folder.name for folder in folders] == ["vgg-all", "vgg-none"]
    for folder in folders:
        assert 0 <= json.loads((folder / "errors.json").read_text())["acer"] <= 1
    with pytest.raises(InputError, match="holds a run with other config"):
        train_matrix(matrix_runs(("depth",), backbones=("vgg",), steps=4, batch=4), small_set, small_set, tmp_path)


def test_faces_that_do_not_fit_are_refused_before_anything_is_trained(small_set, tmp_path):
    runs = list(matrix_runs(("depth",), backbones=("vgg",), steps=3, batch=4))
    with pytest.raises(InputError, match="all of them live faces"):
        train_matrix(runs, small_set, small_set.at(small_set.labels.live == 0), tmp_path / "none")
    assert not (tmp_path / "none").exists()
