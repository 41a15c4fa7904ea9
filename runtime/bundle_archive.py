"""A bundle as one file: a zip archive in a strict form, read into memory without anything being unpacked.

Whoever made the archive decides what its directory says, so the form leaves no room for more than one reading: the
members lie one after another from the first byte on, in the order of the directory, which ends the file; every member
is a regular file under a plain name; the manifest is the first and the signature, if there is one, the second. There
are no folders, links, encrypted or split members, comments, extra fields, data descriptors, and no zip64 (a bundle of
4 GiB or more stays a folder). Format: PKWARE's APPNOTE.TXT, 4.3.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.runtime.bundle_manifest import MANIFEST, READ_AGAIN, FileRecord, is_plain_name
from immunecam.runtime.trust.signature import SIGNATURE

__all__ = ["MOST_FILES", "MOST_RATIO", "BundleArchive", "write_archive"]

MOST_FILES = 256
"""Members of an archive."""

MOST_RATIO = 100
"""Bytes of a member by bytes in the archive; a bundle's weights come to 2 at most, nothing but zeros to 1000."""

_END = struct.Struct("<4s4H2LH")  # end of central directory record
_ZIP64_LOCATOR = 20
_LOCAL_HEADER = 30
_MOST_BYTES = 2**32 - 2
_MOST_DIRECTORY = MOST_FILES * 256  # an entry has 46 bytes and a name of up to 100
_SLACK = 4096  # a small text may be squeezed well
_DEFLATE_LEVEL_BITS = 0b110  # the only flags that say nothing of how to read a member
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OverflowError,
    IndexError,
    OSError,
)
_PACK = "pack the bundle by 'immunecam bundle pack'"


class BundleArchive:
    """Reads members of an archive; see :class:`immunecam.runtime.bundle_source.BundleSource`.

    No more of a member is inflated than the caller asks for, and the caller asks for what the manifest says.
    """

    def __init__(self, path: Path) -> None:
        """Open an archive and check its directory.

        Raises
        ------
        InputError
            If it is no regular file, no zip archive, or one of another form than a bundle's.
        """
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise InputError(f"The bundle {path} cannot be read ({error.strerror}): {READ_AGAIN}.") from None
        self._stream = os.fdopen(descriptor, "rb")
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is neither a folder nor a regular file, so it is no bundle: name another.")
            directory, entries = self._end(status.st_size)
            try:
                self._zip = zipfile.ZipFile(self._stream)
                members = self._zip.infolist()
            except _BROKEN as error:
                raise self._wrong(f"its directory cannot be read ({_reason(error)})") from None
            if len(members) != entries:
                raise self._wrong(f"its directory has {len(members)} members, but its end says {entries}")
            self._check(members, directory)
            self._members = {member.filename: member for member in members}
        except BaseException:
            self._stream.close()
            raise

    def read(self, name: str, limit: int) -> bytes:
        if name not in self._members:
            raise InputError(f"The bundle file {self.path / name} is missing, but the manifest lists it: {READ_AGAIN}.")
        try:
            with self._zip.open(self._members[name]) as stream:
                return stream.read(limit + 1)
        except _BROKEN as error:
            raise InputError(
                f"The bundle file {self.path / name} cannot be read ({_reason(error)}): {READ_AGAIN}."
            ) from None

    def has(self, name: str) -> bool:
        return name in self._members

    def expect(self, files: Mapping[str, FileRecord]) -> None:
        """Refuse members that the manifest does not list, and sizes that are not the manifest's."""
        for name, member in self._members.items():
            if name in (MANIFEST, SIGNATURE):
                continue
            if name not in files:
                raise self._wrong(f"it has a member {name!r} that its manifest does not list")
            if member.file_size != files[name].bytes:
                raise InputError(
                    f"The bundle file {self.path / name} has {member.file_size} bytes, but the manifest says "
                    f"{files[name].bytes}: {READ_AGAIN}."
                )

    def close(self) -> None:
        self._zip.close()
        self._stream.close()

    def _end(self, size: int) -> tuple[int, int]:
        """Where the directory begins and how many members it has, from the record that must be the file's last bytes.

        zipfile would search for the record, let one of zip64 overrule it, and read a directory of any size.
        """
        if size < _END.size:
            raise self._wrong(f"it has {size} bytes")
        try:
            self._stream.seek(max(0, size - _END.size - _ZIP64_LOCATOR))
            before, raw = self._stream.read(min(size - _END.size, _ZIP64_LOCATOR)), self._stream.read(_END.size)
        except OSError as error:
            raise self._wrong(f"its end cannot be read ({error.strerror})") from None
        if len(raw) != _END.size or not raw.startswith(b"PK\5\6"):
            raise self._wrong("it does not end as a zip archive without a comment does")
        _, disk, first_disk, here, entries, length, start, comment = _END.unpack(raw)
        if disk or first_disk or here != entries or comment:
            raise self._wrong("it is split, or its end is damaged")
        if not 1 <= entries <= MOST_FILES:
            raise self._wrong(f"it has {entries} members, but a bundle has 1 to {MOST_FILES}")
        if start + length + _END.size != size or before.startswith(b"PK\6\7"):
            raise self._wrong("its directory does not lie right before its end")
        if length > _MOST_DIRECTORY:
            raise self._wrong(f"its directory has {length} bytes, but {entries} members need {_MOST_DIRECTORY} at most")
        return int(start), int(entries)

    def _check(self, members: list[zipfile.ZipInfo], directory: int) -> None:
        offset, names = 0, [member.filename for member in members]
        whole = sum(member.file_size for member in members)
        if whole > _MOST_BYTES:
            raise self._wrong(f"its members claim {whole} bytes, but a bundle in an archive has {_MOST_BYTES} at most")
        for member in members:
            name = member.filename
            mode = member.external_attr >> 16
            if member.orig_filename != name or not (is_plain_name(name) or name in (MANIFEST, SIGNATURE)):
                raise self._wrong(f"it has a member {member.orig_filename[:80]!r}, whose name is not plain")
            if names.count(name) > 1:
                raise self._wrong(f"it has the member {name!r} more than once")
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG) or member.external_attr & 0x10:
                raise self._wrong(f"its member {name!r} is a folder, link or device, not a regular file")
            if member.flag_bits & ~_DEFLATE_LEVEL_BITS or member.extra or member.comment or member.volume:
                raise self._wrong(f"its member {name!r} is encrypted, or has fields that a bundle's has not")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise self._wrong(f"its member {name!r} is compressed by method {member.compress_type}, not by deflate")
            if member.file_size > MOST_RATIO * member.compress_size + _SLACK:
                raise self._wrong(
                    f"its member {name!r} claims {member.file_size} bytes in {member.compress_size}, more than "
                    f"{MOST_RATIO} times"
                )
            if member.header_offset != offset:
                raise self._wrong(f"its member {name!r} does not lie right behind the one before")
            offset += _LOCAL_HEADER + len(name) + member.compress_size
        if offset != directory:
            raise self._wrong("its directory does not lie right behind its members")
        if names[0] != MANIFEST or (SIGNATURE in names and names[1] != SIGNATURE):
            raise self._wrong(f"its first members are {names[:2]}, but they must be {MANIFEST} and any {SIGNATURE}")

    def _wrong(self, why: str) -> InputError:
        return InputError(f"{self.path} is not a bundle's archive, {why}: {_PACK}.")


