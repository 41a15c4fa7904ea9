"""Where a gate decides: the threshold, the evidence's limits, and what they were measured with."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from immunecam.errors import InputError
from immunecam.runtime.gate.error_rates import ErrorRates

__all__ = ["OperatingPoint"]


@dataclass(frozen=True)
class OperatingPoint:
    """What ``immunecam gate calibrate`` finds. It belongs to one recogniser and one purification setting.

    Attributes
    ----------
    threshold : float
        A probe is accepted from this score (cosine) on.
    recognizer, purification : str
        Identities of the recogniser and of the setting that the scores came from.
    fmr_target : float or None
        False match rate that was asked for; None if the threshold was set by hand.
    fmr_high : float or None
        Upper end of the 95 % interval of the false match rate at the threshold.
    residual_limit, cosine_limit : float or None
        Evidence above the one, or below the other, is suspected; None leaves that sign out.
    rates : ErrorRates or None
        What was measured at other thresholds; None where it was not kept.
    """

    threshold: float
    recognizer: str
    purification: str
    fmr_target: float | None = None
    fmr_high: float | None = None
    residual_limit: float | None = None
    cosine_limit: float | None = None
    rates: ErrorRates | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.threshold) and -1 <= self.threshold <= 1):
            raise InputError(f"the threshold is {self.threshold!r}, but a cosine is from -1 to 1")

    def to_bytes(self) -> bytes:
        """As JSON, for the store."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, allow_nan=False).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> OperatingPoint:
        """Of :meth:`to_bytes`; the store has checked that nobody changed it."""
        content: dict[str, Any] = json.loads(data)
        known = {field.name for field in dataclasses.fields(cls)}
        if content.get("rates") is not None:
            content["rates"] = ErrorRates.from_dict(content["rates"])
        return cls(**{name: value for name, value in content.items() if name in known})
