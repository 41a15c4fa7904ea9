"""The live page's own files, which hold nothing that a token would protect."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter, Response

from immunecam.runtime.service.refusal import Refusal

__all__ = ["page_router"]

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    # Nothing inline and nothing from elsewhere: what a camera, a name or a message holds cannot become a script.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
}


def page_router() -> APIRouter:
    """``/``, and the files below ``/page``."""
    router = APIRouter(include_in_schema=False)
    folder = resources.files("immunecam.runtime.service") / "page"
    files = {
        file.name: (file.read_bytes(), _TYPES[file.name.rpartition(".")[2]])
        for file in folder.iterdir()
        if file.name.rpartition(".")[2] in _TYPES
    }

    def answer(name: str) -> Response:
        if name not in files:
            raise Refusal(404, f"the page has no file {name[:60]!r}: it begins at /")
        content, kind = files[name]
        return Response(content, headers={**_HEADERS, "content-type": kind})

    @router.get("/")
    async def index() -> Response:
        return answer("index.html")

    @router.get("/page/{name}")
    async def file(name: str) -> Response:
        return answer(name)

    return router
