"""Where the state lies, whether it outlasts a power cut, and whether the rest of the system can change."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from immunecam.runtime.device.finding import Finding
from immunecam.runtime.device.system_files import read_text
from immunecam.runtime.report import percentiles_ms

__all__ = ["Mount", "check_root", "check_state", "mount_of"]

_IN_MEMORY = ("tmpfs", "ramfs", "overlay")
_SYNCS = 20
# The audit trail's files grow to 8 MiB each; fewer than four of them is no room for a year.
_FREE_MIB = 32


@dataclass(frozen=True)
class Mount:
    """A line of mountinfo.

    Attributes
    ----------
    point : Path
    kind : str
        File system.
    read_only : bool
    """

    point: Path
    kind: str
    read_only: bool


def mount_of(path: Path, *, root: Path = Path("/")) -> Mount | None:
    """The mount that a path lies on; None where the kernel does not say."""
    found: Mount | None = None
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")[0]
        if len(fields) < 6:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), fields[4]))
        # The deepest holds; of two at one place the later one lies on top.
        if path.is_relative_to(point) and (found is None or len(point.parts) >= len(found.point.parts)):
            found = Mount(point, kind, "ro" in fields[5].split(","))
    return found


def check_root(*, root: Path = Path("/")) -> Finding:
    """Whether the root can be written: one that cannot is not harmed by a power cut."""
    part, mount = "root file system", mount_of(Path("/"), root=root)
    if mount is None:
        return Finding(part, "unknown", "not known here")
    numbers = {"file_system": mount.kind, "read_only": mount.read_only}
    if mount.read_only:
        return Finding(part, "good", f"read-only ({mount.kind})", "", numbers)
    if mount.kind == "overlay":
        why = "an overlay: what is written to it lies in another layer, which may be memory"
        return Finding(part, "note", why, "keep the state on a disk of its own", numbers)
    todo = "mount it read-only before the device is left alone; the state is on a disk of its own then"
    return Finding(part, "note", f"can be written ({mount.kind}), so a power cut may harm it", todo, numbers)


def check_state(folder: Path | None, *, root: Path = Path("/")) -> Finding:
    """Write to the state's folder as the store does, wait for the disk, and look how much room is left.

    Parameters
    ----------
    folder : Path or None
        Of the store, its backup and the audit trail.
    root : Path
        Where proc is.
    """
    part = "state folder"
    if folder is None:
        return Finding(part, "unknown", "not tried", "name the folder of store and audit trail by --state")
    if not folder.is_dir():
        return Finding(
            part, "bad", f"{folder} is no folder", "make it: StateDirectory= in the unit does, or mkdir -m 700"
        )
    mount = mount_of(folder.resolve(), root=root)
    try:
        times = _sync_times(folder)
        about = os.statvfs(folder)
    except OSError as error:
        todo = "mount it writable" if mount is not None and mount.read_only else "check its owner, rights and space"
        return Finding(part, "bad", f"{folder} cannot be written ({error.strerror})", f"{todo}, for the service's user")
    free = about.f_bavail * about.f_frsize / 2**20
    numbers = {
        "file_system": mount.kind if mount else None,
        "free_mib": round(free, 1),
        **{f"sync_{name}": value for name, value in percentiles_ms(times).items()},
    }
    kind = mount.kind if mount else "file system not known here"
    why = f"{folder} ({kind}): {free:.0f} MiB free, a write is on the disk in {numbers['sync_p50_ms']:.1f} ms"
    if free < _FREE_MIB:
        return Finding(part, "bad", f"{why}, {_FREE_MIB} MiB wanted", "free some space, or set --keep-mib", numbers)
    if mount is not None and mount.kind in _IN_MEMORY[:2]:
        return Finding(part, "bad", f"{why}, but a power cut empties it", "put it on a disk", numbers)
    if mount is not None and mount.kind in _IN_MEMORY:
        return Finding(part, "note", f"{why}, if its upper layer is on a disk at all", "put it on a disk", numbers)
    if folder.stat().st_mode & 0o077:
        return Finding(part, "note", f"{why}; others may look into it", f"chmod 700 {folder}", numbers)
    return Finding(part, "good", why, "", numbers)


def _sync_times(folder: Path) -> list[float]:
    """Seconds of some small writes, each until the disk has it."""
    name = folder / f".doctor.{os.getpid()}.partial"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        times = []
        for _ in range(_SYNCS):
            began = time.perf_counter()
            os.write(descriptor, b"\0" * 4096)
            os.fsync(descriptor)
            times.append(time.perf_counter() - began)
        return times
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            name.unlink()
