"""``immunecam doctor --device``: whether a door can depend on this device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from immunecam.commands.gate_options import KeyFile
from immunecam.commands.options import Provider, log_to_stderr
from immunecam.errors import ImmuneCamError, InputError, UsageError

if TYPE_CHECKING:
    from immunecam.runtime.device import Finding
    from immunecam.runtime.trust import Trust

__all__ = ["DeviceOptions", "check_device"]

_COLOURS = {"good": "green", "note": "yellow", "bad": "red", "unknown": "dim"}


@dataclass(frozen=True)
class DeviceOptions:
    """What the service on this device is given, for :func:`with_shared_options`."""

    device: Annotated[bool, typer.Option("--device", help="Say whether a door can depend on this device.")] = False
    source: Annotated[
        Optional[str],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="With --device: camera number, or rtsp/http URL."),
    ] = None
    state: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FOLDER", help="With --device: where store and audit trail are to lie."),
    ] = None
    key_file: KeyFile = None
    provider: Annotated[Provider, typer.Option(help="With --device: backend of the purifier.")] = Provider.auto
    threads: Annotated[Optional[int], typer.Option(min=1, help="With --device: threads of the backend.")] = None  # noqa: UP045
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="With --device: how long to watch the camera.")] = 5.0

    def refuse_alone(self) -> None:
        """Without --device nothing would look at the others, and they would seem to have been found good."""
        for field in fields(self):
            if field.name != "key_file" and getattr(self, field.name) != field.default:  # a key's file may be set
                raise UsageError(f"--{field.name} is only for --device: give that, too")


def check_device(
    options: DeviceOptions,
    bundle: Path | None,
    trust: Callable[[], Trust | None],
    json_report: Path | None,
) -> None:
    """Check everything, print it, write the report, and raise InputError if a door cannot depend on it.

    The keys are read where the bundle is checked, so that what is wrong with them stands in the table.
    """
    from immunecam.runtime.device import Finding
    from immunecam.runtime.device.camera import check_camera, check_video_devices
    from immunecam.runtime.device.clock import ClockWatch
    from immunecam.runtime.device.heat import check_heat
    from immunecam.runtime.device.memory import check_memory
    from immunecam.runtime.device.power import check_power
    from immunecam.runtime.device.purification import check_purification
    from immunecam.runtime.device.secret_key import check_key
    from immunecam.runtime.device.storage import check_root, check_state
    from immunecam.runtime.device.watchdog import check_watchdog
    from immunecam.runtime.report import write_report

    log_to_stderr(False)
    clock = ClockWatch()
    sha256 = None
    try:
        purification, sha256 = check_purification(
            bundle, trust(), provider=options.provider.value, threads=options.threads
        )
    except ImmuneCamError as error:
        purification = Finding("bundle", "bad", str(error))
    findings = [
        check_video_devices(options.source),
        check_camera(options.source, options.seconds),
        purification,
        check_key(options.key_file),
        check_state(options.state),
        check_root(),
        check_memory(),  # after what needs it
        check_heat(),  # after some work
        check_power(),
        check_watchdog(),
        clock.finding(),
    ]
    _show(findings)
    if json_report is not None:
        rows = [finding.to_dict() for finding in findings]
        write_report(json_report, "immunecam.doctor-device/1", rows, bundle_sha256=sha256)
    if bad := [finding.part for finding in findings if finding.state == "bad"]:
        raise InputError(
            f"a door cannot depend on this device yet ({', '.join(bad)}): do what stands above, and run it again"
        )


def _show(findings: list[Finding]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("part", "state", "found", "what to do"):
        table.add_column(heading)
    for finding in findings:
        state = f"[{_COLOURS[finding.state]}]{finding.state}[/]"
        table.add_row(finding.part, state, escape(finding.why), escape(finding.todo))
    Console().print(table)
