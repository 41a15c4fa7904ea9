"""Bundles in one file: the same content, and nothing of an archive that could be read in two ways or fill a device."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from immunecam import Purifier
from immunecam.errors import InputError
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_archive import MOST_FILES, write_archive


@pytest.fixture
def contents(bundle: Bundle) -> dict[str, bytes]:
    return {"manifest.json": bundle.manifest_bytes, **bundle.files}


@pytest.fixture
def archive(bundle: Bundle, tmp_path: Path) -> Path:
    write_archive(tmp_path / "tiny.immune", bundle.manifest_bytes, None, bundle.files)
    return tmp_path / "tiny.immune"


def zipped(contents: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> bytes:
    """An archive as `immunecam bundle pack` would write it, but for a change of the member analyzer.onnx."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, data in contents.items():
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            if change is not None and name == "analyzer.onnx":
                change(info)
            made.writestr(info, data)
    return stream.getvalue()


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        Bundle.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    for part in parts:
        assert part in message


def test_archive_is_the_bundle(archive: Path, bundle: Bundle, faces: Any) -> None:
    found = Bundle.load(archive)
    assert (found.name, found.sha256) == ("tiny", bundle.sha256)
    assert dict(found.files) == dict(bundle.files)
    one, other = (Purifier.load(b, provider="cpu", seed=1).purify(faces) for b in (found, bundle))
    assert (one == other).all()
    assert archive.stat().st_size < sum(map(len, bundle.files.values()))


def test_same_content_same_bytes(archive: Path, bundle: Bundle, tmp_path: Path) -> None:
    write_archive(tmp_path / "b.immune", bundle.manifest_bytes, None, dict(reversed(bundle.files.items())))
    assert archive.read_bytes() == (tmp_path / "b.immune").read_bytes()


def test_what_the_tests_pack_is_right(contents: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "a.immune").write_bytes(zipped(contents))
    assert len(Bundle.load(tmp_path / "a.immune").files) == 3


@pytest.mark.parametrize("name", ["../up.onnx", "/etc/passwd", "a/b.onnx", "a\\b.onnx", ".hidden", "..", "d/", "ü"])
def test_name_that_is_not_plain(contents: dict[str, bytes], tmp_path: Path, name: str) -> None:
    (tmp_path / "a.immune").write_bytes(zipped({**contents, name: b"x"}))
    refused(tmp_path / "a.immune", "whose name is not plain")
    assert [path.name for path in tmp_path.iterdir()] == ["a.immune"]


def test_name_that_ends_at_a_zero(contents: dict[str, bytes], tmp_path: Path) -> None:
    raw = zipped({**contents, "other.onnxZx": b"x"}).replace(b"other.onnxZx", b"other.onnx\0x")
    (tmp_path / "a.immune").write_bytes(raw)
    refused(tmp_path / "a.immune", "not plain")


KINDS = [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *[({"external_attr": (kind | 0o777) << 16}, "is a folder, link or device") for kind in KINDS],
        ({"external_attr": 0x10}, "is a folder, link or device"),
        ({"compress_type": zipfile.ZIP_BZIP2}, "compressed by method 12"),
        ({"compress_type": zipfile.ZIP_LZMA}, "compressed by method 14"),
        ({"comment": b"c"}, "fields that a bundle's has not"),
        ({"extra": struct.pack("<HH4s", 0x7075, 4, b"abcd")}, "fields that a bundle's has not"),
    ],
)
def test_odd_member(contents: dict[str, bytes], tmp_path: Path, change: dict[str, Any], words: str) -> None:
    def apply(info: zipfile.ZipInfo) -> None:
        for field, value in change.items():
            setattr(info, field, value)

    (tmp_path / "a.immune").write_bytes(zipped(contents, apply))
    refused(tmp_path / "a.immune", "analyzer.onnx", words)


def directory_entry(raw: bytes, name: str) -> int:
    """Where the central directory says something of a member."""
    start = struct.unpack("<L", raw[-6:-2])[0]
    return raw.index(name.encode(), start) - 46


@pytest.mark.parametrize("flag", [0x1, 0x8, 0x20, 0x40, 0x2000])
def test_encrypted_or_streamed_member(contents: dict[str, bytes], tmp_path: Path, flag: int) -> None:
    raw = bytearray(zipped(contents))
    raw[directory_entry(raw, "analyzer.onnx") + 8 : directory_entry(raw, "analyzer.onnx") + 10] = struct.pack(
        "<H", flag
    )
    (tmp_path / "a.immune").write_bytes(raw)
    refused(tmp_path / "a.immune", "encrypted, or has fields")


def test_member_twice(contents: dict[str, bytes], tmp_path: Path) -> None:
    raw = zipped({**contents, "analyzer.onnY": b"other"}).replace(b"analyzer.onnY", b"analyzer.onnx")
    (tmp_path / "a.immune").write_bytes(raw)
    refused(tmp_path / "a.immune", "'analyzer.onnx' more than once")


