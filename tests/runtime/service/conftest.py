"""Real servers on loopback, each in a process of its own, and pictures to send to them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from service_process import Server

from immunecam.runtime.bundle import default_bundle

pytest.importorskip("httpx", reason="needs a client (pip install 'immunecam[dev]')")
pytest.importorskip("fastapi", reason="needs the service's packages (pip install 'immunecam[serve]')")

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
        server.process.terminate()  # not killed, so that its coverage is written
    for server in servers:
        try:
            server.process.wait(10)
        except subprocess.TimeoutExpired:
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
