"""Kills a process that enrols and deletes people, at random moments, and looks whether anything it told of is lost.

``python -m immunecam.benchmarks.enrolment_kills --kills 200 --json benchmarks/results/enrolment_kills.json``

Each time a real process opens the same store and works until SIGKILL or SIGTERM meets it: while it opens, in a
transaction, while it makes the backup. What it printed was told after the call had returned. Then the store is opened
as a gate opens it (every seal, the roster, SQLite's own check), and compared; so is its backup. A kill is no power cut,
which also takes what the system had not written: for that the write-ahead log is cut at random places
(tests/runtime/gate/test_store.py).
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.gate.store import TemplateStore
from immunecam.runtime.gate.store_header import Setting
from immunecam.runtime.gate.store_restore import is_good
from immunecam.runtime.report import write_report

__all__ = ["campaign", "main"]

_KEY = GateKey(bytes(range(32)))
_SETTING = Setting("r" * 64, "none", 128, "random", "none")


def _work(path: Path, seed: int) -> None:
    """Enrol and delete until killed; one line for each call that has returned."""
    rng = np.random.default_rng(seed)
    with TemplateStore.open(path, _KEY, _SETTING, create=True) as store:
        people = [person.person for person in store.people()]
        for number in range(10**9):
            if len(people) > 30 or (people and rng.random() < 0.2):
                person = people.pop(int(rng.integers(len(people))))
                print(f"deleting {person}", flush=True)
                store.delete(person)
                print(f"deleted {person}", flush=True)
                continue
            person = f"{seed}-{number}"
            rows = rng.standard_normal((int(rng.integers(1, 5)), 128)).astype(np.float32)
            store.enrol(person, rows / np.linalg.norm(rows, axis=1, keepdims=True))
            people.append(person)
            print(f"enrolled {person} {len(rows)}", flush=True)


def campaign(kills: int, *, seed: int = 0) -> dict[str, Any]:
    """Kill so many processes; returns what was seen.

    Returns
    -------
    dict
        `acknowledged` enrolments and deletions, and how many of them were `lost`, how many stores were `damaged`, had
        to be `restored`, or were left without a good backup.
    """
    rng = random.Random(seed)
    seen = dict.fromkeys(
        ("kills", "enrolled", "deleted", "lost", "damaged", "restored", "bad_backups", "before_any"), 0
    )
    folder = Path(tempfile.mkdtemp(prefix="immunecam-kills-"))
    path = folder / "door.gate"
    expected: dict[str, int] = {}
    try:
        for kill in range(kills):
            command = [
                sys.executable,
                "-m",
                "immunecam.benchmarks.enrolment_kills",
                "--work",
                str(path),
                str(seed + kill),
            ]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            # Most are met at work, the others while they start and open.
            first = process.stdout.readline() if rng.random() < 0.8 else ""
            time.sleep(rng.uniform(0.0, 0.25))
            process.send_signal(signal.SIGTERM if kill % 4 == 3 else signal.SIGKILL)
            # Not communicate(timeout=...), which reads past the buffer that readline has filled.
            told = [first, *process.stdout.read().splitlines()]
            process.stdout.close()
            process.wait(60)
            doubtful = _take(told, expected, seen)
            seen["kills"] += 1
            _look(path, expected, doubtful, seen)
    finally:
        shutil.rmtree(folder)
    return seen


def _take(told: list[str], expected: dict[str, int], seen: dict[str, int]) -> set[str]:
    """Note what was told; returns whom a call that did not return was about."""
    doubtful: set[str] = set()
    for line in told:
        what, *rest = line.split() or [""]
        if what == "enrolled" and len(rest) == 2:
            expected[rest[0]] = int(rest[1])
            seen["enrolled"] += 1
        elif what == "deleting":
            doubtful = {rest[0]}
        elif what == "deleted":
            expected.pop(rest[0], None)
            doubtful = set()
            seen["deleted"] += 1
    seen["before_any"] += not any(told)
    return doubtful


def _look(path: Path, expected: dict[str, int], doubtful: set[str], seen: dict[str, int]) -> None:
    if not path.exists():
        seen["lost"] += len(expected)
        return
    connection = sqlite3.connect(path)
    seen["damaged"] += connection.execute("PRAGMA integrity_check").fetchone() != ("ok",)
    connection.close()
    with TemplateStore.open(path, _KEY, _SETTING, create=True) as store:
        seen["restored"] += store.restored is not None
        found = {person.person: len(person.numbers) for person in store.people()}
    seen["lost"] += sum(found.get(person) != count for person, count in expected.items() if person not in doubtful)
    backup = path.with_name(path.name + ".backup")
    seen["bad_backups"] += backup.exists() and not is_good(backup, _KEY, _SETTING)
    # A call that did not return may have been done or not; what is there counts from now on.
    expected.clear()
    expected.update(found)


def main(arguments: list[str] | None = None) -> None:
    """Run the campaign and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", nargs=2, metavar=("STORE", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.work:
        _work(Path(given.work[0]), int(given.work[1]))
        return
    began = time.monotonic()
    seen = campaign(given.kills, seed=given.seed)
    print(seen)
    if given.json:
        row = {**seen, "seconds": round(time.monotonic() - began, 1)}
        write_report(
            given.json, "immunecam.enrolment_kills/1", [row], bundle_sha256=None, sqlite=sqlite3.sqlite_version
        )


if __name__ == "__main__":
    main()
