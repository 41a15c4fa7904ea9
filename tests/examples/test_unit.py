"""The systemd unit: systemd understands it, and what it names is there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from immunecam.commands.options import BundleState, TrustedKey
from immunecam.runtime.trust import STATE_VARIABLE, TRUST_VARIABLE

HOME, PYTHON = "/opt/immunecam/examples", "/opt/immunecam/venv/bin/python"


@pytest.fixture(scope="module")
def unit(examples: Path) -> dict[str, list[str]]:
    """Values of every setting, as they stand there, lines that go on put together."""
    text = (examples / "systemd/immunecam-door.service").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def seconds(text: str) -> float:
    assert text.endswith("s"), text
    return float(text[:-1])


def options(unit: dict[str, list[str]], setting: str) -> list[str]:
    (line,) = unit[setting]
    python, script, *words = shlex.split(line)
    assert python == PYTHON
    assert script == f"{HOME}/door_controller.py"
    return words


def test_systemd_understands_it(examples: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze, which comes with systemd")
    for name in (examples / "systemd").glob("*.service"):
        text = name.read_text().replace(PYTHON, sys.executable).replace(HOME, str(examples))
        (tmp_path / name.name).write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(tmp_path / name.name)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        # Not only its exit code: of a setting that it does not know it says so and goes on.
        said = [line for line in (done.stdout + done.stderr).splitlines() if name.name in line]
        assert (done.returncode, said) == (0, [])


def test_the_services_command_is_one_that_the_example_takes(unit: dict[str, list[str]], examples: Path) -> None:
    from door_controller import _options

    run, stop = _options(options(unit, "ExecStart")), _options(options(unit, "ExecStopPost"))
    assert not run.shut
    assert stop.shut
    assert run.relay == stop.relay
    assert str(run.store) == "${STATE_DIRECTORY}/door.gate"
    credentials = [value.split(":")[0] for value in unit["LoadCredential"]]
    assert str(run.key_file).removeprefix("${CREDENTIALS_DIRECTORY}/") in credentials
    assert (examples / "door_controller.py").is_file()
    assert run.open_seconds < seconds(*unit["WatchdogSec"]) / 2


def test_the_environment_is_one_that_immunecam_reads(unit: dict[str, list[str]]) -> None:
    given = dict(pair.split("=", 1) for line in unit["Environment"] for pair in line.split())
    caches = {"IMMUNECAM_CACHE", "CUDA_CACHE_PATH"}
    assert given.keys() == {TRUST_VARIABLE, STATE_VARIABLE, "PYTHONDONTWRITEBYTECODE"} | caches
    for variable, option in ((TRUST_VARIABLE, TrustedKey), (STATE_VARIABLE, BundleState)):
        assert variable in option.__metadata__[0].help
    assert given[STATE_VARIABLE].startswith(f"/var/lib/{unit['StateDirectory'][0]}/")
    for name in caches:
        assert given[name].startswith(f"/var/cache/{unit['CacheDirectory'][0]}")


def test_it_is_watched_limited_and_confined(unit: dict[str, list[str]]) -> None:
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["always"]
    assert unit["LimitCORE"] == ["0"]  # a dump holds the key
    assert unit["ProtectSystem"] == ["strict"]
    assert {"MemoryMax", "CPUQuota", "TasksMax", "NoNewPrivileges", "User"} <= set(unit)
    assert "MemoryDenyWriteExecute" not in unit  # CUDA makes code at run time
    assert "PrivateDevices" not in unit  # and cameras are devices
    for group in ("video4linux", "gpiochip", "nvidia*"):
        assert f"char-{group} rw" in unit["DeviceAllow"]


def test_the_user_that_it_runs_as_is_made(unit: dict[str, list[str]], examples: Path) -> None:
    lines = (examples / "systemd/immunecam-door.sysusers").read_text().splitlines()
    users = [shlex.split(line)[1] for line in lines if line.startswith("u ")]
    assert users == unit["User"] == unit["Group"]


def test_the_readme_names_what_is_there(examples: Path) -> None:
    from typer.testing import CliRunner

    from immunecam.cli import app

    text = (examples / "README.md").read_text()
    for name in re.findall(r"`((?:systemd/)?[\w.-]+\.(?:py|service|sysusers))`", text):
        assert (examples / name).is_file(), name
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    called = re.findall(r"immunecam (doctor|gate \w+)([^\n']*)", blocks)
    assert {command for command, _ in called} >= {"doctor", "gate keygen", "gate enrol", "gate calibrate"}
    for command, words in called:
        said = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "300"}).stdout
        for option in re.findall(r"(?<=\s)--[\w-]+", words):
            assert option in said, (command, option)
