"""Aligned faces purified, masked and recognised masked, which is what a gate with ``--masked`` does to a face."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from immunecam.benchmarks.latency import faces_work
from immunecam.mask_key import MaskKey
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.masking import FaceMask, MaskedEmbedder
from immunecam.runtime.part_network import part_provider

__all__ = ["BUDGET_MS", "Work"]

BUDGET_MS = 8.0
"""Of masking and recognising, a face, two cores."""


class Work(faces_work.Work):
    """As :class:`immunecam.benchmarks.latency.faces_work.Work`, and then the bundle's masking part.

    A key of its own takes the place of the mask's: all take the same time, so measuring needs no secret.
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        super().__init__(specification)
        about = {"threads": specification["threads"], "provider": part_provider(specification["provider"])}
        key = MaskKey.generate()
        mask = FaceMask(_with_key(self._purifier.bundle, key), key, **about)
        self._embedder = MaskedEmbedder(mask, threads=specification["threads"])

    def run(self, batch: int) -> tuple[dict[str, float], int]:
        """The purifier's stages, "mask", "recognise", and the whole."""
        faces = np.resize(self._faces, (batch, *self._faces.shape[1:]))
        began = time.perf_counter()
        done = self._purifier.purify_batch(faces)
        purified = time.perf_counter()
        channels = self._embedder.mask.channels(done.purified)
        masked = time.perf_counter()
        self._embedder.embed_channels(channels)
        ended = time.perf_counter()
        own = {"mask": masked - purified, "recognise": ended - masked, "total": ended - began}
        return {**done.timings_ms, **{stage: 1000 * seconds for stage, seconds in own.items()}}, batch


def _with_key(bundle: Bundle, key: MaskKey) -> Bundle:
    """The bundle as if its mask had been made with this key."""
    manifest = bundle.manifest
    record = manifest.masking
    assert record is not None
    parts = {**manifest.parts, record.KEY: replace(record, key_check=key.check_value)}
    return replace(bundle, manifest=replace(manifest, parts=parts))
