"""A small run: drawn faces of eight people, and a teacher that sees them."""

from __future__ import annotations

import pytest

from immunecam.mask_key import MaskKey
from immunecam.training.faces import FaceSet
from immunecam.training.masking import MaskingConfig, TeacherEmbeddings
from immunecam.training.recognizer import Recognizer

TINY = MaskingConfig(positions=28, keep=10, width=0.125, steps=4, batch=8, gate_steps=2, arcface=0.5)


@pytest.fixture(scope="session")
def key() -> MaskKey:
    return MaskKey(bytes(range(32)))


@pytest.fixture(scope="session")
def tiny() -> MaskingConfig:
    return TINY


@pytest.fixture
def teacher(faces: FaceSet, recognizer: Recognizer) -> TeacherEmbeddings:
    return TeacherEmbeddings.of(recognizer, faces)
