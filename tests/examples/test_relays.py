"""Relays: a real web server that obeys, refuses, is slow or is gone; and a door that is shut on every way out."""

from __future__ import annotations

import base64
import http.server
import importlib.util
import logging
import socket
import sys
import threading
import time

import pytest

from immunecam.errors import BackendMissingError, InputError, UsageError


@pytest.fixture
def relays():
    import relays

    return relays


class WebRelay(http.server.ThreadingHTTPServer):
    """Obeys while `status` is 200; takes `delay` seconds."""

    daemon_threads = True

    def __init__(self):
        relay = self
        self.told, self.authorizations, self.status, self.delay = [], [], 200, 0.0

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                relay.told.append(self.path)
                relay.authorizations.append(self.headers["Authorization"])
                time.sleep(relay.delay)
                self.send_response(relay.status)
                self.end_headers()

            def log_message(self, *arguments):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/relay/0?turn="
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture
def web():
    server = WebRelay()
    yield server
    server.shutdown()
    server.server_close()


def test_an_http_relay_is_shut_opened_for_a_while_and_shut(relays, web, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a relay next door is not reached through a proxy
    with relays.HttpRelay(f"{web.url}on&timer=1", f"{web.url}off") as relay:
        assert relay.is_shut
        began = time.monotonic()
        assert relay.hold_open(0.2)
        assert time.monotonic() - began >= 0.2
        assert relay.is_shut
    tail = "/relay/0?turn="
    assert web.told == [f"{tail}off", f"{tail}on&timer=1", f"{tail}off", f"{tail}off"]
    assert web.authorizations == [None] * 4


def test_a_password_is_sent_and_never_logged(relays, web, caplog):
    url = web.url.replace("http://", "http://door:s%20cret@")
    with caplog.at_level(logging.DEBUG), relays.HttpRelay(f"{url}on", f"{url}off") as relay:
        web.status = 403
        assert not relay.hold_open(0)
        web.status = 200
    wanted = base64.b64encode(b"door:s cret").decode()
    assert set(web.authorizations) == {f"Basic {wanted}"}
    assert "127.0.0.1" in caplog.text
    for secret in ("cret", wanted):
        assert secret not in caplog.text


@pytest.mark.parametrize("fault", ["refuses", "slow", "gone"])
def test_a_relay_that_fails_is_told_and_never_thought_shut(relays, web, caplog, fault):
    relay = relays.HttpRelay(f"{web.url}on", f"{web.url}off", timeout_s=0.2)
    assert relay.shut()
    if fault == "refuses":
        web.status = 500
    elif fault == "slow":
        web.delay = 0.5
    else:
        web.shutdown()
        web.server_close()
    assert not relay.hold_open(5)
    assert not relay.is_shut
    assert "the door stays shut" in caplog.text
    assert "the door may be open" in caplog.text
    # One that may be open is not opened again before it is shut.
    web.told.clear()
    assert not relay.hold_open(5)
    assert not any("on" in path for path in web.told)
    if fault == "refuses":
        web.status = 200
        assert relay.hold_open(0)
        assert relay.is_shut


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_it_is_shut_whatever_happens_while_it_is_open(relays, tmp_path, monkeypatch, error):
    def fails(seconds):
        raise error

    relay = relays.FakeRelay(tmp_path / "told")
    monkeypatch.setattr(relays.time, "sleep", fails)
    with pytest.raises(error), relay:
        relay.hold_open(5)
    words = [line.split()[1] for line in (tmp_path / "told").read_text().splitlines()]
    assert words == ["shut", "open", "shut", "shut"]


def test_a_gpio_relay_names_what_is_missing(relays, monkeypatch):
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(BackendMissingError, match="pip install gpiod"):
        relays.GpioRelay("/dev/gpiochip0", 17)


@pytest.mark.skipif(importlib.util.find_spec("gpiod") is None, reason="needs gpiod (pip install gpiod)")
@pytest.mark.parametrize("chip", ["/dev/no-such-chip", "/dev/null"])
def test_a_gpio_line_that_is_not_there(relays, chip):
    with pytest.raises(InputError, match="cannot be taken"):
        relays.relay_from(["gpio", chip, "17", "active-low"])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["http://relay/on"],
        ["http://relay/on", "off"],
        ["ftp://u:secret@relay/on", "ftp://relay/off"],
        ["http://u:secret@/on", "http://relay/off"],
        ["http://relay:secret/on", "http://relay/off"],
        ["http://[relay/on", "http://relay/off"],
        ["gpio", "/dev/gpiochip0", "secret"],
        ["gpio", "/dev/gpiochip0", "1", "active-secret"],
        ["fake"],
    ],
)
def test_what_names_no_relay(relays, words):
    with pytest.raises(UsageError) as caught:
        relays.relay_from(words)
    assert "secret" not in str(caught.value)


def test_an_answer_that_is_no_http(relays):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"\x00\x01 what?\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        assert not relays.HttpRelay(url, url).shut()
