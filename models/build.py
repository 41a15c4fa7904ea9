"""One name for every model kind, as the command line and the bundle's manifest spell it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from immunecam.models.ais import AIS, ais
from immunecam.models.edge import edge
from immunecam.models.pin import PIN, pin

__all__ = ["KINDS", "build_model", "model_options"]

KINDS = {"ais": ais, "pin": pin, "edge": edge}


def build_model(kind: str, k: int, options: Mapping[str, Any] | None = None) -> AIS | PIN:
    """A fresh network of `kind` ("ais", "pin", "edge") over `k` eigenfaces, with its named options.

    Raises
    ------
    ValueError
        For an unknown kind or option.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown model kind {kind!r}: use one of {', '.join(KINDS)}")
    try:
        return KINDS[kind](k, **dict(options or {}))
    except TypeError as error:
        raise ValueError(f"model kind {kind!r} has no such option: {error}") from None


def model_options(kind: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every named option of `kind` with its value, defaults included: what a manifest must say of a network."""
    parameters = list(inspect.signature(KINDS[kind]).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters} | dict(options or {})
