"""``immunecam bundle`` as a maker and a device use it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from immunecam.cli import _run
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.plan_record import PlanKey
from immunecam.runtime.plan_writer import store_plans
from immunecam.runtime.trust import PrivateKey


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A copy of the bundled model."""
    return Path(shutil.copytree(default_bundle(), tmp_path / "mine.immune"))


@pytest.fixture
def here(tmp_path, monkeypatch, capsys):
    """Runs ``immunecam ARGS`` in this process, in an empty folder and without this machine's keys."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, env=None):
        """As `subprocess.run` would tell it."""
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("IMMUNECAM_")]:
                patch.delenv(name)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            capsys.readouterr()
            code = _run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    logger = logging.getLogger("immunecam")  # `immunecam purify` sets it up for a process of its own
    level, handlers = logger.level, list(logger.handlers)
    yield call
    logger.setLevel(level)
    logger.handlers[:] = handlers


def one_sentence(done, code, *words):
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("immunecam: ")
    for word in words:
        assert word in lines[0]


def test_from_key_to_device(here, mine, tmp_path):
    """A maker's whole way: key, signature, archive; and a device that loads nothing else."""
    assert here("bundle", "keygen", "maker.pem").returncode == 0
    assert stat.S_IMODE((tmp_path / "maker.pem").stat().st_mode) == 0o600
    one_sentence(here("bundle", "keygen", "maker.pem"), 2, "never overwritten")
    one_sentence(here("bundle", "verify", mine, "--trust", "maker.pub.pem"), 3, "is not signed")
    one_sentence(here("bundle", "verify", mine), 2, "--trust")

    done = here("bundle", "sign", mine, "--key", "maker.pem", "--version", "3")
    assert done.returncode == 0, done.stderr
    assert "mine version 3" in done.stdout
    done = here("bundle", "verify", mine, "--trust", "maker.pub.pem", "--json", "v.json")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "v.json").read_text())
    assert (report["name"], report["version"], len(report["rows"])) == ("mine", 3, 4)
    assert report["bundle_sha256"] == Bundle.load(mine).sha256

    one_sentence(here("bundle", "pack", mine, "-o", "packed.zip"), 2, "must end in .immune")
    one_sentence(here("bundle", "pack", mine, "-o", "mine.immune"), 2, "exists already")
    assert here("bundle", "pack", mine, "-o", "packed.immune").returncode == 0
    assert here("bundle", "unpack", "packed.immune", "-o", "again.immune").returncode == 0
    again = {path.name: path.read_bytes() for path in (tmp_path / "again.immune").iterdir()}
    assert again == {path.name: path.read_bytes() for path in mine.iterdir()}

    device = {"IMMUNECAM_TRUST": "maker.pub.pem", "IMMUNECAM_BUNDLE_STATE": "seen.json"}
    cv2.imwrite(str(tmp_path / "in.png"), np.full((99, 99, 3), 7, np.uint8))
    purify = ("purify", "in.png", "-o", "out.png")
    one_sentence(here(*purify, env=device), 3, "is not signed")  # the bundled model
    assert not (tmp_path / "out.png").exists()
    done = here(*purify, "--bundle", "packed.immune", env=device)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "seen.json").read_text())["highest"] == {"mine": 3}

    assert here("bundle", "sign", "packed.immune", "--key", "maker.pem", "--version", "4").returncode == 0
    done = here("bundle", "verify", "packed.immune", env=device)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "seen.json").read_text())["highest"] == {"mine": 3}  # verify only looks
    assert here(*purify, "--bundle", "packed.immune", env=device).returncode == 0
    one_sentence(here(*purify, "--bundle", mine, env=device), 3, "has seen version 4")
    one_sentence(here("bundle", "unpack", mine, "-o", "old.immune", env=device), 3, "has seen version 4")
    one_sentence(here(*purify, env={"IMMUNECAM_TRUST": ""}), 3, "set but empty")
    one_sentence(here("bundle", "sign", mine, "--key", "maker.pub.pem"), 3, "not a PEM file of a private key")
    one_sentence(here("bundle", "sign", mine, "--key", "maker.pem", "--version", "1"), 2, "version 3 already")

    done = here("doctor", "--json", "d.json", "--bundle", "packed.immune", env=device)
    assert done.returncode == 0, done.stderr
    rows = {row["part"]: row for row in json.loads((tmp_path / "d.json").read_text())["rows"]}
    assert rows["signed bundles only"]["available"]
    assert rows["purifier on the CPU"]["available"]


