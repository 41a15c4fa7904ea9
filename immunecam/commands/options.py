"""Choices and options that several commands share."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Optional

import typer

__all__ = ["Colour", "Json", "Mutation", "Precision", "Provider", "log_to_stderr"]


class Provider(str, Enum):
    """Backends."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


class Mutation(str, Enum):
    """How probabilities become an antibody."""

    sample = "sample"
    threshold = "threshold"
    expected = "expected"


class Colour(str, Enum):
    """What happens to colour."""

    keep = "keep"
    grey = "grey"


class Precision(str, Enum):
    """Storage format of the basis."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


# typer reads annotations at run time, where Python 3.10 wants Optional spelled out in an alias.
Json = Annotated[Optional[Path], typer.Option("--json", metavar="REPORT", help="Write a report as JSON.")]  # noqa: UP045


def log_to_stderr(verbose: bool) -> None:
    """Show what the runtime chose, and why, on stderr."""
    logger = logging.getLogger("immunecam")
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("immunecam: %(message)s"))
        logger.addHandler(handler)
