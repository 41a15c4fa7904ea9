"""Relays that hold a door shut: over HTTP, by a GPIO line, and one that only writes down what it was told."""

from __future__ import annotations

import base64
import http.client
import logging
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from immunecam.errors import BackendMissingError, InputError, UsageError

__all__ = ["FakeRelay", "GpioRelay", "HttpRelay", "Relay", "RelayError", "relay_from"]

_ATTEMPTS = 3
_log = logging.getLogger("door.relay")


class RelayError(Exception):
    """The relay did not do what it was told, or did not say that it has."""


class Relay(ABC):
    """Keeps a door shut, but for the seconds that it is held open. As a context manager it is shut on every way out.

    What the relay refuses is told in the log and stops nobody. One that may be open is not opened again before it was
    seen to be shut; :meth:`shut` may be called as often as one likes.

    Attributes
    ----------
    is_shut : bool
        Whether it has said so since it was last told anything else.
    """

    is_shut = False

    @abstractmethod
    def drive(self, open_: bool) -> None:
        """Switch it, or raise RelayError."""

    def release(self) -> None:  # noqa: B027 (most hold nothing)
        """Give back what is held, when the door is shut for the last time."""

    def shut(self) -> bool:
        """Shut the door; returns whether that is certain."""
        for attempt in range(_ATTEMPTS):
            try:
                self.drive(False)
            except RelayError as error:
                _log.error("the door may be open: %s (attempt %d of %d)", error, attempt + 1, _ATTEMPTS)
            else:
                self.is_shut = True
                return True
        return False

    def hold_open(self, seconds: float) -> bool:
        """Open, wait, shut; returns whether it was opened. Nothing that happens meanwhile leaves it open."""
        if not self.is_shut and not self.shut():
            return False
        try:
            self.is_shut = False  # one that refuses may have opened nevertheless
            self.drive(True)
            time.sleep(seconds)
        except RelayError as error:
            _log.error("the door stays shut: %s", error)
            return False
        finally:
            self.shut()
        return True

    def __enter__(self) -> Relay:
        self.shut()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.shut()
        finally:
            if not self.is_shut:  # an impatient second Ctrl-C
                self.shut()
            self.release()


class HttpRelay(Relay):
    """A relay with a web interface: one address opens, another one shuts.

    Where the relay has a timer of its own, put it into the address that opens: it shuts the door even if this machine
    loses its power meanwhile.

    Parameters
    ----------
    open_url, shut_url : str
        http:// or https://; user and password before the host are sent as basic authentication, and never logged.
    timeout_s : float
        Longest wait for an answer.
    """

    def __init__(self, open_url: str, shut_url: str, *, timeout_s: float = 2.0) -> None:
        self._requests = {True: _request(open_url), False: _request(shut_url)}
        self._timeout_s = timeout_s
        # A relay stands in the same network: a proxy of the environment is none of its business.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def drive(self, open_: bool) -> None:
        request = self._requests[open_]
        try:
            self._opener.open(request, timeout=self._timeout_s).close()  # a status of 400 and above raises
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise RelayError(f"the relay at {request.host} does not answer as it should ({reason})") from None


class GpioRelay(Relay):
    """A relay on a GPIO line, by the kernel's character device; the line is shut from the moment it is taken.

    Parameters
    ----------
    chip : str
        Such as /dev/gpiochip0.
    line : int
        Offset of the line on the chip, as `gpioinfo` shows it.
    active_low : bool
        Whether a low level closes the relay.
    """

    def __init__(self, chip: str, line: int, *, active_low: bool = False) -> None:
        try:
            import gpiod
            from gpiod.line import Direction, Value

            self._values: dict[bool, Any] = {True: Value.ACTIVE, False: Value.INACTIVE}
            settings = gpiod.LineSettings(
                direction=Direction.OUTPUT, active_low=active_low, output_value=Value.INACTIVE
            )
        except (ImportError, AttributeError):
            raise BackendMissingError(
                "a GPIO relay needs the package gpiod, version 2 or later, which is not installed: pip install gpiod"
            ) from None
        self._line = line
        try:
            self._request = gpiod.request_lines(chip, config={line: settings}, consumer="immunecam-door")
        except (OSError, ValueError) as error:
            raise InputError(
                f"the GPIO line {line} of {chip} cannot be taken ({error}): look for it with gpioinfo, and give the "
                "service the group of the device"
            ) from None

    def drive(self, open_: bool) -> None:
        try:
            self._request.set_value(self._line, self._values[open_])
        except OSError as error:
            raise RelayError(f"the GPIO line {self._line} cannot be set ({error})") from None

    def release(self) -> None:
        """Give the line back; what level it then has is the driver's decision, so give it a pull to the shut side."""
        self._request.release()


class FakeRelay(Relay):
    """No relay: adds a line to a file for everything it is told, with the seconds of the monotonic clock."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def drive(self, open_: bool) -> None:
        try:
            with self._file.open("a") as opened:
                opened.write(f"{time.monotonic():.3f} {'open' if open_ else 'shut'}\n")
        except OSError as error:
            raise RelayError(f"{self._file} cannot be written ({error.strerror})") from None


def relay_from(words: Sequence[str]) -> Relay:
    """The relay that a command line names.

    Parameters
    ----------
    words : sequence of str
        OPEN_URL SHUT_URL, or gpio CHIP LINE [active-low], or fake FILE.

    Raises
    ------
    UsageError
        If they name none.
    InputError, BackendMissingError
        If the relay cannot be used.
    """
    match list(words):
        case [open_url, shut_url] if "://" in open_url and "://" in shut_url:
            return HttpRelay(open_url, shut_url)
        case ["gpio", chip, line, *more] if line.isdecimal() and more in ([], ["active-low"]):
            return GpioRelay(chip, int(line), active_low=bool(more))
        case ["fake", file]:
            return FakeRelay(Path(file))
    # The words are not repeated: they may hold a password.
    raise UsageError("the relay must be OPEN_URL SHUT_URL, or gpio CHIP LINE [active-low], or fake FILE")


def _request(url: str) -> urllib.request.Request:
    try:
        parts = urlsplit(url)
        user, password, host = parts.username, parts.password, parts.netloc.rpartition("@")[2]
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise UsageError("an address of the relay is none: give http://HOST/PATH, with user:password@ if it has one")
    request = urllib.request.Request(urlunsplit((parts.scheme, host, parts.path or "/", parts.query, "")))
    if user is not None:
        both = f"{unquote(user)}:{unquote(password or '')}".encode()
        request.add_unredirected_header("Authorization", f"Basic {base64.b64encode(both).decode()}")
    return request
