"""Where TensorRT's tactic timings are kept from one build to the next, and how those of two builds become one."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path
from typing import Any

from immunecam.files import written_whole
from immunecam.kernels.cuda.programs import cache_folder
from immunecam.runtime.engines.plans import PlanMachine

__all__ = ["merge_timings", "timing_cache_path"]

_log = logging.getLogger(__name__)
_merging = threading.Lock()  # of this process's threads, which a lock of a file does not keep apart


def timing_cache_path(machine: PlanMachine, wanted: Path | None = None) -> Path | None:
    """Where the timings of a machine are kept.

    Parameters
    ----------
    machine : PlanMachine
        Each card and TensorRT has a file of its own, in the user's cache folder ($IMMUNECAM_CACHE).
    wanted : path, optional
        A file in place of that.

    Returns
    -------
    Path or None
        None, with a warning in the log, if nothing can be written there: a build then measures everything anew.
    """
    name = f"{machine.gpu}-{machine.compute_capability}-tensorrt-{machine.tensorrt}.timings"
    path = wanted or cache_folder().parent / "tensorrt" / re.sub(r"[^A-Za-z0-9.-]+", "_", name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{path}.lock", "ab"):  # the file that Polygraphy locks
            return path
    except OSError as error:
        _log.warning("Tactic timings cannot be kept in %s (%s): every build measures them anew.", path, error.strerror)
        return None


def merge_timings(config: Any, path: Path) -> None:
    """Add what a build measured to a file; another process may be doing the same.

    What cannot be kept is told in the log: the next build then takes longer, and that is all.

    Parameters
    ----------
    config : tensorrt.IBuilderConfig
        After the build.
    path : Path
        Replaced in one step, under the lock that Polygraphy reads it by.
    """
    from polygraphy.util import LockFile

    measured = config.get_timing_cache()
    try:
        with _merging, LockFile(str(path)):
            earlier = config.create_timing_cache(path.read_bytes()) if path.exists() else None
            if earlier is not None and not measured.combine(earlier, ignore_mismatch=False):
                _log.info("The tactic timings in %s are of another card or TensorRT; they are replaced.", path)
            with written_whole(path) as partial:
                partial.write_bytes(bytes(measured.serialize()))
    except OSError as error:
        _log.warning("The tactic timings cannot be kept in %s (%s).", path, error.strerror)
