"""The pictures of docs/how-it-works.md are what their command draws, of what the purifier does."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from immunecam import Purifier
from immunecam.benchmarks import method_pictures
from immunecam.runtime.bundle import Bundle, default_bundle

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "how-it-works"


def test_steps_are_those_of_the_purifier():
    bundle, faces = Bundle.load(default_bundle()), method_pictures.clip_faces()
    assert len(faces) == 3
    steps = method_pictures.steps_of(faces, bundle)
    whole = Purifier.load(bundle, provider="cpu", seed=0, threads=1).purify_batch(faces, first_image=0)
    assert np.abs(steps.probabilities - whole.probabilities).max() < 1e-4
    assert np.abs(steps.restored.astype(int) - whole.purified).max() <= 2
    # Not because all that happens to a face is small.
    assert np.abs(steps.projected.astype(int) - whole.purified).max() > 10


def test_committed_pictures_are_what_the_command_draws(tmp_path):
    pytest.importorskip("matplotlib", reason="pictures need matplotlib (pip install 'immunecam[train]')")
    assert method_pictures.main(["--out", str(tmp_path)]) == 0
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == sorted(path.name for path in FOLDER.iterdir())
    for name in drawn:
        new, old = (cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE) for folder in (tmp_path, FOLDER))
        if new.shape != old.shape:  # another matplotlib lays text out otherwise
            new = cv2.resize(new, old.shape[::-1], interpolation=cv2.INTER_AREA)
        correlation = np.corrcoef(cv2.blur(new, (9, 9)).ravel(), cv2.blur(old, (9, 9)).ravel())[0, 1]
        assert correlation > 0.97, name
