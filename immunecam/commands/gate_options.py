"""Options that the commands of ``immunecam gate`` share, and a gate made of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_type_hints

import typer

from immunecam.commands.options import Mutation, Provider
from immunecam.errors import UsageError

if TYPE_CHECKING:
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.keys import GateKey

__all__ = ["NOT_GRANTED", "AuditFolder", "GateOptions", "KeyFile", "Store", "gate_key", "with_gate_options"]

NOT_GRANTED = 5
"""Exit code of a decision other than "granted": `immunecam gate verify ... && open-door` must not open for it."""

Store = Annotated[Path, typer.Option(help="Template store, a file.", envvar="IMMUNECAM_GATE_STORE")]
KeyFile = Annotated[
    Optional[Path],  # noqa: UP045 (typer on Python 3.10)
    typer.Option(
        help="File with the gate's key; default: the variable IMMUNECAM_GATE_KEY.", envvar="IMMUNECAM_GATE_KEY_FILE"
    ),
]

AuditFolder = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="Folder of the audit trail; default: STORE.audit."),
]

_OPTIONS: dict[str, tuple[Any, Any]] = {
    "store": (Store, inspect.Parameter.empty),
    "recognizer": (
        Annotated[
            Path,
            typer.Option(help="TOML that describes the recogniser's ONNX file.", envvar="IMMUNECAM_GATE_RECOGNIZER"),
        ],
        inspect.Parameter.empty,
    ),
    "key_file": (KeyFile, None),
    "purify": (
        Annotated[bool, typer.Option("--purify/--no-purify", help="Purify faces of gallery and probe alike.")],
        True,
    ),
    "bundle": (Annotated[Optional[Path], typer.Option(help="Bundle, NAME.immune; default: the bundled one.")], None),  # noqa: UP045
    "provider": (Annotated[Provider, typer.Option(help="Backend of the purifier.")], Provider.auto),
    "mutation": (Annotated[Mutation, typer.Option(help="How probabilities become an antibody.")], Mutation.sample),
    "finder": (Annotated[Optional[Path], typer.Option(help="YuNet file; default: the bundled finder.")], None),  # noqa: UP045
    "audit": (AuditFolder, None),
    "keep_days": (Annotated[Optional[float], typer.Option(help="Drop audit files and pictures that are older.")], None),  # noqa: UP045
    "keep_mib": (Annotated[Optional[float], typer.Option(help="Drop the oldest beyond this many MiB.")], None),  # noqa: UP045
    "threads": (Annotated[Optional[int], typer.Option(min=1, help="Threads of the backend.")], None),  # noqa: UP045
}


def with_gate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose parameter `gate` is filled from the options that all commands of the gate have."""
    own = dict(inspect.signature(command).parameters)
    hints = {**get_type_hints(command, include_extras=True), **{name: hint for name, (hint, _) in _OPTIONS.items()}}
    del own["gate"], hints["gate"]
    kind = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(name, kind, default=default, annotation=hint) for name, (hint, default) in _OPTIONS.items()
    ]
    mine = [parameter.replace(kind=kind, annotation=hints[name]) for name, parameter in own.items()]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        options = {name: given.pop(name) for name in _OPTIONS}
        return command(gate=GateOptions(**options), **given)

    run.__signature__ = inspect.Signature([*mine, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = hints
    return run


def gate_key(file: Path | None) -> GateKey:
    """The key of a file, or of the environment."""
    from immunecam.runtime.gate.keys import GateKey

    return GateKey.from_environment() if file is None else GateKey.from_file(file)


@dataclass(frozen=True)
class GateOptions:
    """What every gate is opened with: the options of :func:`with_gate_options`."""

    store: Path
    recognizer: Path
    key_file: Path | None
    purify: bool
    bundle: Path | None
    provider: Provider
    mutation: Mutation
    finder: Path | None
    audit: Path | None
    keep_days: float | None
    keep_mib: float | None
    threads: int | None

    def open(self, *, create: bool = False, **more: Any) -> AccessGate:
        """The gate; `more` are arguments of :meth:`AccessGate.open`."""
        from immunecam.runtime.faces import face_finder
        from immunecam.runtime.gate.access_gate import AccessGate
        from immunecam.runtime.gate.audit_log import Retention
        from immunecam.runtime.purifier import Purifier

        if not self.purify and self.bundle is not None:
            raise UsageError("--bundle names a purifier, but --no-purify leaves purification out: give one of both")
        key = gate_key(self.key_file)
        purifier = None
        if self.purify:
            purifier = Purifier.load(
                self.bundle, provider=self.provider.value, mutation=self.mutation.value, threads=self.threads
            )
        kept = None if self.keep_mib is None else int(self.keep_mib * 2**20)
        return AccessGate.open(
            self.store,
            key,
            self.recognizer,
            purify=self.purify,
            purifier=purifier,
            finder=face_finder(self.finder),
            create=create,
            audit=self.audit,
            retention=Retention(total_bytes=kept, days=self.keep_days),
            threads=self.threads,
            **more,
        )
