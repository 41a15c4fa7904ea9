"""The card that kernels run on: whether there is one, and what it can do."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from typing import Any

from immunecam.errors import BackendMissingError, UsageError

__all__ = ["INSTALL", "OLDEST", "OLDEST_CORE", "Card", "one_line", "open_device", "require_core"]

OLDEST = (7, 5)
"""Compute capability of the oldest cards that kernels are built for (Turing)."""

OLDEST_CORE = (1, 1)
"""Oldest cuda.core that has every member that the launchers use."""

INSTALL = "'pip install immunecam[cuda13]', or immunecam[cuda12] where the driver is older than 580 (JetPack 6)"
"""How to get cuda.core, for an error's end."""


@dataclass(frozen=True)
class Card:
    """What launches depend on.

    Attributes
    ----------
    name : str
        As the driver gives it.
    compute_capability : (int, int)
        (9, 0) for an H200.
    multiprocessors : int
        Streaming multiprocessors (SMs).
    shared_memory : int
        Bytes that one block may have at most, after opting in.
    cooperative : bool
        Whether the blocks of a grid may wait for one another.
    integrated : bool
        Whether it shares the machine's memory, as a Jetson does.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_memory: int
    cooperative: bool
    integrated: bool

    @property
    def architecture(self) -> str:
        """The compiler's name for it: "sm_90"."""
        return "sm_{}{}".format(*self.compute_capability)

    @classmethod
    def of(cls, device: Any) -> Card:
        """The card behind a `cuda.core.Device`."""
        properties, capability = device.properties, device.compute_capability
        return cls(
            name=device.name,
            compute_capability=(capability[0], capability[1]),
            multiprocessors=properties.multiprocessor_count,
            shared_memory=properties.max_shared_memory_per_block_optin,
            cooperative=bool(properties.cooperative_launch),
            integrated=bool(properties.integrated),
        )


def open_device(ordinal: int | None = None) -> Any:
    """The CUDA device of that number, made current for this thread.

    Parameters
    ----------
    ordinal : int, optional
        None takes the first.

    Returns
    -------
    cuda.core.Device

    Raises
    ------
    UsageError
        If the number is below zero.
    BackendMissingError
        If cuda.core or the driver is missing, no card answers, or one of them is too old.
    """
    number = 0 if ordinal is None else ordinal
    if number < 0:
        raise UsageError(f"The CUDA device is {number}, but it must be 0 or above.")
    require_core()
    try:
        from cuda.core import Device

        # Before anything else: without a driver, cuda.core's second attempt to load a program never comes back.
        device = Device(number)
        device.set_current()
        capability = device.compute_capability
    except Exception as error:  # CUDAError, or what a missing library raises
        raise BackendMissingError(
            f"CUDA device {number} cannot be used ({one_line(error)}): check the card and its driver with nvidia-smi, "
            "or use --provider cpu."
        ) from None
    if (capability[0], capability[1]) < OLDEST:
        raise BackendMissingError(
            f"CUDA device {number} ({device.name}) has compute capability {capability[0]}.{capability[1]}, but the "
            f"kernels need {OLDEST[0]}.{OLDEST[1]} or newer: use --provider cpu."
        )
    return device


def require_core() -> None:
    """Raise a BackendMissingError unless cuda.core is installed, and new enough."""
    try:
        found = str(importlib.import_module("cuda.core").__version__)
    except ImportError as error:
        raise BackendMissingError(
            f"cuda.core cannot be imported ({one_line(error)}): install it with {INSTALL}."
        ) from None
    numbers = re.match(r"(\d+)\.(\d+)", found)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < OLDEST_CORE:
        raise BackendMissingError(
            f"cuda.core {found} is installed, but {OLDEST_CORE[0]}.{OLDEST_CORE[1]} or newer is needed: install it "
            f"with {INSTALL}."
        )


def one_line(error: BaseException) -> str:
    """What an error of a library says, for a sentence of ours."""
    return " ".join(str(error).split())[:200] or type(error).__name__
