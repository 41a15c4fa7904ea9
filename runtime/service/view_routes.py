"""What the live page asks for: how the service is set, and frames with what was made of them."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray

from immunecam import __version__
from immunecam.kernels import MutationMode
from immunecam.runtime.service.answers import CameraAnswer
from immunecam.runtime.service.live_view import Seen
from immunecam.runtime.service.routes import refusals
from immunecam.runtime.service.view_answers import (
    RatesAnswer,
    SaidAnswer,
    SeenAnswer,
    SeenFaceAnswer,
    StateAnswer,
    ViewAnswer,
    ViewGateAnswer,
)
from immunecam.runtime.service.view_picture import GAIN
from immunecam.runtime.service.work import ServiceWork

if TYPE_CHECKING:
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.event import GateEvent

__all__ = ["view_router"]

_BARS = 128  # a phone has no more pixels for them
_FORM = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["state"],
            "properties": {
                "state": {"$ref": "#/components/schemas/StateAnswer"},
                **{name: {"type": "string", "format": "binary"} for name in ("before", "after", "noise")},
            },
        },
        "encoding": {
            "state": {"contentType": "application/json"},
            **{name: {"contentType": "image/jpeg"} for name in ("before", "after", "noise")},
        },
    }
}


def view_router(work: ServiceWork) -> APIRouter:
    """Routes below /v1/view."""
    router = APIRouter()

    @router.get("/v1/view", responses=refusals())
    async def view() -> ViewAnswer:
        """What the live page shows, as far as it stays as it is."""
        purifier, gate = work.purifier, work.gate
        return ViewAnswer(
            version=__version__,
            bundle=purifier.bundle.name,
            k=purifier.k,
            provider=purifier.provider,
            mutation=purifier.mutation,
            modes=list(work.view.modes),
            gain=GAIN,
            gate=None if gate is None else await work.in_gate_thread(_gate, gate),
        )

    @router.get(
        "/v1/view/frame",
        response_class=Response,
        responses={
            200: {"model": StateAnswer, "description": "The state, and pictures as JPEG.", "content": _FORM},
            **refusals(400),
        },
    )
    async def frame(
        after: Annotated[int, Query(ge=0, le=2**53, description="Number of the frame that is shown already.")] = 0,
        purify: Annotated[bool, Query(description="Purify it. For this viewer only, as the mode.")] = True,
        mutation: Annotated[MutationMode | None, Query(description="Default: the service's.")] = None,
    ) -> Response:
        """The active camera's next frame before and after purification, what was taken away, and how things are.

        Answers at once if the newest frame has another number than `after`, else when there is one, and after half a
        second in any case. It changes nothing: gate and requests stay as they are set.
        """
        mode = (mutation or work.purifier.mutation) if purify else None
        seen = await work.view.next(mode, after)
        preview = None if work.view.preview is None else work.view.preview.newest()
        decision = work.last_decision
        state = StateAnswer(
            cameras=[CameraAnswer.model_validate(one) for one in work.cameras.status()],
            frame=None if seen is None else _seen(seen),
            preview=None if preview is None else _said(*preview),
            decision=None if decision is None else _said(decision[0], time.monotonic() - decision[1]),
        )
        parts = {"state": ("application/json", state.model_dump_json().encode())}
        if seen is not None:
            pictures = {"before": seen.before, "after": seen.after, "noise": seen.noise}
            parts |= {name: ("image/jpeg", data) for name, data in pictures.items() if data is not None}
        boundary = secrets.token_hex(16)
        return Response(_form(parts, boundary), headers={"content-type": f"multipart/form-data; boundary={boundary}"})

    return router


def _gate(gate: AccessGate) -> ViewGateAnswer:
    """In the gate's thread."""
    point, own = gate.store.operating_point(), gate.given_threshold
    rates = None if point is None or point.rates is None else point.rates
    return ViewGateAnswer(
        recognizer=gate.store.setting.recognizer_name,
        people=len(gate.store.gallery()),
        min_frames=gate.min_frames,
        threshold=own if own is not None else None if point is None else point.threshold,
        by_hand=own is not None,
        rates=None if rates is None else RatesAnswer.model_validate(rates, from_attributes=True),
    )


def _seen(seen: Seen) -> SeenAnswer:
    faces = []
    for index, face in enumerate(seen.faces):
        purified = index < len(seen.active)
        faces.append(
            SeenFaceAnswer(
                box=[round(float(value), 1) for value in face.box],
                active=round(float(seen.active[index]), 1) if purified else None,
                probabilities=_bars(seen.probabilities[index]) if purified else [],
            )
        )
    timings = {stage: round(value, 2) for stage, value in seen.timings_ms.items()}
    return SeenAnswer(
        number=seen.number,
        camera=seen.camera,
        width=seen.width,
        height=seen.height,
        faces=faces,
        timings_ms=timings,
        latency_ms=round(sum(value for stage, value in timings.items() if stage != "picture"), 2),
    )


def _bars(p: NDArray[np.float32]) -> list[float]:
    """Probabilities (K,) as the means of 128 runs of about equal length, or as they are where K is less."""
    starts = np.unique(np.linspace(0, len(p), min(_BARS, len(p)), endpoint=False).astype(np.intp))
    means = np.add.reduceat(p, starts) / np.diff(np.append(starts, len(p)))
    return [round(float(value), 3) for value in means]


def _said(event: GateEvent, age_s: float) -> SaidAnswer:
    content: dict[str, Any] = {name: getattr(event, name) for name in SaidAnswer.model_fields if name != "age_s"}
    return SaidAnswer(**{**content, "reasons": list(event.reasons)}, age_s=round(age_s, 1))


def _form(parts: dict[str, tuple[str, bytes]], boundary: str) -> bytes:
    """A form (RFC 7578), which browsers take apart themselves."""
    body = bytearray()
    for name, (kind, data) in parts.items():
        # With a file name, or a browser would make a text of the pictures.
        file = "" if name == "state" else f'; filename="{name}.jpg"'
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n'.encode()
        body += f"Content-Type: {kind}\r\n\r\n".encode() + data + b"\r\n"
    return bytes(body + f"--{boundary}--\r\n".encode())
