"""``immunecam serve`` in a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

_SETTINGS = Path(__file__).parents[2] / "pyproject.toml"


def _python() -> list[str]:
    """The interpreter; where the tests' coverage is measured, it measures the server's, which is not killed."""
    try:
        from coverage import Coverage
    except ImportError:
        return [sys.executable]
    measured = Coverage.current()
    if measured is None:
        return [sys.executable]
    data = os.path.abspath(str(measured.get_option("run:data_file")))
    return [sys.executable, "-m", "coverage", "run", "--parallel-mode", f"--rcfile={_SETTINGS}", f"--data-file={data}"]


class Server:
    """A server on a free port; `url` is where it answers, `said` what it wrote."""

    def __init__(self, *arguments: str | Path, folder: Path, environment: dict[str, str] | None = None) -> None:
        command = [*_python(), "-m", "immunecam", "serve", "--port", "0", "--threads", "1", *map(str, arguments)]
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
        if self.process.poll() is not None:
            return False
        with urllib.request.urlopen(f"{self.url}/healthz", timeout=10) as answer:
            return bool(answer.status == 200)

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
