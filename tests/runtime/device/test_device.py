"""Checks of a device: on this machine, and on trees of /proc and /sys as other machines have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from cameras import HttpCamera

from immunecam.runtime.bundle import default_bundle
from immunecam.runtime.device.camera import check_camera, check_video_devices
from immunecam.runtime.device.clock import ClockWatch, is_synchronised
from immunecam.runtime.device.finding import Finding
from immunecam.runtime.device.heat import check_heat
from immunecam.runtime.device.memory import check_memory
from immunecam.runtime.device.power import check_power, mode_of
from immunecam.runtime.device.purification import check_purification
from immunecam.runtime.device.secret_key import check_key
from immunecam.runtime.device.storage import check_root, check_state, mount_of
from immunecam.runtime.device.watchdog import check_watchdog


def tree(root: Path, **files: str) -> Path:
    """Files below a folder; "__" stands for "/"."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_on_this_machine_every_check_says_something_that_a_report_can_hold() -> None:
    watch = ClockWatch()
    for finding in (
        check_video_devices(None),
        check_root(),
        check_memory(),
        check_heat(),
        check_power(),
        check_watchdog(),
        watch.finding(),
        check_camera(None, 1),
        check_state(None),
        check_key(None),
    ):
        assert finding.state in ("good", "note", "bad", "unknown")
        assert finding.why
        assert finding.state in ("good", "unknown") or finding.todo
        json.dumps(finding.to_dict(), allow_nan=False)


@pytest.mark.parametrize("make", [check_heat, check_power, check_memory, check_root, check_video_devices])
def test_a_machine_that_tells_nothing_is_unknown_and_not_bad(tmp_path: Path, make: object) -> None:
    finding: Finding = make(None, root=tmp_path) if make is check_video_devices else make(root=tmp_path)  # type: ignore[operator]
    assert finding.state == "unknown"


MOUNTS = """22 1 8:1 / / {root},relatime shared:1 - {kind} /dev/sda1 rw
23 22 8:2 / /var/lib rw,noatime - ext4 /dev/sda2 rw
24 22 0:5 / /run\\040space rw - tmpfs tmpfs rw
25 23 8:3 / /var/lib rw - f2fs /dev/sda3 rw
broken line"""


@pytest.mark.parametrize(
    ("root", "kind", "state"), [("ro", "ext4", "good"), ("ro", "squashfs", "good"), ("rw", "ext4", "note"),
                                ("rw", "overlay", "note")],
)  # fmt: skip
def test_a_root_that_cannot_be_written_is_good(tmp_path: Path, root: str, kind: str, state: str) -> None:
    tree(tmp_path, proc__self__mountinfo=MOUNTS.format(root=root, kind=kind))
    found = check_root(root=tmp_path)
    assert (found.state, found.numbers["file_system"], found.numbers["read_only"]) == (state, kind, root == "ro")


def test_the_topmost_and_deepest_mount_holds(tmp_path: Path) -> None:
    tree(tmp_path, proc__self__mountinfo=MOUNTS.format(root="ro", kind="ext4"))
    for path, kind in (("/var/lib/door", "f2fs"), ("/var/library", "ext4"), ("/run space/x", "tmpfs"), ("/", "ext4")):
        mount = mount_of(Path(path), root=tmp_path)
        assert mount is not None
        assert mount.kind == kind


def mounted(root: Path, folder: Path, kind: str) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    return tree(root, proc__self__mountinfo=f"1 0 8:1 / {folder} rw - {kind} x rw")


@pytest.mark.parametrize(("kind", "state"), [("ext4", "good"), ("tmpfs", "bad"), ("overlay", "note")])
def test_state_that_a_power_cut_empties_is_bad(tmp_path: Path, kind: str, state: str) -> None:
    found = check_state(tmp_path / "state", root=mounted(tmp_path / "root", tmp_path / "state", kind))
    assert found.state == state
    assert found.numbers["sync_p50_ms"] > 0
    assert found.numbers["free_mib"] > 0
    assert list((tmp_path / "state").iterdir()) == []


def test_state_that_others_may_see_or_that_is_no_folder(tmp_path: Path) -> None:
    root = mounted(tmp_path / "root", tmp_path / "state", "ext4")
    (tmp_path / "state").chmod(0o755)
    assert "others may look" in check_state(tmp_path / "state", root=root).why
    (tmp_path / "file").touch()
    for name in ("file", "none"):
        assert check_state(tmp_path / name).state == "bad"


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/proc/sys").is_dir(), reason="needs root and /proc")
def test_state_that_cannot_be_written() -> None:
    found = check_state(Path("/proc/sys"))  # no file can be made there, not even by root
    assert found.state == "bad"
    assert "cannot be written" in found.why


