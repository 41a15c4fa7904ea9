"""``immunecam doctor --device`` as a real process, as it stands and with everything at fault."""

from __future__ import annotations

import json
import os
import stat

import pytest

pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")

PARTS = [
    "video devices",
    "camera",
    "bundle",
    "gate's key",
    "state folder",
    "root file system",
    "memory",
    "heat",
    "power mode",
    "watchdog",
    "clock",
]


def rows(folder):
    report = json.loads((folder / "r.json").read_text())
    assert report["schema"] == "immunecam.doctor-device/1"
    assert [row["part"] for row in report["rows"]] == PARTS
    return {row["part"]: row for row in report["rows"]}


def test_what_is_not_asked_for_is_unknown_and_no_fault(run, tmp_path):
    done = run("doctor", "--device", "--json", "r.json", "--threads", "1", env={**os.environ, "COLUMNS": "300"})
    found = rows(tmp_path)
    for part in ("camera", "gate's key", "state folder"):
        assert found[part]["state"] == "unknown"
        assert found[part]["todo"] in done.stdout
    assert found["bundle"]["face_p50_ms"] > 0
    assert done.returncode == (3 if any(row["state"] == "bad" for row in found.values()) else 0), done.stderr


def test_every_fault_is_told_with_what_to_do_and_the_report_is_written(run, tmp_path):
    assert run("gate", "keygen", "door.key").returncode == 0
    (tmp_path / "door.key").chmod(0o644)
    faults = ("--source", "rtsp://u:hunter2@127.0.0.1:9/1", "--state", "none", "--key-file", "door.key")
    done = run("doctor", "--device", *faults, "--trust", "none.pem", "--json", "r.json")
    assert done.returncode == 3
    assert "(camera, bundle, gate's key, state folder" in done.stderr
    assert all(line.startswith("immunecam: ") for line in done.stderr.splitlines())
    found = rows(tmp_path)
    assert all(found[part]["state"] == "bad" for part in ("camera", "bundle", "gate's key", "state folder"))
    assert "none.pem cannot be read" in found["bundle"]["why"]
    assert "hunter2" not in done.stdout + done.stderr + (tmp_path / "r.json").read_text()
    assert stat.S_IMODE((tmp_path / "door.key").stat().st_mode) == 0o644  # it looks and changes nothing


@pytest.mark.parametrize("alone", [("--source", "0"), ("--state", "."), ("--seconds", "9")])
def test_options_of_a_device_want_it_named(run, alone):
    done = run("doctor", *alone)
    assert done.returncode == 2
    assert f"{alone[0]} is only for --device" in done.stderr
