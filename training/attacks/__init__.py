"""Adversarial attacks on face recognisers, with and without a purifier before them.

foolbox's where it has them. torchattacks is not used: it brings torchvision along, and it attacks the labels of a
classifier, while these stop at a verification threshold, and draw antibodies.
"""

from immunecam.training.attacks.apgd import APGD
from immunecam.training.attacks.base import FaceAttack, LinfAttack, round_to_8bit
from immunecam.training.attacks.cascade import continued
from immunecam.training.attacks.eot import EOTPGD, through
from immunecam.training.attacks.foolbox_attacks import CWL2, FGSM, L2PGD, PGD
from immunecam.training.attacks.goals import DrawnEmbedding, Goal, dodging, impersonation
from immunecam.training.attacks.gradient_sign import fgsm, pgd
from immunecam.training.attacks.liveness_attacks import LIVENESS_ATTACKS, SignAttack
from immunecam.training.attacks.liveness_goal import FeatureBank, LivenessGoal
from immunecam.training.attacks.patch import Patch
from immunecam.training.attacks.resubmission import Resubmission, resubmitted
from immunecam.training.attacks.sfa import SFA, sfa_sweep
from immunecam.training.attacks.square import Square
from immunecam.training.attacks.table import ATTACKS, Listed
from immunecam.training.attacks.transfer import DIFGSM, MIFGSM, TIFGSM

__all__ = [
    "APGD",
    "ATTACKS",
    "CWL2",
    "DIFGSM",
    "EOTPGD",
    "FGSM",
    "L2PGD",
    "LIVENESS_ATTACKS",
    "MIFGSM",
    "PGD",
    "SFA",
    "TIFGSM",
    "DrawnEmbedding",
    "FaceAttack",
    "FeatureBank",
    "Goal",
    "LinfAttack",
    "Listed",
    "LivenessGoal",
    "Patch",
    "Resubmission",
    "SignAttack",
    "Square",
    "continued",
    "dodging",
    "fgsm",
    "impersonation",
    "pgd",
    "resubmitted",
    "round_to_8bit",
    "sfa_sweep",
    "through",
]
