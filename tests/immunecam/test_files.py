"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys

import pytest

from immunecam.files import create_durably, read_regular, sync_folder, write_durably, written_whole


def test_the_new_file_takes_the_place_of_the_old(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    with written_whole(target) as partial:
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "report.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), written_whole(target) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_durable_file_is_settled_with_its_name(tmp_path, monkeypatch):
    """The file's bytes first, its folder's entry after it has its name."""
    genuine, synced = os.fsync, []

    def noted(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append(("folder" if is_folder else "file", (tmp_path / "state").exists()))
        genuine(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_durably(tmp_path / "state", b"seen")
    assert synced == [("file", False), ("folder", True)]
    assert (tmp_path / "state").read_bytes() == b"seen"


def test_a_new_file_is_its_owners_alone_and_takes_nobodys_place(tmp_path):
    os.umask(os.umask(0o022))
    create_durably(tmp_path / "key", b"secret")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "link"):
        with pytest.raises(FileExistsError):
            create_durably(tmp_path / name, b"another")
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert not (tmp_path / "elsewhere").exists()


_LIMITED = """
import pathlib, resource, sys
from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.trust import write_key_pair
from immunecam.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))  # a write beyond it stops in the middle
for write in (lambda: GateKey(bytes(range(32))).write("gate.key"), lambda: write_key_pair("a.pem", "a.pub.pem")):
    try:
        write()
        sys.exit("nothing was raised")
    except InputError as error:
        print(error)
"""


def test_a_key_whose_writing_stops_in_the_middle_leaves_nothing(tmp_path):
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")
    done = subprocess.run([sys.executable, "-c", _LIMITED], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot be written") == done.stdout.count("File too large") == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "passes"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_a_file_system_that_cannot_settle_folders(tmp_path, monkeypatch, number, passes):
    def fails(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    if passes:
        sync_folder(tmp_path)
    else:
        with pytest.raises(OSError, match="Input/output"):
            sync_folder(tmp_path)


def test_only_regular_files_are_read_and_no_more_than_asked_for(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 5) == b"12345"
    assert read_regular(tmp_path / "file", 3) == b"1234"  # one more, which tells that there is more
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(tmp_path / "pipe", 5)
