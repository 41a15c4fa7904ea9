"""CUDA kernels of mutation, projection, alignment and paste-back, and what launches them through cuda.core.

Importing this package needs neither a GPU nor cuda.core: launch plans are arithmetic, and only `open_device` and what
is made from its result touch a card.
"""

from immunecam.kernels.cuda.card import Card, open_device
from immunecam.kernels.cuda.fault import Fault
from immunecam.kernels.cuda.frame_kernels import FrameKernels, FrameOnCard
from immunecam.kernels.cuda.launch_plan import (
    BATCHED_FROM,
    BATCHED_FROM_WITHOUT_ONE_PASS,
    MAX_BATCH,
    ONE_PASS_UP_TO,
    Batched,
    Launch,
    OnePass,
    align_launch,
    batched,
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
from immunecam.kernels.cuda.subspace_kernels import FORMS, SubspaceKernels, possible_forms

__all__ = [
    "BATCHED_FROM",
    "BATCHED_FROM_WITHOUT_ONE_PASS",
    "FORMS",
    "MAX_BATCH",
    "ONE_PASS_UP_TO",
    "SOURCES",
    "Batched",
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
    "batched",
    "check_two_pass",
    "coefficients_launch",
    "kernel_names",
    "mutate_launch",
    "one_pass",
    "open_device",
    "paste_launch",
    "possible_forms",
    "quantize_launch",
    "reconstruct_launch",
    "source",
    "take_launch",
]
