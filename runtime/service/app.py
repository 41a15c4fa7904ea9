"""The service as an ASGI application: its routes, one form of error, its description, and the guard around it all."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from immunecam import __version__
from immunecam.errors import ImmuneCamError
from immunecam.runtime.service.guard import HEALTH_PATHS, Guard
from immunecam.runtime.service.inference_routes import inference_router
from immunecam.runtime.service.page_routes import page_router
from immunecam.runtime.service.refusal import Refusal, refusal_parts
from immunecam.runtime.service.routes import service_router
from immunecam.runtime.service.view_routes import view_router
from immunecam.runtime.service.work import ServiceWork

__all__ = ["create_app"]


def create_app(work: ServiceWork) -> Guard:
    """The application that a server runs.

    Parameters
    ----------
    work : ServiceWork
        Not closed with it.
    """
    # FastAPI's own pages fetch scripts from the network, which a device may not have, and which nobody has checked.
    api = FastAPI(
        title="ImmuneCam",
        version=__version__,
        summary="Removes adversarial perturbations from faces, in front of any face recogniser.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.include_router(service_router(work))
    api.include_router(inference_router(work))
    api.include_router(view_router(work))
    api.include_router(page_router())
    api.add_exception_handler(ImmuneCamError, _refused)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _plain)
    if work.settings.token is not None:
        _describe_token(api)
    return Guard(api, work.settings, work.metrics)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ImmuneCamError)
    status, headers, content = refusal_parts(error)
    return Response(content, status, headers)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = dict(error.errors()[0])
    where = " ".join(str(part) for part in first.get("loc", ()))
    found = f", found {str(first['input'])[:60]!r}" if first.get("type") != "missing" and "input" in first else ""
    return await _refused(request, Refusal(422, f"{where[:100]}: {first.get('msg', 'is not valid')}{found}"))


async def _plain(request: Request, error: Exception) -> Response:
    """What the framework itself refuses: no such path, no such method."""
    assert isinstance(error, HTTPException)
    sentences = {
        404: f"there is no {request.url.path[:100]!r}: /openapi.json describes what there is",
        405: f"{request.url.path[:100]!r} does not take {request.method[:20]}: /openapi.json describes what it takes",
    }
    status, headers, content = refusal_parts(Refusal(error.status_code, sentences.get(error.status_code, error.detail)))
    return Response(content, status, {**(error.headers or {}), **headers})


def _describe_token(api: FastAPI) -> None:
    """Say in the description that a token is wanted, for clients that are made of it."""
    plain = api.openapi

    def described() -> dict[str, Any]:
        if api.openapi_schema is None:
            schema = json.loads(json.dumps(plain()))
            schema.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    if path not in HEALTH_PATHS:
                        operation["security"] = [{"token": []}]
            api.openapi_schema = schema
        return api.openapi_schema

    api.openapi = described  # type: ignore[method-assign]
