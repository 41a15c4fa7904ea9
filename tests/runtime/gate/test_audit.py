"""The audit trail: what was done to it is found, and what a power cut did is repaired."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from immunecam.errors import InputError, UsageError
from immunecam.runtime.gate import audit_clock
from immunecam.runtime.gate.audit_chain import GENESIS, ChainBroken, Link, next_line, read_line
from immunecam.runtime.gate.audit_log import AuditLog, Retention
from immunecam.runtime.gate.audit_verify import verify_trail
from immunecam.runtime.gate.store import TemplateStore


class Memory:
    """An anchor that outlives the trail."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[int, str]] = {}

    def read_anchor(self, chain: str) -> tuple[int, str] | None:
        return self.known.get(chain)

    def write_anchor(self, chain: str, seq: int, digest: str) -> None:
        self.known[chain] = (seq, digest)

    def anchored_chains(self) -> list[str]:
        return list(self.known)


@pytest.fixture
def anchor():
    return Memory()


@pytest.fixture
def trail(tmp_path, anchor):
    """A folder with the genesis and twenty decisions, in several files."""
    folder = tmp_path / "trail"
    with AuditLog(folder, anchor=anchor, retention=Retention(file_bytes=2000)) as log:
        for number in range(20):
            log.append("decision", {"event": "granted", "score": number / 7, "person": "Jürgen\n\u2028"})
    assert len(list(folder.glob("*.jsonl"))) > 2
    return folder


def lines_of(trail: Path) -> list[tuple[Path, bytes]]:
    return [(file, line) for file in sorted(trail.glob("*.jsonl")) for line in file.read_bytes().splitlines(True)]


def write_back(lines: list[tuple[Path, bytes]], files: list[Path]) -> None:
    for file in files:
        file.write_bytes(b"".join(line for at, line in lines if at == file))


