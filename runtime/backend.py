"""What a purifier runs on: an engine of the CPU, or a card that does everything."""

from __future__ import annotations

import logging
import os

from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card import CardPurifier, open_best, open_card
from immunecam.runtime.card.opening import NAMES
from immunecam.runtime.engines import Engine, OnnxRuntimeEngine
from immunecam.runtime.engines.onnxruntime_session import check_threads
from immunecam.runtime.engines.providers import cpu_choice

__all__ = ["open_backend"]

_log = logging.getLogger(__name__)


def open_backend(
    bundle: Bundle, provider: str = "auto", *, mutation: str = "sample", threads: int | None = None
) -> Engine | CardPurifier:
    """The backend of that name, or the best one of this machine.

    Parameters
    ----------
    bundle : Bundle
        Verified.
    provider : {"auto", "cpu", "cuda", "tensorrt"}
        ``auto`` takes a card where everything that it needs is there, else the CPU, and says in the log why.
    mutation : {"sample", "threshold", "expected"}
        What a card is to do.
    threads : int, optional
        Threads an operator of ONNX Runtime may use on the CPU.

    Raises
    ------
    UsageError
        If an argument is out of its range.
    BackendMissingError
        If the named provider is not on this machine; it is never replaced.
    InputError
        If the bundle cannot be run, or the card that was asked for has not the memory.
    """
    threads = check_threads(threads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads is not None and threads > cores:
        _log.warning("%d threads are asked for, but this process may use %d cores: they wait in turn", threads, cores)
    if provider in NAMES:
        return open_card(bundle, provider, mutation=mutation, threads=threads)
    if provider != "auto":
        return OnnxRuntimeEngine.from_bundle(bundle, provider=provider, threads=threads)
    card, reason = open_best(bundle, mutation=mutation, threads=threads)
    if card is not None:
        return card
    return OnnxRuntimeEngine.from_bundle(bundle, provider=cpu_choice(bundle, reason), threads=threads)
