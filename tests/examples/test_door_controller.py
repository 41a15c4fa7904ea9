"""The door controller as a real process: a camera over HTTP, a service manager's socket, a relay that writes down."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import small_gate
from cameras import HttpCamera

from immunecam.runtime.faces import face_finder
from immunecam.runtime.gate.operating_point import OperatingPoint

pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")
pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with a key, a recogniser, and a store in which ann is enrolled and bob is not."""
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.keys import GateKey
    from immunecam.runtime.purifier import Purifier

    folder = tmp_path_factory.mktemp("site")
    small_gate.write_people(folder / "people")
    small_gate.write_recognizer(folder)
    key = GateKey.generate()
    key.write(folder / "door.key")
    purifier = Purifier.load(threads=1)
    with AccessGate.open(
        folder / "door.gate", key, folder / "r.toml", create=True, purifier=purifier, threads=1, finder=face_finder()
    ) as gate:
        gate.enrol("ann", [(str(n), cv2.imread(str(folder / f"people/ann/{n}.png"))) for n in (0, 1)])
        setting = gate.store.setting
        gate.calibrated(OperatingPoint(0.9, setting.recognizer, setting.purification), {})
    return folder


@pytest.fixture
def camera(site):
    made = HttpCamera(cv2.imread(str(site / "people/ann/3.png")), rate=10)
    yield made
    made.stop()


def address(camera):
    """With a password, which must stay where it is."""
    return camera.url.replace("://", "://operator:hunter2@")