def test_an_untouched_trail_is_intact(trail, anchor):
    report = verify_trail(trail, anchor=anchor)
    assert report.intact
    assert not report.notes
    assert report.records == len(lines_of(trail))
    assert report.last == report.anchored == Link(*anchor.known[report.chain])
    assert verify_trail(trail, head=report.last).intact
    record = json.loads(lines_of(trail)[5][1])
    assert {"time", "monotonic_s", "boot", "seq", "prev", "hash", "type"} <= set(record)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_every_edited_removed_or_reordered_record_is_found(trail, data):
    lines = lines_of(trail)
    files = sorted(trail.glob("*.jsonl"))
    before = [file.read_bytes() for file in files]
    kind = data.draw(st.sampled_from(["byte", "value", "remove", "swap", "double", "file"]))
    at = data.draw(st.integers(0, len(lines) - 2))
    file, line = lines[at]
    changed = list(lines)
    if kind == "byte":
        place = data.draw(st.integers(0, len(line) - 2))
        flipped = bytearray(line)
        flipped[place] ^= data.draw(st.integers(1, 127))
        changed[at] = (file, bytes(flipped))
    elif kind == "value":
        record = json.loads(line)
        record["event"] = "denied, really"
        changed[at] = (file, json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    elif kind == "remove":
        del changed[at]
    elif kind == "swap":
        changed[at], changed[at + 1] = (file, lines[at + 1][1]), (lines[at + 1][0], line)
    elif kind == "double":
        changed.insert(at, lines[at])
    else:
        gone = data.draw(st.sampled_from(files[:-1]))
        changed = [(name, text) for name, text in lines if name != gone]
    try:
        write_back(changed, files)
        if kind == "file":
            gone.unlink()
        assert not verify_trail(trail).intact, kind
    finally:
        for name, content in zip(files, before, strict=True):
            name.write_bytes(content)


def test_a_cut_end_needs_an_anchor_or_a_head_and_is_then_found(trail, anchor):
    head = verify_trail(trail).last
    lines = lines_of(trail)
    write_back(lines[:-3], sorted(trail.glob("*.jsonl")))
    assert verify_trail(trail).intact  # which nothing within the trail can tell
    for report in (verify_trail(trail, anchor=anchor), verify_trail(trail, head=head)):
        assert [fault.kind for fault in report.faults] == ["cut-off"]
    with AuditLog(trail, anchor=anchor) as log:  # the gate goes on, and the trail says for good what is missing
        log.append("decision", {})
    report = verify_trail(trail, anchor=anchor)
    assert [fault.kind for fault in report.faults] == ["cut-off"]
    assert f"records {len(lines) - 3} to {len(lines) - 1} were cut off" in report.faults[0].what


def test_a_trail_written_anew_is_found_by_the_anchor(trail, anchor, tmp_path):
    first = json.loads(lines_of(trail)[0][1])
    link, new = Link(), []
    for file, line in lines_of(trail):
        record = json.loads(line)
        content = {k: v for k, v in record.items() if k not in ("seq", "prev", "hash")}
        if record["seq"] == 4:
            content["event"] = "denied"
        text, link = next_line(link, content)
        new.append((file, text))
    write_back(new, sorted(trail.glob("*.jsonl")))
    assert verify_trail(trail).intact
    assert [fault.kind for fault in verify_trail(trail, anchor=anchor).faults] == ["rewritten"]
    shutil.rmtree(trail)
    with AuditLog(trail, anchor=anchor):
        pass
    (fault,) = verify_trail(trail, anchor=anchor).faults
    assert f"the anchor knows the trail {first['chain']}" in fault.what


@pytest.mark.parametrize("torn", [b"", b"{"])
@pytest.mark.parametrize("running", [True, False])
def test_an_end_that_is_cut_off_is_not_forgotten_by_the_next_record(tmp_path, anchor, running, torn):
    """The next record overwrites the anchor: under a running gate, and behind the repair of a torn line."""
    log = AuditLog(tmp_path, anchor=anchor)
    for number in range(5):
        log.append("decision", {"n": number})
    file = tmp_path / "audit-00000001.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(True)[:-3]) + torn)
    if not running:
        log.close()
        log = AuditLog(tmp_path, anchor=anchor)
    log.append("decision", {})
    log.close()
    (fault,) = verify_trail(tmp_path, anchor=anchor).faults
    assert fault.kind == "cut-off"
    assert "records 3 to 5" in fault.what


def forged(after: Link, kind: str, **content: object) -> bytes:
    """A record by somebody without the key."""
    return next_line(after, {"type": kind, **content})[0]


def test_a_last_record_that_was_written_anew_is_told_by_the_next(tmp_path, anchor):
    with AuditLog(tmp_path, anchor=anchor) as log:
        before = log.append("decision", {"event": "denied"})
        log.append("decision", {"event": "granted"})
        file = tmp_path / "audit-00000001.jsonl"
        kept = file.read_bytes().splitlines(True)[:-1]
        file.write_bytes(b"".join(kept) + forged(before, "decision", event="denied"))
        log.append("decision", {})
    assert [fault.kind for fault in verify_trail(tmp_path, anchor=anchor).faults] == ["rewritten"]


def test_records_that_no_gate_wrote_are_told(tmp_path, anchor):
    with AuditLog(tmp_path, anchor=anchor) as log:
        link = log.append("decision", {"event": "denied"})
        with (tmp_path / "audit-00000001.jsonl").open("ab") as file:
            file.write(forged(link, "decision", event="granted"))
        seen = verify_trail(tmp_path, anchor=anchor)
        log.append("decision", {})
    for report in (seen, verify_trail(tmp_path, anchor=anchor)):
        assert report.intact
        assert ["records 2 to 2 came after the last that the anchor knew" in note for note in report.notes] == [True]


def test_a_forged_retention_hides_no_removed_beginning(trail, anchor):
    first, *rest = sorted(trail.glob("*.jsonl"))
    _, dropped, _ = read_line(first.read_bytes().splitlines()[-1])
    _, head, _ = read_line(rest[-1].read_bytes().splitlines()[-1])
    first.unlink()
    with rest[-1].open("ab") as file:
        file.write(forged(head, "retention", dropped_through=dropped.seq, dropped_hash=dropped.hash))
    assert [fault.kind for fault in verify_trail(trail, anchor=anchor).faults] == ["beginning"]
    with AuditLog(trail, anchor=anchor) as log:
        log.append("decision", {})
    assert [fault.kind for fault in verify_trail(trail, anchor=anchor).faults] == ["beginning"]


def test_forged_numbers_are_no_reason_to_break_off(trail):
    for kind, name in (("retention", "dropped_through"), ("cut-off", "missing_from"), ("unanchored", "unanchored_to")):
        head = verify_trail(trail).last
        with max(trail.glob("*.jsonl")).open("ab") as file:
            file.write(forged(head, kind, **{name: "many"}))
    assert [fault.kind for fault in verify_trail(trail).faults] == ["cut-off"]


@pytest.mark.parametrize("rest", [b"{", b'{"event":"gran', b"\0" * 700, b"\0" * 30 + b'"type":"decision"}\n'])
def test_a_torn_last_line_is_put_aside_and_nothing_else(trail, anchor, rest):
    whole = lines_of(trail)
    last = whole[-1][0]
    last.write_bytes(last.read_bytes() + rest)
    if not rest.endswith(b"\n"):
        report = verify_trail(trail, anchor=anchor)
        assert report.intact
        assert "torn by a power cut" in report.notes[0]
    with AuditLog(trail, anchor=anchor) as log:
        log.append("decision", {"event": "denied"})
    report = verify_trail(trail, anchor=anchor)
    assert report.intact
    assert f"{len(rest)} bytes of a torn line" in report.notes[0]
    assert lines_of(trail)[: len(whole)] == whole
    assert report.records == len(whole) + 2


@pytest.mark.parametrize("cut", [0, 1, 40])
def test_a_power_cut_at_the_first_line_of_a_file_is_repaired(trail, anchor, cut):
    whole = lines_of(trail)
    following = trail / f"audit-{len(list(trail.glob('*.jsonl'))) + 1:08d}.jsonl"
    following.write_bytes(b'{"boot":"' + b"x" * 99)
    following.write_bytes(following.read_bytes()[:cut])
    with AuditLog(trail, anchor=anchor) as log:
        log.append("decision", {})
    assert verify_trail(trail, anchor=anchor).intact
    assert lines_of(trail)[: len(whole)] == whole


def test_a_disk_that_is_full_at_the_beginning_of_a_file_costs_no_record(tmp_path, anchor):
    """The next file can be made, but its first record not be written; later there is room again."""
    code = textwrap.dedent("""
        import resource, sys
        from immunecam.errors import InputError
        from immunecam.runtime.gate.audit_log import AuditLog, Retention
        log = AuditLog(sys.argv[1], retention=Retention(file_bytes=500))
        while len(list(log.folder.glob("*.jsonl"))) < 3:
            log.append("decision", {})
        while (log.folder / "audit-00000003.jsonl").stat().st_size <= 500:
            log.append("decision", {})
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
        try:
            log.append("decision", {})
        except InputError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        log.append("decision", {})
        log.close()
    """)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert "File too large" in done.stdout, done.stderr
    assert json.loads((tmp_path / "audit-00000004.jsonl").read_bytes().splitlines()[0])["type"] == "continuation"
    with AuditLog(tmp_path, anchor=anchor) as log:
        log.append("decision", {})
    assert verify_trail(tmp_path, anchor=anchor).intact


def test_a_trail_goes_on_after_a_file_that_could_not_be_opened(trail, anchor):
    in_the_way = trail / "audit-00000099.jsonl"
    with AuditLog(trail, anchor=anchor) as log:
        in_the_way.mkdir()
        with pytest.raises(InputError, match="Is a directory"):
            log.append("decision", {})
        in_the_way.rmdir()
        log.append("decision", {})
    assert verify_trail(trail, anchor=anchor).intact


def test_a_power_cut_in_the_genesis_is_repaired(tmp_path):
    (tmp_path / "audit-00000001.jsonl").write_bytes(b'{"boot"')
    with AuditLog(tmp_path) as log:
        assert log.append("decision", {}).seq == 1
    assert verify_trail(tmp_path).intact


def test_a_changed_last_record_does_not_stop_the_gate_and_is_found(trail, anchor):
    file, line = lines_of(trail)[-1]
    file.write_bytes(file.read_bytes().replace(line, line.replace(b"granted", b"denied!")))
    with AuditLog(trail, anchor=anchor) as log:
        log.append("decision", {})
    kinds = {fault.kind for fault in verify_trail(trail, anchor=anchor).faults}
    assert "edited" in kinds


def test_retention_drops_whole_files_and_keeps_the_chain(tmp_path, anchor):
    kept = Retention(file_bytes=2000, total_bytes=9000)
    with AuditLog(tmp_path, anchor=anchor, retention=kept) as log:
        for number in range(200):
            log.append("decision", {"n": number})
            assert sum(f.stat().st_size for f in tmp_path.glob("*.jsonl")) < 9000 + 2500
    report = verify_trail(tmp_path, anchor=anchor)
    assert report.intact
    assert report.first.seq > 100
    assert "dropped by retention" in report.notes[-1]
    oldest = min(tmp_path.glob("*.jsonl"))
    oldest.unlink()  # which no record of retention speaks of
    assert not verify_trail(tmp_path, anchor=anchor).intact


def test_retention_by_age(tmp_path, monkeypatch):
    now = [1.8e9]
    monkeypatch.setattr(audit_clock.time, "time", lambda: now[0])
    with AuditLog(tmp_path, retention=Retention(file_bytes=1500, days=30)) as log:
        for _ in range(60):
            log.append("decision", {})
            now[0] += 86400
    report = verify_trail(tmp_path)
    assert report.intact
    first = json.loads(lines_of(tmp_path)[0][1])["time"]
    assert 25 <= (now[0] - audit_clock.wall_seconds({"time": first})) / 86400 <= 40


def test_a_clock_that_goes_back_breaks_nothing_and_is_noted(tmp_path, monkeypatch):
    now = [1.8e9]
    monkeypatch.setattr(audit_clock.time, "time", lambda: now[0])
    with AuditLog(tmp_path, retention=Retention(file_bytes=1500, days=30)) as log:
        for step in (10.0, 10.0, -4e8, 10.0, 10.0):
            now[0] += step
            log.append("decision", {})
    report = verify_trail(tmp_path)
    assert report.intact
    assert ["the clock went back by 400000000 s" in note for note in report.notes] == [True]
    monotonic = [json.loads(line)["monotonic_s"] for _, line in lines_of(tmp_path)]
    assert monotonic == sorted(monotonic)


_APPENDING = """
import os, sys
from immunecam.runtime.gate.audit_log import AuditLog, Retention
with AuditLog(sys.argv[1], retention=Retention(file_bytes=4000)) as log:
    for number in range(40):
        log.append("decision", {"process": os.getpid(), "n": number})
"""


def test_processes_share_a_trail(tmp_path):
    workers = [subprocess.Popen([sys.executable, "-c", _APPENDING, str(tmp_path)]) for _ in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    report = verify_trail(tmp_path)
    assert report.intact
    records = [json.loads(line) for _, line in lines_of(tmp_path)]
    assert sum(record["type"] == "decision" for record in records) == 160
    for process in {record.get("process") for record in records} - {None}:
        assert [r["n"] for r in records if r.get("process") == process] == list(range(40))


def test_killed_writers_lose_no_record_that_was_told(tmp_path):
    code = textwrap.dedent("""
        import sys
        from immunecam.runtime.gate.audit_log import AuditLog, Retention
        with AuditLog(sys.argv[1], retention=Retention(file_bytes=3000)) as log:
            while True:
                print(log.append("decision", {}), flush=True)
    """)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        told = [process.stdout.readline().strip() for _ in range(7)]
        process.kill()
        told += process.stdout.read().splitlines()
        process.wait(30)
        there = {f"{r['seq']}:{r['hash']}" for r in (json.loads(x) for _, x in lines_of(tmp_path) if x.endswith(b"\n"))}
        assert set(told[:-1]) <= there
        assert verify_trail(tmp_path).intact


def test_a_full_disk_gives_no_decision_and_leaves_the_trail_whole(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    code = textwrap.dedent("""
        import os, sys
        from immunecam.errors import InputError
        from immunecam.runtime.gate.audit_log import AuditLog
        from immunecam.runtime.gate.audit_verify import verify_trail
        folder = sys.argv[1]
        open(folder + "/filler", "wb").write(bytes(20000))
        with AuditLog(folder + "/trail") as log:
            done = 0
            try:
                while True:
                    log.append("decision", {"x": "y" * 300})
                    done += 1
            except InputError as error:
                print(error)
            report = verify_trail(folder + "/trail")
            print(report.intact, report.records == done + 1)
            os.unlink(folder + "/filler")
            log.append("decision", {})
        report = verify_trail(folder + "/trail")
        print(report.intact, report.records == done + 2)
    """)
    disk = tmp_path / "disk"
    disk.mkdir()
    shell = f'mount -t tmpfs -o size=64k none {disk} && exec {sys.executable} -c "$CODE" {disk}'
    command, env = ["unshare", "-rm", "sh", "-c", shell], {**os.environ, "CODE": code}
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    if "unshare" in found.stderr or "mount:" in found.stderr:
        pytest.skip(f"no mount namespace here: {found.stderr.strip()[:80]}")
    told = found.stdout.splitlines()
    assert "No space left on device" in told[0]
    assert "no decision is given without its record" in told[0]
    assert told[1:] == ["True True", "True True"], found.stderr


def test_a_template_store_is_the_anchor_of_its_trail(tmp_path, key, setting, trail):
    with TemplateStore.open(tmp_path / "door.gate", key, setting, create=True) as store:
        with AuditLog(tmp_path / "own", anchor=store.anchors) as log:
            link = log.append("decision", {})
            assert store.anchors.read_anchor(log.chain) == (link.seq, link.hash)
        lines = lines_of(tmp_path / "own")
        write_back(lines[:-1], [lines[0][0]])
        assert [f.kind for f in verify_trail(tmp_path / "own", anchor=store.anchors).faults] == ["cut-off"]


def test_what_is_no_trail_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no audit trail"):
        verify_trail(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        verify_trail(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        AuditLog(tmp_path / "file")
    with pytest.raises(UsageError, match="must be above 0"):
        Retention(days=0)
    with pytest.raises(UsageError, match="seconds from 0 on"):
        AuditLog(tmp_path, sync_s=-1)


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda k: k not in ("seq", "prev", "hash")),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(max_size=20),
        ),
        max_size=6,
    ),
    st.integers(0, 10**6),
)
def test_a_line_reads_back_and_no_other_does(content, place):
    line, link = next_line(Link(), content)
    record, found, before = read_line(line)
    assert found == link
    assert before == Link(-1, GENESIS)
    assert {k: v for k, v in record.items() if k not in ("seq", "prev", "hash")} == content
    for wrong in (
        line[:-2],
        line.replace(b":", b": ", 1),
        bytes([*line[: place % (len(line) - 1)], 1, *line[1 + place % (len(line) - 1) :]]),
    ):
        with pytest.raises(ChainBroken):
            read_line(wrong)


def test_records_may_reach_the_disk_together(tmp_path, anchor):
    with AuditLog(tmp_path, anchor=anchor, sync_s=3600) as log:
        first = anchor.known[log.chain][0]
        for _ in range(5):
            log.append("decision", {})
        # The anchor knows of nothing that a power cut could still take.
        assert anchor.known[log.chain][0] <= first + 1
    report = verify_trail(tmp_path, anchor=anchor)
    assert report.intact
    assert report.anchored == report.last
    assert not report.notes
