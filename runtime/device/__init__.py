"""What a device is like where a door is to depend on it: measured or read, never assumed.

Each module checks one thing and gives a :class:`Finding`; what a machine does not tell is "unknown", which is no fault.
"""

from __future__ import annotations

from immunecam.runtime.device.finding import Finding, FindingState

__all__ = ["Finding", "FindingState"]
