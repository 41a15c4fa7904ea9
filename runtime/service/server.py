"""The process around the application: address, TLS, signals, and an end that finishes what was accepted."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator

import uvicorn

from immunecam.errors import InputError
from immunecam.runtime.service.app import create_app
from immunecam.runtime.service.connection import limited_protocol, readable
from immunecam.runtime.service.guard import Guard
from immunecam.runtime.service.settings import ServiceSettings
from immunecam.runtime.service.work import ServiceWork

__all__ = ["serve"]


def serve(work: ServiceWork, *, started: Callable[[str], None] | None = None) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then finish those that were accepted; a second Ctrl-C does not wait.

    Parameters
    ----------
    work : ServiceWork
        Warmed up and closed here.
    started : callable, optional
        Told the service's address when it takes requests.

    Raises
    ------
    InputError
        If the address is taken or not this machine's, or the TLS files cannot be used.
    """
    settings = work.settings
    try:
        _check_tls(settings)
        listener = _listener(settings)
        with contextlib.closing(listener):  # not listening yet: who comes before the engine is warm is refused
            work.warm_up()
            guard = create_app(work)
            config = uvicorn.Config(
                guard,
                http=limited_protocol(settings),
                ws="none",
                lifespan="off",
                loop="asyncio",
                access_log=False,
                log_config=None,
                log_level="error",
                server_header=False,
                proxy_headers=False,
                backlog=512,
                timeout_keep_alive=round(settings.idle_timeout_s),
                timeout_graceful_shutdown=math.ceil(settings.end_s),
                h11_max_incomplete_event_size=32 * 1024,
                ssl_certfile=None if settings.tls_certificate is None else str(settings.tls_certificate),
                ssl_keyfile=None if settings.tls_key is None else str(settings.tls_key),
            )
            listener.listen(config.backlog)
            if started is not None:
                started(_address(settings, listener))
            _Server(config, work, guard).run([listener])
    finally:
        work.close()


_LAST_LOOKS = 100


class _Server(uvicorn.Server):
    """Ends in steps: says that it is not ready, goes on for a moment, and closes then."""

    def __init__(self, config: uvicorn.Config, work: ServiceWork, guard: Guard) -> None:
        super().__init__(config)
        self._work, self._guard = work, guard

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.config.is_ssl:
            # uvicorn has no settings for these, and asyncio's are a minute and half a minute: strangers could keep
            # connections that no limit counts. The second is also the time for the rest of an answer to be taken in.
            loop, settings = asyncio.get_running_loop(), self._work.settings
            limits = {"ssl_handshake_timeout": settings.head_timeout_s}
            if sys.version_info >= (3, 11):
                limits["ssl_shutdown_timeout"] = settings.write_timeout_s
            loop.create_server = functools.partial(loop.create_server, **limits)  # type: ignore[method-assign]
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._work.ready = False
        # Answers ask from now on for connections to be closed, so that none is closed under a request on its way.
        self._guard.draining = True
        if not self.force_exit:
            await asyncio.sleep(self._work.settings.drain_s)
            # What waits to be accepted would be reset: let it in first, but not without end.
            for _ in range(_LAST_LOOKS):
                if not any(readable(one.fileno()) for one in sockets or []):
                    break
                await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn, but a signal that was obeyed is not raised again: ended as it was told, the process did well."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listener(settings: ServiceSettings) -> socket.socket:
    host = "127.0.0.1" if settings.host == "localhost" else settings.host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, settings.port))
    except OSError as error:
        listener.close()
        raise InputError(
            f"the service cannot listen at {settings.host} port {settings.port} ({error.strerror}): choose another by "
            "--host or --port"
        ) from None
    return listener


def _check_tls(settings: ServiceSettings) -> None:
    """Refuse files that cannot be used before anything listens; a key with a passphrase would ask on the terminal."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        reason = "the key is not the certificate's" if reason == "KEY_VALUES_MISMATCH" else reason
        raise InputError(
            f"the TLS files {str(settings.tls_certificate)!r} and {str(settings.tls_key)!r} cannot be used ({reason}): "
            "give a PEM certificate and its key without a passphrase"
        ) from None


def _address(settings: ServiceSettings, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "http" if settings.tls_certificate is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
