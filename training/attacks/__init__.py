"""Adversarial attacks on face recognisers."""

from immunecam.training.attacks.base import FaceAttack, round_to_8bit
from immunecam.training.attacks.goals import Goal, dodging, impersonation
from immunecam.training.attacks.gradient_sign import fgsm, pgd

__all__ = ["FaceAttack", "Goal", "dodging", "fgsm", "impersonation", "pgd", "round_to_8bit"]
