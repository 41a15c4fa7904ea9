"""Names of what synthetic faces are labelled with; numbers of types and illuminations are CelebA-Spoof's."""

from __future__ import annotations

__all__ = ["ATTRIBUTES", "ILLUMINATIONS", "KINDS", "SPECIES", "SPOOF_TYPES"]

SPOOF_TYPES = (
    "live",
    "photo",
    "poster",
    "A4",
    "face mask",
    "upper body mask",
    "region mask",
    "PC",
    "pad",
    "phone",
    "3D mask",
)

ILLUMINATIONS = ("live", "normal", "strong", "back", "dark")

# What is made here of the types above; two of them are not.
KINDS = {
    "print": ("photo", "A4"),
    "replay": ("PC", "pad", "phone"),
    "mask": ("face mask", "region mask"),
    "poster": ("poster",),
}

# Species of attack instruments, in the words of ISO/IEC 30107-3, of all the types.
SPECIES = {
    "photo": "print",
    "A4": "print",
    "PC": "replay",
    "pad": "replay",
    "phone": "replay",
    "face mask": "cut-out mask",
    "upper body mask": "cut-out mask",
    "region mask": "cut-out mask",
    "poster": "poster",
    "3D mask": "3D mask",
}

# Measured from five points (the first six) or composed (the others).
ATTRIBUTES = (
    "turned left",
    "turned right",
    "looking up",
    "looking down",
    "tilted",
    "wide mouth",
    "glasses",
    "cap",
    "covered mouth",
)
