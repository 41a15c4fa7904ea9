"""Sets of live and spoofed faces: kept in a file, refused where they cannot train."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from immunecam.errors import InputError, UsageError
from immunecam.models.liveness import AUXILIARY
from immunecam.models.liveness_loss import LivenessLabels
from immunecam.training.liveness import LivenessSet, synthetic_set
from immunecam.training.liveness.errors import equal_error_threshold, species_of
from immunecam.training.spoof.labels import SPECIES, SPOOF_TYPES


def test_a_synthetic_set_says_so(small_set):
    assert len(small_set) == 40
    assert small_set.synthetic
    assert small_set.origin == "synthetic: seed 0, from 4 pictures"
    assert small_set.tasks == AUXILIARY
    assert sum(small_set.counts().values()) == 40
    assert tuple(small_set.labels.depth.shape) == (40, 1, 14, 14)
    assert tuple(small_set.labels.reflection.shape) == (40, 3, 14, 14)
    kept = small_set.labels.conventional()
    for task in AUXILIARY:  # the maker labels by the convention already
        assert torch.equal(kept.of(task), small_set.labels.of(task))


def test_more_faces_are_the_same_and_more(small_set, pictures):
    few = synthetic_set(pictures, 6, side=64, threads=2)
    assert torch.equal(few.pixels, small_set.pixels[:6])
    assert torch.equal(few.labels.depth, small_set.labels.depth[:6])
    with pytest.raises(UsageError, match="0 synthetic faces were asked for"):
        synthetic_set(pictures, 0)


def test_a_file_gives_the_set_back(small_set, tmp_path):
    small_set.save(tmp_path / "set.safetensors")
    again = LivenessSet.load(tmp_path / "set.safetensors")
    assert torch.equal(again.pixels, small_set.pixels)
    assert again.sha256 == small_set.sha256
    assert again.tasks == small_set.tasks
    names = ("attribute_names", "type_names", "illumination_names", "origin")
    assert all(getattr(again, name) == getattr(small_set, name) for name in names)
    part = dataclasses.replace(small_set, labels=LivenessLabels(small_set.labels.live))
    part.save(tmp_path / "part.safetensors")
    assert LivenessSet.load(tmp_path / "part.safetensors").tasks == ()


def test_sets_that_cannot_train(small_set):
    live = small_set.at(small_set.labels.live == 0)
    with pytest.raises(InputError, match="all of them live faces: add spoofs"):
        live.check(())
    with pytest.raises(InputError, match="all of them spoofs: add live faces"):
        small_set.at(small_set.labels.live == 1).check(())
    bare = dataclasses.replace(small_set, labels=LivenessLabels(small_set.labels.live))
    assert bare.counts().keys() == {"live", "spoof"}
    with pytest.raises(InputError, match="no labels for depth and reflection: leave these tasks out"):
        bare.check(["depth", "reflection"])
    with pytest.raises(InputError, match="48 px wide, but they must be 64 or more"):
        dataclasses.replace(small_set, pixels=small_set.pixels[:, :, :48, :48])
    with pytest.raises(InputError, match="40 liveness faces have 3 labels"):
        dataclasses.replace(small_set, labels=small_set.labels.at(torch.arange(3)))
    few = dataclasses.replace(small_set.labels, depth=small_set.labels.depth[:3])
    with pytest.raises(InputError, match="other numbers of labels for depth"):
        dataclasses.replace(small_set, labels=few)
    with pytest.raises(InputError, match="but there are 1 names: correct the labels"):
        dataclasses.replace(small_set, type_names=("live",))
    with pytest.raises(InputError, match=r"must be \(N, 3, side, side\)"):
        dataclasses.replace(small_set, pixels=small_set.pixels[:, 0])


def test_files_that_are_no_sets(tmp_path):
    with pytest.raises(InputError, match="make it anew by `immunecam liveness make`"):
        LivenessSet.load(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(InputError, match="cannot be read"):
        LivenessSet.load(tmp_path / "text.safetensors")
    save_file({"pixels": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={"about": '{"format": "x"}'})
    with pytest.raises(InputError, match="its format is 'x'"):
        LivenessSet.load(tmp_path / "other.safetensors")


def test_halves_have_both_classes_whatever_the_order(small_set):
    live = small_set.labels.live
    for order in (torch.arange(len(live)), live.argsort(), torch.cat([torch.arange(0, 40, 2), torch.arange(1, 40, 2)])):
        shuffled = small_set.at(order)
        first, second = shuffled.halves()
        assert len(first) + len(second) == len(shuffled)
        for value in (0, 1):
            numbers = [int((part.labels.live == value).sum()) for part in (first, second)]
            assert abs(numbers[0] - numbers[1]) <= 1


def test_the_threshold_of_equal_errors(small_set):
    live = small_set.labels.live == 0
    scores = torch.where(live, 0.8, 0.2) + 0.01 * torch.rand(len(live))
    assert equal_error_threshold(scores, small_set) == pytest.approx(0.5, abs=0.05)
    assert 0 < equal_error_threshold(torch.zeros(len(live)), small_set) < 1  # nobody passes by scoring nothing
    mixed = torch.linspace(0.05, 0.95, len(live))
    threshold = equal_error_threshold(mixed, small_set)
    stopped = float((mixed[live] < threshold).float().mean())
    passing = float((mixed[~live] >= threshold).float().mean())
    assert abs(stopped - passing) < 0.08
    with pytest.raises(InputError, match="all of them live faces"):
        equal_error_threshold(scores[live], small_set.at(live))


def test_species_are_the_standards_words(small_set):
    species = species_of(small_set)
    assert set(species) <= {"live", "print", "replay", "cut-out mask", "poster"}
    assert ((species == "live") == (small_set.labels.live.numpy() == 0)).all()
    untyped = dataclasses.replace(small_set, labels=LivenessLabels(small_set.labels.live))
    assert set(species_of(untyped)) == {"live", "spoof"}
    assert set(SPECIES) == set(SPOOF_TYPES) - {"live"}
