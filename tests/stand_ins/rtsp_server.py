"""A real RTSP camera for the tests: GStreamer's server, run by the system's Python, which has its bindings.

``/usr/bin/python3 rtsp_server.py PORT WIDTH HEIGHT CODEC RATE`` serves rtsp://127.0.0.1:PORT/camera and prints "ready".
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 (the versions come first)

ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=5 ! rtph264pay name=pay0 pt=96",
    "jpeg": "jpegenc quality=90 ! rtpjpegpay name=pay0 pt=26",
}

if __name__ == "__main__":
    port, width, height, codec, rate = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    raw = f"video/x-raw,format=I420,width={width},height={height},framerate={rate}/1"
    factory.set_launch(f"( videotestsrc is-live=true pattern=ball ! {raw} ! {ENCODERS[codec]} )")
    factory.set_shared(True)
    server.get_mount_points().add_factory("/camera", factory)
    if not server.attach(None):
        sys.exit(f"port {port} is taken")
    print("ready", flush=True)
    GLib.MainLoop().run()
