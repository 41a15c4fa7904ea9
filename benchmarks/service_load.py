"""What the service does under load: many clients that ask without a pause, on loopback.

``python -m immunecam.benchmarks.service_load --json benchmarks/results/service_load.json``

Starts ``immunecam serve`` and keeps `--clients` connections busy for `--seconds`, each with the next request as soon as
its answer is there. A client that is told 429 waits as long as Retry-After says, as it should. Reported are statuses,
latencies of what was answered, and the server's resident memory, by time and as slopes over the run without its first
fifth (see `resident_memory`; five minutes tell more of it than one). Client and server share the machine, so the
clients' own work is in the latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from immunecam.benchmarks.resident_memory import growth, resident_bytes
from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import default_bundle
from immunecam.runtime.frames.picture import encode_picture
from immunecam.runtime.report import percentiles_ms, write_report

__all__ = ["load", "main"]

_SETTLING = 0.2
_WAIT_S = 120


def load(clients: int, seconds: float, *, picture: bytes, arguments: tuple[str, ...] = ()) -> dict[str, Any]:
    """Put a server under load, and end it by SIGTERM while it still is.

    Parameters
    ----------
    clients : int
        Connections at a time.
    seconds : float
        Of the load.
    picture : bytes
        What each request sends.
    arguments : tuple of str
        More options of ``immunecam serve``.

    Returns
    -------
    dict
        A row for a report. `lost` counts requests that were sent and had no whole answer, and `lost_at_end` those of
        them that were after the signal; `reset` counts those that met the closed address then.

    Raises
    ------
    UsageError
        If there are no clients or no time.
    InputError
        If the server does not start.
    """
    if clients < 1 or not seconds > 0:
        raise UsageError(f"there are {clients} clients for {seconds} s, but it must be 1 or more for more than 0 s")
    command = [sys.executable, "-m", "immunecam", "serve", "--port", "0", "--rate", "0", *arguments]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        found = re.search(r" at http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise InputError(f"the server did not start: {line.strip()}")
        row = asyncio.run(_Load(int(found.group(1)), server.pid, picture).run(clients, seconds))
        row["exit_code"] = server.wait(_WAIT_S)
    finally:
        server.kill()
        server.wait()
        if server.stderr is not None:
            server.stderr.close()
    return {"clients": clients, "seconds": seconds, "picture_bytes": len(picture), **row}


class _Load:
    """One run."""

    def __init__(self, port: int, pid: int, picture: bytes) -> None:
        self._port, self._pid = port, pid
        head = f"POST /v1/purify?output=image&format=jpeg HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(picture)}"
        self._request = f"{head}\r\n\r\n".encode() + picture
        self._ending = False
        self._latencies: list[float] = []
        self._statuses: Counter[int] = Counter()
        self._lost = self._lost_at_end = self._reset = 0

    async def run(self, clients: int, seconds: float) -> dict[str, Any]:
        began, memory = time.monotonic(), list[tuple[float, int]]()
        tasks = [asyncio.create_task(self._client()) for _ in range(clients)]
        while (elapsed := time.monotonic() - began) < seconds:
            memory.append((elapsed, resident_bytes(self._pid)))
            await asyncio.sleep(min(0.5, seconds / 10))
        self._ending = True
        answered, took = sum(self._statuses.values()), time.monotonic() - began
        os.kill(self._pid, signal.SIGTERM)
        await asyncio.gather(*tasks)
        steady = np.array([one for one in memory if one[0] >= _SETTLING * seconds] or memory[-1:], float)
        slope, line = growth(steady[:, 0], steady[:, 1])
        return {
            "requests": sum(self._statuses.values()),
            "statuses": {str(status): count for status, count in sorted(self._statuses.items())},
            "server_errors": sum(count for status, count in self._statuses.items() if status >= 500),
            "lost": self._lost,
            "lost_at_end": self._lost_at_end,
            "reset": self._reset,
            "requests_per_s": round(answered / took, 2),
            **percentiles_ms(self._latencies),
            "rss_settled_mib": round(float(steady[0, 1]) / 2**20, 2),
            "rss_end_mib": round(float(steady[-1, 1]) / 2**20, 2),
            "rss_slope_mib_per_minute": round(slope * 60 / 2**20, 3),
            "rss_least_squares_slope_mib_per_minute": round(line * 60 / 2**20, 3),
            "rss_by_seconds_mib": [
                [round(at, 1), round(resident / 2**20, 2)] for at, resident in memory[:: max(1, len(memory) // 50)]
            ],
        }

    async def _client(self) -> None:
        """Ask until the server ends; a connection that it closes is made anew."""
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                self._reset += 1
                return
            with contextlib.closing(writer):
                more = True
                while more:
                    await asyncio.sleep(0)
                    if reader.at_eof():  # it closed while we waited
                        break
                    began = time.perf_counter()
                    try:
                        writer.write(self._request)
                        await writer.drain()
                        status, wait_s, more = await _answer(reader)
                    except (OSError, asyncio.IncompleteReadError, ValueError):
                        self._lost += 1
                        self._lost_at_end += self._ending
                        return
                    self._statuses[status] += 1
                    if status == 200:
                        self._latencies.append(time.perf_counter() - began)
                    elif wait_s and not self._ending:
                        await asyncio.sleep(wait_s)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, float, bool]:
    """Status, seconds to wait, and whether the connection goes on."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    await reader.readexactly(int(headers["content-length"]))
    return int(head.split(" ")[1]), float(headers.get("retry-after", 0)), headers.get("connection") != "close"


def _sample() -> bytes:
    """The bundled clip's first frame as JPEG."""
    found, image = cv2.VideoCapture(str(default_bundle().with_name("sample.mp4"))).read()
    if not found:
        raise InputError("the bundled clip cannot be read: reinstall immunecam")
    return encode_picture(np.asarray(image, np.uint8), ".jpg")


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--picture", type=Path, help="PNG or JPEG; default: a frame of the bundled sample, three faces")
    parser.add_argument("--threads", type=int, default=1, help="of the backend")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    picture = _sample() if given.picture is None else given.picture.read_bytes()
    row = load(given.clients, given.seconds, picture=picture, arguments=("--threads", str(given.threads)))
    print(row)
    if given.json:
        write_report(given.json, "immunecam.service-load/2", [row], bundle_sha256=None)


if __name__ == "__main__":
    main()
