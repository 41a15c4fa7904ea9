"""Real servers on loopback, each in a process of its own, and pictures to send to them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from immunecam.runtime.bundle import default_bundle

httpx = pytest.importorskip("httpx", reason="needs a client (pip install 'immunecam[dev]')")
pytest.importorskip("fastapi", reason="needs the service's packages (pip install 'immunecam[serve]')")


class Server:
    """``immunecam serve`` as a user starts it; `url` is where it answers."""

    def __init__(self, *arguments: str | Path, folder: Path, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "immunecam", "serve", "--port", "0", "--threads", "1", *map(str, arguments)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("IMMUNECAM_")}
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, "OMP_NUM_THREADS": "1", **(environment or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"serving .* at (https?://\S+)", line)
        self.said = [line]
        if found is None:
            self.said += self.process.stderr.readlines()
            self.process.wait(10)
            raise AssertionError(f"the server ended with {self.process.returncode}: {''.join(self.said)}")
        self.url = found.group(1)
        self.port = int(self.url.rpartition(":")[2])
        # Read on, for a pipe that is full would stop the server.
        threading.Thread(target=lambda: self.said.extend(self.process.stderr), daemon=True).start()  # type: ignore[arg-type]

    def alive(self) -> bool:
        return self.process.poll() is None and httpx.get(f"{self.url}/healthz", timeout=10).status_code == 200

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def raw(self, data: bytes, wait_s: float = 10.0) -> bytes:
        """Bytes as they are, and all that comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as client:
            with contextlib.suppress(OSError):  # it may close in the middle
                client.sendall(data)
            received = b""
            with contextlib.suppress(ConnectionError):
                while part := client.recv(65536):
                    received += part
            return received


Start = Callable[..., Server]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts servers, and ends them with the module."""
    servers: list[Server] = []

    def make(*arguments: str | Path, **options: Any) -> Server:
        servers.append(Server(*arguments, folder=tmp_path_factory.mktemp("server"), **options))
        return servers[-1]

    yield make
    for server in servers:
        server.process.kill()
        server.process.wait()


@pytest.fixture(scope="session")
def frame() -> np.ndarray:
    """The sample clip's first frame, which has three faces."""
    found, image = cv2.VideoCapture(str(default_bundle().with_name("sample.mp4"))).read()
    assert found
    return image


@pytest.fixture(scope="session")
def photo(frame: np.ndarray) -> bytes:
    """The same as a PNG."""
    return cv2.imencode(".png", frame)[1].tobytes()
