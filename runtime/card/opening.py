"""A card purifier for a bundle, or why there is none."""

from __future__ import annotations

import logging
from pathlib import Path

from immunecam.errors import ImmuneCamError
from immunecam.kernels.cuda import Programs, open_device
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card.purifier import CardPurifier
from immunecam.runtime.engines.onnxruntime_card_engine import OnnxRuntimeCardEngine
from immunecam.runtime.engines.protocol import CardEngine
from immunecam.runtime.engines.providers import has_cuda, import_onnxruntime, require_cuda
from immunecam.runtime.engines.tensorrt_engine import TensorRTEngine
from immunecam.runtime.engines.tensorrt_library import import_tensorrt

__all__ = ["NAMES", "open_best", "open_card"]

NAMES = ("tensorrt", "cuda")
"""Providers whose faces stay on a card, the better one first."""

_log = logging.getLogger(__name__)


def open_card(
    bundle: Bundle,
    provider: str,
    *,
    mutation: str = "sample",
    threads: int | None = None,
    device: int | None = None,
    max_batch: int | None = None,
    prebuilt: Path | None = None,
    exact: bool = False,
    reason: str = "it was asked for",
) -> CardPurifier:
    """Purifier on a card.

    Parameters
    ----------
    bundle : Bundle
        Verified.
    provider : {"cuda", "tensorrt"}
        Who runs the networks, ONNX Runtime's CUDA provider or TensorRT; mutation, projection and frames are our
        kernels' in both.
    mutation, max_batch
        As for :class:`CardPurifier`.
    threads : int, optional
        For what ONNX Runtime leaves to the CPU.
    device : int, optional
        Number of the card; None takes the first.
    prebuilt : path, optional
        Folder of kernels that were built ahead of time; None takes the package's.
    exact : bool
        Take only TensorRT plans that were built on a machine just like this.
    reason : str
        For the log.

    Raises
    ------
    BackendMissingError
        If something that it needs is not on this machine.
    InputError
        If the bundle cannot be run, or the card has not the memory.
    """
    if provider == "cuda":
        require_cuda(import_onnxruntime())
    else:
        import_tensorrt()
    opened = open_device(device)
    programs = Programs(opened, prebuilt=prebuilt)
    stream = opened.create_stream()
    engine: CardEngine | None = None
    try:
        if provider == "tensorrt":
            engine = TensorRTEngine.from_bundle(bundle, device=opened, exact=exact)
        else:
            engine = OnnxRuntimeCardEngine(bundle, stream=stream, device_id=opened.device_id, threads=threads)
        made = CardPurifier(bundle, engine, programs, stream=stream, mutation=mutation, max_batch=max_batch)
    except BaseException:
        if engine is not None:
            engine.close()
        stream.close()
        raise
    _log.info("Provider %s for the bundle %s on %s: %s.", provider, bundle.name, programs.card.name, reason)
    return made


def open_best(
    bundle: Bundle, *, mutation: str = "sample", threads: int | None = None
) -> tuple[CardPurifier | None, str]:
    """The best purifier on a card that this machine can run, if any, and why there is none.

    Nobody asked for a card by name, so what is missing is no error; it is a warning only where ONNX Runtime was
    installed for one.
    """
    reasons = []
    for name in NAMES:
        why = f"the first of {', '.join(NAMES)} and cpu that this machine can run"
        try:
            return open_card(bundle, name, mutation=mutation, threads=threads, exact=True, reason=why), ""
        except ImmuneCamError as error:
            reasons.append(str(error))
            meant = name == "cuda" and has_cuda(import_onnxruntime())
            _log.log(logging.WARNING if meant else logging.INFO, "The provider %s is not used: %s", name, error)
    return None, f"no provider on a card can be used ({reasons[-1].rstrip('.')})"
