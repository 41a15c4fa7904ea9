"""Real cameras on loopback that can be unplugged, frozen and spoilt: MJPEG over HTTP, and GStreamer's RTSP server."""

from __future__ import annotations

import http.server
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from immunecam.runtime.frames.picture import encode_picture

# The RTSP server's bindings are a package of the system, and belong to the system's Python.
_SYSTEM_PYTHON = "/usr/bin/python3"
_BINDINGS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
_PLUGINS = "gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
_PACKAGES = f"gir1.2-gst-rtsp-server-1.0 python3-gi {_PLUGINS}"


def picture(value: int = 120, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """(H, W, 3) uint8 of one grey with a coloured corner."""
    image = np.full((*size, 3), value, np.uint8)
    image[: size[0] // 2, : size[1] // 2] = (10, 200, 90)
    return image


class HttpCamera:
    """An MJPEG camera that can be unplugged and plugged in again, sends other sizes, rubbish, or nothing at all."""

    def __init__(self, image: np.ndarray | None = None, rate: float = 100.0) -> None:
        self.port = 0
        self.image, self.rate = image, rate  # None sends pictures of changing grey, of this size
        self.size = (48, 64)
        self.count = 0
        self.spoil = 0  # every so many pictures are cut and scrambled; 0 is none
        self.silent = False
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/stream.mjpg"

    def start(self) -> None:
        camera = self
        self.running = True
        self.turn = turn = getattr(self, "turn", 0) + 1  # what was connected before stays cut off

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    while camera.running and camera.turn == turn:
                        time.sleep(1 / camera.rate)
                        if camera.silent:
                            continue
                        camera.count += 1
                        image = picture(camera.count % 200, camera.size) if camera.image is None else camera.image
                        data = encode_picture(image, ".jpg")
                        if camera.spoil and camera.count % camera.spoil == 0:
                            middle = np.random.default_rng(camera.count).bytes(len(data) // 3)
                            data = data[: len(data) // 3] + middle
                        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                        self.wfile.write(head.encode() + data + b"\r\n")
                except OSError:
                    pass

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self.server = Server(("127.0.0.1", self.port), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.running = False
        self.server.shutdown()
        self.server.server_close()


class RtspCamera:
    """GStreamer's RTSP server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        found = subprocess.run([_SYSTEM_PYTHON, "-c", _BINDINGS], capture_output=True, text=True, check=False)
        if found.returncode:
            pytest.skip(f"GStreamer's RTSP server is missing: apt-get install {_PACKAGES}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._log = folder / "rtsp_server.log"
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/camera"

    def start(self, size: tuple[int, int] = (96, 128), codec: str = "h264", rate: int = 25) -> None:
        height, width = size
        script = Path(__file__).with_name("rtsp_server.py")
        arguments = [str(value) for value in (self.port, width, height, codec, rate)]
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [_SYSTEM_PYTHON, str(script), *arguments], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP freezes it with its sockets open, SIGCONT thaws it."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None
