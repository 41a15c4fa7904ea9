"""Options that the commands of ``immunecam gate`` share, and a gate made of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from immunecam.commands.options import Json, Liveness, LivenessView, LivenessViewed, Mutation, Provider
from immunecam.errors import UsageError

if TYPE_CHECKING:
    from immunecam.mask_key import MaskKey
    from immunecam.runtime.bundle import Bundle
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.keys import GateKey
    from immunecam.runtime.masking import MaskedEmbedder

__all__ = [
    "NOT_GRANTED",
    "AuditFolder",
    "DecisionOptions",
    "GateOptions",
    "KeyFile",
    "Store",
    "check_one_recognizer",
    "gate_key",
    "mask_key",
    "masked_embedder",
]

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


def gate_key(file: Path | None) -> GateKey:
    """The key of a file, or of the environment."""
    from immunecam.runtime.gate.keys import GateKey

    return GateKey.from_environment() if file is None else GateKey.from_file(file)


def mask_key(file: Path | None) -> MaskKey:
    """The masking key that follows from the gate's."""
    from immunecam.mask_key import MaskKey

    return MaskKey(gate_key(file).derive("masking"))


def check_one_recognizer(recognizer: Path | None, masked: bool) -> None:
    """Refuse two recognisers: of which one the scores were would not be said."""
    if masked and recognizer is not None:
        raise UsageError(
            f"--masked takes the bundle's own recogniser, but {str(recognizer)!r} is given as another: leave out "
            "--masked, or --recognizer and IMMUNECAM_GATE_RECOGNIZER"
        )


def masked_embedder(bundle: Bundle, key: GateKey, *, threads: int | None, provider: str) -> MaskedEmbedder:
    """The recogniser of masked faces of a verified bundle, by the masking key that follows from the gate's."""
    from immunecam.mask_key import MaskKey
    from immunecam.runtime.masking import FaceMask, MaskedEmbedder

    mask = FaceMask(bundle, MaskKey(key.derive("masking")), threads=threads, provider=provider)
    return MaskedEmbedder(mask, threads=threads)


@dataclass(frozen=True)
class GateOptions:
    """What every gate is opened with, for :func:`with_shared_options`."""

    store: Store
    recognizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="TOML that describes the recogniser's ONNX file; needed without --masked.",
            envvar="IMMUNECAM_GATE_RECOGNIZER",
        ),
    ] = None
    masked: Annotated[
        bool,
        typer.Option(
            "--masked", help="Recognise faces masked, by the bundle's own recogniser; no visible face is ever stored."
        ),
    ] = False
    key_file: KeyFile = None
    purify: Annotated[bool, typer.Option("--purify/--no-purify", help="Purify faces of gallery and probe alike.")] = (
        True
    )
    bundle: Annotated[Optional[Path], typer.Option(help="Bundle, NAME.immune; default: the bundled one.")] = None  # noqa: UP045
    provider: Annotated[Provider, typer.Option(help="Backend of the purifier.")] = Provider.auto
    mutation: Annotated[Mutation, typer.Option(help="How probabilities become an antibody.")] = Mutation.sample
    finder: Annotated[Optional[Path], typer.Option(help="YuNet file; default: the bundled finder.")] = None  # noqa: UP045
    liveness: Liveness = False
    liveness_view: LivenessViewed = LivenessView.camera
    audit: AuditFolder = None
    keep_days: Annotated[Optional[float], typer.Option(help="Drop audit files and pictures that are older.")] = None  # noqa: UP045
    keep_mib: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Drop the oldest audit files beyond this many MiB, and the oldest pictures beyond as many."),
    ] = None
    threads: Annotated[Optional[int], typer.Option(min=1, help="Threads of the backend.")] = None  # noqa: UP045

    def open(self, *, create: bool = False, **more: Any) -> AccessGate:
        """The gate; `more` are arguments of :meth:`AccessGate.open`."""
        from immunecam.runtime.bundle import Bundle, default_bundle
        from immunecam.runtime.faces import face_finder
        from immunecam.runtime.gate.access_gate import AccessGate
        from immunecam.runtime.gate.audit_log import Retention
        from immunecam.runtime.liveness import LivenessDetector
        from immunecam.runtime.part_network import part_provider
        from immunecam.runtime.purifier import Purifier

        if self.recognizer is None and not self.masked:
            raise UsageError("no recogniser was given: give --recognizer FILE.toml, or --masked for the bundle's own")
        check_one_recognizer(self.recognizer, self.masked)
        if not self.purify and self.bundle is not None and not self.liveness and not self.masked:
            raise UsageError("--bundle names a purifier, but --no-purify leaves purification out: give one of both")
        key = gate_key(self.key_file)
        purifier = detector = None
        if self.purify:
            purifier = Purifier.load(
                self.bundle, provider=self.provider.value, mutation=self.mutation.value, threads=self.threads
            )
        recognizer: Any = self.recognizer
        if self.liveness or self.masked:
            own = Bundle.load(self.bundle or default_bundle()) if purifier is None else purifier.bundle
            about: Any = {"threads": self.threads, "provider": part_provider(self.provider.value)}
            detector = LivenessDetector(own, **about) if self.liveness else None
            recognizer = masked_embedder(own, key, **about) if self.masked else recognizer
        kept = None if self.keep_mib is None else int(self.keep_mib * 2**20)
        return AccessGate.open(
            self.store,
            key,
            recognizer,
            purify=self.purify,
            purifier=purifier,
            finder=face_finder(self.finder),
            liveness=detector,
            liveness_view=self.liveness_view.value,
            create=create,
            audit=self.audit,
            retention=Retention(total_bytes=kept, days=self.keep_days),
            threads=self.threads,
            **more,
        )


@dataclass(frozen=True)
class DecisionOptions:
    """What every decision is made with, 1:1 and 1:N alike, for :func:`with_shared_options`."""

    threshold: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=-1, max=1, help="Score to accept from; default: the calibrated one."),
    ] = None
    min_frames: Annotated[int, typer.Option(min=1, help="Good faces of a track that a decision needs.")] = 3
    save_images: Annotated[bool, typer.Option("--save-images", help="Keep the faces of decisions, encrypted.")] = False
    limit: Annotated[Optional[int], typer.Option(min=1, help="Stop after this many frames.")] = None  # noqa: UP045
    json_report: Json = None
