"""``immunecam gate`` as a real process: from a key to a verified audit trail."""

from __future__ import annotations

import json
import os

import pytest

pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")


def test_from_a_key_to_a_verified_trail(run, tmp_path, people, recognizer):
    gate = ["--store", "door.gate", "--recognizer", "r.toml", "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "IMMUNECAM_GATE_KEY_FILE": "door.key"}

    def call(*arguments, code=0):
        found = run("gate", *arguments, env=environment)
        assert found.returncode == code, found.stderr + found.stdout
        assert len(found.stderr.strip().splitlines()) <= 1
        return found

    call("keygen", "door.key")
    assert "exists already" in call("keygen", "door.key", code=3).stderr
    assert "there is no template store" in call("list", "--store", "door.gate", code=3).stderr
    call("enrol", "ann", people / "ann" / "0.png", people / "ann" / "1.png", *gate)
    assert "no threshold" in call("identify", people / "ann" / "3.png", *gate, code=2).stderr
    told = call("calibrate", "--data", people, "--fmr", "1e-4", *gate, code=3)
    assert "needs 30,000 independent comparisons" in told.stderr
    assert "without purification: threshold" in told.stdout
    assert "with purification: threshold" in told.stdout
    call("enrol-all", people, "--replace", "--json", "all.json", *gate)
    rows = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert [row["person"] for row in rows] == ["ann", "bob"]
    granted = call("verify", "ann", people / "ann" / "3.png", "--threshold", "0.9", "--json", "v.json", *gate)
    assert granted.stdout.startswith("granted ann, score ")
    event = json.loads((tmp_path / "v.json").read_text())["rows"][0]
    assert (event["event"], event["person"], event["mode"]) == ("granted", "ann", "verify")
    # 5, for a shell opens a door on 0.
    assert call("verify", "bob", people / "ann" / "3.png", "--threshold", "0.9", *gate, code=5).stdout.startswith(
        "denied"
    )
    assert call("identify", people / "bob", "--threshold", "0.9", *gate).stdout.count("granted bob") == 4
    assert (
        "nobody is enrolled as 'eve'"
        in call("verify", "eve", people / "ann" / "3.png", "--threshold", "0", *gate, code=3).stderr
    )
    assert "another purification setting" in call("identify", people / "bob", "--no-purify", *gate, code=3).stderr
    call("list", "--store", "door.gate", "--json", "list.json")
    assert [row["person"] for row in json.loads((tmp_path / "list.json").read_text())["rows"]] == ["ann", "bob"]
    call("delete", "ann", "--store", "door.gate")
    trail = ("audit", "verify", "door.gate.audit")
    whole = call(*trail, "--store", "door.gate", "--json", "audit.json").stdout
    assert "are as they were written" in whole
    head = json.loads((tmp_path / "audit.json").read_text())["rows"][0]["head"]
    assert "nothing was known of the end" in call(*trail).stdout
    call(*trail, "--head", head)
    assert "must be SEQ:HASH" in call(*trail, "--head", "7", code=2).stderr
    (file,) = (tmp_path / "door.gate.audit").glob("*.jsonl")
    lines = file.read_bytes().splitlines(True)
    kinds = [json.loads(line)["type"] for line in lines]
    enrolments = ["enrolment-begun", "enrolment"] * 3
    assert kinds == ["genesis", *enrolments, *["decision"] * 6, "deletion-begun", "deletion"]
    file.write_bytes(b"".join(lines[:-1]))
    assert "were cut off its end" in call(*trail, "--store", "door.gate", code=3).stderr
    assert "were cut off its end" in call(*trail, "--head", head, code=3).stderr
    file.write_bytes(b"".join(lines).replace(b'"event":"denied"', b'"event":"granted"'))
    assert "was changed" in call(*trail, code=3).stderr


def test_a_missing_library_is_named(run, tmp_path):
    (tmp_path / "cryptography.py").write_text("raise ImportError('hidden by the test')")
    (tmp_path / "door.key").write_text("ab" * 31 + "cd")
    hidden = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = run("gate", "audit", "image", ".", "x", "-o", "y.png", "--key-file", "door.key", env=hidden)
    assert found.returncode == 4
    assert "pip install 'immunecam[gate]'" in found.stderr
