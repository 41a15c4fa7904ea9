"""Whether what a command is to write can be written, asked before minutes of work and not after."""

from __future__ import annotations

import tempfile
from pathlib import Path

from immunecam.errors import InputError, UsageError

__all__ = ["check_folder", "check_outputs", "check_picture", "make_folder"]


def check_outputs(*files: Path | None) -> None:
    """Refuse files that could not be written; None is one that is not wanted.

    Raises
    ------
    UsageError
        If one is a folder or has no folder to lie in, or two are the same.
    InputError
        If nothing can be written into its folder.
    """
    seen = set[Path]()
    for file in (one for one in files if one is not None):
        if file.is_dir():
            raise UsageError(f"the file to write, {str(file)!r}, is a folder: give a file")
        if not file.parent.is_dir():
            raise UsageError(f"there is no folder {str(file.parent)!r} to write {file.name} into: make it")
        if file.resolve() in seen:
            raise UsageError(f"two outputs are both to be written to {str(file)!r}: give each its own file")
        seen.add(file.resolve())
        _check_writable(file.parent)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not there, or that nothing can be written into.

    Raises
    ------
    UsageError, InputError
    """
    if not folder.is_dir():
        raise UsageError(f"the folder {str(folder)!r} to write into does not exist: make it")
    _check_writable(folder)


def check_picture(file: Path) -> None:
    """Refuse the name of a picture to write that is not that of a PNG, the only kind that is written.

    Raises
    ------
    UsageError
    """
    if file.suffix.lower() != ".png":
        raise UsageError(f"the picture to write is {str(file)!r}, but its name must end in .png")


def make_folder(folder: Path) -> None:
    """Make a folder for what a command writes, if it is missing.

    Raises
    ------
    InputError
        If it cannot be made, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {str(folder)!r} cannot be made ({error.strerror}): name another") from None
    _check_writable(folder)


def _check_writable(folder: Path) -> None:
    # Tried, for rights alone do not tell: a medium may be read-only, or full of entries.
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(
            f"nothing can be written into the folder {str(folder)!r} ({error.strerror}): check its rights, or name "
            "another"
        ) from None
