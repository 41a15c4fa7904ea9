"""Templates at rest: what is written stays, what was changed is noticed, what was deleted is gone."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from immunecam.benchmarks import enrolment_kills
from immunecam.errors import InputError
from immunecam.runtime.gate.error_rates import ErrorRates
from immunecam.runtime.gate.keys import Cipher, GateKey, SealBroken
from immunecam.runtime.gate.operating_point import OperatingPoint
from immunecam.runtime.gate.store import TemplateStore
from immunecam.runtime.gate.store_content import Roster
from immunecam.runtime.gate.store_header import Setting


@pytest.fixture
def path(tmp_path):
    return tmp_path / "door.gate"


@pytest.fixture
def store(path, key, setting):
    with TemplateStore.open(path, key, setting, create=True) as opened:
        yield opened


@pytest.fixture
def filled(path, key, setting, unit):
    """A closed store of three people, and what it holds."""
    rows = {name: unit(count, seed) for seed, (name, count) in enumerate((("ann", 3), ("bob", 1), ("cid", 2)))}
    with TemplateStore.open(path, key, setting, create=True) as opened:
        for name, own in rows.items():
            opened.enrol(name, own)
    return rows


def changed(path: Path, *statements: str) -> None:
    """What somebody does who can write the file but has no key; the backup is taken away."""
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_what_is_enrolled_is_there_after_opening_again(path, key, setting, filled):
    with TemplateStore.open(path, key, setting) as store:
        assert store.restored is None
        assert [(person.person, len(person.numbers)) for person in store.people()] == [
            ("ann", 3),
            ("bob", 1),
            ("cid", 2),
        ]
        for name, rows in filled.items():
            np.testing.assert_array_equal(store.gallery().of(name), rows)
        assert store.gallery() is store.gallery()
        assert store.generation == 3
        assert os.stat(path).st_mode & 0o077 == 0


def test_templates_are_added_or_replaced(store, unit):
    store.enrol("ann", unit(2))
    assert store.enrol("ann", unit(2, 1)) == 4
    np.testing.assert_array_equal(store.gallery().of("ann"), np.concatenate([unit(2), unit(2, 1)]))
    assert store.enrol("ann", unit(1, 2), replace=True) == 1
    np.testing.assert_array_equal(store.gallery().of("ann"), unit(1, 2))
    with pytest.raises(InputError, match="100 at most"):
        store.enrol("ann", unit(100))
    assert len(store.gallery().of("ann")) == 1


@pytest.mark.parametrize(
    ("person", "rows", "said"),
    [
        ("", np.eye(1, 32, dtype=np.float32), "printable characters"),
        (" ann", np.eye(1, 32, dtype=np.float32), "printable characters"),
        ("a\nb", np.eye(1, 32, dtype=np.float32), "printable characters"),
        ("a" * 257, np.eye(1, 32, dtype=np.float32), "printable characters"),
        ("ann", np.eye(1, 31, dtype=np.float32), "must be \\(T, 32\\)"),
        ("ann", np.zeros((0, 32), np.float32), "must be \\(T, 32\\)"),
        ("ann", np.zeros((1, 32), np.float32), "not of unit length"),
        ("ann", np.full((1, 32), np.nan, np.float32), "not of unit length"),
    ],
)
def test_what_is_no_template_is_refused_and_changes_nothing(store, person, rows, said):
    with pytest.raises(InputError, match=said):
        store.enrol(person, rows)
    assert len(store) == 0


def test_no_embedding_lies_in_a_file_in_clear(path, filled):
    for file in path.parent.iterdir():
        content = file.read_bytes()
        for rows in filled.values():
            assert not any(row.tobytes()[:16] in content for row in rows)


def test_a_deleted_person_is_gone_from_every_file(path, key, setting, filled):
    connection = sqlite3.connect(path)
    query = "SELECT sealed FROM templates JOIN people ON people.id = person_id WHERE person = 'ann'"
    sealed = [row[0] for row in connection.execute(query)]
    connection.close()
    assert len(sealed) == 3
    with TemplateStore.open(path, key, setting) as store:
        store.delete("ann")
        with pytest.raises(InputError, match="nobody is enrolled as 'ann'"):
            store.delete("ann")
        for file in path.parent.iterdir():
            content = file.read_bytes()
            assert not any(blob[:24] in content for blob in sealed), file
            assert b"ann" not in content, file
        assert "ann" not in store.gallery()


def test_another_key_recogniser_or_setting_is_refused_in_a_sentence(path, key, setting, filled):
    with pytest.raises(InputError, match="made with another key"):
        TemplateStore.open(path, GateKey.generate(), setting)
    with pytest.raises(InputError, match=r"another recogniser \(small, rrrrrrrrrrrr, not big, xxxxxxxxxxxx\)"):
        TemplateStore.open(path, key, Setting("x" * 64, "none", 32, "big", ""))
    with pytest.raises(InputError, match="another purification setting"):
        TemplateStore.open(path, key, Setting("r" * 64, "p" * 64, 32, "small", "edge"))
    with TemplateStore.open(path, key, None) as store:
        assert store.setting == setting
    assert not path.with_name("door.gate.damaged").exists()


SWAPS = {
    "swapped templates": (
        "UPDATE templates SET person_id = person_id + 100",
        "UPDATE templates SET person_id = CASE person_id WHEN 102 THEN 3 WHEN 103 THEN 2 ELSE 1 END",
    ),
    "renamed": ("UPDATE people SET person = 'eve' WHERE person = 'bob'",),
    "exchanged names": (
        "UPDATE people SET person = 'x' WHERE person = 'ann'",
        "UPDATE people SET person = 'ann' WHERE person = 'bob'",
        "UPDATE people SET person = 'bob' WHERE person = 'x'",
    ),
    "removed a template": ("DELETE FROM templates WHERE person_id = 1 AND number = 2",),
    "removed a person": ("PRAGMA foreign_keys = ON", "DELETE FROM people WHERE person = 'cid'"),
    "doubled a template": (
        "INSERT INTO templates SELECT person_id, 9, quality, created, sealed FROM templates WHERE person_id = 2",
    ),
    "another time": ("UPDATE templates SET created = '2000-01-01T00:00:00+00:00' WHERE person_id = 2",),
    "an empty person": ("INSERT INTO people (person) VALUES ('eve')",),
    "a template of nobody": (
        "INSERT INTO templates SELECT 77, number, quality, created, sealed FROM templates LIMIT 1",
    ),
    "another recogniser": ("UPDATE meta SET value = CAST('x' AS BLOB) WHERE name = 'recognizer'",),
    "no roster": ("DELETE FROM meta WHERE name = 'roster'",),
    "another key's check": ("UPDATE meta SET value = zeroblob(16) WHERE name = 'key check'",),
}


@pytest.mark.parametrize("statements", SWAPS.values(), ids=SWAPS)
def test_rows_changed_without_the_key_are_noticed_and_the_backup_restored(path, key, setting, filled, statements):
    changed(path, *statements)
    spare = path.with_name("spare")
    shutil.copy(path.with_name("door.gate.backup"), spare)
    path.with_name("door.gate.backup").unlink()
    with pytest.raises(InputError, match=r"has no backup|another key"):
        TemplateStore.open(path, key, setting)
    shutil.move(spare, path.with_name("door.gate.backup"))
    with TemplateStore.open(path, key, setting) as store:
        assert store.restored is not None
        assert {name: len(rows) for name, rows in filled.items()} == {p.person: len(p.numbers) for p in store.people()}
    assert path.with_name("door.gate.damaged").exists()


def test_a_row_that_comes_back_after_a_deletion_is_noticed(path, key, setting, filled):
    old = sqlite3.connect(path)
    person = old.execute("SELECT id, person FROM people WHERE person = 'bob'").fetchone()
    row = old.execute("SELECT * FROM templates WHERE person_id = ?", person[:1]).fetchone()
    old.close()
    with TemplateStore.open(path, key, setting) as store:
        store.delete("bob")
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO people VALUES (?, ?)", person)
    connection.execute("INSERT INTO templates VALUES (?, ?, ?, ?, ?)", row)
    connection.commit()
    connection.close()
    with TemplateStore.open(path, key, setting) as store:
        assert "rows were removed or put back" in (store.restored or "")
        assert "bob" not in store.gallery()


def test_a_store_that_is_older_than_its_backup_is_noticed(path, key, setting, filled, unit, tmp_path):
    """Put back by somebody, or without the log that its last changes were in."""
    old = path.read_bytes()
    with TemplateStore.open(path, key, setting) as store:
        store.delete("bob")
        store.enrol("dan", unit(1, 9))
        cut = path.read_bytes()
    for earlier, missing in ((old, 2), (cut, 1)):
        path.write_bytes(earlier)
        with pytest.raises(InputError, match=f"lacks the last {missing} changes.* not restored when opened read-only"):
            TemplateStore.open(path, key, setting, read_only=True)
        with TemplateStore.open(path, key, setting) as store:
            assert f"lacks the last {missing} changes" in (store.restored or "")
            assert set(store.gallery().people) == {"ann", "cid", "dan"}
    other = tmp_path / "other.gate"  # of another store nothing can be told
    TemplateStore.open(other, key, setting, create=True).close()
    shutil.copy(path.with_name("door.gate.backup"), tmp_path / "other.gate.backup")
    with TemplateStore.open(other, key, setting) as store:
        assert store.restored is None


def test_a_threshold_that_was_put_back_or_removed_is_noticed(path, key, setting, filled):
    def row() -> bytes:
        connection = sqlite3.connect(path)
        (value,) = connection.execute("SELECT value FROM meta WHERE name = 'operating point'").fetchone()
        connection.close()
        return value

    with TemplateStore.open(path, key, setting) as store:
        store.set_operating_point(OperatingPoint(0.1, setting.recognizer, setting.purification))
    lax = row()
    strict = OperatingPoint(0.6, setting.recognizer, setting.purification)
    with TemplateStore.open(path, key, setting) as store:
        store.set_operating_point(strict)
        store.backup.write()
    for statement in (
        f"UPDATE meta SET value = x'{lax.hex()}' WHERE name = 'operating point'",
        "UPDATE meta SET value = 'text' WHERE name = 'operating point'",
        "DELETE FROM meta WHERE name = 'operating point'",
    ):
        changed(path, statement)
        with TemplateStore.open(path, key, setting) as store:
            assert "its threshold was changed, removed or put back" in (store.restored or "")
            assert store.operating_point() == strict


def test_a_path_may_begin_with_two_slashes(path, key, setting, filled):
    with TemplateStore.open(f"/{path}", key, setting) as store:
        assert store.restored is None
        assert len(store) == 3


def test_nothing_that_is_restored_or_put_aside_can_be_read_by_others(path, key, setting, filled):
    path.write_bytes(path.read_bytes()[:5000])
    umask = os.umask(0)
    try:
        with TemplateStore.open(path, key, setting) as store:
            assert store.restored is not None
    finally:
        os.umask(umask)
    assert {file.name for file in path.parent.iterdir() if file.stat().st_mode & 0o077} == set()


def test_any_damaged_byte_is_noticed_or_harmless(path, key, setting, filled):
    """Wherever a byte or a page is hit, the gate opens with everybody, from the store or from its backup."""
    whole = path.read_bytes()
    backup = path.with_name("door.gate.backup").read_bytes()
    rng = np.random.default_rng(0)
    restored = 0
    places = [*range(0, 100, 9), *rng.integers(0, len(whole), 60)]
    for number, place in enumerate(places):
        damaged = bytearray(whole)
        length = 4096 if number % 5 == 0 else 1
        damaged[place : place + length] = bytes(b ^ 0x55 for b in damaged[place : place + length])
        path.write_bytes(damaged)
        path.with_name("door.gate.backup").write_bytes(backup)
        with TemplateStore.open(path, key, setting) as store:
            restored += store.restored is not None
            for name, rows in filled.items():
                np.testing.assert_array_equal(store.gallery().of(name), rows)
    assert restored > len(places) // 5


def test_a_store_and_backup_that_are_both_damaged_are_told(path, key, setting, filled):
    for file in (path, path.with_name("door.gate.backup")):
        data = bytearray(file.read_bytes())
        data[4096:] = bytes(len(data) - 4096)
        file.write_bytes(data)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"is damaged .* and its backup is, too"):
        TemplateStore.open(path, key, setting)
    assert path.read_bytes() == before


def test_a_missing_or_empty_store_comes_back_from_its_backup_not_as_a_new_one(path, key, setting, filled):
    for spoil in (path.unlink, lambda: path.write_bytes(b"")):
        spoil()
        with TemplateStore.open(path, key, setting, create=True) as store:
            assert len(store) == 3
            assert "missing or empty" in (store.restored or "")


def test_a_damaged_store_in_use_is_not_replaced_under_its_user(path, key, setting, filled, unit):
    with TemplateStore.open(path, key, setting) as user:
        data = bytearray(path.read_bytes())
        data[4096:] = bytes(len(data) - 4096)
        path.write_bytes(data)
        code = "import sys; from immunecam.errors import InputError\n" + _open_in_child(path)
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert "another process has it open" in found.stdout
        assert len(user.gallery()) == 3


def _open_in_child(path: Path) -> str:
    return textwrap.dedent(f"""
        from immunecam.runtime.gate.keys import GateKey
        from immunecam.runtime.gate.store import TemplateStore
        try:
            with TemplateStore.open({str(path)!r}, GateKey(bytes(range(32))), None) as store:
                print(len(store), store.restored)
        except InputError as error:
            print(error)
    """)


def test_a_backup_is_never_made_of_a_damaged_store(store, path, unit):
    store.enrol("ann", unit(1))
    good = store.backup.path.read_bytes()
    other = sqlite3.connect(path)
    other.execute("UPDATE templates SET sealed = zeroblob(60)")
    other.commit()
    other.close()
    with pytest.raises(InputError, match="does not open"):
        store.backup.write()
    assert store.backup.path.read_bytes() == good
    assert not list(path.parent.glob("*.partial"))


def test_a_backup_takes_away_what_killed_processes_left(store, path, unit):
    """Else somebody who is deleted would stay in it."""
    for left in (".door.gate.backup.77.partial", ".door.gate.backup.77.partial-journal"):
        path.with_name(left).write_bytes(b"ann")
    store.enrol("bob", unit(1))
    assert not list(path.parent.glob("*.partial*"))


def test_backups_are_made_one_after_the_other(store, path, key, setting, unit):
    """Of two at once the older could come last, and bring back who was deleted."""
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # another process makes its backup
    change = threading.Thread(target=store.enrol, args=("ann", unit(1)))
    change.start()
    with TemplateStore.open(path, key, setting) as other:
        while "ann" not in other.gallery():
            time.sleep(0.01)
        change.join(0.3)
        assert change.is_alive()
        assert not store.backup.path.exists()
        os.close(folder)
        change.join(10)
        assert store.backup.path.exists()


def test_two_processes_see_each_others_changes(store, path, key, setting, unit):
    store.enrol("ann", unit(1))
    with TemplateStore.open(path, key, setting) as other:
        first = other.gallery()
        store.anchors.write_anchor("a trail", 1, "ab" * 32)
        assert other.gallery() is first  # an anchor is no reason to read templates again
        store.enrol("bob", unit(2, 1))
        assert set(other.gallery().people) == {"ann", "bob"}
        other.delete("ann")
        other.enrol("cid", unit(1, 2))
        assert set(store.gallery().people) == {"bob", "cid"}
        store.enrol("ann", unit(1, 4))
    assert store.generation == 5


def test_many_changes_can_share_one_backup(store, path, unit):
    with store.backup.deferred():
        for number in range(5):
            store.enrol(f"p{number}", unit(1, number))
        assert not store.backup.path.exists()
        store.delete("p0")  # a backup with a deleted person in it would be no deletion
        assert store.backup.path.exists()
        store.enrol("p9", unit(1))
    copy = sqlite3.connect(f"file:{store.backup.path}?immutable=1", uri=True)
    assert {row[0] for row in copy.execute("SELECT person FROM people")} == {"p1", "p2", "p3", "p4", "p9"}
    copy.close()


def test_an_operating_point_is_sealed_and_bound_to_its_setting(store, path, key, setting):
    assert store.operating_point() is None
    point = OperatingPoint(0.3, setting.recognizer, setting.purification, 1e-3, 2e-3, 0.4, 0.8)
    store.set_operating_point(point)
    assert store.operating_point() == point
    rates = ErrorRates((0.5,) * 201, (0.25,) * 201, 9, 8, 7)
    store.set_operating_point(dataclasses.replace(point, rates=rates))
    assert store.operating_point().rates == rates
    with pytest.raises(InputError, match="another recogniser or purification setting"):
        store.set_operating_point(OperatingPoint(0.3, "other", "none"))
    store._connection.execute("UPDATE meta SET value = zeroblob(99) WHERE name = 'operating point'")
    with pytest.raises(InputError, match="threshold that was changed"):
        store.operating_point()
    with pytest.raises(InputError, match="a cosine is from -1 to 1"):
        OperatingPoint(1.5, "", "")


def test_an_anchor_that_was_changed_is_noticed(store):
    assert store.anchors.read_anchor("c") is None
    store.anchors.write_anchor("c", 7, "ab" * 32)
    assert store.anchors.read_anchor("c") == (7, "ab" * 32)
    assert store.anchors.anchored_chains() == ["c"]
    store._connection.execute("UPDATE anchors SET seq = 3")
    with pytest.raises(InputError, match="anchor of the audit trail that was changed"):
        store.anchors.read_anchor("c")


def test_what_was_committed_outlives_a_log_that_is_cut_anywhere(path, key, setting, unit, tmp_path):
    """A power cut leaves the log up to the last fsync, and of what was written after that anything at all."""
    with TemplateStore.open(path, key, setting, create=True) as store, store.backup.deferred():
        store.enrol("ann", unit(2))
        log = path.with_name("door.gate-wal")
        safe = log.stat().st_size
        store.enrol("bob", unit(3, 1))
        store.backup.due = False
        for file in (path, log):
            shutil.copy(file, tmp_path / f"cut-{file.name}")
    whole, rng = (tmp_path / "cut-door.gate-wal").read_bytes(), np.random.default_rng(0)
    assert len(whole) > safe
    for cut in [safe, len(whole), *rng.integers(safe, len(whole), 12)]:
        folder = tmp_path / f"at{cut}"
        folder.mkdir(exist_ok=True)
        shutil.copy(tmp_path / "cut-door.gate", folder / "door.gate")
        torn = rng.bytes(512) if cut < len(whole) else b""
        (folder / "door.gate-wal").write_bytes(whole[:cut] + torn)
        with TemplateStore.open(folder / "door.gate", key, setting) as store:
            assert store.restored is None
            np.testing.assert_array_equal(store.gallery().of("ann"), unit(2))
            assert "bob" not in store.gallery() or len(store.gallery().of("bob")) == 3


def test_killed_processes_lose_no_enrolment_that_was_told():
    """15 of the 200 kills of ``benchmarks/results/enrolment_kills.json``."""
    seen = enrolment_kills.campaign(15, seed=1000)
    assert seen["kills"] == 15
    assert seen["enrolled"] > 0
    assert seen["lost"] == seen["damaged"] == seen["restored"] == seen["bad_backups"] == 0


def _on_small_disk(tmp_path: Path, code: str, *, size: str = "400k") -> str:
    """Runs Python with a disk of its own at the variable `disk`; skipped where namespaces are not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    shell = f'mount -t tmpfs -o size={size} none {disk} && exec {sys.executable} -c "$CODE"'
    head = f"disk = {str(disk)!r}\nimport os, subprocess, numpy as np\nfrom immunecam.errors import InputError\n"
    head += "from immunecam.runtime.gate.keys import GateKey\nfrom immunecam.runtime.gate.store import TemplateStore\n"
    head += "from immunecam.runtime.gate.store_header import Setting\nkey = GateKey(bytes(range(32)))\n"
    head += "setting = Setting('r' * 64, 'none', 32)\nrows = np.eye(8, 32, dtype=np.float32)\n"
    found = subprocess.run(
        ["unshare", "-rm", "sh", "-c", shell],
        env={**os.environ, "CODE": head + textwrap.dedent(code)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare" in found.stderr or "mount:" in found.stderr:
        pytest.skip(f"no mount namespace here: {found.stderr.strip()[:80]}")
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_a_full_disk_is_one_sentence_and_leaves_the_store_whole(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    told = _on_small_disk(
        tmp_path,
        """
        done = []
        open(f"{disk}/filler", "wb").write(bytes(100_000))
        with TemplateStore.open(f"{disk}/door.gate", key, setting, create=True) as store:
            try:
                for number in range(10000):
                    store.enrol(f"p{number}", rows)
                    done.append(f"p{number}")
            except InputError as error:
                print(error)
            assert list(store.gallery().people) == done and len(done) > 5
        with TemplateStore.open(f"{disk}/door.gate", key, setting) as store:
            assert {p.person for p in store.people()} == set(done) and store.restored is None
            os.unlink(f"{disk}/filler")
            for name in done[: len(done) // 2]:
                store.delete(name)
            store.enrol("again", rows)
            print("whole", len(store) == len(done) - len(done) // 2 + 1)
        """,
    )
    lines = told.splitlines()
    assert "cannot be written, because the disk is full: it is as it was, free some space" in lines[0]
    assert lines[-1] == "whole True"


def test_a_read_only_disk_is_one_sentence_and_can_be_read(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    told = _on_small_disk(
        tmp_path,
        """
        with TemplateStore.open(f"{disk}/door.gate", key, setting, create=True) as store:
            store.enrol("ann", rows)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        try:
            TemplateStore.open(f"{disk}/door.gate", key, setting)
        except InputError as error:
            print(error)
        with TemplateStore.open(f"{disk}/door.gate", key, setting, read_only=True) as store:
            print(store.gallery().people)
            try:
                store.enrol("bob", rows)
            except InputError as error:
                print(error)
        """,
    )
    first, people, last = told.splitlines()
    assert "read-only" in first
    assert people == "('ann',)"
    assert "opened read-only" in last


def test_what_is_no_store_is_told(path, key, setting, tmp_path):
    with pytest.raises(InputError, match="there is no template store"):
        TemplateStore.open(path, key, setting)
    with pytest.raises(InputError, match="does not exist: make it first"):
        TemplateStore.open(tmp_path / "no" / "door.gate", key, setting, create=True)
    sqlite3.connect(path).execute("CREATE TABLE theirs (x)").connection.commit()
    with pytest.raises(InputError, match="no template store"):
        TemplateStore.open(path, key, setting, create=True)
    path.write_text("certainly no database, but some text of several words" * 40)
    with pytest.raises(InputError, match="is damaged"):
        TemplateStore.open(path, key, setting, create=True)
    assert path.read_text().startswith("certainly")


@given(data=st.binary(max_size=300), bound=st.binary(max_size=60), flip=st.integers(0, 10**6))
def test_a_seal_opens_only_whole_and_in_its_place(data, bound, flip):
    cipher = Cipher(bytes(range(32)))
    sealed = cipher.seal(data, bound)
    assert cipher.open(sealed, bound) == data
    assert cipher.seal(data, bound)[:12] != sealed[:12]
    broken = bytearray(sealed)
    broken[flip % len(broken)] ^= 1 + flip % 255
    for wrong in ((bytes(broken), bound), (sealed, bound + b"x"), (sealed[:-1], bound), (b"", bound)):
        with pytest.raises(SealBroken):
            cipher.open(*wrong)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**256 - 1)), max_size=20))