def test_members_that_share_their_bytes(contents: dict[str, bytes], tmp_path: Path) -> None:
    """Overlapping members are how the smallest bombs are made."""
    raw = bytearray(zipped({**contents, "analyzer2.onnx": b"x"}))
    first, second = directory_entry(raw, "analyzer.onnx"), directory_entry(raw, "analyzer2.onnx")
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]
    (tmp_path / "a.immune").write_bytes(raw)
    refused(tmp_path / "a.immune", "does not lie right behind the one before")


def test_order(contents: dict[str, bytes], tmp_path: Path) -> None:
    last = {name: contents[name] for name in sorted(contents, key=lambda name: name == "manifest.json")}
    (tmp_path / "a.immune").write_bytes(zipped(last))
    refused(tmp_path / "a.immune", "its first members are")
    (tmp_path / "a.immune").write_bytes(zipped({**contents, "signature.json": b"{}"}))
    refused(tmp_path / "a.immune", "its first members are")


def test_member_that_nobody_lists(contents: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "a.immune").write_bytes(zipped({**contents, "notes.txt": b"x"}))
    refused(tmp_path / "a.immune", "'notes.txt' that its manifest does not list")


def test_missing_member(contents: dict[str, bytes], tmp_path: Path) -> None:
    del contents["analyzer.onnx"]
    (tmp_path / "a.immune").write_bytes(zipped(contents))
    refused(tmp_path / "a.immune", "analyzer.onnx is missing")


def test_changed_member(contents: dict[str, bytes], tmp_path: Path) -> None:
    """With the checksum of zip to match, of the same size."""
    data = contents["analyzer.onnx"]
    (tmp_path / "a.immune").write_bytes(zipped({**contents, "analyzer.onnx": data[:-1] + bytes([data[-1] ^ 1])}))
    refused(tmp_path / "a.immune", "analyzer.onnx", "SHA-256", "changed or damaged")


def test_member_of_another_size(contents: dict[str, bytes], tmp_path: Path) -> None:
    size = len(contents["analyzer.onnx"])
    (tmp_path / "a.immune").write_bytes(zipped({**contents, "analyzer.onnx": contents["analyzer.onnx"] + b"x"}))
    refused(tmp_path / "a.immune", f"has {size + 1} bytes, but the manifest says {size}")


@pytest.mark.parametrize("length", [0, 1, 21, 22, 23, 5000])
def test_truncated_or_lengthened(archive: Path, length: int) -> None:
    raw = archive.read_bytes()
    for changed in (raw[:length], raw[:-length] if length else b"", raw + bytes(length or 1), bytes(length or 1) + raw):
        archive.write_bytes(changed)
        refused(archive, "not a bundle's archive")


def test_too_many_members(contents: dict[str, bytes], tmp_path: Path) -> None:
    more = {f"f{index}": b"" for index in range(MOST_FILES)}
    (tmp_path / "a.immune").write_bytes(zipped({**contents, **more}))
    refused(tmp_path / "a.immune", f"members, but a bundle has 1 to {MOST_FILES}")
    with pytest.raises(InputError, match=r"has 260 files .* use the folder"):
        write_archive(tmp_path / "b.immune", contents["manifest.json"], None, {**contents, **more})
    assert not (tmp_path / "b.immune").exists()


def test_end_of_a_zip64_archive_is_refused(archive: Path) -> None:
    raw = bytearray(archive.read_bytes())
    raw[-14:-10] = b"\xff\xff\xff\xff"
    archive.write_bytes(raw)
    refused(archive, "members, but a bundle has")


def sparse(path: Path, sizes: list[tuple[int, int]], directory_padding: int = 0) -> None:
    """An archive of members that claim sizes (in the archive, inflated), without their data: a file full of holes."""
    names = [b"manifest.json", *(b"f%d" % index for index in range(len(sizes) - 1))]
    directory, offset = b"", 0
    with open(path, "wb") as stream:
        for name, (packed, whole) in zip(names, sizes, strict=True):
            stream.seek(offset)
            stream.write(struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, 0, packed, whole, len(name), 0) + name)
            fields = (20, 20, 0, 8, 0, 33, 0, packed, whole, len(name), 0, 0, 0, 0, 0, offset)
            directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + name
            offset += 30 + len(name) + packed
        stream.seek(offset)
        stream.write(directory)
        length = len(directory) + directory_padding
        stream.seek(offset + length)
        stream.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, len(sizes), len(sizes), length, offset, 0))


def test_claims_that_would_fill_the_memory(tmp_path: Path) -> None:
    sparse(tmp_path / "a.immune", [(2**20, 2**20), (2**30, 2**31), (2**30, 2**31 + 2**30)])
    refused(tmp_path / "a.immune", "its members claim 5369757696 bytes")
    sparse(tmp_path / "a.immune", [(10, 10)], directory_padding=3 * 2**30)
    refused(tmp_path / "a.immune", "its directory has 3221225531 bytes")


def test_a_second_end_in_the_form_of_zip64_is_refused(contents: dict[str, bytes], tmp_path: Path) -> None:
    """zipfile would believe that one: here it lies in the comment of the last member."""
    raw = bytearray(zipped({**contents, "last.onnx": b"x"}))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1)
    struct.pack_into("<H", raw, directory_entry(bytes(raw), "last.onnx") + 32, len(locator))
    length = struct.unpack("<L", raw[-10:-6])[0]
    struct.pack_into("<L", raw, len(raw) - 10, length + len(locator))
    raw[-22:-22] = locator
    (tmp_path / "a.immune").write_bytes(raw)
    refused(tmp_path / "a.immune", "does not lie right before its end")


