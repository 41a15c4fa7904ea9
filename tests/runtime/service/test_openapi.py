"""The service against its own description: schemathesis makes requests of it, right ones and wrong ones."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import pytest
from small_gate import write_people, write_recognizer

from immunecam.runtime.bundle import default_bundle

TOKEN = "the-token-of-these-tests"


def test_nothing_answers_otherwise_than_it_is_described(start, tmp_path):
    """IMMUNECAM_FUZZ_COUNT=N makes N requests of each operation, and walks through all limits of the description."""
    pytest.importorskip("schemathesis", reason="needs schemathesis (pip install 'immunecam[dev]')")
    more = os.environ.get("IMMUNECAM_FUZZ_COUNT")
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[gate]')")
    pytest.importorskip("onnx", reason="needs onnx to make a recogniser (pip install 'immunecam[train]')")
    options = (*_gate(tmp_path), "--camera", f"clip={default_bundle().with_name('sample.mp4')}")
    server = start("--rate", "0", *options, environment={"IMMUNECAM_SERVICE_TOKEN": TOKEN})
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    # Not every sequence of bytes is a picture, which a description cannot say: what is right by it may be refused.
    command += ["--checks", "all", "--exclude-checks", "positive_data_acceptance"]
    command += ["--phases", "examples,coverage,fuzzing" if more else "examples,fuzzing", "--max-examples", more or "3"]
    command += ["--header", f"Authorization: Bearer {TOKEN}", "--seed", "7", "--request-timeout", "60"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 3600 if more else 240}
    done = subprocess.run(command, env={**os.environ, "NO_COLOR": "1"}, check=False, **options)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " generated, " in done.stdout, done.stdout
    assert server.alive()


def _gate(folder):
    """Options of a gate that knows ann, without whom no request would get as far as a picture."""
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.keys import GateKey

    people, recognizer = write_people(folder / "people"), write_recognizer(folder)
    store, key = folder / "door.gate", folder / "key"
    key.write_text(bytes(range(32)).hex())
    key.chmod(0o600)
    with AccessGate.open(store, GateKey.from_file(key), recognizer, create=True) as gate:
        gate.enrol("ann", [("0", cv2.imread(str(people / "ann" / "0.png")))])
    return ("--store", store, "--recognizer", recognizer, "--key-file", key, "--threshold", "0.9")