def test_a_roster_adds_up_in_any_order(changes):
    added = [value for add, value in changes if add]
    removed = added[: len(changes) - len(added)]
    there = Roster().changed(added, []).changed([], removed)
    again = Roster.from_bytes(there.to_bytes())
    assert again == there
    left = Roster().changed(list(reversed(added[len(removed) :])), [])
    assert (left.count, left.total) == (there.count, there.total)


def test_keys_come_from_files_and_environment_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "door.key"
    made = GateKey.generate()
    made.write(file)
    assert os.stat(file).st_mode & 0o777 == 0o600
    assert GateKey.from_file(file).derive("x") == made.derive("x") != made.derive("y")
    assert made._secret.hex() not in repr(made)
    with pytest.raises(InputError, match="exists already"):
        made.write(file)
    monkeypatch.setenv("IMMUNECAM_GATE_KEY", file.read_text())
    assert GateKey.from_environment().derive("x") == made.derive("x")
    for content, said in (
        (b"secret!", "is no key"),
        (b"", "has 0 bytes"),
        (b"00" * 32, "32 random"),
        (b"zz" * 32, "is no key"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=said) as error:
            GateKey.from_file(file)
        assert "secret!" not in str(error.value)
    os.chmod(file, 0o666)
    with pytest.raises(InputError, match="may be written by others"):
        GateKey.from_file(file)
    monkeypatch.delenv("IMMUNECAM_GATE_KEY")
    with pytest.raises(InputError, match="the gate needs its key"):
        GateKey.from_environment()