class Door:
    """The running controller and what it says."""

    def __init__(self, examples, site, folder, *options, watchdog_s=30):
        self.file = folder / "told"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(str(folder / "notify"))
        self.manager.setblocking(False)
        self.heard = []
        command = [sys.executable, str(examples / "door_controller.py"), "--relay", "fake", str(self.file)]
        command += ["--recognizer", "r.toml", "--threads", "1", *map(str, options)]
        given = {**os.environ, "OMP_NUM_THREADS": "1", "NOTIFY_SOCKET": str(folder / "notify")}
        given["WATCHDOG_USEC"] = str(int(watchdog_s * 1e6))
        self.process = subprocess.Popen(
            command, cwd=site, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def words(self):
        """What the relay was told."""
        return [line.split()[1] for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def messages(self):
        """What the service manager was told since."""
        while True:
            try:
                self.heard.append((time.monotonic(), self.manager.recv(4096).decode()))
            except BlockingIOError:
                return [text for _, text in self.heard]

    def wait(self, done):
        deadline = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < deadline, (self.messages(), self.words())
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.02)

    def end(self, number=None):
        """Its exit code and its log."""
        if number is not None:
            self.process.send_signal(number)
        log, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, log


@pytest.fixture
def start(examples, site, tmp_path):
    doors = []

    def make(*options, **more):
        folder = tmp_path / str(len(doors))
        folder.mkdir()
        doors.append(Door(examples, site, folder, *options, **more))
        return doors[-1]

    yield make
    for door in doors:
        if door.process.poll() is None:
            door.process.kill()
            door.process.communicate()
        door.manager.close()


def test_who_is_granted_comes_in_and_a_frozen_camera_lets_the_watchdog_fire(start, camera):
    door = start("--source", address(camera), "--open-seconds", "0.2", watchdog_s=0.6)
    door.wait(lambda: "open" in door.words())
    door.wait(lambda: door.words()[-1] == "shut" and door.messages().count("WATCHDOG=1") > 3)
    assert door.messages()[0].startswith("READY=1\nSTATUS=watching http://127.0.0.1")
    assert door.words()[:3] == ["shut", "open", "shut"]
    camera.silent = True
    time.sleep(0.5)
    door.messages(), door.heard.clear()
    opened = door.words().count("open")
    time.sleep(1.2)  # two times of the watchdog
    assert "WATCHDOG=1" not in door.messages()
    assert any(text.startswith("STATUS=camera stalled") for text in door.messages())
    assert door.words().count("open") == opened  # the newest frame shows ann, but of a while ago
    code, log = door.end(signal.SIGTERM)  # while it waits for a frame
    assert code == 0, log
    assert door.messages()[-1] == "STOPPING=1"
    assert door.words()[-1] == "shut"
    assert "door: granted ann (audit record" in log
    assert "hunter2" not in log + "".join(door.messages())


def test_a_door_that_sees_masked_faces(start, camera, tmp_path):
    pytest.importorskip("torch")
    from small_masking import GATE_KEY, KEY, bundle_with_masking

    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.masking import MaskedEmbedder
    from immunecam.runtime.purifier import Purifier

    bundle = bundle_with_masking(tmp_path)
    small_gate.write_people(tmp_path / "people")
    GATE_KEY.write(tmp_path / "door.key")
    purifier = Purifier.load(bundle, threads=1)
    masked = MaskedEmbedder.load(purifier.bundle, KEY, threads=1)
    with AccessGate.open(tmp_path / "door.gate", GATE_KEY, masked, create=True, purifier=purifier) as gate:
        gate.enrol("ann", [(str(n), cv2.imread(str(tmp_path / f"people/ann/{n}.png"))) for n in (0, 1)])
        setting = gate.store.setting
        gate.calibrated(OperatingPoint(0.2, setting.recognizer, setting.purification), {})
    mine = ("--store", tmp_path / "door.gate", "--key-file", tmp_path / "door.key")
    door = start("--source", address(camera), "--masked", "--bundle", bundle, *mine, "--open-seconds", "0.2")
    door.wait(lambda: "open" in door.words())
    code, log = door.end(signal.SIGTERM)
    assert code == 0, log
    assert "door: granted ann" in log
    code, log = start("--source", address(camera), "--masked", *mine).end()
    assert code == 3
    assert "has no mask: put one in by" in log


def test_it_is_shut_when_it_is_stopped_while_the_door_is_open(start, camera):
    door = start("--source", address(camera), "--open-seconds", "2")
    door.wait(lambda: "open" in door.words())
    code, log = door.end(signal.SIGTERM)
    assert code == 0, log
    assert door.words()[:3] == ["shut", "open", "shut"]
    assert door.words().count("open") == 1
    assert door.words()[-1] == "shut"


def test_a_stranger_stays_outside_and_so_does_who_has_gone(start, site, tmp_path):
    code, log = start("--source", site / "people/bob").end()
    assert code == 0, log
    assert "door: denied nobody" in log
    # A face that is seen too shortly is decided when nobody is there any more: other frames came, or the stream ended.
    (tmp_path / "walk").mkdir()
    ann = cv2.imread(str(site / "people/ann/3.png"))
    for number in range(9):
        cv2.imwrite(str(tmp_path / f"walk/{number}.png"), ann if number == 0 else np.full_like(ann, 90))
    for source in (site / "people/ann/3.png", tmp_path / "walk"):
        door = start("--source", source)
        code, log = door.end()
        assert code == 0, log
        assert "too late: ann is not before the camera any more" in log
        assert set(door.words()) == {"shut"}


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--key-file", "none.key"], 3, "the gate's key 'none.key' cannot be read"),
        (["--source", "/dev/video99"], 3, "does not open"),
        (["--open-seconds", "30"], 2, "must be below half of WatchdogSec"),
        (["--open-seconds", "nan"], 2, "seconds above 0"),
        (["--shut"], 0, ""),
    ],
)
def test_whatever_is_wrong_the_door_is_shut(start, options, code, said):
    door = start(*options)
    found, log = door.end()
    assert found == code, log
    assert said in log
    assert "Traceback" not in log
    assert "READY" not in "".join(door.messages())
    assert set(door.words()) <= {"shut"}


def test_a_relay_that_cannot_be_shut_is_told_by_the_exit_code(examples, tmp_path):
    command = [sys.executable, str(examples / "door_controller.py"), "--shut", "--relay", "fake", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 3
    assert "the door may be open" in done.stderr


def test_options_in_a_file_hide_the_password(examples, tmp_path):
    (tmp_path / "relay").write_text("--relay\nhttp://u:hunter2@127.0.0.1:9/on\nhttp://u:hunter2@127.0.0.1:9/off\n")
    command = [sys.executable, str(examples / "door_controller.py"), "--shut", f"@{tmp_path / 'relay'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 3
    assert "the relay at 127.0.0.1:9 does not answer" in done.stderr
    assert "hunter2" not in done.stderr
