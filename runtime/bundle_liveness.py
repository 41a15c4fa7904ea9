"""Putting a liveness network into a bundle."""

from __future__ import annotations

import os

import numpy as np

from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_parts import put_part
from immunecam.runtime.liveness import LivenessDetector
from immunecam.runtime.liveness_record import LivenessRecord
from immunecam.runtime.plan_record import LIVENESS
from immunecam.runtime.trust import PrivateKey

__all__ = ["put_liveness"]


def put_liveness(
    path: str | os.PathLike[str], graph: bytes, record: LivenessRecord, *, sign: PrivateKey | None = None
) -> Bundle:
    """Put a network into a bundle's folder, in place of the one that it may have; nothing else changes.

    Parameters
    ----------
    path : path
        Folder of a bundle.
    graph : bytes
        ONNX, as :class:`LivenessRecord` says.
    record : LivenessRecord
        Its `file` is filled in here.
    sign : PrivateKey, optional
        Sign the new manifest with it.

    Returns
    -------
    Bundle
        As it is now; its network was opened and has judged a grey picture.

    Raises
    ------
    InputError, UsageError
        As :func:`immunecam.runtime.bundle_parts.check_takes_part`, and if the graph cannot be run; the bundle is left
        as it was.
    """

    def tried(draft: Bundle) -> None:
        detector = LivenessDetector(draft, threads=1)
        detector.scores(np.full((2, detector.side, detector.side, 3), 128, np.uint8))

    return put_part(path, record, {LIVENESS: graph}, tried, sign=sign)
