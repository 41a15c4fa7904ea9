"""``immunecam serve``: purifier and gate for programs that speak HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console

from immunecam.commands.gate_options import check_one_recognizer, gate_key, masked_embedder
from immunecam.commands.options import (
    BundleState,
    Liveness,
    LivenessView,
    LivenessViewed,
    Mutation,
    Provider,
    TrustedKey,
    log_to_stderr,
    trust_of,
)
from immunecam.commands.requirements import require_service
from immunecam.errors import UsageError

if TYPE_CHECKING:
    from immunecam.runtime.faces import FaceFinder
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.embedder import FaceEmbedder
    from immunecam.runtime.purifier import Purifier

__all__ = ["serve"]

_MIB = 2**20


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; any but the machine's own wants a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8600,
    bundle: Annotated[Optional[Path], typer.Option(help="Bundle, NAME.immune; default: the bundled one.")] = None,  # noqa: UP045
    provider: Annotated[Provider, typer.Option(help="Backend.")] = Provider.auto,
    mutation: Annotated[Mutation, typer.Option(help="How probabilities become an antibody.")] = Mutation.sample,
    finder: Annotated[Optional[Path], typer.Option(help="YuNet file; default: the bundled finder.")] = None,  # noqa: UP045
    threads: Annotated[Optional[int], typer.Option(min=1, help="Threads of the backend.")] = None,  # noqa: UP045
    recognizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="TOML that describes a recogniser's ONNX file, for embeddings and the gate.",
            envvar="IMMUNECAM_GATE_RECOGNIZER",
        ),
    ] = None,
    masked: Annotated[
        bool,
        typer.Option(
            "--masked", help="Recognise faces masked, by the bundle's own recogniser; needs the gate's key, no TOML."
        ),
    ] = False,
    store: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Template store, for verify and identify.", envvar="IMMUNECAM_GATE_STORE"),
    ] = None,
    key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File with the gate's key.", envvar="IMMUNECAM_GATE_KEY_FILE"),
    ] = None,
    audit: Annotated[Optional[Path], typer.Option(help="Folder of the audit trail; default: STORE.audit.")] = None,  # noqa: UP045
    threshold: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=-1, max=1, help="Score to accept from; default: the calibrated one."),
    ] = None,
    min_frames: Annotated[int, typer.Option(min=1, help="Good faces that a decision needs.")] = 3,
    liveness: Liveness = False,
    liveness_view: LivenessViewed = LivenessView.camera,
    camera: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(metavar="NAME=SOURCE", help="A camera's number, URL or video; may be given several times."),
    ] = None,
    token_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File with the token that clients must show; default: IMMUNECAM_SERVICE_TOKEN, if set."),
    ] = None,
    tls_certificate: Annotated[Optional[Path], typer.Option(help="PEM certificate chain.")] = None,  # noqa: UP045
    tls_key: Annotated[Optional[Path], typer.Option(help="PEM key, without a passphrase.")] = None,  # noqa: UP045
    batch_wait_ms: Annotated[
        float, typer.Option(min=0, max=1000, help="Longest that a face waits for others to be purified with.")
    ] = 5.0,
    queue_faces: Annotated[int, typer.Option(min=1, help="Faces that may wait for the engine; more get 429.")] = 256,
    queue_requests: Annotated[int, typer.Option(min=1, help="Requests in work or waiting; more get 429.")] = 128,
    max_body_mib: Annotated[float, typer.Option(min=0.001, help="MiB of a request's body.")] = 32.0,
    max_megapixels: Annotated[float, typer.Option(min=0.01, help="Of a picture.")] = 25.0,
    max_pictures: Annotated[int, typer.Option(min=1, help="Of a request.")] = 32,
    rate: Annotated[float, typer.Option(min=0, help="Requests a second of a client address; 0 sets no limit.")] = 100.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that an answer may take.")] = 30.0,
    head_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to send a request's head in.")] = 5.0,
    body_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to send a request's body in.")] = 20.0,
    write_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds that a client may take in nothing of what it is sent.")
    ] = 20.0,
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say what was chosen, and why.")] = False,
) -> None:
    """Serve the purifier, and the gate, over HTTP: /openapi.json describes it. SIGTERM finishes what was accepted."""
    log_to_stderr(verbose)
    require_service()
    check_one_recognizer(recognizer, masked)
    from immunecam.runtime.faces import face_finder
    from immunecam.runtime.liveness import LivenessDetector
    from immunecam.runtime.part_network import part_provider
    from immunecam.runtime.purifier import Purifier
    from immunecam.runtime.service.access import read_token
    from immunecam.runtime.service.cameras import CameraDeck
    from immunecam.runtime.service.server import serve as run
    from immunecam.runtime.service.settings import ServiceSettings
    from immunecam.runtime.service.work import ServiceWork

    settings = ServiceSettings(
        host=host,
        port=port,
        token=read_token(token_file),
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        batch_wait_ms=batch_wait_ms,
        queue_faces=queue_faces,
        queue_requests=queue_requests,
        max_body_bytes=round(max_body_mib * _MIB),
        max_pending_bytes=max(256 * _MIB, 2 * round(max_body_mib * _MIB)),
        max_pixels=round(max_megapixels * 1e6),
        max_pictures=max_pictures,
        rate_per_s=rate,
        request_timeout_s=timeout,
        head_timeout_s=head_timeout,
        body_timeout_s=body_timeout,
        write_timeout_s=write_timeout,
    )
    cameras = _cameras(camera or [])
    found = face_finder(finder)
    purifier = Purifier.load(
        bundle, provider=provider.value, mutation=mutation.value, threads=threads, trust=trust_of(trust, bundle_state)
    )
    on = part_provider(provider.value)
    about: dict[str, Any] = {"audit": audit, "threshold": threshold, "min_frames": min_frames, "threads": threads}
    if liveness:
        if store is None:
            raise UsageError("--liveness is for the gate's decisions, but there is no gate: give --store, too")
        about["liveness"] = LivenessDetector(purifier.bundle, threads=threads, provider=on)
        about["liveness_view"] = liveness_view.value
    chosen: Path | FaceEmbedder | None = recognizer
    if masked:
        chosen = masked_embedder(purifier.bundle, gate_key(key_file), threads=threads, provider=on)
    gate, embedder = _recognition(chosen, store, key_file, purifier, found, about)
    undecided = ""
    if gate is not None:
        try:
            gate.threshold()
        except UsageError as error:
            undecided = f"immunecam: {error}; every decision is answered with 409 until then"
    deck = CameraDeck(cameras)
    work = ServiceWork(settings, purifier, found, embedder=embedder, gate=gate, cameras=deck)

    def started(address: str) -> None:
        shield = "a token is wanted" if settings.token is not None else "this machine only, no token"
        if settings.token is not None and settings.tls_certificate is None and not settings.is_loopback:
            shield += ", and goes over the network as it is: give --tls-certificate and --tls-key"
        with_gate = "purifier and gate" if gate is not None else "purifier"
        with_gate += ", faces recognised masked" if masked else ""
        Console(stderr=True).print(
            f"immunecam: serving {with_gate} at {address} ({purifier.provider}; {shield})",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        if undecided:
            Console(stderr=True).print(undecided, highlight=False, markup=False, soft_wrap=True)

    run(work, started=started)


def _cameras(given: list[str]) -> dict[str, str]:
    cameras: dict[str, str] = {}
    for text in given:
        name, separator, address = text.partition("=")
        if not separator or not name or not address:
            raise UsageError("a --camera is not of the form NAME=SOURCE, such as door=0: name it so")
        if name in cameras:
            raise UsageError(f"two cameras are called {name!r}: give each another name")
        if "://" not in address and not address.isdecimal() and not os.path.exists(address):
            raise UsageError(f"the camera {name!r} is {address!r}, which is no number, URL or file: correct it")
        cameras[name] = address
    return cameras


def _recognition(
    recognizer: Path | FaceEmbedder | None,
    store: Path | None,
    key_file: Path | None,
    purifier: Purifier,
    finder: FaceFinder,
    about: dict[str, Any],
) -> tuple[AccessGate | None, FaceEmbedder | None]:
    """The gate with a store, an embedder with a recogniser alone."""
    if recognizer is None:
        if store is not None:
            raise UsageError(
                "a template store is given, but no recogniser to compare with: give --recognizer, or --masked for the "
                "bundle's own"
            )
        return None, None
    if store is None:
        if not isinstance(recognizer, Path):
            return None, recognizer
        from immunecam.runtime.gate.embedder import Embedder
        from immunecam.runtime.gate.recognizer import RecognizerSpec

        return None, Embedder(RecognizerSpec.load(recognizer), threads=about["threads"])
    from immunecam.runtime.gate.access_gate import AccessGate

    return AccessGate.open(store, gate_key(key_file), recognizer, purifier=purifier, finder=finder, **about), None
