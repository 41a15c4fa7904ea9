"""From a frame to aligned faces and back: finding, landmarks, alignment, paste."""

from immunecam.runtime.faces.align import SIDE, TEMPLATE, AlignedFaces, align, check_frame, similarity
from immunecam.runtime.faces.cascade import CascadeFinder
from immunecam.runtime.faces.face import Face
from immunecam.runtime.faces.finder import FaceFinder, face_finder
from immunecam.runtime.faces.following import FollowingFinder
from immunecam.runtime.faces.paste import COLOUR_MODES, ColourMode, check_colour, paste
from immunecam.runtime.faces.yunet import YuNetFinder

__all__ = [
    "COLOUR_MODES",
    "SIDE",
    "TEMPLATE",
    "AlignedFaces",
    "CascadeFinder",
    "ColourMode",
    "Face",
    "FaceFinder",
    "FollowingFinder",
    "YuNetFinder",
    "align",
    "check_colour",
    "check_frame",
    "face_finder",
    "paste",
    "similarity",
]
