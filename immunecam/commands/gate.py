"""``immunecam gate``: enrol, verify, identify, delete, list."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from immunecam.commands import gate_audit, gate_calibrate
from immunecam.commands.gate_options import (
    NOT_GRANTED,
    AuditFolder,
    DecisionOptions,
    GateOptions,
    KeyFile,
    Store,
    gate_key,
)
from immunecam.commands.options import Json, log_to_stderr
from immunecam.commands.outputs import check_outputs
from immunecam.commands.progress import counter
from immunecam.commands.shared_options import with_shared_options
from immunecam.errors import InputError, UsageError

if TYPE_CHECKING:
    from immunecam.runtime.frames import FrameSource
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.enrolment import Enrolment
    from immunecam.runtime.gate.event import GateEvent

__all__ = ["app"]

app = typer.Typer(
    name="gate",
    help="An access gate: who is enrolled, who stands before the camera, and the audit trail of its decisions.",
    no_args_is_help=True,
    epilog="Exit codes: as everywhere; 5 is a decision other than granted, or pictures to enrol that are not live.",
)
app.add_typer(gate_audit.app, name="audit")
app.command("calibrate")(gate_calibrate.calibrate)

Sources = Annotated[
    list[str], typer.Argument(metavar="SOURCE...", help="Picture, folder, video, camera number, or rtsp/http URL.")
]


AllowNotLive = Annotated[
    bool,
    typer.Option(
        "--allow-not-live", help="Enrol from photos of a person, too, which --liveness refuses; the trail says so."
    ),
]


@app.command("keygen")
def keygen(file: Annotated[Path, typer.Argument(help="New file, which only its owner may read.")]) -> None:
    """Make a key. Whoever has it can read templates; without it they are lost."""
    from immunecam.runtime.gate.keys import GateKey

    GateKey.generate().write(file)
    Console().print(f"wrote {file}: keep a copy in a safe place, for without it the store cannot be read")


@app.command("enrol")
@with_shared_options
def enrol(
    gate: GateOptions,
    person: Annotated[str, typer.Argument(help="Name or number; it is not encrypted.")],
    sources: Sources,
    replace: Annotated[bool, typer.Option("--replace", help="Forget the templates that the person has.")] = False,
    max_templates: Annotated[int, typer.Option(min=1, max=100, help="Best pictures to take.")] = 5,
    limit: Annotated[int, typer.Option(min=1, help="Frames to look at of each source.")] = 100,
    allow_not_live: AllowNotLive = False,
    json_report: Json = None,
) -> None:
    """Enrol a person from pictures, a folder, a video or a camera. The store is made if there is none.

    With --liveness, pictures that do not look live are refused (exit code 5).
    """
    log_to_stderr(False)
    _check_allowed(gate, allow_not_live)
    check_outputs(json_report)
    with gate.open(create=True) as opened:
        found = opened.enrol(
            person,
            _named(sources, limit),
            replace=replace,
            max_templates=max_templates,
            allow_not_live=allow_not_live,
        )
        _told(found, Console())
        _report(json_report, opened, "enrol", [_plain(found)])


@app.command("enrol-all")
@with_shared_options
def enrol_all(
    gate: GateOptions,
    folder: Annotated[Path, typer.Argument(help="Has a folder of pictures for each person, named after the person.")],
    replace: Annotated[bool, typer.Option("--replace", help="Forget the templates that they have.")] = False,
    max_templates: Annotated[int, typer.Option(min=1, max=100, help="Best pictures to take of each.")] = 5,
    allow_not_live: AllowNotLive = False,
    json_report: Json = None,
) -> None:
    """Enrol many people at once. Each is on the disk when it is counted; those with poor pictures are told."""
    log_to_stderr(False)
    _check_allowed(gate, allow_not_live)
    check_outputs(json_report)
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is no folder: give one with a folder of pictures for each person")
    people = sorted(path for path in folder.iterdir() if path.is_dir())
    if not people:
        raise InputError(f"{str(folder)!r} holds no folders: give one with a folder of pictures for each person")
    console, rows = Console(), list[dict[str, Any]]()
    with gate.open(create=True) as opened, opened.store.backup.deferred(), counter() as progress:
        for path in progress.track(people, description="enrolling"):
            try:
                found = opened.enrol(
                    path.name,
                    _named([str(path)], None),
                    replace=replace,
                    max_templates=max_templates,
                    allow_not_live=allow_not_live,
                )
                rows.append(_plain(found))
            except InputError as error:
                rows.append({"person": path.name, "added": 0, "error": str(error)})
                console.print(escape(f"{path.name}: {error}"), highlight=False, soft_wrap=True)
        done = sum(row["added"] > 0 for row in rows)
        console.print(f"enrolled {done} of {len(people)} people", highlight=False)
        _report(json_report, opened, "enrol", rows)
    if done < len(people):
        raise InputError(
            f"{len(people) - done} of {len(people)} people were not enrolled: give better pictures of them"
        )


@app.command("verify")
@with_shared_options
def verify(
    person: Annotated[str, typer.Argument(help="Whom the face is claimed to be of.")],
    sources: Sources,
    decision: DecisionOptions,
    gate: GateOptions,
) -> None:
    """1:1: whether a face is that of a person. Exit code 0 if it is granted every time, else 5."""
    _decide(gate, decision, person, sources)


@app.command("identify")
@with_shared_options
def identify(
    sources: Sources,
    decision: DecisionOptions,
    gate: GateOptions,
) -> None:
    """1:N: who of all enrolled people a face is of. Exit code 0 if it is granted every time, else 5."""
    _decide(gate, decision, None, sources)


@app.command("delete")
def delete(
    person: Annotated[str, typer.Argument(help="Whom to forget.")],
    store: Store,
    key_file: KeyFile = None,
    audit: AuditFolder = None,
) -> None:
    """Forget a person, in the store and its backup; a damaged store that was put aside, STORE.damaged, is left."""
    from immunecam.runtime.gate.audit_log import AuditLog
    from immunecam.runtime.gate.change_record import recorded
    from immunecam.runtime.gate.store import TemplateStore

    log_to_stderr(False)
    with (
        TemplateStore.open(store, gate_key(key_file), None) as opened,
        AuditLog(Path(f"{store}.audit") if audit is None else audit, anchor=opened.anchors) as trail,
        recorded(trail, opened, "deletion", {"person": person}),
    ):
        opened.delete(person)
    Console().print(escape(f"deleted {person}"), highlight=False)


@app.command("list")
def list_people(store: Store, key_file: KeyFile = None, json_report: Json = None) -> None:
    """Who is enrolled."""
    from immunecam.runtime.gate.store import TemplateStore
    from immunecam.runtime.report import write_report

    log_to_stderr(False)
    with TemplateStore.open(store, gate_key(key_file), None, read_only=not os.access(store, os.W_OK)) as opened:
        people = opened.people()
        rows = [{"person": p.person, "templates": len(p.numbers), "created": p.created} for p in people]
        console = Console()
        for row in rows:
            console.print(
                escape(f"{row['person']}: {row['templates']} templates, {row['created']}"),
                highlight=False,
                soft_wrap=True,
            )
        console.print(f"{len(rows)} people", highlight=False)
        if json_report is not None:
            about = {"recognizer": opened.setting.recognizer_name, "purification": opened.setting.purification_name}
            write_report(json_report, "immunecam.gate.list/1", rows, bundle_sha256=None, **about)


def _check_allowed(gate: GateOptions, allow_not_live: bool) -> None:
    if allow_not_live and not gate.liveness:
        raise UsageError("--allow-not-live is for --liveness, which is not asked for: leave it out, or give both")


def _decide(options: GateOptions, decision: DecisionOptions, person: str | None, sources: list[str]) -> None:
    from immunecam.runtime.frames import FrameSource

    log_to_stderr(False)
    check_outputs(decision.json_report)  # before a decision is in the trail that the report would lack
    console, events = Console(), list["GateEvent"]()
    with options.open(
        threshold=decision.threshold, min_frames=decision.min_frames, save_images=decision.save_images
    ) as gate:
        gate.threshold()  # better missed now than at the first face
        if person is not None:
            gate.store.gallery().of(person)
        elif (risk := gate.expected_false_positives()) is not None and risk > 0.01:
            console.print(
                f"of {len(gate.store)} people a stranger is taken for one with a probability of about {risk:.2g}: "
                "calibrate with --people",
                style="yellow",
                highlight=False,
                soft_wrap=True,
            )
        try:
            for text in sources:
                with FrameSource.open(text) as source:
                    for event in _decisions(gate, source, person, decision.limit):
                        events.append(event)
                        console.print(escape(_sentence(event)), highlight=False, soft_wrap=True)
        except KeyboardInterrupt:  # a camera has no end of its own
            if not events:
                raise
        _report(decision.json_report, gate, "decisions", [event.to_dict() for event in events])
    if not events or not all(event.granted for event in events):
        raise typer.Exit(NOT_GRANTED)


def _decisions(gate: AccessGate, source: FrameSource, person: str | None, limit: int | None) -> Iterator[GateEvent]:
    """Each still picture is a decision of its own; in a stream each face that stays is."""
    frames = (
        (frame.image for _, frame in zip(range(limit), source, strict=False)) if limit else (f.image for f in source)
    )
    if source.kind in ("picture", "folder"):
        for image in frames:
            yield gate.identify([image]) if person is None else gate.verify(person, [image])
    else:
        yield from gate.watch(frames, person=person)


def _named(sources: list[str], limit: int | None) -> Iterator[tuple[str, NDArray[Any]]]:
    from immunecam.runtime.frames import FrameSource

    for text in sources:
        with FrameSource.open(text) as source:
            for count, frame in enumerate(source, 1):
                name = frame.name if source.kind in ("picture", "folder") else f"{source.name} frame {frame.index}"
                yield name, frame.image
                if limit is not None and count >= limit:
                    break


def _sentence(event: GateEvent) -> str:
    who = f" {event.person}" if event.person is not None else ""
    score = "" if event.score is None else f", score {event.score:.3f} against {event.threshold:.3f}"
    why = f" ({'; '.join(event.reasons)})" if event.reasons else ""
    return f"{event.event}{who}{score}, {event.used} of {event.frames} frames, {event.latency_ms:.0f} ms{why}"


def _told(found: Enrolment, console: Console) -> None:
    for name, reason in found.refused:
        console.print(escape(f"left out {name}: {reason}"), highlight=False, soft_wrap=True)
    console.print(escape(f"enrolled {found.person}: {found.added} templates, {found.total} in all"), highlight=False)
    if found.resembles is not None:
        other = f"{found.resembles.person} (score {found.resembles.score:.3f})"
        console.print(escape(f"note: the gate would take this face for {other}, too"), style="yellow", highlight=False)


def _plain(found: Enrolment) -> dict[str, Any]:
    return {
        "person": found.person,
        "added": found.added,
        "total": found.total,
        "refused": [{"picture": name, "reason": reason} for name, reason in found.refused],
        "resembles": None if found.resembles is None else vars(found.resembles),
    }


def _report(file: Path | None, gate: AccessGate, what: str, rows: list[dict[str, Any]]) -> None:
    from immunecam.runtime.report import write_report

    if file is None:
        return
    setting, purifier = gate.store.setting, gate.observer.purifier
    write_report(
        file,
        f"immunecam.gate.{what}/1",
        rows,
        bundle_sha256=purifier.bundle.sha256 if purifier is not None else None,
        recognizer=setting.recognizer_name,
        recognizer_identity=setting.recognizer,
        purification=setting.purification_name,
        people=len(gate.store),
        audit_head=str(gate.audit.head),
    )
