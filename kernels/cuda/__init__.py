"""CUDA kernels of mutation, projection, alignment and paste-back, and what launches them through cuda.core.

Importing this package needs neither a GPU nor cuda.core: launch plans are arithmetic, and only `open_device` and what
is made from its result touch a card.
"""

from immunecam.kernels.cuda.card import Card, open_device
from immunecam.kernels.cuda.fault import Fault
from immunecam.kernels.cuda.frame_kernels import FrameKernels, FrameOnCard
from immunecam.kernels.cuda.launch_plan import (
    MAX_BATCH,
    Launch,
    OnePass,
    align_launch,
    check_two_pass,
    coefficients_launch,
    mutate_launch,
    one_pass,
    paste_launch,
    quantize_launch,
    reconstruct_launch,
    take_launch,
)
from immunecam.kernels.cuda.pixel_kernels import PixelKernels
from immunecam.kernels.cuda.programs import Programs
from immunecam.kernels.cuda.sources import SOURCES, kernel_names, source
from immunecam.kernels.cuda.subspace_kernels import FORMS, SubspaceKernels

__all__ = [
    "FORMS",
    "MAX_BATCH",
    "SOURCES",
    "Card",
    "Fault",
    "FrameKernels",
    "FrameOnCard",
    "Launch",
    "OnePass",
    "PixelKernels",
    "Programs",
    "SubspaceKernels",
    "align_launch",
    "check_two_pass",
    "coefficients_launch",
    "kernel_names",
    "mutate_launch",
    "one_pass",
    "open_device",
    "paste_launch",
    "quantize_launch",
    "reconstruct_launch",
    "source",
    "take_launch",
]
