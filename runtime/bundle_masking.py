"""Putting a mask and a recogniser of masked faces into a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from immunecam.errors import InputError
from immunecam.mask_key import MaskKey
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_parts import put_part
from immunecam.runtime.masking import FaceMask, MaskedEmbedder
from immunecam.runtime.masking_record import MASKING_GRAPHS, MaskingRecord
from immunecam.runtime.trust import PrivateKey

__all__ = ["put_masking"]


def put_masking(
    path: str | os.PathLike[str],
    graphs: Mapping[str, bytes],
    record: MaskingRecord,
    key: MaskKey,
    *,
    sign: PrivateKey | None = None,
) -> Bundle:
    """Put the part into a bundle's folder, in place of the one that it may have; nothing else changes.

    Parameters
    ----------
    path : path
        Folder of a bundle.
    graphs : Mapping of bytes
        ONNX by role, as :class:`MaskingRecord` says.
    record : MaskingRecord
        Its `graphs` are filled in here.
    key : MaskKey
        Of the mask, for a trial; it is not written.
    sign : PrivateKey, optional
        Sign the new manifest with it.

    Returns
    -------
    Bundle
        As it is now; its graphs were opened, and have masked and recognised a grey picture.

    Raises
    ------
    InputError, UsageError
        If the bundle cannot be loaded, is an archive, is signed and would not be afterwards, the key is another, or a
        graph cannot be run; the bundle is left as it was.
    """
    if sorted(graphs) != sorted(MASKING_GRAPHS):
        raise InputError(f"a masking part has the graphs {', '.join(MASKING_GRAPHS)}, got {', '.join(sorted(graphs))}")

    def tried(draft: Bundle) -> None:
        faces = np.full((2, 112, 112), 128, np.uint8)
        faces[:, :56, 40:72] = 64  # not all of one grey, which would have no variance
        mask = FaceMask(draft, key, threads=1)
        mask.picture(mask.channels(faces))
        MaskedEmbedder(mask, threads=1).embed(faces)

    return put_part(path, record, graphs, tried, sign=sign)
