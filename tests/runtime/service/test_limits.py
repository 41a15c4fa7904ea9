"""Settings, tokens, hosts and rates."""

from __future__ import annotations

import pytest

from immunecam.errors import InputError, UsageError
from immunecam.runtime.service.access import TOKEN_VARIABLE, check_access, read_token
from immunecam.runtime.service.rate import RateLimiter
from immunecam.runtime.service.refusal import Overloaded, Refusal
from immunecam.runtime.service.settings import ServiceSettings

TOKEN = "a-token-of-some-length"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "localhost"])
def test_loopback_wants_no_token(host):
    assert ServiceSettings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "fe80::1"])
def test_any_other_address_wants_one_and_says_so(host):
    with pytest.raises(UsageError, match="can be reached from other machines, which wants a token: give --token-file"):
        ServiceSettings(host=host)
    assert not ServiceSettings(host=host, token=TOKEN).is_loopback


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"host": "door.example"}, "no number of an interface"),
        ({"port": 70_000}, "the port is 70000"),
        ({"port": -1}, "port is -1, wanted 0 or more"),
        ({"token": "short"}, "the token has 5 characters, wanted 16"),
        ({"token": "sixteen letters é"}, "ASCII"),
        ({"tls_key": "key.pem"}, "both a certificate and its key"),
        ({"queue_faces": 0}, "queue_faces is 0, wanted more than 0"),
        ({"head_timeout_s": float("nan")}, "head_timeout_s is nan"),
        ({"batch_wait_ms": float("inf")}, "batch_wait_ms is inf"),
    ],
)
def test_settings_out_of_range_are_refused(given, says):
    with pytest.raises(UsageError, match=says):
        ServiceSettings(**given)


def test_the_end_waits_for_the_slowest_request_that_was_accepted():
    settings = ServiceSettings(body_timeout_s=10, request_timeout_s=100, write_timeout_s=5)
    assert settings.end_s == 115


def test_a_token_is_not_shown():
    assert TOKEN not in repr(ServiceSettings(token=TOKEN))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": "Bearer ÿ"},
    ],
)
def test_a_wrong_token_is_401(headers):
    with pytest.raises(Refusal, match="send Authorization: Bearer TOKEN") as caught:
        check_access({"host": "door", **headers}, TOKEN, loopback=False)
    assert caught.value.status == 401


def test_the_right_token_opens():
    check_access({"host": "door", "authorization": f"bearer  {TOKEN} "}, TOKEN, loopback=False)


@pytest.mark.parametrize("host", ["127.0.0.1:8600", "localhost", "[::1]:8600", "127.0.0.1"])
def test_without_a_token_the_host_is_this_machine(host):
    check_access({"host": host}, None, loopback=True)
    check_access({"host": host, "origin": f"http://{host}"}, None, loopback=True)
    with pytest.raises(Refusal, match=r"comes from a page of 'http://evil.example'"):
        check_access({"host": host, "origin": "http://evil.example"}, None, loopback=True)


def test_the_page_that_asks_for_the_token_needs_none_but_is_no_other_pages():
    check_access({"host": "door"}, TOKEN, loopback=False, anybody=True)
    with pytest.raises(Refusal, match=r"comes from a page of 'http://evil.example'"):
        check_access({"host": "door", "origin": "http://evil.example"}, TOKEN, loopback=False, anybody=True)
    with pytest.raises(Refusal, match="must be localhost"):
        check_access({"host": "evil.example"}, None, loopback=True, anybody=True)


@pytest.mark.parametrize("headers", [{}, {"host": "evil.example"}, {"host": "evil.example:8600"}])
def test_a_name_that_was_pointed_here_is_refused(headers):
    with pytest.raises(Refusal, match="must be localhost"):
        check_access(headers, None, loopback=True)


def test_tokens_come_from_files_and_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, f" {TOKEN}\n")
    assert read_token(None) == TOKEN
    monkeypatch.setenv(TOKEN_VARIABLE, " ")
    with pytest.raises(InputError, match="set, but empty"):
        read_token(None)
    file = tmp_path / "token"
    with pytest.raises(InputError, match="cannot be read"):
        read_token(file)
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    file.chmod(0o622)
    with pytest.raises(InputError, match="may be written by others"):
        read_token(file)
    file.write_text("\n")
    file.chmod(0o600)
    with pytest.raises(InputError, match="holds no token"):
        read_token(file)


def test_a_client_has_its_rate_and_others_have_theirs():
    limiter = RateLimiter(10, burst=3)
    for _ in range(3):
        limiter.check("a", 0.0)
    with pytest.raises(Overloaded, match="more than 10 times a second") as caught:
        limiter.check("a", 0.0)
    assert caught.value.retry_after_s == 1
    limiter.check("b", 0.0)
    limiter.check("a", 0.11)
    with pytest.raises(Overloaded):
        limiter.check("a", 0.12)
    for _ in range(3):
        limiter.check("a", 100.0)
    with pytest.raises(Overloaded):
        limiter.check("a", 100.0)


def test_no_rate_is_no_limit_and_clients_are_forgotten():
    free, bound = RateLimiter(0), RateLimiter(1)
    for number in range(20_000):
        free.check("a", 0.0)
        bound.check(str(number), 0.0)
    assert len(bound._clients) == 10_000
