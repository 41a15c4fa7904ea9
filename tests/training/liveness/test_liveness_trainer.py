"""A liveness run is seeded, resumable, and learns."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file

from immunecam.errors import InputError
from immunecam.models.liveness_loss import LivenessLabels
from immunecam.training.liveness import LivenessConfig, LivenessSet, LivenessTrainer
from immunecam.training.liveness.errors import PresentationErrors, live_scores, presentation_errors
from immunecam.training.liveness.trained import load_trained
from immunecam.training.liveness.trainer import _augmented

TINY = LivenessConfig(backbone="vgg", steps=6, batch=8)


def test_a_run_leaves_its_files(small_set, tmp_path):
    LivenessTrainer(TINY, small_set, tmp_path).run(log_every=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint.safetensors", "config.json", "curves.csv", "curves.png", "curves.svg"]
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert all(float(row[head]) >= 0 for row in rows for head in ("live", *TINY.tasks))
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["faces"]["synthetic"] is True
    network, known = load_trained(tmp_path)
    assert known == about
    assert network.backbone == "vgg"
    assert not network.training
    slow = load_file(tmp_path / "checkpoint.safetensors")
    assert torch.equal(network.classifiers["live"].weight, slow["slow.classifiers.live.weight"])


def test_an_interrupted_run_ends_as_a_whole_one(small_set, tmp_path):
    LivenessTrainer(TINY, small_set, tmp_path / "whole").run(log_every=1)

    def stop(step, values):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LivenessTrainer(TINY, small_set, tmp_path / "cut").run(on_step=stop, log_every=1)
    resumed = LivenessTrainer(TINY, small_set, tmp_path / "cut", resume=True)
    assert resumed.step == 3
    resumed.run(log_every=1)
    whole, cut = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    steps = [row["step"] for row in csv.DictReader((tmp_path / "cut" / "curves.csv").open())]
    assert steps == list("123456")


def test_it_learns_what_it_is_shown(tmp_path):
    """Spoofs that are striped: a network that sees them knows them, and others like them."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(90, 160, (60, 3, 64, 64), generator=generator, dtype=torch.uint8)
    live = torch.arange(60) % 2
    pixels[live == 1, :, ::4] -= 60
    names = (("a",), ("live", "photo"), ("live", "normal"))
    faces = LivenessSet(pixels, LivenessLabels(live, spoof_type=live, illumination=live), *names, "synthetic: stripes")
    train, test = faces.at(torch.arange(40)), faces.at(torch.arange(40, 60))
    trainer = LivenessTrainer(
        LivenessConfig("vgg", ("spoof_type",), steps=40, batch=16, ema_decay=0.8), train, tmp_path
    )
    trainer.run()
    errors = presentation_errors(live_scores(trainer.slow.network, test), test)
    assert errors.acer == 0
    assert errors.to_dict(synthetic=test.synthetic)["synthetic"] is True


def test_errors_by_hand():
    live = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    kind = torch.tensor([0, 0, 0, 0, 1, 3, 2, 2, 2])  # two types of one species
    faces = LivenessSet(
        torch.zeros(9, 3, 64, 64, dtype=torch.uint8),
        LivenessLabels(live, spoof_type=kind),
        (),
        ("live", "photo", "poster", "A4"),
        (),
        "a set",
    )
    scores = torch.tensor([0.9, 0.8, 0.5, 0.2, 0.6, 0.1, 0.5, 0.4, 0.1])
    errors = presentation_errors(scores, faces)
    assert errors.bpcer == 0.25
    assert errors.apcer == pytest.approx({"print": 0.5, "poster": 1 / 3})
    assert errors.acer == pytest.approx(0.375)
    bare = dataclasses.replace(faces, labels=LivenessLabels(live))
    assert presentation_errors(scores, bare).apcer == pytest.approx({"spoof": 0.4})
    assert PresentationErrors({"a": 0.1, "b": 0.3}, 0.1).acer == pytest.approx(0.2)
    with pytest.raises(InputError, match="all of them live"):
        presentation_errors(scores[:4], faces.at(live == 0))


def test_a_mirror_turns_labels_too(small_set):
    names = small_set.attribute_names
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        labels = small_set.labels.at(torch.arange(4))
        labels.attributes[:] = 0
        labels.attributes[:, names.index("turned left")] = 1
        labels.depth[:] = torch.arange(14.0)
        _, changed = _augmented(torch.zeros(4, 3, 64, 64), labels, names)
        for number in range(4):
            mirrored = bool(changed.attributes[number, names.index("turned right")])
            assert float(changed.depth[number, 0, 0, 0]) == (13 if mirrored else 0)
            assert bool(changed.attributes[number, names.index("turned left")]) != mirrored
            seen.add(mirrored)
    assert seen == {False, True}


def test_training_leaves_the_set_alone(small_set, tmp_path):
    before = small_set.sha256, small_set.labels.depth.clone(), small_set.labels.attributes.clone()
    LivenessTrainer(TINY, small_set, tmp_path).run()
    assert small_set.sha256 == before[0]
    assert torch.equal(small_set.labels.depth, before[1])
    assert torch.equal(small_set.labels.attributes, before[2])


def test_runs_that_are_refused(small_set, tmp_path):
    first = LivenessTrainer(TINY, small_set, tmp_path / "run")
    with pytest.raises(InputError, match="another process is training"):
        LivenessTrainer(TINY, small_set, tmp_path / "run")
    first.run()
    with pytest.raises(InputError, match="already holds a run"):
        LivenessTrainer(TINY, small_set, tmp_path / "run")
    other = dataclasses.replace(TINY, lr=0.1)
    with pytest.raises(InputError, match="holds a run with other config"):
        LivenessTrainer(other, small_set, tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="holds a run with other faces"):
        LivenessTrainer(TINY, small_set.at(torch.arange(30)), tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="all of them live faces"):
        LivenessTrainer(TINY, small_set.at(small_set.labels.live == 0), tmp_path / "other")
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(InputError, match="is damaged"):
        LivenessTrainer(TINY, small_set, tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="is no liveness run"):
        load_trained(tmp_path / "run")
    hot = dataclasses.replace(TINY, lr=1e30, clip=None)
    with pytest.raises(InputError, match=r"the loss became .* lower the learning rate"):
        LivenessTrainer(hot, small_set, tmp_path / "hot").run()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"backbone": "x"}, "unknown backbone"),
        ({"tasks": ("x",)}, "unknown liveness task"),
        ({"steps": 0}, "steps must be"),
        ({"batch": 1}, "batch must be"),
        ({"lr": float("nan")}, "lr must be"),
        ({"clip": 0.0}, "clip must be"),
        ({"precision": "fp8"}, "unknown precision"),
    ],
)
def test_configurations_that_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        LivenessConfig(**changes)


def test_bfloat16_learns_as_well_and_stands_in_the_run(small_set, tmp_path):
    config = dataclasses.replace(TINY, precision="bf16")
    LivenessTrainer(config, small_set, tmp_path / "half").run()
    LivenessTrainer(TINY, small_set, tmp_path / "whole").run()
    about = json.loads((tmp_path / "half" / "config.json").read_text())
    assert about["config"]["precision"] == "bf16"
    assert "precision" not in json.loads((tmp_path / "whole" / "config.json").read_text())["config"]
    half, whole = (load_trained(tmp_path / name)[0] for name in ("half", "whole"))
    assert {value.dtype for value in half.parameters()} == {torch.float32}
    scores = [live_scores(network, small_set) for network in (half, whole)]
    assert 0 < float((scores[0] - scores[1]).abs().max()) < 0.1
