"""``immunecam serve`` as a real process: what it refuses to start with, TLS, the gate behind it, and its end."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import cv2
import pytest
from service_process import Server

from immunecam.cli import main
from immunecam.commands.serve import serve

httpx = pytest.importorskip("httpx", reason="needs a client (pip install 'immunecam[dev]')")
pytest.importorskip("fastapi", reason="needs the service's packages (pip install 'immunecam[serve]')")

TOKEN = "the-token-of-these-tests"


@pytest.fixture
def start(tmp_path):
    servers = []

    def make(*arguments, **options):
        servers.append(Server(*arguments, folder=tmp_path, **options))
        return servers[-1]

    yield make
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def photo(sample_frame):
    return cv2.imencode(".png", sample_frame)[1].tobytes()


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 that signs itself."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=127.0.0.1"
    command += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def test_what_cannot_be_started_is_told_in_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short").write_text("short")
    (tmp_path / "short").chmod(0o600)
    (tmp_path / "none.pem").write_text("nothing")
    (tmp_path / "folder").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, code, says in (
            (("--host", "0.0.0.0"), 2, "can be reached from other machines, which wants a token: give --token-file"),
            (("--host", "door.example"), 2, "is no number of an interface"),
            (("--token-file", "short"), 2, "the token has 5 characters"),
            (("--token-file", "gone"), 3, "cannot be read"),
            (("--token-file", "folder"), 3, "'folder' is no file: give one that holds the token"),
            (("--tls-key", "none.pem"), 2, "both a certificate and its key"),
            (("--tls-certificate", "none.pem", "--tls-key", "none.pem"), 3, "cannot be used"),
            (("--port", str(port)), 3, f"cannot listen at 127.0.0.1 port {port} (Address already in use)"),
            (("--camera", "door"), 2, "not of the form NAME=SOURCE"),
            (("--camera", "a/b=0"), 2, "the camera's name 'a/b'"),
            (("--camera", "door=gone.mp4"), 2, "is 'gone.mp4', which is no number, URL or file"),
            (("--store", "door.gate"), 2, "no recogniser to compare with"),
            (("--bundle", "gone.immune"), 3, "gone.immune"),
        ):
            with pytest.raises(SystemExit) as ended:
                main(["serve", "--threads", "1", *arguments])
            said = capsys.readouterr().err
            assert (ended.value.code, says in said) == (code, True), (arguments, said)
            assert len(said.strip().splitlines()) == 1, said


def test_defaults_are_those_of_the_settings():
    """They stand twice, for the command line must not import the runtime to tell them."""
    from immunecam.runtime.service.settings import ServiceSettings

    told = {name: parameter.default for name, parameter in inspect.signature(serve).parameters.items()}
    same = ("host", "port", "batch_wait_ms", "queue_faces", "queue_requests", "max_pictures")
    named = {
        **dict(zip(same, same, strict=True)),
        **{f"{name}_timeout_s": f"{name}_timeout" for name in ("head", "body", "write")},
        "request_timeout_s": "timeout",
        "rate_per_s": "rate",
    }
    settings = ServiceSettings()
    assert {name: getattr(settings, name) for name in named} == {name: told[option] for name, option in named.items()}
    assert settings.max_body_bytes == told["max_body_mib"] * 2**20
    assert settings.max_pixels == told["max_megapixels"] * 1e6


def test_without_its_packages_the_extra_is_named(run, tmp_path):
    for name in ("fastapi", "starlette", "uvicorn", "prometheus_client"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('hidden by the test')")
    hidden = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = run("serve", env=hidden)
    assert done.returncode == 4
    assert "the service needs fastapi, which cannot be imported (hidden by the test): pip install" in done.stderr
    free = ("access", "batcher", "cameras", "inference", "purification", "rate", "refusal", "settings")
    code = "import immunecam.cli, immunecam.runtime; " + "; ".join(
        f"import immunecam.runtime.service.{n}" for n in free
    )
    subprocess.run([sys.executable, "-c", code], env=hidden, check=True)


def test_other_addresses_with_a_token_over_tls(start, certificate):
    token = certificate / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    server = start("--host", "0.0.0.0", "--token-file", token, "--tls-certificate", "cert.pem", "--tls-key", "key.pem")
    assert "a token is wanted" in server.said[0]
    assert "as it is" not in server.said[0]
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    assert url.startswith("https://")
    with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=str(certificate / "cert.pem"))) as client:
        assert client.get("/v1/bundle").status_code == 401
        assert client.get("/v1/bundle", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get("/healthz").status_code == 200
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"{url.replace('https', 'http')}/healthz")


def test_tls_keeps_nobody_waiting(start, certificate):
    """Half a handshake, a body that is refused unread, and a client that does not answer when the service ends."""
    files = ("--tls-certificate", "cert.pem", "--tls-key", "key.pem")
    server = start("--head-timeout", "1", *files)
    context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

    def connected():
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as half:
        half.sendall(b"\x16\x03\x01")
        began = time.monotonic()
        assert half.recv(10) == b""
        assert time.monotonic() - began < 5
    with connected() as large:
        large.sendall(b"POST /v1/purify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n")
        large.sendall(bytes(300_000))
        answer = b""
        while part := large.recv(65536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b'send less"}')
    with connected() as idle:
        idle.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15  # and not all of the time that a slow client would have


def test_a_key_of_another_certificate_is_told(run, certificate):
    subprocess.run(["openssl", "genrsa", "-out", "other.pem", "2048"], cwd=certificate, check=True, capture_output=True)
    done = run("serve", "--tls-certificate", "cert.pem", "--tls-key", "other.pem")
    assert done.returncode == 3
    assert "cannot be used (the key is not the certificate's): give a PEM certificate and its key" in done.stderr


def test_a_token_over_plain_http_is_warned_of(start):
    server = start("--host", "0.0.0.0", environment={"IMMUNECAM_SERVICE_TOKEN": TOKEN})
    assert "goes over the network as it is: give --tls-certificate and --tls-key" in server.said[0]


def test_the_gate_behind_it(run, start, tmp_path, people, recognizer):
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")
    gate = ["--store", "door.gate", "--recognizer", "r.toml", "--threads", "1", "--key-file", "door.key"]
    assert run("gate", "keygen", "door.key").returncode == 0
    enrolled = run("gate", "enrol-all", people, *gate)
    assert enrolled.returncode == 0, enrolled.stderr
    server = start(*gate, "--threshold", "0.9")
    ann = [("image", (f"{n}.png", (people / "ann" / f"{n}.png").read_bytes())) for n in range(4)]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        event = client.post("/v1/verify", params={"person": "ann"}, files=ann).json()
        assert (event["event"], event["person"], event["mode"], event["used"]) == ("granted", "ann", "verify", 4)
        assert client.post("/v1/verify", params={"person": "bob"}, files=ann).json()["event"] == "denied"
        assert client.post("/v1/identify", files=ann[:1]).json()["person"] == "ann"
        nobody = client.post("/v1/verify", params={"person": "eve"}, files=ann)
        assert nobody.status_code == 404
        assert "nobody is enrolled as 'eve'" in nobody.json()["error"]
        empty = cv2.imencode(".png", cv2.imread(str(people / "ann" / "0.png")) * 0 + 90)[1].tobytes()
        assert client.post("/v1/identify", content=empty).json()["event"] == "no-face"
        assert client.post("/v1/identify", content=b"no picture").status_code == 400
        (face,) = client.post("/v1/purify?embedding=true", content=ann[0][1][1]).json()["pictures"][0]["faces"]
        assert sum(value**2 for value in face["embedding"]) == pytest.approx(1, abs=1e-3)
        assert 0 < face["cosine"] <= 1
        text = client.get("/metrics").text
    assert 'immunecam_decisions_total{event="granted",mode="verify"} 1.0' in text
    assert 'immunecam_decisions_total{event="no-face",mode="identify"} 1.0' in text
    assert server.stop() == 0
    trail = run("gate", "audit", "verify", "door.gate.audit", "--store", "door.gate", "--key-file", "door.key")
    assert trail.returncode == 0, trail.stderr


def test_the_gate_recognises_masked_faces(run, start, tmp_path, people):
    pytest.importorskip("torch")
    pytest.importorskip("onnx", reason="needs onnx (pip install 'immunecam[train]')")
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")
    from small_masking import GATE_KEY, bundle_with_masking

    bundle_with_masking(tmp_path)
    GATE_KEY.write(tmp_path / "door.key")
    masked = ["--bundle", "door.immune", "--masked", "--threads", "1", "--key-file", "door.key"]
    enrolled = run("gate", "enrol-all", people, "--store", "door.gate", *masked)
    assert enrolled.returncode == 0, enrolled.stderr
    server = start("--store", "door.gate", *masked, "--threshold", "0.2")
    assert "purifier and gate, faces recognised masked" in server.said[0]
    ann = [("image", (f"{n}.png", (people / "ann" / f"{n}.png").read_bytes())) for n in range(3)]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        event = client.post("/v1/verify", params={"person": "ann"}, files=ann).json()
        assert (event["event"], event["person"], event["mode"], event["used"]) == ("granted", "ann", "verify", 3)
        assert client.post("/v1/identify", files=ann).json()["mode"] == "identify"
        (face,) = client.post("/v1/purify?embedding=true", content=ann[0][1][1]).json()["pictures"][0]["faces"]
        assert len(face["embedding"]) == 16  # the masked recogniser's, not another one's
    assert server.stop() == 0
    trail = run("gate", "audit", "verify", "door.gate.audit", "--store", "door.gate", "--key-file", "door.key")
    assert trail.returncode == 0, trail.stderr
    kept = "".join(file.read_text() for file in (tmp_path / "door.gate.audit").glob("*.jsonl"))
    assert "masked faces, 6 frequencies at 14 positions" in kept
    undecided = start("--store", "door.gate", *masked)
    with httpx.Client(base_url=undecided.url, timeout=60) as client:
        assert client.post("/v1/identify", files=ann).status_code == 409
    assert "the gate has no threshold: find one by `immunecam gate calibrate`" in undecided.said[1]
    assert undecided.stop() == 0
    alone = start(*masked)
    assert "serving purifier, faces recognised masked" in alone.said[0]
    with httpx.Client(base_url=alone.url, timeout=60) as client:
        (face,) = client.post("/v1/purify?embedding=true", content=ann[0][1][1]).json()["pictures"][0]["faces"]
        assert 0 < face["cosine"] <= 1
    assert run("gate", "keygen", "other.key").returncode == 0
    for arguments, code, says in (
        (("--bundle", "door.immune", "--masked", "--key-file", "other.key"), 3, "was made with another masking key"),
        (("--masked", "--key-file", "door.key"), 3, "has no mask: put one in by"),
        (("--bundle", "door.immune", "--masked"), 3, "the gate needs its key"),
    ):
        done = run("serve", "--store", "door.gate", *arguments)
        assert (done.returncode, says in done.stderr) == (code, True), done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_gate_without_a_threshold_is_409(run, start, tmp_path, people, recognizer):
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")
    gate = ["--store", "door.gate", "--recognizer", "r.toml", "--threads", "1", "--key-file", "door.key"]
    assert run("gate", "keygen", "door.key").returncode == 0
    assert run("gate", "enrol", "ann", people / "ann" / "0.png", *gate).returncode == 0
    answer = httpx.post(f"{start(*gate).url}/v1/identify", content=(people / "ann" / "1.png").read_bytes(), timeout=60)
    assert answer.status_code == 409
    assert "the gate has no threshold" in answer.json()["error"]


def test_a_trail_that_cannot_be_written_is_no_fault_of_the_client(run, start, tmp_path, people, recognizer):
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")
    gate = ["--store", "door.gate", "--recognizer", "r.toml", "--threads", "1", "--key-file", "door.key"]
    assert run("gate", "keygen", "door.key").returncode == 0
    assert run("gate", "enrol", "ann", people / "ann" / "0.png", *gate).returncode == 0
    server = start(*gate, "--threshold", "0.9")
    shutil.rmtree(tmp_path / "door.gate.audit")
    answer = httpx.post(f"{server.url}/v1/identify", content=(people / "ann" / "1.png").read_bytes(), timeout=60)
    assert answer.status_code == 500
    assert "no decision is given without its record" in answer.json()["error"]
    assert httpx.post(f"{server.url}/v1/identify", content=b"no picture", timeout=60).status_code == 400
    assert "immunecam_decisions_total{" not in httpx.get(f"{server.url}/metrics").text


def test_the_end_under_load_loses_no_accepted_request(start, photo):
    """Every request that a client got off before the server stopped listening has its whole answer."""
    server = start("--rate", "0")
    stop, answered, refused, lost = threading.Event(), [], [], []

    def ask():
        with httpx.Client(base_url=server.url, timeout=60) as client:
            while not stop.is_set():
                try:
                    answer = client.post("/v1/purify?output=image", content=photo)
                except httpx.ConnectError as error:  # it listens no more
                    refused.append(error)
                    return
                except httpx.HTTPError as error:
                    lost.append(error)
                    return
                answered.append((answer.status_code, len(answer.content) == int(answer.headers["content-length"])))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 30
    while len(answered) < 8 and time.monotonic() < until:
        time.sleep(0.05)
    server.process.send_signal(signal.SIGTERM)
    code = server.process.wait(40)
    stop.set()
    for thread in threads:
        thread.join()
    assert code == 0
    assert not lost
    assert refused
    assert set(answered) == {(200, True)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_the_end_it_says_that_it_is_not_ready(start, number):
    server = start()
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/readyz").status_code == 200
        server.process.send_signal(number)
        seen = []
        while True:
            try:
                answer = client.get("/readyz")
            except httpx.HTTPError:
                break
            seen.append(answer.status_code)
            if answer.status_code == 503:
                assert answer.headers["connection"] == "close"
                assert "shutting down" in answer.json()["error"]
    assert 503 in seen
    assert server.process.wait(20) == 0
