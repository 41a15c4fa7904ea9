"""What commands ask of the files and folders that they are to write."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from immunecam.commands.outputs import check_folder, check_outputs, make_folder
from immunecam.errors import UsageError


def test_what_cannot_be_written(tmp_path):
    check_outputs(None, tmp_path / "a.json", tmp_path / "b.md", None)
    for files, words in (
        ((tmp_path,), "is a folder: give a file"),
        ((tmp_path / "none" / "a.json",), "to write a.json into: make it"),
        ((tmp_path / "a", tmp_path / "." / "a"), "two outputs are both"),
    ):
        with pytest.raises(UsageError, match=words):
            check_outputs(*files)
    with pytest.raises(UsageError, match=r"'.*none' to write into does not exist"):
        check_folder(tmp_path / "none")
    make_folder(tmp_path / "made" / "twice")
    check_folder(tmp_path / "made" / "twice")
    assert os.listdir(tmp_path) == ["made"]


def test_a_folder_without_rights_is_noticed_before():
    program = """
import os, sys
from pathlib import Path
from immunecam.commands.outputs import check_folder, check_outputs
from immunecam.errors import InputError
if os.geteuid() == 0:  # who may write everywhere
    os.setresuid(65534, 65534, 65534)
folder = Path(sys.argv[1])
for check, path in ((check_outputs, folder / "a.json"), (check_folder, folder)):
    try:
        check(path)
    except InputError as error:
        print(error)
"""
    folder = tempfile.mkdtemp()  # not the test's own, which only its user may enter
    try:
        os.chmod(folder, 0o555)
        done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, check=True)
        assert not list(Path(folder).iterdir())
    finally:
        os.rmdir(folder)
    assert done.stdout.splitlines() == 2 * [
        f"nothing can be written into the folder {folder!r} (Permission denied): check its rights, or name another"
    ]
