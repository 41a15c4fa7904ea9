"""What the attacks refuse, and in which words."""

from __future__ import annotations

import sys

import pytest
import torch

from immunecam.errors import BackendMissingError
from immunecam.training.attacks import (
    APGD,
    CWL2,
    DIFGSM,
    EOTPGD,
    FGSM,
    L2PGD,
    MIFGSM,
    PGD,
    TIFGSM,
    Goal,
    Patch,
    Resubmission,
    Square,
    resubmitted,
)

REFERENCE = torch.nn.functional.normalize(torch.ones(2, 4), dim=1)


def embed(faces):
    return torch.nn.functional.normalize(faces.flatten(1)[:, :4] + 0.1, dim=1)


def goal(**changes) -> Goal:
    return Goal(**({"embed": embed, "reference": REFERENCE, "impersonate": True} | changes))


@pytest.mark.parametrize(
    ("faces", "epsilon", "words"),
    [
        (torch.zeros(2, 1, 8, 8), 0.1, r"float \(N, H, W\)"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), 0.1, "torch.uint8"),
        (torch.zeros(3, 8, 8), 0.1, "3 faces for a goal of 2"),
        (torch.full((2, 8, 8), 1.5), 0.1, r"in \[-1, 1\]"),
        (torch.full((2, 8, 8), float("nan")), 0.1, "finite"),
        (torch.zeros(2, 8, 8), 0.0, "above 0, got 0.0"),
        (torch.zeros(2, 8, 8), float("nan"), "above 0"),
        (torch.zeros(2, 8, 8), float("inf"), "finite and above 0, got inf"),
    ],
)
def test_wrong_calls(faces, epsilon, words):
    with pytest.raises(ValueError, match=words):
        PGD(steps=1)(goal(), faces, epsilon)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PGD(steps=0), "steps of PGD"),
        (lambda: PGD(restarts=1.5), "restarts of PGD"),
        (lambda: PGD(step_size=0.0), "step_size of PGD must be finite and above 0, got 0.0"),
        (lambda: PGD(step_size=-0.1), "step_size of PGD"),
        (lambda: L2PGD(step_size=float("nan")), "step_size of L2PGD"),
        (lambda: EOTPGD(step_size=-1.0), "step_size of EOTPGD"),
        (lambda: EOTPGD(draws=0), "draws of EOTPGD"),
        (lambda: APGD(rho=1.0), r"rho must be in \(0, 1\)"),
        (lambda: MIFGSM(decay=-1.0), "decay"),
        (lambda: DIFGSM(probability=2.0), "probability"),
        (lambda: MIFGSM(decay=float("nan")), "decay"),
        (lambda: TIFGSM(kernel=4), "odd"),
        (lambda: TIFGSM(sigma=0.0), "sigma of TIFGSM"),
        (lambda: Square(margin=float("nan")), "margin"),
        (lambda: CWL2(step_size=0.0), "step_size of CWL2"),
        (lambda: CWL2(initial_const=-1.0), "initial_const of CWL2"),
        (lambda: CWL2(confidence=float("inf")), "confidence"),
        (lambda: Square(first_area=0.0), "first_area"),
        (lambda: CWL2(confidence=-0.1), "confidence"),
        (lambda: Patch(step_size=0.0), "step_size"),
        (lambda: Resubmission(FGSM(), candidates=0), "candidates"),
        (lambda: goal(threshold=2.0), "threshold"),
        (lambda: goal(reference=torch.ones(4)), r"\(N, E\)"),
        (lambda: goal().similarity(torch.zeros(3, 8, 8)), "3 faces for a goal of 2"),
        (lambda: resubmitted(goal(), torch.zeros(2, 8, 8), 0), "tries"),
        (lambda: Patch()(goal(), torch.zeros(2, 8, 8), 1.0), "below 1"),
        (lambda: Patch()(goal(), torch.zeros(2, 8, 8), 0.01), "must be 0.016 or above, got 0.01"),
    ],
)
def test_wrong_settings(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_without_foolbox(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(BackendMissingError, match="pip install"):
        FGSM()(goal(), torch.zeros(2, 8, 8), 0.1)
