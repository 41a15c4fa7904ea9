"""Faces are analysed once for any number of antibodies, which stay what they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from immunecam.benchmarks.evaluation.defences import BundleDefence
from immunecam.benchmarks.evaluation.remembered import RememberedAnalysis
from immunecam.runtime.engines import Engine, OnnxRuntimeEngine


class _Counted:
    provider, k = "cpu", 8

    def __init__(self) -> None:
        self.looks = 0

    def analyze(self, faces):
        self.looks += 1
        return np.repeat(faces.mean((1, 2))[:, None], self.k, 1)

    def restore(self, faces, projected):
        return projected


def _batches(count: int) -> list[np.ndarray]:
    drawn = np.random.default_rng(0)
    return [drawn.uniform(-1, 1, (2, 112, 112)).astype(np.float32) for _ in range(count)]


def test_each_batch_is_looked_at_once():
    inner = _Counted()
    engine = RememberedAnalysis(inner)
    assert isinstance(engine, Engine)
    for _ in range(3):
        for batch in _batches(4):
            np.testing.assert_array_equal(engine.analyze(batch), _Counted().analyze(batch))
    assert inner.looks == 4


@pytest.mark.parametrize(("limit", "looks"), [(2 * 8 * 4 * 2, 5), (1, 6)])
def test_what_was_not_used_for_longest_is_given_up(limit, looks):
    inner = _Counted()
    engine = RememberedAnalysis(inner, limit)
    first, second, third = _batches(3)
    for batch in (first, second, first, third, first, second):
        engine.analyze(batch)
    # Two batches fit: `second` goes when `third` comes, `third` when `second` is asked for again.
    assert inner.looks == looks - 1 if limit > 1 else inner.looks == looks


def test_the_purifier_of_a_deep_network_draws_the_same_antibodies(bundle, monkeypatch):
    faces = np.random.default_rng(1).integers(0, 256, (5, 112, 112), np.uint8)
    whole = BundleDefence(bundle, "sample", seed=3)
    looks, analyze = [], OnnxRuntimeEngine.analyze
    monkeypatch.setattr(
        OnnxRuntimeEngine, "analyze", lambda self, faces: looks.append(len(faces)) or analyze(self, faces)
    )
    deep = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, kind="ais"))
    once = BundleDefence(deep, "sample", seed=3)
    draws = [once.purify(faces, draw).astype(int) for draw in range(3)]
    assert looks == [5]
    for draw, purified in enumerate(draws):
        assert abs(purified - whole.purify(faces, draw)).max() <= 1
    assert (draws[0] != draws[1]).any()
    # A time is the purifier's own, not one that remembers.
    assert once.milliseconds(faces, repeats=2) > 0
    assert looks == [5]
