"""What clients may ask: purify, verify, identify, cameras, the bundle, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import math
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from immunecam.errors import InputError
from immunecam.runtime.faces import ColourMode
from immunecam.runtime.frames.picture import encode_picture
from immunecam.runtime.results import PurifiedFaces
from immunecam.runtime.service.answers import (
    BundleAnswer,
    CameraChoice,
    CamerasAnswer,
    DecisionAnswer,
    ErrorAnswer,
    FaceAnswer,
    HealthAnswer,
    PictureAnswer,
    PurifyAnswer,
)
from immunecam.runtime.service.purification import Prepared
from immunecam.runtime.service.refusal import Refusal
from immunecam.runtime.service.uploads import PICTURES_BODY, read_pictures
from immunecam.runtime.service.work import ServiceWork

__all__ = ["refusals", "service_router"]

_REASONS = {
    400: "What was sent cannot be used.",
    401: "No token, or a wrong one.",
    403: "Another page or host asks.",
    404: "There is no such thing here.",
    408: "The body came too slowly.",
    409: "The gate has no threshold yet.",
    413: "The body is too large.",
    415: "The body is of another type.",
    422: "A parameter is out of its range.",
    429: "A limit of rate or queue; Retry-After says when to come back.",
    500: "An error of the service itself.",
    503: "Out of time, shutting down, or a camera that gives no frames.",
}
_MEDIA = {"png": "image/png", "jpeg": "image/jpeg"}


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's description of the refusals that a route can answer with."""
    return {
        code: {"model": ErrorAnswer, "description": _REASONS[code]} for code in (*codes, 401, 403, 422, 429, 500, 503)
    }


def service_router(work: ServiceWork) -> APIRouter:
    """All routes but those of the inference protocol."""
    router = APIRouter()
    settings, metrics = work.settings, work.metrics

    @router.post(
        "/v1/purify",
        openapi_extra=PICTURES_BODY,
        responses={
            200: {
                "model": PurifyAnswer,
                "description": "JSON, or the picture where output=image.",
                "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _MEDIA.values()},
            },
            **refusals(400, 408, 413, 415),
        },
    )
    async def purify(
        request: Request,
        output: Annotated[Literal["json", "image"], Query(description="JSON, or one picture as a picture.")] = "json",
        picture: Annotated[bool, Query(description="Put the pictures into the JSON, too.")] = False,
        crops: Annotated[bool, Query(description="Put the purified faces into the JSON.")] = False,
        evidence: Annotated[bool, Query(description="Measure what purification took away.")] = True,
        embedding: Annotated[bool, Query(description="Give embeddings, with a recogniser.")] = False,
        colour: Annotated[Literal["keep", "grey"], Query(description="Keep the chroma, or not.")] = "keep",
        coding: Annotated[Literal["png", "jpeg"], Query(alias="format", description="Of pictures.")] = "png",
    ) -> Any:
        """Find and purify the faces of one or more pictures."""
        pictures = await read_pictures(request, settings.max_pictures)
        if output == "image" and len(pictures) > 1:
            raise InputError(f"there are {len(pictures)} pictures, but output=image gives one: ask for json")
        if embedding and work.purification.embedder is None:
            raise InputError(
                "embeddings were asked for, but the service has no recogniser: start it with --recognizer or --masked"
            )
        suffix = f".{coding}"

        def finish(name: str, prepared: Prepared, batch: PurifiedFaces | None) -> PictureAnswer:
            faces = _faces(work, prepared, batch, evidence=evidence or embedding, embedding=embedding, crops=crops)
            height, width = prepared.frame.shape[:2]
            image = None
            if picture:
                image = _base64(encode_picture(work.purification.picture(prepared, batch, colour), suffix))
            timings = {**prepared.timings_ms, **({} if batch is None else batch.timings_ms)}
            metrics.stages(timings, [face.active for face in faces])
            timings = {stage: round(value, 3) for stage, value in timings.items()}
            return PictureAnswer(name=name, width=width, height=height, faces=faces, picture=image, timings_ms=timings)

        async with work.admitted():
            if output == "image":
                ((name, data),) = pictures
                return await work.answered(data, name, partial(_as_picture, work, colour, coding))
            if picture:
                shown = sum([await work.in_thread(work.purification.pixels, data, name) for name, data in pictures])
                if shown > settings.max_pixels:
                    raise Refusal(413, f"an answer shows {settings.max_pixels} pixels at most: ask for fewer pictures")
            answers = await _all([work.answered(data, name, partial(finish, name)) for name, data in pictures])
        purifier = work.purifier
        return PurifyAnswer(
            pictures=answers,
            provider=purifier.provider,
            mutation=purifier.mutation,
            bundle_sha256=purifier.bundle.sha256,
        )

    @router.post("/v1/verify", openapi_extra=PICTURES_BODY, responses=refusals(400, 404, 408, 409, 413, 415))
    async def verify(
        request: Request,
        person: Annotated[
            str, Query(min_length=1, max_length=256, description="Who it is said to be.", examples=["ann"])
        ],
    ) -> DecisionAnswer:
        """1:1: whether the face of these pictures, which follow each other, is a person's. Status 200 is no grant."""
        return await decide(request, person)

    @router.post("/v1/identify", openapi_extra=PICTURES_BODY, responses=refusals(400, 404, 408, 409, 413, 415))
    async def identify(request: Request) -> DecisionAnswer:
        """1:N: who of all enrolled people is on these pictures, which follow each other. Status 200 is no grant."""
        return await decide(request, None)

    async def decide(request: Request, person: str | None) -> DecisionAnswer:
        pictures = await read_pictures(request, settings.max_pictures)
        async with work.admitted():
            event = await work.decided(pictures, person)
        return DecisionAnswer(**event.to_dict())

    @router.get("/v1/cameras", responses=refusals())
    async def cameras() -> CamerasAnswer:
        """The cameras, and how the active one is."""
        return CamerasAnswer.model_validate({"active": work.cameras.active, "cameras": work.cameras.status()})

    @router.put("/v1/cameras/active", responses=refusals(400, 404, 408, 413))
    async def switch(choice: CameraChoice) -> CamerasAnswer:
        """Make another camera the active one; it is being opened when this answers."""
        work.cameras.switch(choice.name)
        return await cameras()

    @router.get(
        "/v1/cameras/active/picture",
        response_class=Response,
        responses={200: {"content": {kind: {} for kind in _MEDIA.values()}}, **refusals(404)},
    )
    async def camera_picture(
        purified: Annotated[bool, Query(description="With purified faces in place.")] = False,
        colour: Annotated[Literal["keep", "grey"], Query(description="Keep the chroma, or not.")] = "keep",
        coding: Annotated[Literal["png", "jpeg"], Query(alias="format", description="Of the picture.")] = "jpeg",
    ) -> Response:
        """The newest frame of the active camera; 503 while it gives none, never an old one."""
        frame = work.cameras.newest().image
        async with work.admitted():
            if not purified:
                data = await work.in_thread(encode_picture, frame, f".{coding}")
                return Response(data, media_type=_MEDIA[coding])
            return await work.answered_frame(frame, partial(_as_picture, work, colour, coding))

    @router.get("/v1/bundle", responses=refusals())
    async def bundle() -> BundleAnswer:
        """The model in use."""
        found, purifier = work.purifier.bundle, work.purifier
        return BundleAnswer(
            name=found.name,
            version=found.manifest.version,
            kind=found.manifest.kind,
            k=found.k,
            sha256=found.sha256,
            signed_by=None if found.signed_by is None else found.signed_by.id,
            precision=dict(found.manifest.precision),
            provider=purifier.provider,
            mutation=purifier.mutation,
        )

    @router.get("/healthz", responses=refusals())
    async def healthz() -> HealthAnswer:
        """Whether the process answers at all: if not, restart it."""
        return HealthAnswer(status="alive")

    @router.get("/readyz", responses=refusals())
    async def readyz() -> HealthAnswer:
        """Whether it takes requests: not before its engine has run once, nor when it is about to end."""
        work.check_ready()
        return HealthAnswer(status="ready")

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **refusals()},
    )
    async def prometheus() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(metrics.text(), headers={"content-type": metrics.content_type})

    return router


