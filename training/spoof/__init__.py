"""Synthetic live and spoofed faces, made from ordinary face pictures and labelled as they are composed.

No set of live and spoofed faces can be taken for granted, so this one is computed: what a print, a screen, a mask or a
poster does to a face is modelled from its cause (ink dots, pixel grids, a sheet's bend, light, lens, sensor), in linear
light. It is no recording of any spoof; whatever is measured on it must be called synthetic.
"""

from immunecam.training.spoof.maker import LivenessFace, SpoofMaker
from immunecam.training.spoof.pictures import FacePictures

__all__ = ["FacePictures", "LivenessFace", "SpoofMaker"]