def write_archive(path: Path, manifest: bytes, signature: bytes | None, files: Mapping[str, bytes]) -> None:
    """Write an archive, whole or not at all; the same content gives the same bytes.

    Parameters
    ----------
    path : Path
        What is there is replaced.
    manifest, signature : bytes
        Content of ``manifest.json`` and ``signature.json``, None if there is none.
    files : Mapping of bytes
        Those that the manifest lists.

    Raises
    ------
    InputError
        If it cannot be written, or is too large for an archive.
    """
    members = {MANIFEST: manifest} | ({} if signature is None else {SIGNATURE: signature})
    members |= {name: files[name] for name in sorted(files)}
    if len(members) > MOST_FILES or sum(map(len, members.values())) > _MOST_BYTES:
        raise InputError(
            f"The bundle for {path} has {len(members)} files and {sum(map(len, members.values()))} bytes, but an "
            f"archive takes {MOST_FILES} and {_MOST_BYTES}: use the folder."
        )
    try:
        with (
            written_whole(path, durable=True) as partial,
            zipfile.ZipFile(partial, "w", allowZip64=False) as archive,
        ):
            for name, data in members.items():
                info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                info.compress_type = _method(data)
                archive.writestr(info, data)
    except zipfile.LargeZipFile:
        raise InputError(f"The bundle for {path} is too large for an archive: use the folder.") from None
    except OSError as error:
        raise InputError(f"The bundle {path} cannot be written: {error.strerror}.") from None


def _method(data: bytes) -> int:
    """Deflate, but for what it would squeeze so much that the reader takes it for a bomb."""
    if len(data) <= _SLACK or len(zlib.compress(data, 6)) * MOST_RATIO > len(data):
        return zipfile.ZIP_DEFLATED
    return zipfile.ZIP_STORED


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