async def _all(coroutines: list[Any]) -> list[Any]:
    """Results in order; where one fails, the others are not computed on."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _faces(
    work: ServiceWork,
    prepared: Prepared,
    batch: PurifiedFaces | None,
    *,
    evidence: bool,
    embedding: bool,
    crops: bool,
) -> list[FaceAnswer]:
    if batch is None:
        return []
    found, vectors = work.purification.evidence(prepared, batch) if evidence else ([], None)
    active = work.purification.active(batch)
    answers = []
    for index, face in enumerate(prepared.faces):
        signs: dict[str, Any] = {}
        if found:
            cosine = found[index].cosine
            signs = {
                "residual": round(found[index].residual, 6),
                "cosine": None if math.isnan(cosine) else round(cosine, 6),
            }
        answers.append(
            FaceAnswer(
                box=[round(float(value), 2) for value in face.box],
                landmarks=[[round(float(x), 2), round(float(y), 2)] for x, y in face.landmarks],
                score=round(face.score, 4),
                number=batch.first_image + index,
                active=round(float(active[index]), 2),
                embedding=[float(value) for value in vectors[index]] if embedding and vectors is not None else None,
                purified=_base64(encode_picture(batch.purified[index], ".png")) if crops else None,
                **signs,
            )
        )
    return answers


def _as_picture(
    work: ServiceWork, colour: ColourMode, coding: str, prepared: Prepared, batch: PurifiedFaces | None
) -> Response:
    timings = {**prepared.timings_ms, **({} if batch is None else batch.timings_ms)}
    work.metrics.stages(timings, [] if batch is None else work.purification.active(batch))
    data = encode_picture(work.purification.picture(prepared, batch, colour), f".{coding}")
    stages = ", ".join(f"{stage};dur={value:.2f}" for stage, value in timings.items())
    headers = {"Server-Timing": stages, "X-Immunecam-Faces": str(len(prepared.faces))}
    return Response(data, media_type=_MEDIA[coding], headers=headers)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
