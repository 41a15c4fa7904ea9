"""The command line: one sentence for every error, and an exit code that a script can rely on."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import typer

from immunecam import __version__
from immunecam.commands import (
    bench,
    bundle,
    demo,
    doctor,
    evaluate,
    export,
    gate,
    liveness,
    mask,
    masking,
    purify,
    serve,
    train,
)
from immunecam.errors import ImmuneCamError

__all__ = ["app", "main"]

# Newer typer carries its own copy of click and older uses the installed one; both spell the base of usage errors so.
_CLICK_ERROR = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

_INTERRUPTED = 130

app = typer.Typer(
    name="immunecam",
    help="Removes adversarial perturbations from camera faces, in front of any face recogniser.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 2 bad usage, 3 bad input, or a device that a door cannot depend on, "
    "4 a backend that was asked for is missing, 5 a gate's decision other than granted, or pictures to enrol that are "
    "not live.",
)
app.command("purify")(purify.purify)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("demo")(demo.demo)
app.command("bench")(bench.bench)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(bundle.app, name="bundle")
app.add_typer(gate.app, name="gate")
app.add_typer(liveness.app, name="liveness")
app.command("mask")(mask.mask)
app.add_typer(masking.app, name="masking")
app.command("serve")(serve.serve)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"immunecam {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show it."),
) -> None:
    pass


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit the process."""
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, standalone_mode=False)
        if code == _INTERRUPTED:  # newer typer answers Ctrl-C itself, and says nothing
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except ImmuneCamError as error:
        return _say(str(error), error.exit_code)
    except _CLICK_ERROR as error:
        return _say(error.format_message(), 2)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted; nothing half-written was kept", _INTERRUPTED)
    except BrokenPipeError:  # the reader of our output went away
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (for the interpreter's own flush at exit)
        return 0
    except Exception as error:
        if os.environ.get("IMMUNECAM_DEBUG"):
            raise
        return _say(
            f"internal error ({type(error).__name__}: {error}): run again with IMMUNECAM_DEBUG=1 and report it",
            1,
        )


def _say(sentence: str, code: int) -> int:
    print(f"immunecam: {' '.join(sentence.split())}", file=sys.stderr)
    return code
