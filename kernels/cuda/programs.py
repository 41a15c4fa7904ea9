"""Kernels by name: loaded from what was built ahead of time, or compiled at first use and kept on disk."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.kernels.cuda.card import Card, one_line, require_core
from immunecam.kernels.cuda.prebuilt import PREBUILT, find_prebuilt
from immunecam.kernels.cuda.sources import KERNELS, source

__all__ = ["Programs", "cache_folder"]

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where compiled kernels are kept: $IMMUNECAM_CACHE, or immunecam in the user's cache folder."""
    named = os.environ.get("IMMUNECAM_CACHE")
    if named:
        return Path(named) / "kernels"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "immunecam" / "kernels"


class Programs:
    """The kernels of one card. Safe to call from several threads.

    Parameters
    ----------
    device : cuda.core.Device
        From :func:`open_device`.
    prebuilt : path, optional
        Folder of ``make kernels``; None takes the package's.
    cache : path, optional
        Folder of what NVRTC compiled, keyed by source, architecture, options and compiler version; None takes
        :func:`cache_folder`.
    """

    def __init__(self, device: Any, *, prebuilt: Path | None = None, cache: Path | None = None) -> None:
        self.device, self.card = device, Card.of(device)
        self._prebuilt = PREBUILT if prebuilt is None else prebuilt
        self._cache = cache_folder() if cache is None else cache
        self._objects: dict[str, Any] = {}  # by source
        self._kernels: dict[str, Any] = {}
        self._prebuilt_objects: set[str] = set()
        self._lock = threading.Lock()

    def kernel(self, name: str) -> Any:
        """The `cuda.core.Kernel` of that name, allowed all the shared memory that the card gives a block.

        Raises
        ------
        UsageError
            If there is none of that name.
        BackendMissingError
            If it was not built ahead of time for this card and NVRTC is missing.
        InputError
            If it does not compile or load.
        """
        if name not in KERNELS:
            raise UsageError(f"The kernel is {name!r}, but it must be one of {', '.join(sorted(KERNELS))}.")
        with self._lock:
            if name not in self._kernels:
                self._kernels[name] = self._loaded(name)
            return self._kernels[name]

    def _loaded(self, name: str) -> Any:
        code = self._object(KERNELS[name])
        try:  # the code is loaded when the first of its kernels is asked for, or what a kernel needs
            kernel = code.get_kernel(name)
            static = kernel.attributes.shared_size_bytes
        except Exception as error:  # CUDAError
            said = one_line(error)
            if "OUT_OF_MEMORY" in said.upper().replace(" ", "_"):
                advice = "close another user of the card"
            elif KERNELS[name] in self._prebuilt_objects:
                advice = f"make what is in {self._prebuilt} anew with 'make kernels', or remove it for NVRTC to compile"
            else:
                advice = "update the driver, or build with 'make kernels' and a CUDA toolkit that the driver knows"
            raise InputError(
                f"The kernel {name} cannot be loaded on {self.card.name} ({self.card.architecture}; {said}): {advice}."
            ) from None
        self._allow(kernel, name, self.card.shared_memory - static)
        return kernel

    def _object(self, name: str) -> Any:
        if name not in self._objects:
            from cuda.core import ObjectCode

            code = find_prebuilt(name, self.card.compute_capability, self._prebuilt)
            if code is not None:
                _log.info("Kernels of %s.cu: built ahead of time.", name)
                self._objects[name] = ObjectCode.from_fatbin(code, name=name)
                self._prebuilt_objects.add(name)
            else:
                _log.info("Kernels of %s.cu: by NVRTC for %s, kept in %s.", name, self.card.architecture, self._cache)
                self._objects[name] = compiled(name, self.card.architecture, self._cache)
        return self._objects[name]

    def _allow(self, kernel: Any, name: str, size: int) -> None:
        """Above 48 KiB of dynamic shared memory a kernel has to opt in; all of them do, once and to the most."""
        from cuda.bindings import driver

        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        (error,) = driver.cuKernelSetAttribute(most, size, kernel.handle, self.device.device_id)
        if error != driver.CUresult.CUDA_SUCCESS:
            raise InputError(f"The kernel {name} cannot have {size} bytes of shared memory ({error.name}).")


def compiled(name: str, architecture: str, cache: Path) -> Any:
    """A source compiled by NVRTC for an architecture ("sm_87"), or what an earlier call kept of it.

    Raises
    ------
    BackendMissingError
        If cuda.core or NVRTC is missing, or too old.
    InputError
        If it does not compile.
    """
    require_core()
    from cuda.core import Program, ProgramOptions
    from cuda.core.utils import FileStreamProgramCache

    options = ProgramOptions(name=f"{name}.cu", arch=architecture, std="c++17")
    kept: Any = None
    try:
        cache.mkdir(parents=True, exist_ok=True)
        kept = FileStreamProgramCache(cache)
    except OSError as error:
        _log.warning("Compiled kernels cannot be kept in %s (%s): they are compiled at every start.", cache, error)
    try:
        return Program(source(name), "c++", options).compile("cubin", cache=kept)
    except Exception as error:  # NVRTCError, or what loading a missing library raises
        said = " ".join(str(error).split())
        if "NVRTC_ERROR_COMPILATION" not in said:
            raise BackendMissingError(
                f"NVRTC cannot compile {name}.cu for {architecture} ({said[:200]}): install a CUDA toolkit that knows "
                "the card, or build ahead of time with 'make kernels'."
            ) from None
        raise InputError(f"{name}.cu does not compile for {architecture}: {said[:300]}") from None
