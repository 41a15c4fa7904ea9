"""Adversarial attacks on face recognisers."""

from immunecam.training.attacks.goals import dodging, impersonation
from immunecam.training.attacks.gradient_sign import fgsm, pgd, round_to_8bit

__all__ = ["dodging", "fgsm", "impersonation", "pgd", "round_to_8bit"]
