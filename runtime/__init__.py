"""What a device runs: bundle, engines, purifier, frames and faces. Never imports PyTorch.

Names are imported when they are first used (PEP 562), so ``import immunecam.runtime`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle, default_bundle
    from immunecam.runtime.bundle_signer import sign_bundle
    from immunecam.runtime.bundle_writer import write_bundle
    from immunecam.runtime.purifier import Purifier
    from immunecam.runtime.results import FrameResult, PurifiedFaces
    from immunecam.runtime.trust import Trust

__all__ = [
    "Bundle",
    "FrameResult",
    "PurifiedFaces",
    "Purifier",
    "Trust",
    "default_bundle",
    "sign_bundle",
    "write_bundle",
]

_HOMES = {
    "Bundle": "immunecam.runtime.bundle",
    "default_bundle": "immunecam.runtime.bundle",
    "sign_bundle": "immunecam.runtime.bundle_signer",
    "write_bundle": "immunecam.runtime.bundle_writer",
    "FrameResult": "immunecam.runtime.results",
    "PurifiedFaces": "immunecam.runtime.results",
    "Purifier": "immunecam.runtime.purifier",
    "Trust": "immunecam.runtime.trust",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
