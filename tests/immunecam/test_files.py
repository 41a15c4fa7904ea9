"""A file is there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from immunecam.files import read_regular, sync_folder, write_durably, written_whole


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
