"""What stands around every request: who may ask, how often, how much, how long, and that somebody still listens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from immunecam.errors import ImmuneCamError
from immunecam.runtime.service.access import check_access
from immunecam.runtime.service.metrics import ServiceMetrics
from immunecam.runtime.service.rate import RateLimiter
from immunecam.runtime.service.refusal import Overloaded, Refusal, refusal_parts
from immunecam.runtime.service.settings import ServiceSettings

__all__ = ["HEALTH_PATHS", "Guard"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEALTH_PATHS = ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready")
"""Where nobody is asked for a token: for whoever restarts the service."""

_DROPPED = (401, 403, 408, 413, 429, 503)
_log = logging.getLogger(__name__)


class Guard:
    """An ASGI application around another one.

    A request's body is read here, so that its limits hold for every route, and so that the connection can be watched
    while the request is in work: when the client goes away, the work is cancelled.

    Parameters
    ----------
    app : ASGI application
    settings : ServiceSettings
    metrics : ServiceMetrics
    """

    def __init__(self, app: App, settings: ServiceSettings, metrics: ServiceMetrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._rates = RateLimiter(settings.rate_per_s)
        self._pending = 0  # bytes of bodies
        self.draining = False

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(self, scope, send)
        began = time.perf_counter()
        taken = 0
        self._metrics.in_work.inc()
        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._admit(scope, headers)
            if scope["method"] == "HEAD":  # is answered as GET, and the server below leaves the body out
                scope = {**scope, "method": "GET"}
            chunks: list[bytes] = []
            async for chunk in self._body(headers, receive):
                taken += len(chunk)
                self._pending += len(chunk)
                chunks.append(chunk)
            request.read = True
            body = b"".join(chunks)
            del chunks
            await self._answered(scope, body, receive, request)
        except _Gone:
            self._metrics.abandoned.inc()
        except ImmuneCamError as error:
            await request.refuse(error)
        except Exception as error:
            _log.error(
                "internal error (%s: %s): run again with IMMUNECAM_DEBUG=1 and report it",
                type(error).__name__,
                error,
                exc_info=bool(os.environ.get("IMMUNECAM_DEBUG")),
            )
            await request.refuse(Refusal(500, f"internal error ({type(error).__name__}): see the service's log"))
        finally:
            self._pending -= taken
            self._metrics.in_work.dec()
            route = getattr(scope.get("route"), "path", "other")
            if request.status is not None:
                self._metrics.requests.labels(route, request.status).inc()
                self._metrics.request_seconds.labels(route).observe(time.perf_counter() - began)
                if request.status in _DROPPED:
                    self._metrics.refused.labels(request.status).inc()

    def _admit(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> None:
        """Refuse by what the head says, before a byte of the body is read."""
        settings, most = self._settings, self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if scope["path"] in HEALTH_PATHS and scope["method"] in ("GET", "HEAD"):
            if length != "0" or "transfer-encoding" in headers:
                raise Refusal(413, "the request has a body, but a question for health has none: leave it out")
            return
        client = scope.get("client")
        self._rates.check(client[0] if client else "")
        page = scope["method"] in ("GET", "HEAD") and (scope["path"] == "/" or scope["path"].startswith("/page/"))
        check_access(headers, settings.token, loopback=settings.is_loopback, anybody=page)
        if "content-length" in headers and "transfer-encoding" in headers:
            # Whoever stands between may take the one for the body's end and we the other (RFC 9112, 6.3).
            raise Refusal(400, "the request has both a content-length and a transfer-encoding: send one of them")
        if not length.isdecimal() or int(length) > most:
            raise Refusal(413, f"the body has {length[:20]} bytes, but it may have {most}: send less")
        coding = headers.get("content-encoding", "identity").strip().lower()
        if coding not in ("", "identity"):
            raise Refusal(415, f"the body's content-encoding is {coding[:20]!r}: do not compress it")

    async def _body(self, headers: dict[str, str], receive: Receive) -> Any:
        settings, total = self._settings, 0
        until = asyncio.get_running_loop().time() + settings.body_timeout_s
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            return
        while True:
            left = until - asyncio.get_running_loop().time()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, left))
            except asyncio.TimeoutError:
                raise Refusal(
                    408, f"the body was not whole after {settings.body_timeout_s:g} s ({total} bytes): send it faster"
                ) from None
            if message["type"] == "http.disconnect":
                raise _Gone
            chunk: bytes = message.get("body", b"")
            total += len(chunk)
            if total > settings.max_body_bytes:
                raise Refusal(413, f"the body has more than the {settings.max_body_bytes} bytes that it may: send less")
            if self._pending + len(chunk) > settings.max_pending_bytes:
                raise Overloaded(
                    "the bodies of other requests fill the memory that there is for them: try again in 1 s", 1
                )
            yield chunk
            if not message.get("more_body", False):
                return

    async def _answered(
        self, scope: MutableMapping[str, Any], body: bytes, receive: Receive, request: _Request
    ) -> None:
        """Run the application, but no longer than somebody listens, and there is time."""
        given = False
        gone = asyncio.ensure_future(_gone(receive))

        async def replay() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await asyncio.shield(gone)
            return {"type": "http.disconnect"}

        work = asyncio.ensure_future(self._app(scope, replay, request.send))
        try:
            await asyncio.wait(
                {work, gone}, timeout=self._settings.request_timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if work.done():
                work.result()
                return
            if gone.done() and not request.complete:
                raise _Gone
            if not gone.done():
                raise Refusal(
                    503,
                    f"the answer took longer than {self._settings.request_timeout_s:g} s: try again",
                    retry_after_s=1,
                )
        finally:
            for task in (work, gone):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


class _Gone(Exception):
    """The client went away."""


class _Request:
    """What has been answered so far."""

    def __init__(self, guard: Guard, scope: MutableMapping[str, Any], send: Send) -> None:
        self._guard, self._scope, self._send = guard, scope, send
        self.status: int | None = None
        self.complete = False
        self.read = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [
                *message.get("headers", []),
                (b"cache-control", b"no-store"),
                (b"x-content-type-options", b"nosniff"),
            ]
            # Whoever is to come back later would find an idle connection that is just being closed.
            later = any(name == b"retry-after" for name, _ in headers)
            if self._guard.draining or not self.read or later:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)

    async def refuse(self, error: ImmuneCamError) -> None:
        """Answer with an error's sentence, unless an answer has begun."""
        if self.status is not None:
            return
        status, headers, content = refusal_parts(error)
        start = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": start})
        body = b"" if self._scope["method"] == "HEAD" else content
        await self.send({"type": "http.response.body", "body": body})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
