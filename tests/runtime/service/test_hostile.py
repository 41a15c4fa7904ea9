"""Clients that mean harm, or are broken: each is refused in one sentence, and the server goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import time
import zlib
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

TOKEN = "the-token-of-these-tests"
PART = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n'
RIGHT = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def server(start):
    limits = ("--head-timeout", "1", "--body-timeout", "1.5", "--max-body-mib", "2", "--max-megapixels", "1")
    limits += ("--write-timeout", "1")
    return start(*limits, "--max-pictures", "3", "--rate", "1000", environment={"IMMUNECAM_SERVICE_TOKEN": TOKEN})


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, timeout=60, headers=RIGHT) as made:
        yield made
    assert server.alive()


def sentence(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert "\n" not in error
    assert len(error) < 400
    return error


def parts(raw: bytes) -> tuple[int, str]:
    """Status and sentence of an answer as it came over the wire."""
    head, _, body = raw.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)["error"]


def head(*lines: str, path: str = "/v1/purify") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {TOKEN}", *lines, "", ""]).encode()


def png_head(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    about = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", about) + body + chunk(b"IEND", b"")


@pytest.mark.parametrize("token", [None, "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer"])
def test_a_wrong_token_is_401_everywhere(server, token, photo):
    headers = {} if token is None else {"authorization": token}
    for method, path in (("POST", "/v1/purify"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nowhere")):
        answer = httpx.request(method, server.url + path, headers=headers, content=photo if method == "POST" else None)
        assert sentence(answer, 401).endswith("send Authorization: Bearer TOKEN")
        assert answer.headers["www-authenticate"] == "Bearer"
    for probe in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"):
        assert httpx.get(server.url + probe).status_code == 200
    assert server.alive()


def test_a_page_in_a_browser_may_not_ask(client, photo):
    answer = client.post("/v1/purify", content=photo, headers={"origin": "http://evil.example"})
    assert "comes from a page of 'http://evil.example'" in sentence(answer, 403)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (png_head(0, 0), "is 0x0, which has no pixels"),
        (png_head(100_000, 100_000), "is 100000x100000, but it may have 1000000 pixels"),
        (cv2.imencode(".jpg", np.zeros((500, 500, 3), np.uint8))[1].tobytes()[:-200], "is cut short or damaged"),
        (cv2.imencode(".png", np.zeros((50, 50, 3), np.uint8))[1].tobytes() + b"PK\x03\x04", "bytes follow it"),
        (png_head(60, 60), "cannot be decoded"),
        (b"GIF89a;<script>", "which is no picture"),
        (b"", "has no body"),
    ],
)
def test_hostile_pictures_are_refused(client, data, says):
    for path in ("/v1/purify", "/v1/purify?output=image"):
        assert says in sentence(client.post(path, content=data), 400)


@pytest.mark.parametrize(
    ("kind", "body", "status", "says"),
    [
        ("multipart/form-data", b"--x--", 400, "malformed"),
        ("multipart/form-data; boundary=x", b"rubbish", 400, "cut short"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disp--x--", 400, "malformed|no picture"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--", 400, "malformed"),
        ("multipart/form-data; boundary=x", PART + b"hi\r\n--x--", 400, "is no file"),
        ("multipart/form-data; boundary=x; charset=9", PART + b"\xff\r\n--x--", 400, "malformed|no file"),
        ("multipart/form-data; boundary=x", PART + b"hi\r\n--", 400, "cut short"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 400, "no picture|malformed"),
        ("multipart/form-data; boundary=" + 5000 * "x", b"--x--", 400, "cut short|malformed"),
        ("text/html", b"<p>", 415, "the content-type is 'text/html'"),
        ("application/x-www-form-urlencoded", b"image=1", 400, "begins with 69 6d 61 67 65 3d 31, which is no picture"),
    ],
)  # fmt: skip
def test_malformed_forms_are_refused(client, kind, body, status, says):
    answer = client.post("/v1/purify", content=body, headers={"content-type": kind})
    error = sentence(answer, status)
    assert any(one in error for one in says.split("|")), error


def test_too_many_pictures_are_refused(client, photo):
    files = [("image", (f"{number}.png", photo[:100])) for number in range(5)]
    assert "more than 3 pictures" in sentence(client.post("/v1/purify", files=files), 413)


def test_a_body_of_a_gigabyte_is_refused_unread(server):
    began = time.monotonic()
    answer = server.raw(head(f"Content-Length: {2**30}") + b"x" * 300_000)
    assert parts(answer) == (413, f"the body has {2**30} bytes, but it may have {2 * 2**20}: send less")
    assert b"connection: close" in answer.lower()
    assert time.monotonic() - began < 5
    assert server.alive()


def test_a_body_without_a_length_is_refused_when_it_is_too_large(server):
    def chunks():
        for _ in range(64):
            yield b"x" * 65536

    with contextlib.suppress(httpx.WriteError, httpx.ReadError):  # it may be closed while it is sent
        answer = httpx.post(f"{server.url}/v1/purify", content=chunks(), headers=RIGHT, timeout=20)
        assert "has more than the 2097152 bytes that it may" in sentence(answer, 413)
    assert server.alive()


def test_compressed_bodies_are_refused(client):
    answer = client.post("/v1/purify", content=zlib.compress(b"0" * 1000), headers={"content-encoding": "deflate"})
    assert "content-encoding is 'deflate': do not compress it" in sentence(answer, 415)


def trickled(server, data: bytes, every_s: float, most_s: float) -> tuple[bytes, float]:
    """Sends byte by byte; what came back, and how long it was let do so."""
    began = time.monotonic()
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=every_s) as client:
        position = 0
        while time.monotonic() - began < most_s:
            try:
                client.sendall(data[position : position + 1])
                position = min(position + 1, len(data) - 1)
                part = client.recv(65536)
                received += part
                if not part:
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    return received, time.monotonic() - began


def test_slow_heads_are_cut(server):
    _, took = trickled(server, b"POST /v1/purify HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1000, 0.05, 8)
    assert 0.7 < took < 4
    assert server.alive()


def test_slow_bodies_are_cut_with_a_word(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=8) as client:
        client.sendall(head("Content-Length: 1000") + b"x")
        began = time.monotonic()
        received = b""
        while part := client.recv(65536):
            received += part
    assert parts(received) == (408, "the body was not whole after 1.5 s (1 bytes): send it faster")
    assert 1 < time.monotonic() - began < 6
    assert server.alive()


def test_many_slow_clients_keep_nobody_out(server, photo):
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
    for one in slow:
        one.sendall(b"GET /readyz HTTP/1.1\r\nHos")
    assert httpx.post(f"{server.url}/v1/purify", content=photo, headers=RIGHT, timeout=30).status_code == 200
    time.sleep(1.5)
    for one in slow:
        one.settimeout(5)
        with contextlib.suppress(ConnectionError):
            assert one.recv(10) == b""
        one.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: " + b"b" * 100_000 + b"\r\n\r\n",
        b"POST /v1/purify HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"POST /v1/purify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\0" * 200,
    ],
)
def test_what_is_no_http_is_closed(server, raw):
    status, error = parts(server.raw(raw))
    assert (status, error) == (400, "the request is no HTTP/1.1: send one that is")
    assert server.alive()


def test_a_body_whose_end_is_told_twice_is_refused(server):
    answer = server.raw(
        head("Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\nGET /metrics HTTP/1.1\r\n\r\n"
    )
    assert parts(answer) == (400, "the request has both a content-length and a transfer-encoding: send one of them")
    assert b"connection: close" in answer.lower()


def test_parameters_out_of_range_are_422_in_one_sentence(client, photo):
    answer = client.post("/v1/purify?colour=green", content=photo)
    assert "query colour" in sentence(answer, 422)
    assert sentence(client.post("/v1/verify", content=photo), 422) == "query person: Field required"
    answer = client.put("/v1/cameras/active", content=b"{", headers={"content-type": "application/json"})
    assert "body" in sentence(answer, 422)


def test_a_client_that_does_not_read_is_let_go(server):
    def connections():
        return sum(os.readlink(one).startswith("socket:") for one in descriptors.iterdir())

    descriptors = Path(f"/proc/{server.process.pid}/fd")
    assert server.alive()
    time.sleep(0.2)  # until that connection is closed
    before = connections()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(b"GET /page/page.css HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(100)
        assert connections() > before
        began = time.monotonic()
        with contextlib.suppress(OSError):  # once the answers fill all buffers, no more is read
            while time.monotonic() - began < 10:
                client.sendall(1000 * b"GET /page/page.css HTTP/1.1\r\nHost: x\r\n\r\n")
        while connections() > before:
            assert time.monotonic() - began < 20
            assert server.alive()
            time.sleep(0.1)
        assert time.monotonic() - began > 1


def test_a_client_that_left_is_not_computed_for(start, photo):
    alone = start("--rate", "1000")
    for _ in range(12):
        with socket.create_connection(("127.0.0.1", alone.port)) as client:
            request = f"POST /v1/purify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(photo)}\r\n\r\n".encode()
            client.sendall(request + photo)
    until = time.monotonic() + 30
    while "immunecam_requests_in_work 1.0" not in (text := httpx.get(f"{alone.url}/metrics").text):
        assert time.monotonic() < until, text
        time.sleep(0.1)
    left, faces = (
        float(re.search(rf"^immunecam_{name}_total ([\d.]+)$", text, re.MULTILINE).group(1))
        for name in ("abandoned", "faces")
    )
    assert left >= 6
    assert faces <= 3 * (12 - left) + 1  # the one of the warm-up
    assert httpx.post(f"{alone.url}/v1/purify", content=photo, timeout=30).status_code == 200


def test_this_machine_only_so_often_and_so_long(start, photo):
    alone = start("--rate", "5", "--timeout", "0.1")
    with httpx.Client(base_url=alone.url, timeout=60) as client:
        assert client.get("/v1/bundle").status_code == 200
        answer = client.get("/v1/bundle", headers={"host": "evil.example"})
        assert "without a token it must be localhost" in sentence(answer, 403)
        late = client.post("/v1/purify", files=[("image", (f"{number}.png", photo)) for number in range(12)])
        if late.status_code == 429:  # a busy machine is still at the first pictures when the others' time is over
            assert "other pictures were in work for 0.05 s: try again" in sentence(late, 429)
        else:
            assert sentence(late, 503) == "the answer took longer than 0.1 s: try again"
        assert (late.headers["retry-after"], late.headers["connection"]) == ("1", "close")
        answers = [client.get("/v1/bundle") for _ in range(60)]
        refused = [one for one in answers if one.status_code != 200]
        assert refused
        assert "asks more than 5 times a second" in sentence(refused[-1], 429)
        assert (refused[-1].headers["retry-after"], refused[-1].headers["connection"]) == ("1", "close")
        assert client.get("/healthz").status_code == 200
        time.sleep(1)
        assert client.get("/v1/bundle").status_code == 200
