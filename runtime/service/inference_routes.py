"""The Open Inference Protocol over HTTP (KServe version 2), for the purifier as a model."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, Field

from immunecam import __version__
from immunecam.runtime.service.inference import (
    BINARY_HEADER,
    MODEL,
    encode_response,
    model_metadata,
    parse_request,
)
from immunecam.runtime.service.refusal import Refusal
from immunecam.runtime.service.routes import refusals
from immunecam.runtime.service.work import ServiceWork

__all__ = ["inference_router"]

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


Name = Annotated[str, Path(description="Of the model.", examples=[MODEL])]
Version = Annotated[str, Path(description="Of the model.", examples=["1"])]


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class TensorMetadata(BaseModel):
    """A tensor of a model; -1 in the shape is any length."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Live(BaseModel):
    """Whether the server lives."""

    live: bool


class Ready(BaseModel):
    """Whether server or model takes requests."""

    ready: bool = Field(description="Always true: what is not ready answers 503.")


def inference_router(work: ServiceWork) -> APIRouter:
    """Routes below /v2."""
    router = APIRouter()
    answers: dict[int | str, dict[str, Any]] = {
        200: {"content": {"application/json": {}, "application/octet-stream": {}}},
        **refusals(400, 404, 408, 413, 415),
    }

    def check(name: str, version: str = "1") -> None:
        if name != MODEL or version != "1":
            raise Refusal(
                404, f"there is no model {name[:64]!r} of version {version[:16]!r}: there is {MODEL!r}, version '1'"
            )

    def ready() -> Ready:
        work.check_ready()
        return Ready(ready=True)

    @router.get("/v2", responses=refusals())
    async def server() -> ServerMetadata:
        """Name, version and extensions."""
        return ServerMetadata(name="immunecam", version=__version__, extensions=["binary_tensor_data"])

    @router.get("/v2/health/live", responses=refusals())
    async def server_live() -> Live:
        """Whether the process answers."""
        return Live(live=True)

    @router.get("/v2/health/ready", responses=refusals())
    async def server_ready() -> Ready:
        """Whether it takes requests."""
        return ready()

    @router.get("/v2/models/{name}", responses=refusals(404))
    async def model(name: Name) -> ModelMetadata:
        """Tensors of the model."""
        check(name)
        return ModelMetadata.model_validate(model_metadata(work.purifier.k))

    @router.get("/v2/models/{name}/ready", responses=refusals(404))
    async def model_ready(name: Name) -> Ready:
        """Whether the model takes requests."""
        check(name)
        return ready()

    @router.get("/v2/models/{name}/versions/{version}", responses=refusals(404))
    async def version(name: Name, version: Version) -> ModelMetadata:
        """Tensors of a version of the model; there is version 1."""
        check(name, version)
        return await model(name)

    @router.get("/v2/models/{name}/versions/{version}/ready", responses=refusals(404))
    async def version_ready(name: Name, version: Version) -> Ready:
        """Whether a version of the model takes requests."""
        check(name, version)
        return ready()

    @router.post(
        "/v2/models/{name}/infer",
        openapi_extra=_BODY,
        response_class=Response,
        responses=answers,
    )
    async def infer(name: Name, request: Request) -> Response:
        """Purify aligned faces: `faces` FP32 in [-1, 1] or UINT8, [N, 112, 112], to `purified` and `probabilities`."""
        check(name)
        return await answer(request)

    @router.post(
        "/v2/models/{name}/versions/{version}/infer",
        openapi_extra=_BODY,
        response_class=Response,
        responses=answers,
    )
    async def version_infer(name: Name, version: Version, request: Request) -> Response:
        """As for the model; there is version 1."""
        check(name, version)
        return await answer(request)

    async def answer(request: Request) -> Response:
        body = await request.body()
        async with work.admitted():
            parsed = await work.in_thread(_parse, body, request.headers.get(BINARY_HEADER), work.settings.queue_faces)
            batch = await work.purified(parsed.faces)
            tensors = {"purified": batch.purified, "probabilities": batch.probabilities}
            content, head = await work.in_thread(encode_response, parsed, tensors)
        work.metrics.stages(batch.timings_ms, work.purification.active(batch))
        if head is None:
            return Response(content, media_type="application/json")
        return Response(content, media_type="application/octet-stream", headers={BINARY_HEADER: str(head)})

    return router


def _parse(body: bytes, header: str | None, most: int) -> Any:
    return parse_request(body, header, max_faces=most)