def test_info(here, mine, tmp_path):
    here("bundle", "keygen", "maker.pem")
    here("bundle", "keygen", "other.pem")

    def signature(*more: str) -> tuple[str, str]:
        done = here("bundle", "info", mine, "--json", "i.json", *more)
        assert done.returncode == 0, done.stderr
        told = json.loads((tmp_path / "i.json").read_text())
        assert (told["schema"], told["kind"], told["k"]) == ("immunecam.bundle-info/1", "edge", 512)
        assert told["bundle_sha256"] == Bundle.load(mine).sha256
        assert {row["file"]: row["bytes"] for row in told["rows"]} == {
            path.name: path.stat().st_size for path in mine.iterdir() if path.suffix != ".json"
        }
        assert len(told["plans"]) == len(Bundle.load(mine).manifest.plans)
        return told["signature"]["state"], done.stdout

    assert signature()[0] == "unsigned"
    assert signature("--trust", "maker.pub.pem")[0] == "unsigned"
    here("bundle", "sign", mine, "--key", "maker.pem", "--name", "lobby", "--version", "12")
    state, shown = signature()
    assert state == "not verified"
    assert "lobby version 12" in shown
    assert signature("--trust", "maker.pub.pem")[0] == "trusted"
    state, shown = signature("--trust", "other.pub.pem")
    assert state == "refused"
    assert "is trusted" in shown
    found = Bundle.load(mine)
    key = PlanKey(found.manifest.files["analyzer.onnx"].sha256, "10.3.0", "Orin", "8.7", "12.6", "fp16", (1, 8, 32))
    stored = store_plans(found, [("analyzer", key, b"plan", {})], sign=PrivateKey.load(tmp_path / "maker.pem"))
    done = here("bundle", "info", mine, "--json", "i.json")
    assert "TensorRT" in done.stdout
    assert json.loads((tmp_path / "i.json").read_text())["plans"] == [stored.manifest.plans[0].to_dict()]
    (mine / "manifest.json").write_text((mine / "manifest.json").read_text() + " ")
    state, shown = signature("--trust", "maker.pub.pem")
    assert state == "refused"
    assert "changed after it was signed" in shown


def test_encrypted_keys(here, mine, tmp_path):
    (tmp_path / "words").write_text("open sesame\n")
    done = here("bundle", "keygen", "k.pem", "--public", "p.pem", "--passphrase-file", "words")
    assert done.returncode == 0, done.stderr
    assert "encrypted" in done.stdout
    sign = ("bundle", "sign", mine, "--key", "k.pem")
    one_sentence(here(*sign), 3, "is encrypted")
    one_sentence(here(*sign, env={"IMMUNECAM_PASSPHRASE": "no"}), 3, "does not open")
    assert here(*sign, env={"IMMUNECAM_PASSPHRASE": "open sesame"}).returncode == 0
    assert here(*sign, "--passphrase-file", "words").returncode == 0


def test_without_the_library(run, mine, tmp_path):
    """A device with a key but without the library loads nothing; one without a key needs no library."""
    assert run("bundle", "keygen", "maker.pem").returncode == 0
    assert run("bundle", "sign", mine, "--key", "maker.pem").returncode == 0
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['cryptography'] = None\n")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("IMMUNECAM_")}
    environment["PYTHONPATH"] = str(tmp_path)
    one_sentence(run("bundle", "verify", mine, "--trust", "maker.pub.pem", env=environment), 4, "immunecam[sign]")
    one_sentence(run("purify", "in.png", env=environment | {"IMMUNECAM_TRUST": "maker.pub.pem"}), 4, "immunecam[sign]")
    one_sentence(run("bundle", "keygen", "k.pem", env=environment), 4, "immunecam[sign]")
    assert not (tmp_path / "k.pem").exists()
    done = run("bundle", "info", mine, env=environment)
    assert done.returncode == 0, done.stderr


def test_overwriting_a_signed_bundle_is_asked_for(here, mine, tmp_path):
    here("bundle", "keygen", "maker.pem")
    here("bundle", "sign", mine, "--key", "maker.pem")
    one_sentence(
        here("evaluate", "--data", ".", "--recognizer", "r.pt", "--trust", "maker.pub.pem"), 3, "is not signed"
    )
    one_sentence(here("export", mine, "--overwrite"), 2, "is signed and the new one would not be")
    one_sentence(here("export", mine, "--trust", "maker.pub.pem"), 2, "--trust is for --target tensorrt")


def test_figures_of_an_evaluation_go_into_the_manifest_and_nothing_else_changes(here, mine, tmp_path):
    before = Bundle.load(mine)
    hashes = {name: record.sha256 for name, record in before.manifest.files.items()}
    row = {"defence": "mine (sample)", "purified": "both", "accuracy_percent": 97.0}
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"schema": "x/1", "rows": [row], "bundle_files": {"mine": hashes}}))
    done = here("bundle", "measured", mine, report)
    assert done.returncode == 0, done.stderr
    after = Bundle.load(mine)
    assert after.sha256[:12] in done.stdout
    assert after.manifest.quality == {"schema": "x/1", "rows": [row]}
    old, new = (json.loads(bundle.manifest_bytes) for bundle in (before, after))
    assert list(old) == list(new)
    assert {name for name in old if old[name] != new[name]} == {"quality"}

    other = {"mine": hashes | {"restorer.onnx": "0" * 64}}
    report.write_text(json.dumps({"schema": "x/1", "rows": [], "bundle_files": other}))
    one_sentence(here("bundle", "measured", mine, report), 3, "measured another")
    one_sentence(here("bundle", "measured", mine, tmp_path / "none.json"), 3, "no report")
    (mine / "signature.json").write_text("{}")
    one_sentence(here("bundle", "measured", mine, report), 3, "is signed")
    (tmp_path / "packed.immune").write_bytes(b"PK")
    one_sentence(here("bundle", "measured", tmp_path / "packed.immune", report), 3, "is an archive")
    assert Bundle.load(mine).sha256 == after.sha256