_FULL = """
import resource, pathlib
from immunecam.runtime.device.storage import check_state
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
print(check_state(pathlib.Path("state")).why)
"""


def test_a_write_that_stops_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    done = subprocess.run([sys.executable, "-c", _FULL], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "state cannot be written (File too large)" in done.stdout, done.stderr
    assert list((tmp_path / "state").iterdir()) == []


def test_a_clock_before_the_installation_is_bad(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tree(tmp_path, sys__class__rtc__rtc0__name="rtc")
    assert (
        ClockWatch().finding(root=tmp_path).state == {True: "good", False: "note", None: "unknown"}[is_synchronised()]
    )
    watch, genuine = ClockWatch(), time.time
    monkeypatch.setattr(time, "time", lambda: genuine() + 5)
    found = watch.finding(root=tmp_path)
    assert found.state == "note"
    assert "jumped by +5.00 s" in found.why
    assert found.numbers["step_ms"] == pytest.approx(5000, abs=50)
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    found = watch.finding(root=tmp_path)
    assert found.state == "bad"
    assert "1970-01-01" in found.why


def zone(celsius: int, **trips: int) -> dict[str, str]:
    """Entries of a thermal zone, in thousandths of a degree."""
    found = {"type": "cpu-thermal", "temp": str(celsius)}
    for number, (kind, at) in enumerate(trips.items()):
        found |= {f"trip_point_{number}_type": kind, f"trip_point_{number}_temp": str(at)}
    return {f"sys__class__thermal__thermal_zone0__{name}": text for name, text in found.items()}


@pytest.mark.parametrize(
    ("celsius", "trips", "state"),
    [
        (45000, {"passive": 80000, "critical": 100000}, "good"),
        (80000, {"passive": 80000, "critical": 100000}, "note"),
        (100000, {"passive": 80000, "critical": 100000}, "bad"),
        (45000, {"passive": -274000, "critical": 0}, "good"),  # switched off
        (45000, {}, "good"),
    ],
)
def test_heat_by_the_zones_own_limits(tmp_path: Path, celsius: int, trips: dict[str, int], state: str) -> None:
    found = check_heat(root=tree(tmp_path, **zone(celsius, **trips)))
    assert (found.state, found.numbers["hottest_celsius"]) == (state, celsius / 1000)


@pytest.mark.parametrize(
    ("name", "text", "state"),
    [
        ("sys__devices__platform__soc__soc:firmware__get_throttled", "0", "good"),
        ("sys__devices__platform__soc__soc:firmware__get_throttled", "50005", "bad"),
        ("sys__devices__platform__soc__soc:firmware__get_throttled", "50000", "note"),
        ("sys__devices__system__cpu__cpu0__thermal_throttle__core_throttle_count", "0", "good"),
        ("sys__devices__system__cpu__cpu0__thermal_throttle__core_throttle_count", "7", "note"),
    ],
)
def test_a_machine_that_was_slowed_down_says_so(tmp_path: Path, name: str, text: str, state: str) -> None:
    assert check_heat(root=tree(tmp_path, **{name: text})).state == state


@pytest.mark.parametrize(
    ("dogs", "state"),
    [
        ({}, "note"),
        ({"watchdog0__state": "inactive", "watchdog0__identity": "iTCO_wdt", "watchdog0__timeout": "30"}, "note"),
        ({"watchdog0__state": "inactive", "watchdog1__state": "active"}, "good"),
        ({"watchdog0__identity": "softdog"}, "unknown"),
    ],
)
def test_a_watchdog_is_good_when_it_is_served(tmp_path: Path, dogs: dict[str, str], state: str) -> None:
    tree(tmp_path, **{f"sys__class__watchdog__{name}": text for name, text in dogs.items()})
    assert check_watchdog(root=tmp_path).state == state


def test_memory_by_the_tightest_limit(tmp_path: Path) -> None:
    tree(
        tmp_path,
        proc__self__status="VmHWM:\t  204800 kB\nVmRSS:\t  102400 kB",
        proc__meminfo="MemTotal: 4000000 kB\nMemAvailable:  1024000 kB",
        proc__self__cgroup="0::/system.slice/door.service",
    )
    found = check_memory(root=tmp_path)
    assert found.state == "good"
    assert found.numbers == {"needed_mib": 200.0, "available_mib": 1100.0, "limit_mib": None}
    for limit, state in (("max", "good"), (str(500 * 2**20), "good"), (str(300 * 2**20), "note"), ("104857600", "bad")):
        tree(tmp_path, **{"sys__fs__cgroup__system.slice__memory.max": limit})
        assert check_memory(root=tmp_path).state == state


def test_the_modes_of_a_jetson_and_of_a_governor(tmp_path: Path) -> None:
    assert mode_of("NV Power Mode: MAXN_SUPER\n2\n") == "MAXN_SUPER"
    assert mode_of("NVPM ERROR: not root\n") is None
    tree(tmp_path, sys__devices__system__cpu__cpu0__cpufreq__scaling_governor="powersave")
    assert check_power(root=tmp_path).state == "note"
    (tmp_path / "sys/devices/system/cpu/intel_pstate").mkdir()
    assert check_power(root=tmp_path).state == "good"
    tree(tmp_path, **{"proc__device-tree__model": "NVIDIA Jetson Orin Nano\0"})
    found = check_power(root=tmp_path)
    assert (found.state, found.numbers["model"]) == ("note", "NVIDIA Jetson Orin Nano")


def test_video_devices_that_are_missing_or_closed(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    assert check_video_devices("rtsp://camera/1", root=tmp_path).state == "unknown"
    for source in ("0", "/dev/video0"):
        assert "/dev/video0 is missing" in check_video_devices(source, root=tmp_path).why
    (tmp_path / "dev/video0").touch()
    assert check_video_devices("0", root=tmp_path).state == "good"
    assert "only video0" in check_video_devices("1", root=tmp_path).why


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else for a while")
def test_a_camera_of_another_group_names_it() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        root, groups = Path(name), os.getgroups()
        root.chmod(0o755)
        (root / "dev").mkdir()
        (root / "dev/video0").touch()
        (root / "dev/video0").chmod(0o660)
        os.setgroups([])
        os.setegid(65534)
        os.seteuid(65534)
        try:
            found = check_video_devices("0", root=root)
        finally:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(groups)
    assert found.state == "bad"
    assert "usermod -aG root" in found.todo


def test_a_file_is_no_camera_and_a_camera_that_is_not_there_is_bad(tmp_path: Path) -> None:
    clip = default_bundle().parent / "sample.mp4"
    assert check_camera(str(clip), 1).state == "note"
    assert check_camera(str(tmp_path / "none.mp4"), 1).state == "bad"


def test_a_cameras_rate_is_measured_and_one_that_freezes_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("immunecam.runtime.device.camera._PATIENCE_S", 0.5)
    camera = HttpCamera(rate=10)
    try:
        found = check_camera(camera.url, 1.0)
        assert found.state == "good"
        assert 4 < found.numbers["frames_per_s"] < 12
        assert found.numbers["longest_gap_ms"] >= 80
        threading.Timer(1.5, lambda: setattr(camera, "silent", True)).start()
        began = time.monotonic()
        found = check_camera(camera.url, 2.0)
        assert found.state == "bad"
        assert "and then no more" in found.why
        assert time.monotonic() - began < 25
    finally:
        camera.stop()


def test_a_key_is_read_and_its_rights_are_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "door.key"
    assert check_key(file).state == "bad"
    file.write_text("ab" * 31 + "cd")
    for mode, state in ((0o600, "good"), (0o400, "good"), (0o604, "bad"), (0o620, "bad")):
        file.chmod(mode)
        assert check_key(file).state == state
    if os.geteuid() == 0:
        for group, state in ((0, "good"), (12345, "note")):  # as systemd hands a credential over, and a real group
            os.chown(file, 0, group)
            file.chmod(0o440)
            assert check_key(file).state == state
    file.chmod(0o600)
    file.write_text("not a key")
    assert "not a key" not in check_key(file).why


def test_a_bundle_is_verified_timed_and_not_remembered(tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[sign]')")
    import shutil

    from immunecam.runtime.bundle_signer import sign_bundle
    from immunecam.runtime.trust import Trust, write_key_pair

    bundle = tmp_path / "mine.immune"
    shutil.copytree(default_bundle(), bundle)
    key = write_key_pair(tmp_path / "a.pem", tmp_path / "a.pub.pem")
    trust = Trust.load(tmp_path / "a.pub.pem", state=tmp_path / "seen.json")
    found, sha256 = check_purification(bundle, trust, provider="cpu", threads=1)
    assert (found.state, sha256) == ("bad", None)
    assert "is not signed" in found.why
    signed = sign_bundle(bundle, key, version=7, name="mine")
    found, sha256 = check_purification(bundle, trust, provider="cpu", threads=1)
    assert (found.state, sha256) == ("good", signed.sha256)
    assert 0 < found.numbers["face_p50_ms"] <= found.numbers["face_p95_ms"]
    assert "version 7, signed by" in found.why
    assert not (tmp_path / "seen.json").exists()  # it would be this user's, and not the service's
    (bundle / "subspace.safetensors").write_bytes(b"x")
    assert check_purification(bundle, trust)[0].state == "bad"
