"""ImmuneCam: removes adversarial perturbations from camera faces, in front of any recogniser.

>>> from immunecam import Purifier
>>> purifier = Purifier.load()                     # the bundled model, on this machine's best backend
>>> result = purifier.purify_frame(frame)          # (H, W, 3) uint8 BGR in; result.frame, result.faces, result.purified
>>> purified = purifier.purify(aligned_faces)      # (N, 112, 112) in [-1, 1] or uint8 in, uint8 out
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from immunecam.errors import BackendMissingError, ImmuneCamError, InputError, UsageError

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle
    from immunecam.runtime.faces import FaceFinder, face_finder
    from immunecam.runtime.frames import Frame, FrameSink, FrameSource
    from immunecam.runtime.purifier import Purifier
    from immunecam.runtime.trust import Trust

__all__ = [
    "BackendMissingError",
    "Bundle",
    "FaceFinder",
    "Frame",
    "FrameSink",
    "FrameSource",
    "ImmuneCamError",
    "InputError",
    "Purifier",
    "Trust",
    "UsageError",
    "__version__",
    "face_finder",
]

__version__ = "0.1.0"

# In a checkout the other folders of the package lie beside this one. Python prefers the current folder to what is
# installed, so without this `python -m immunecam` would find half a package at the top of a checkout.
_beside = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(os.path.join(_beside, "pyproject.toml")) and os.path.isdir(os.path.join(_beside, "kernels")):
    __path__.append(_beside)

# Imported on first use (PEP 562), so that `import immunecam` costs next to nothing.
_LAZY = {
    "Bundle": "immunecam.runtime.bundle",
    "FaceFinder": "immunecam.runtime.faces",
    "Frame": "immunecam.runtime.frames",
    "FrameSink": "immunecam.runtime.frames",
    "FrameSource": "immunecam.runtime.frames",
    "Purifier": "immunecam.runtime.purifier",
    "Trust": "immunecam.runtime.trust",
    "face_finder": "immunecam.runtime.faces",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'immunecam' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
