"""A door controller: camera -> gate -> relay. The door is shut unless somebody is granted, and on every way out.

Run `python door_controller.py --help`; README.md beside it tells how to install it as a service.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from fresh_frames import FreshFrames
from relays import Relay, relay_from

from immunecam.errors import ImmuneCamError, UsageError
from immunecam.mask_key import MaskKey
from immunecam.runtime.frame_interrupt import FrameInterrupt
from immunecam.runtime.frames import FrameSource
from immunecam.runtime.gate.access_gate import AccessGate
from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.masking import MaskedEmbedder
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.service_manager import ServiceManager

log = logging.getLogger("door")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the source ends or a signal comes; returns the exit code, which is that of immunecam's commands."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    manager = ServiceManager()
    try:
        with FrameInterrupt(signal.SIGINT, signal.SIGTERM) as interrupt, relay_from(options.relay) as relay:
            if not options.shut:
                control(options, relay, interrupt, manager)
        return 0 if relay.is_shut else 3
    except KeyboardInterrupt:
        log.info("asked to stop")
        return 0
    except ImmuneCamError as error:
        log.error("%s", error)
        return error.exit_code
    finally:
        manager.stopping()


def control(options: argparse.Namespace, relay: Relay, interrupt: FrameInterrupt, manager: ServiceManager) -> None:
    """Open the door to whom the gate grants it, while it is they who stand there."""
    if manager.watchdog_s is not None and options.open_seconds >= manager.watchdog_s / 2:
        raise UsageError(f"--open-seconds is {options.open_seconds:g}, but must be below half of WatchdogSec")
    key, purifier = GateKey.from_file(options.key_file), Purifier.load(options.bundle, threads=options.threads)
    recognizer: Path | MaskedEmbedder = options.recognizer
    if options.masked:
        recognizer = MaskedEmbedder.load(purifier.bundle, MaskKey(key.derive("masking")), threads=options.threads)
    with (
        AccessGate.open(options.store, key, recognizer, purifier=purifier, threads=options.threads) as gate,
        FrameSource.open(options.source) as camera,
    ):
        gate.threshold()  # better missed now than when the first person waits

        def processed() -> None:
            manager.alive()
            if not relay.is_shut:  # it refused before
                relay.shut()

        frames = FreshFrames(camera, options.max_age, interrupt, processed, manager.status)
        manager.ready(f"watching {camera.name}")
        for run in frames.runs():
            for event in gate.watch(run):
                log.info("%s %s (audit record %s)", event.event, event.person or "nobody", event.seq)
                manager.status(f"{event.event}, audit record {event.seq}")
                if event.granted and event.missed == 0 and frames.now():
                    relay.hold_open(options.open_seconds)
                elif event.granted:
                    log.warning("too late: %s is not before the camera any more, the door stays shut", event.person)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    # @FILE: a relay's password is not for a command line, which every user of a machine can read.
    parser = argparse.ArgumentParser(description=main.__doc__, fromfile_prefix_chars="@", allow_abbrev=False)
    add = parser.add_argument
    add("--relay", nargs="+", required=True, help="OPEN_URL SHUT_URL, or gpio CHIP LINE [active-low], or fake FILE")
    add("--shut", action="store_true", help="only shut the door, for ExecStopPost=; the other options are not used")
    add("--source", default="0", help="camera number, or rtsp:// or http:// address")
    add("--store", type=Path, default=Path("door.gate"), help="template store")
    add("--recognizer", type=Path, default=Path("recogniser.toml"), help="description of the recogniser")
    add("--masked", action="store_true", help="recognise faces masked, by the bundle's own recogniser")
    add("--key-file", type=Path, default=Path("door.key"), help="the gate's key")
    add("--bundle", type=Path, help="bundle, NAME.immune; default: the bundled one")
    add("--threads", type=int, help="threads of ONNX Runtime")
    add("--open-seconds", type=_seconds, default=5.0, help="how long the door is held open")
    add("--max-age", type=_seconds, default=2.0, help="seconds after which a frame is too old to open a door")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 60:
        raise argparse.ArgumentTypeError(f"{text} given, but seconds above 0, 60 at most, are wanted")
    return value


if __name__ == "__main__":
    sys.exit(main())
