"""Whether the gate's key is there and a secret."""

from __future__ import annotations

import stat
from pathlib import Path

from immunecam.errors import ImmuneCamError
from immunecam.runtime.device.finding import Finding
from immunecam.runtime.gate.keys import GateKey

__all__ = ["check_key"]


def check_key(file: Path | None) -> Finding:
    """Read the gate's key and look at its rights; nothing of it is told."""
    part = "gate's key"
    if file is None:
        return Finding(part, "unknown", "not tried", "name its file by --key-file")
    try:
        GateKey.from_file(file)
        about = file.stat()
    except ImmuneCamError as error:
        return Finding(part, "bad", str(error))
    mode = stat.S_IMODE(about.st_mode)
    if mode & 0o007:
        return Finding(part, "bad", f"everybody may read {file} (mode {mode:o})", f"chmod 600 {file}, or make another")
    if mode & 0o040 and about.st_gid != 0:  # systemd's credentials show the right of their one user so
        return Finding(part, "note", f"the group {about.st_gid} may read {file} (mode {mode:o})", f"chmod 600 {file}")
    return Finding(part, "good", f"{file} (mode {mode:o})")