def test_count_of_members(contents: dict[str, bytes], tmp_path: Path) -> None:
    raw = bytearray(zipped(contents))
    raw[-14:-10] = struct.pack("<HH", 2, 2)
    (tmp_path / "a.immune").write_bytes(raw)
    refused(tmp_path / "a.immune", "4 members, but its end says 2")


def test_not_a_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.immune")
    refused(tmp_path / "a.immune", "neither a folder nor a regular file")
    (tmp_path / "b.immune").symlink_to("b.immune")
    refused(tmp_path / "b.immune", "no bundle at")


def test_what_squeezes_too_well_is_stored_as_it_is(bundle: Bundle, tmp_path: Path) -> None:
    """A file of zeros is no bomb in an archive of our own."""
    content = json.loads(bundle.manifest_bytes)
    zeros = bytes(300_000)
    content["files"]["zeros.bin"] = {"sha256": hashlib.sha256(zeros).hexdigest(), "bytes": len(zeros)}
    files = {**bundle.files, "zeros.bin": zeros}
    write_archive(tmp_path / "a.immune", json.dumps(content).encode(), None, files)
    assert Bundle.load(tmp_path / "a.immune").files["zeros.bin"] == zeros


LOAD = """
import re, sys
from pathlib import Path
from immunecam.errors import InputError
from immunecam.runtime.bundle import Bundle
def peak():  # of this process alone; getrusage counts whoever started it, too
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

Bundle.load(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    try:
        Bundle.load(path)
    except InputError as error:
        print(error)
print((peak() - before) // 1024)
"""


def test_bombs_take_no_memory(bundle: Bundle, archive: Path, tmp_path: Path) -> None:
    """256 MiB of zeros in 256 KiB: said openly, and hidden behind sizes of the directory that are the manifest's."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = b"".join(squeeze.compress(bytes(2**20)) for _ in range(256)) + squeeze.flush()
    assert len(zeros) < 300_000
    name, real = b"analyzer.onnx", len(bundle.files["analyzer.onnx"])

    def bomb(claimed: int) -> bytes:
        """The archive with the member's data replaced, and its size as claimed in both of its headers."""
        contents = {"manifest.json": bundle.manifest_bytes, **bundle.files}
        raw = zipped({**contents, "analyzer.onnx": b""})
        local = raw.index(name) - 30
        sizes = struct.pack("<LL", len(zeros), claimed)
        empty = struct.unpack("<L", raw[local + 18 : local + 22])[0]
        body = local + 30 + len(name)
        made = bytearray(raw[: local + 18] + sizes + raw[local + 26 : body] + zeros + raw[body + empty :])
        entry, grown = directory_entry_after(made, len(zeros) - empty), len(zeros) - empty
        made[entry + 20 : entry + 28] = sizes
        position = entry + 46 + len(name)
        while made[position : position + 4] == b"PK\1\2":  # the members behind it lie further back now
            length = struct.unpack("<H", made[position + 28 : position + 30])[0]
            offset = struct.unpack("<L", made[position + 42 : position + 46])[0]
            made[position + 42 : position + 46] = struct.pack("<L", offset + grown)
            position += 46 + length
        start = struct.unpack("<L", made[-6:-2])[0]
        made[-6:-2] = struct.pack("<L", start + grown)
        return bytes(made)

    def directory_entry_after(made: bytearray, grown: int) -> int:
        start = struct.unpack("<L", made[-6:-2])[0] + grown
        return made.index(name, start) - 46

    open_, hidden = tmp_path / "open.immune", tmp_path / "hidden.immune"
    open_.write_bytes(bomb(256 * 2**20))
    hidden.write_bytes(bomb(real))
    command = [sys.executable, "-c", LOAD, archive, open_, hidden]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    said, hid, grown = done.stdout.splitlines()
    assert "claims 268435456 bytes" in said
    assert "more than 100 times" in said
    assert "analyzer.onnx cannot be read" in hid or "SHA-256" in hid
    assert int(grown) < 16


def test_no_space_for_an_archive(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written: No space left"):
        write_archive(tmp_path / "a.immune", bundle.manifest_bytes, None, bundle.files)
    assert not list(tmp_path.iterdir())


def test_archive_of_the_command_zip(bundle: Bundle, tmp_path: Path) -> None:
    """Info-ZIP's own form, with the options that leave the extra fields away, is the strict form, too."""
    if shutil.which("zip") is None:
        pytest.skip("zip is not installed")
    names = ["manifest.json", *sorted(bundle.files)]
    command = ["zip", "-q", "-X", "-D", str(tmp_path / "z.zip"), *names]
    subprocess.run(command, cwd=bundle.path, check=True, timeout=60)
    (tmp_path / "z.zip").rename(tmp_path / "z.immune")
    assert Bundle.load(tmp_path / "z.immune").sha256 == bundle.sha256
