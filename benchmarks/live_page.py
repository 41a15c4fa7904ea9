"""Takes the README's picture of the live page, with a headless Chromium, of the sample clip.

``python -m immunecam.benchmarks.live_page --out docs/live-page.png --recognizer R.toml --faces FOLDER``

Starts ``immunecam serve`` with the clip as its camera. With a recogniser there is a gate, too: calibrated on FOLDER,
which has a folder of aligned faces for each person, and one of the clip's people enrolled, who do not exist. The
picture shows nothing but the clip.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2

from immunecam.errors import BackendMissingError, InputError
from immunecam.runtime.bundle import default_bundle

__all__ = ["browser", "clip_gate", "main", "screenshot", "set_screen"]

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_LIMIT_BYTES = 300_000
_WAIT_S = 60


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium, of the system's packages.

    Yields
    ------
    selenium.webdriver.Chrome
        Keeps what pages say on their console.

    Raises
    ------
    BackendMissingError
        If Chromium, its driver or selenium is missing.
    """
    chromium = next(filter(None, map(shutil.which, _CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        raise BackendMissingError("Chromium and its driver are missing: apt-get install chromium chromium-driver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        raise BackendMissingError("selenium is missing: pip install 'immunecam[dev]'") from None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    # No sandbox, for Chromium refuses to have one as root, as in a container; it sees our own pages only.
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(argument)
    options.add_argument("--disable-background-networking")
    options.add_argument("--hide-scrollbars")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


def set_screen(opened: Any, width: int, height: int, *, scale: float = 1.0, dark: bool = False) -> None:
    """Give a browser a screen of that size in CSS pixels; below 500 a phone's."""
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def screenshot(opened: Any) -> bytes:
    """The whole page, as a PNG."""
    page = opened.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    return base64.b64decode(page["data"])


def clip_gate(folder: Path, recognizer: Path, faces: Path, *, fmr: float) -> list[str]:
    """A gate that knows the sample clip's left face, the one that is not under attack.

    Parameters
    ----------
    folder : path
        Where it is kept, or was by an earlier call: calibration takes minutes.
    recognizer : path
        Its TOML.
    faces : path
        A folder of aligned faces for each person, to calibrate on.
    fmr : float
        False match rate to calibrate to.

    Returns
    -------
    list of str
        Options of ``immunecam serve`` and ``immunecam gate``.
    """
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.keys import GateKey
    from immunecam.runtime.gate.quality import QualityLimits

    key, store = folder / "gate.key", folder / "door.gate"
    options = ["--store", str(store), "--recognizer", str(recognizer), "--key-file", str(key)]
    if store.exists():
        return options
    folder.mkdir(parents=True, exist_ok=True)
    _run("gate", "keygen", str(key))
    _run("gate", "calibrate", *options, "--aligned", "--data", str(faces), "--fmr", str(fmr))
    capture = cv2.VideoCapture(str(_clip()))
    with AccessGate.open(store, GateKey.from_file(key), recognizer) as gate:
        frames = []
        for number in range(5):
            _, image = capture.read()
            x, y, w, h = min(gate.observer.finder.find(image), key=lambda face: face.box[0]).box.astype(int)
            frames.append(
                (str(number), image[max(0, y - h // 2) : y + 3 * h // 2, max(0, x - w // 2) : x + 3 * w // 2])
            )
        gate.enrol("visitor", frames, limits=QualityLimits(min_sharpness=0.0))  # the clip is soft
    return options


@contextlib.contextmanager
def _service(folder: Path, options: list[str]) -> Iterator[str]:
    command = [sys.executable, "-m", "immunecam", "serve", "--port", "0", "--camera", f"clip={_clip()}", *options]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"serving .* at (http://\S+)", line)
        if found is None:
            raise InputError(f"the service did not start: {line}{process.stderr.read()}")
        yield found.group(1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "immunecam", *arguments], check=True)


def _clip() -> Path:
    return default_bundle().with_name("sample.mp4")


def main(arguments: list[str] | None = None) -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--scale", type=float, default=1.0, help="pixels of the picture for one of the page")
    parser.add_argument("--seconds", type=float, default=62.0, help="how long the page is open before")
    parser.add_argument("--recognizer", type=Path)
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--gate", type=Path, help="keep the gate in this folder, or take it from there")
    parser.add_argument("--fmr", type=float, default=1e-3)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, browser() as opened:
        folder = Path(name)
        options = []
        if given.recognizer is not None:
            kept = folder / "gate" if given.gate is None else given.gate.resolve()
            options = clip_gate(kept, given.recognizer.resolve(), given.faces.resolve(), fmr=given.fmr)
        with _service(folder, options) as url:
            set_screen(opened, given.width, 900, scale=given.scale, dark=given.dark)
            opened.get(url)
            until = time.monotonic() + _WAIT_S
            while opened.execute_script("return document.getElementById('state').dataset.state") != "connected":
                if time.monotonic() > until:
                    raise InputError("the page shows no frames")
                time.sleep(0.2)
            time.sleep(given.seconds)
            height = opened.execute_script("return document.documentElement.scrollHeight")
            set_screen(opened, given.width, height, scale=given.scale, dark=given.dark)
            time.sleep(1)
            picture = screenshot(opened)
            said = opened.get_log("browser")
    if said:
        raise InputError(f"the page complains: {said}")
    if len(picture) > _LIMIT_BYTES:
        print(f"{given.out} has {len(picture)} bytes, wanted {_LIMIT_BYTES} at most: make it narrower", file=sys.stderr)
    given.out.write_bytes(picture)
    print(f"{given.out}: {given.width}x{height}, {len(picture)} bytes")


if __name__ == "__main__":
    main()
