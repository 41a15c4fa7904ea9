"""``immunecam gate audit``: whether the trail is as it was written, and the pictures that it refers to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.markup import escape

from immunecam.commands.gate_options import KeyFile, gate_key
from immunecam.commands.options import Json
from immunecam.errors import InputError, UsageError

__all__ = ["app"]

app = typer.Typer(name="audit", help="The audit trail.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="Folder of the trail; a gate's is STORE.audit unless told otherwise.")]


@app.command("verify")
def verify(
    folder: Folder,
    store: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="Template store of the gate, which knows the last record; needs the key."),
    ] = None,
    key_file: KeyFile = None,
    head: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(metavar="SEQ:HASH", help="The head that an earlier verification told, kept elsewhere."),
    ] = None,
    json_report: Json = None,
) -> None:
    """Find records that were edited, removed, put in another order or cut off. Exit code 3 if there are any.

    Without --store or --head, records that are missing at the end, or a trail that was written anew as a whole, cannot
    be found.
    """
    from immunecam.runtime.gate.audit_verify import verify_trail
    from immunecam.runtime.gate.store import TemplateStore
    from immunecam.runtime.report import write_report

    known = None if head is None else _link(head)
    if store is None:
        report = verify_trail(folder, head=known)
    else:
        with TemplateStore.open(store, gate_key(key_file), None, read_only=True) as opened:
            report = verify_trail(folder, anchor=opened.anchors, head=known)
    if json_report is not None:
        write_report(json_report, "immunecam.gate.audit/1", [report.to_dict()], bundle_sha256=None)
    console = Console()
    for note in report.notes:
        console.print(escape(note), highlight=False, soft_wrap=True)
    for fault in report.faults:
        console.print(
            escape(f"{fault.where}: {fault.kind}: {fault.what}"), style="red", highlight=False, soft_wrap=True
        )
    if not report.intact:
        first = report.faults[0]
        raise InputError(
            f"the audit trail {str(folder)!r} was changed: {len(report.faults)} faults, the first at {first.where} "
            f"({first.what})"
        )
    console.print(f"{report.records} records in {report.files} files are as they were written", highlight=False)
    console.print(f"head {report.last}", highlight=False, soft_wrap=True)
    if report.anchored is None:
        console.print(
            "nothing was known of the end from elsewhere: records cut off there would not show; give --store or --head",
            highlight=False,
            soft_wrap=True,
        )


@app.command("image")
def image(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="As a record's `images` names it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")],
    key_file: KeyFile = None,
) -> None:
    """Decrypt a picture that was kept of a decision."""
    from immunecam.files import written_whole
    from immunecam.runtime.gate.images import ImageArchive

    data = ImageArchive(folder / "images", gate_key(key_file)).read(name)
    try:
        with written_whole(out) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise InputError(
            f"the picture {str(out)!r} cannot be written ({error.strerror}): check folder and space"
        ) from None


def _link(text: str) -> Any:
    from immunecam.runtime.gate.audit_chain import Link

    seq, _, digest = text.partition(":")
    if not seq.isdecimal() or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise UsageError(f"the head is {text!r}, but it must be SEQ:HASH as `immunecam gate audit verify` tells it")
    return Link(int(seq), digest)
