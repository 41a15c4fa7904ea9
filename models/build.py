"""One name for every model kind, as the command line and the bundle's manifest spell it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from immunecam.models.ais import AIS, ais
from immunecam.models.edge import edge
from immunecam.models.pin import PIN, pin
from immunecam.models.restorer import Restorer

__all__ = ["KINDS", "build_model", "model_options"]

KINDS = {"ais": ais, "pin": pin, "edge": edge}


def build_model(kind: str, k: int, options: Mapping[str, Any] | None = None) -> AIS | PIN:
    """A fresh network of `kind` ("ais", "pin", "edge") over `k` eigenfaces, with its named options.

    Every kind takes the option `restorer`, a mapping of `Restorer`'s parameters: the network then carries one as its
    attribute `restorer`, which is None otherwise.

    Raises
    ------
    ValueError
        For an unknown kind or option.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown model kind {kind!r}: use one of {', '.join(KINDS)}")
    rest = dict(options or {})
    restorer = rest.pop("restorer", None)
    try:
        network = KINDS[kind](k, **rest)
        network.restorer = None if restorer is None else Restorer(**restorer)
    except TypeError as error:
        raise ValueError(f"model kind {kind!r} has no such option: {error}") from None
    return network


def model_options(kind: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every named option of `kind` with its value, defaults included: what a manifest must say of a network."""
    parameters = list(inspect.signature(KINDS[kind]).parameters.values())[1:]
    return {parameter.name: parameter.default for parameter in parameters} | {"restorer": None} | dict(options or {})
