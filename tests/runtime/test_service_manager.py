"""Messages to a service manager, received by a real datagram socket."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from immunecam.runtime.service_manager import ServiceManager


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """A service manager's end: the value of NOTIFY_SOCKET and the socket behind it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@immunecam-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(name if request.param == "path" else f"\0{name[1:]}")
        receiver.setblocking(False)
        yield name, receiver


def received(receiver: socket.socket) -> list[str]:
    found = []
    while True:
        try:
            found.append(receiver.recv(4096).decode())
        except BlockingIOError:
            return found


def test_what_a_service_says_from_start_to_end(systemd: tuple[str, socket.socket]) -> None:
    name, receiver = systemd
    manager = ServiceManager({"NOTIFY_SOCKET": name})
    manager.ready("watching camera 0")
    manager.status("door open")
    manager.alive()  # nobody watches
    manager.stopping()
    assert received(receiver) == ["READY=1\nSTATUS=watching camera 0", "STATUS=door open", "STOPPING=1"]


def test_a_status_is_one_line_and_no_message_of_its_own(systemd: tuple[str, socket.socket]) -> None:
    name, receiver = systemd
    ServiceManager({"NOTIFY_SOCKET": name}).status("waiting\nWATCHDOG=1\r\n  for é")
    assert received(receiver) == ["STATUS=waiting WATCHDOG=1 for é"]


def test_it_is_alive_twice_in_the_watchdogs_time_and_only_when_told(systemd: tuple[str, socket.socket]) -> None:
    name, receiver = systemd
    manager = ServiceManager({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "400000", "WATCHDOG_PID": str(os.getpid())})
    assert manager.watchdog_s == 0.4
    for _ in range(100):
        manager.alive()
    assert received(receiver) == ["WATCHDOG=1"]
    time.sleep(0.21)
    assert received(receiver) == []
    manager.alive()
    assert received(receiver) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    ("usec", "pid", "told"),
    [("1000000", "1", False), ("", "", False), ("0", "", True), ("-5", "", True), ("soon", "", True)],
)
def test_a_watchdog_of_another_process_or_of_no_time_is_none(
    usec: str, pid: str, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    manager = ServiceManager({"WATCHDOG_USEC": usec, "WATCHDOG_PID": pid})
    assert manager.watchdog_s is None
    assert bool(caplog.messages) is told


def test_without_a_service_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    manager = ServiceManager()
    manager.ready()
    manager.alive()
    manager.stopping()


@pytest.mark.parametrize("name", ["/nobody/listens/here", "vsock:2:1234", "x" * 300, "a\0b"])
def test_one_that_cannot_be_reached_is_told_once_and_stops_nothing(name: str, caplog: pytest.LogCaptureFixture) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": name})
    with caplog.at_level(logging.WARNING):
        manager.ready("x")
        manager.stopping()
    assert len(caplog.messages) == 1
    assert "cannot be reached" in caplog.text


def test_one_that_reads_nothing_does_not_hang_the_service(systemd: tuple[str, socket.socket]) -> None:
    name, _ = systemd
    manager, began = ServiceManager({"NOTIFY_SOCKET": name}), time.monotonic()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                filler.sendto(b"x", name if not name.startswith("@") else f"\0{name[1:]}")
    manager.status("still here")
    assert time.monotonic() - began < 5
