"""Choices and options that several commands share."""

from __future__ import annotations

import logging
import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from immunecam.errors import UsageError

if TYPE_CHECKING:
    from immunecam.runtime.trust import PrivateKey, Trust

__all__ = [
    "BundleState",
    "Colour",
    "Json",
    "Liveness",
    "LivenessView",
    "LivenessViewed",
    "Mutation",
    "PassphraseFile",
    "Precision",
    "Provider",
    "SigningKey",
    "TrustedKey",
    "log_to_stderr",
    "signing_key",
    "trust_of",
]


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


class LivenessView(str, Enum):
    """What liveness is judged on."""

    camera = "camera"
    purified = "purified"


class Precision(str, Enum):
    """Storage format of the basis."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


# typer reads annotations at run time, where Python 3.10 wants Optional spelled out in an alias.
Json = Annotated[Optional[Path], typer.Option("--json", metavar="REPORT", help="Write a report as JSON.")]  # noqa: UP045

Liveness = Annotated[
    bool,
    typer.Option(
        "--liveness",
        help="Judge by the bundle's liveness network whether faces are live; no certified attack detection.",
    ),
]
LivenessViewed = Annotated[
    LivenessView, typer.Option("--liveness-view", help="Judge faces as the camera gave them, or purified.")
]

TrustedKey = Annotated[
    Optional[list[Path]],  # noqa: UP045
    typer.Option(
        "--trust",
        metavar="PUBLIC.pem",
        help="Load only bundles signed by this key, or one of several; default: those of IMMUNECAM_TRUST, if set.",
    ),
]
BundleState = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="FILE",
        help="Remembers the highest version of a bundle, and no older one loads; default: IMMUNECAM_BUNDLE_STATE.",
    ),
]

SigningKey = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--sign", metavar="PRIVATE.pem", help="Sign the bundle with this key."),
]
PassphraseFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(metavar="FILE", help="Holds the private key's passphrase; default: IMMUNECAM_PASSPHRASE, if set."),
]


def signing_key(path: Path | None, passphrase_file: Path | None) -> PrivateKey | None:
    """The key to sign with, or None if there is none."""
    from immunecam.runtime.trust import PrivateKey, passphrase_from

    if path is None:
        if passphrase_file is not None:
            raise UsageError("--passphrase-file is given, but no key to open with it: give the key, too.")
        return None
    return PrivateKey.load(path, passphrase=passphrase_from(passphrase_file))


def trust_of(keys: list[Path] | None, state: Path | None) -> Trust | None:
    """What holds for the bundles of a command: its options, else the environment."""
    from immunecam.runtime.trust import Trust

    return Trust.in_force(keys or None, state=state)


def log_to_stderr(verbose: bool) -> None:
    """Show what the runtime chose, and why, on stderr."""
    logger = logging.getLogger("immunecam")
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("immunecam: %(message)s"))
        logger.addHandler(handler)
