"""What a service tells systemd: that it has started, what it does, that it is alive, that it ends (sd_notify(3))."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

__all__ = ["ServiceManager"]

_SEND_S = 1.0
_log = logging.getLogger(__name__)


class ServiceManager:
    """Speaks to the service manager that started this process; without one it says nothing.

    A service manager that cannot be reached is told in the log, once, and never stops the service: what it does then
    is its own affair.

    Parameters
    ----------
    environment : mapping, optional
        Where ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID`` are looked up; None takes the process's own.

    Attributes
    ----------
    watchdog_s : float or None
        Seconds without :meth:`alive` after which the service is killed; None where nobody watches.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get("NOTIFY_SOCKET", "")
        self.watchdog_s = _watchdog(given)
        self._last_alive = -float("inf")
        self._told = False

    def ready(self, status: str = "") -> None:
        """Start-up is over; units that wait for this one go on."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """What ``systemctl status`` shows, one line."""
        self._send(*_status(text))

    def stopping(self) -> None:
        """Shutting down has begun."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The watched work has gone on; to be called after each piece of it, sent twice in the watchdog's time.

        Call it where work was done, never from a timer or a thread of its own, which would live on while the work
        hangs.
        """
        now = time.monotonic()
        if self.watchdog_s is not None and now - self._last_alive >= self.watchdog_s / 2:
            self._last_alive = now
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # systemd gives a path, or, with '@' in place of its zero byte, a name in Linux's abstract space.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_S)
                sender.sendto("\n".join(lines).encode(), address)
        except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
            if not self._told:
                self._told = True
                _log.warning("the service manager at NOTIFY_SOCKET=%r cannot be reached (%s)", self._address, error)


def _status(text: str) -> list[str]:
    # One line: what comes after a line break would be a message of its own.
    return [f"STATUS={' '.join(text.split())}"] if text else []


def _watchdog(given: Mapping[str, str]) -> float | None:
    """Seconds of the watchdog, if it watches this very process and not a parent whose environment it inherited."""
    text, process = given.get("WATCHDOG_USEC", ""), given.get("WATCHDOG_PID", "")
    if not text or (process and process != str(os.getpid())):
        return None
    if not text.isdecimal() or int(text) == 0:
        _log.warning("WATCHDOG_USEC is %r, but it must be microseconds above 0: no watchdog is served", text)
        return None
    return int(text) / 1e6
