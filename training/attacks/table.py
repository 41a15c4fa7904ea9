"""Every attack by the name that papers give it, with settings that break an undefended recogniser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from immunecam.training.attacks.apgd import APGD
from immunecam.training.attacks.base import FaceAttack
from immunecam.training.attacks.eot import EOTPGD
from immunecam.training.attacks.foolbox_attacks import CWL2, FGSM, L2PGD, PGD
from immunecam.training.attacks.patch import Patch
from immunecam.training.attacks.resubmission import Resubmission
from immunecam.training.attacks.square import Square
from immunecam.training.attacks.transfer import DIFGSM, MIFGSM, TIFGSM

__all__ = ["ATTACKS", "Listed"]

_GREY_LEVELS = 2 / 255  # one grey level in the range [-1, 1]


@dataclass(frozen=True)
class Listed:
    """An attack and the budget at which it breaks an undefended recogniser.

    Attributes
    ----------
    attack : FaceAttack
        With its settings.
    epsilon : float
        Budget in the unit of the attack's norm.
    """

    attack: FaceAttack
    epsilon: float


_LINF = 8 * _GREY_LEVELS
# An L2 ball of 1/3 the length of the 8/255 box's corner (112 * 16/255 = 7.0 in the range [-1, 1]).
_L2 = 2.5

ATTACKS: Mapping[str, Listed] = MappingProxyType(
    {
        "FGSM": Listed(FGSM(), _LINF),
        "PGD-10": Listed(PGD(steps=10), _LINF),
        "PGD-40": Listed(PGD(steps=40), _LINF),
        "MI-FGSM-10": Listed(MIFGSM(steps=10), _LINF),
        "MI-FGSM-40": Listed(MIFGSM(steps=40), _LINF),
        "DI-FGSM-10": Listed(DIFGSM(steps=10), _LINF),
        "DI-FGSM-40": Listed(DIFGSM(steps=40), _LINF),
        "TI-FGSM-10": Listed(TIFGSM(steps=10), _LINF),
        "TI-FGSM-40": Listed(TIFGSM(steps=40), _LINF),
        "APGD-10": Listed(APGD(steps=10), _LINF),
        "APGD-40": Listed(APGD(steps=40), _LINF),
        "Square-5000": Listed(Square(queries=5000), _LINF),
        "EOT-PGD-40x20": Listed(EOTPGD(steps=40, draws=20), _LINF),
        "L2-PGD-10": Listed(L2PGD(steps=10), _L2),
        "L2-PGD-40": Listed(L2PGD(steps=40), _L2),
        "CW-L2": Listed(CWL2(), _L2),
        "patch": Listed(Patch(steps=40), 0.1),
        "universal patch": Listed(Patch(steps=100, universal=True), 0.1),
        "resubmission of PGD-40": Listed(Resubmission(PGD(steps=40)), _LINF),
    }
)
