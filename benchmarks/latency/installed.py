"""How much room the base package and what it depends on take on a disk."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

__all__ = ["installed_bytes"]


def installed_bytes(package: str = "immunecam") -> dict[str, int]:
    """Bytes of a package's files and of all that it depends on without extras, the largest first.

    Bytecode is not counted, for whether it is there depends on who ran what. A dependency that is not installed is one
    whose condition does not hold here. Of an editable install the package's own sources are not seen.
    """
    sizes: dict[str, int] = {}
    waiting = [package]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in sizes:
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        files = [Path(str(found.locate_file(file))) for file in found.files or () if file.suffix != ".pyc"]
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file())
        for requirement in found.requires or ():
            wanted, _, condition = requirement.partition(";")
            if "extra" not in condition:
                waiting += re.findall(r"^[\w.-]+", wanted.strip())
    return dict(sorted(sizes.items(), key=lambda item: -item[1]))
