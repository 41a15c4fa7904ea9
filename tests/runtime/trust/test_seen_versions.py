"""What a device remembers of versions: through restarts, power cuts and two processes, and when it cannot."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.errors import InputError
from immunecam.runtime.trust import SeenVersions

WHERE = "The bundle b.immune"


@pytest.fixture
def seen(tmp_path: Path) -> SeenVersions:
    return SeenVersions(tmp_path / "seen.json")


def test_an_older_version_is_refused_ever_after(seen: SeenVersions) -> None:
    seen.check("gate", 3, WHERE)
    seen.remember("gate", 3, WHERE)
    again = SeenVersions(str(seen.path))
    assert (again.highest("gate"), again.highest("other")) == (3, 0)
    for act in (again.check, again.remember):
        with pytest.raises(
            InputError, match=r"is version 2 of 'gate', but this device has seen version 3 .* version 3 or later"
        ):
            act("gate", 2, WHERE)
    again.remember("gate", 3, WHERE)
    again.remember("gate", 7, WHERE)
    again.remember("other", 1, WHERE)
    assert (seen.highest("gate"), seen.highest("other")) == (7, 1)
    assert [path.name for path in seen.path.parent.iterdir()] == ["seen.json"]


def test_a_new_device_says_so_once(seen: SeenVersions, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        seen.remember("gate", 0, WHERE)
        assert not seen.path.exists()  # there is nothing to remember
        seen.remember("gate", 1, WHERE)
        seen.remember("gate", 2, WHERE)
    assert len([text for text in caplog.messages if "is new" in text]) == 1


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5)), max_size=12))
def test_what_is_remembered_is_the_highest(tmp_path_factory: pytest.TempPathFactory, steps: Any) -> None:
    seen, highest = SeenVersions(tmp_path_factory.mktemp("seen") / "s.json"), {"a": 0, "b": 0}
    for name, version in steps:
        if version < highest[name]:
            with pytest.raises(InputError):
                seen.remember(name, version, WHERE)
        else:
            seen.remember(name, version, WHERE)
            highest[name] = version
        assert {key: seen.highest(key) for key in "ab"} == highest


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"{}", "its format is not"),
        (b'{"format": "immunecam-bundle-versions", "format_version": 2}', "format version is not 1"),
        (b'{"format": "immunecam-bundle-versions", "format_version": 1}', "not an object of versions"),
        (b'{"format": "immunecam-bundle-versions", "format_version": 1, "highest": {"a": "3"}}', "not an object"),
        (b'{"format": "immunecam-bundle-versions", "format_version": 1, "highest": {"a": -1}}', "not an object"),
        (b'{"format": "immunecam-bundle-versions", "format_version": 1, "highest": {"a": true}}', "not an object"),
    ],
)
def test_a_damaged_file_loads_nothing(seen: SeenVersions, raw: bytes, why: str) -> None:
    seen.path.write_bytes(raw)
    for act in (seen.check, seen.remember):
        with pytest.raises(InputError, match=f"{why}.*so no bundle is loaded: restore it, or remove it") as caught:
            act("a", 9, WHERE)
        assert "\n" not in str(caught.value)
    assert seen.path.read_bytes() == raw


def test_every_truncation_is_noticed(seen: SeenVersions) -> None:
    seen.remember("gate", 3, WHERE)
    raw = seen.path.read_bytes().rstrip()
    for length in range(len(raw)):
        seen.path.write_bytes(raw[:length])
        with pytest.raises(InputError, match="cannot be used"):
            seen.highest("gate")


def test_a_pipe_or_folder_in_its_place(seen: SeenVersions) -> None:
    os.mkfifo(seen.path)
    with pytest.raises(InputError, match="not a regular file"):
        seen.check("gate", 1, WHERE)
    seen.path.unlink()
    seen.path.mkdir()
    with pytest.raises(InputError, match="cannot be used"):
        seen.check("gate", 1, WHERE)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_what_cannot_be_written(seen: SeenVersions, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A read-only system goes on with what it has seen, and loads nothing newer that it could not remember."""
    seen.remember("gate", 3, WHERE)
    before = seen.path.read_bytes()

    def fails(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    seen.remember("gate", 3, WHERE)
    with pytest.raises(InputError, match=rf"version 4 of .* cannot be remembered .*{os.strerror(number)}"):
        seen.remember("gate", 4, WHERE)
    assert seen.path.read_bytes() == before
    assert [path.name for path in seen.path.parent.iterdir()] == ["seen.json"]


def test_no_folder_for_it(tmp_path: Path) -> None:
    seen = SeenVersions(tmp_path / "none" / "seen.json")
    seen.check("gate", 1, WHERE)
    with pytest.raises(InputError, match=r"cannot be remembered.*No such file or directory"):
        seen.remember("gate", 1, WHERE)


RAISE = """
import sys
from immunecam.runtime.trust import SeenVersions
seen = SeenVersions(sys.argv[1])
print("ready", flush=True)
for version in range(1, int(sys.argv[3])):
    seen.remember(sys.argv[2], version, "it")
    print(version, flush=True)
"""


def test_two_processes_forget_nothing_of_each_other(seen: SeenVersions) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", RAISE, seen.path, name, "41"], stdout=subprocess.DEVNULL)
        for name in "ab"
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert (seen.highest("a"), seen.highest("b")) == (40, 40)


def test_a_killed_process_leaves_what_it_said_it_remembered(seen: SeenVersions) -> None:
    for round_ in range(6):
        name = f"gate{round_}"
        command = [sys.executable, "-c", RAISE, seen.path, name, "1000000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert process.stdout.readline() == "1\n"
            time.sleep(0.02 + 0.013 * round_)
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read().splitlines()
        complete = [1, *(int(line) for line in said)]
        assert seen.highest(name) >= complete[-1]
        json.loads(seen.path.read_text())
