"""A camera in the network: motion JPEG over HTTP, which can freeze with its connection open."""

from __future__ import annotations

import contextlib
import http.server
import threading
import time

import cv2

__all__ = ["HttpCamera"]


class HttpCamera(http.server.ThreadingHTTPServer):
    """Sends `picture` ten times a second, while it is not frozen; its address has a password."""

    daemon_threads = True

    def __init__(self, picture):
        camera = self
        self.picture, self.frozen = picture, False

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        if not camera.frozen:
                            data = cv2.imencode(".jpg", camera.picture, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
                            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                            self.wfile.write(head.encode() + data + b"\r\n")
                        time.sleep(0.1)

            def log_message(self, *arguments):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://operator:hunter2@127.0.0.1:{self.server_port}/stream.mjpg"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
