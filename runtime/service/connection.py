"""Limits below HTTP: heads that come too slowly, answers that nobody takes, and too many connections.

uvicorn times idle connections only: one that sends a byte of its head now and then, or stops reading in the middle of
an answer, it would keep for ever.
"""

from __future__ import annotations

import asyncio
import fcntl
import select
import sys
import termios
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from immunecam.runtime.service.refusal import Refusal, refusal_parts
from immunecam.runtime.service.settings import ServiceSettings

__all__ = ["limited_protocol", "readable", "untaken"]

_LAST_LOOK_S = 0.25
_LINGER_S = 2.0
_LINGER_BYTES = 8 * 2**20


def limited_protocol(settings: ServiceSettings) -> type[H11Protocol]:
    """uvicorn's protocol with the connection limits of `settings`."""

    class Limited(_LimitedProtocol):
        limits = settings

    return Limited


class _LimitedProtocol(H11Protocol):
    limits: ServiceSettings
    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.limits.max_connections:
            super().connection_made(transport)
            transport.abort()
            return
        super().connection_made(_Lingering(transport, self))  # type: ignore[arg-type]
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_whole()
        super().connection_lost(exc)  # which resumes writing

    def data_received(self, data: bytes) -> None:
        if isinstance(self.transport, _Lingering) and self.transport.lingers(len(data)):
            return
        super().data_received(data)
        if self._idle():
            self._await_head()
        else:
            self._head_is_whole()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is refused as everything else is: as JSON, in one sentence."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            _, headers, content = refusal_parts(Refusal(400, "the request is no HTTP/1.1: send one that is"))
            fields = [*headers.items(), ("connection", "close")]
            for event in (
                h11.Response(status_code=400, headers=fields, reason=b"Bad Request"),
                h11.Data(data=content),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def shutdown(self) -> None:
        # A request may lie in the system's buffer while a busy process still takes the connection for idle, and who has
        # just connected is about to send one. Both are served; their answers close the connection.
        if self._idle() and (self.cycle is None or self._has_more()):
            self.loop.call_later(_LAST_LOOK_S, self._close_if_idle)
        else:
            self._close()

    def _close_if_idle(self) -> None:
        if self._idle() and not self.transport.is_closing():
            if self._has_more():
                self.loop.call_later(_LAST_LOOK_S, self._close_if_idle)
            else:
                self._close()

    def _close(self) -> None:
        """Close, or have the answer that is in work do so."""
        super().shutdown()
        if self._idle():
            self.loop.call_later(_LAST_LOOK_S, self._abort_if_taken)

    def _abort_if_taken(self, looks: int = 2) -> None:
        """The end of TLS wants an answer, which a client that rests does not give; what it was sent it has, though."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        if descriptor < 0:
            return
        looks = 2 if untaken(descriptor) else looks - 1  # twice, for more may have been about to be sent
        if looks:
            self.loop.call_later(_LAST_LOOK_S, self._abort_if_taken, looks)
        else:
            self._abort()

    def _has_more(self) -> bool:
        return readable(self.transport.get_extra_info("socket").fileno())

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write is None:
            self._write = self.loop.call_later(self.limits.write_timeout_s, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write is not None:
            self._write.cancel()
            self._write = None

    def _await_head(self) -> None:
        """Whoever has begun has so long until his head is whole; what he sends meanwhile wins him no time."""
        if self._head is None:
            self._head = self.loop.call_later(self.limits.head_timeout_s, self._abort)

    def _head_is_whole(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _abort(self) -> None:
        self.transport.abort()


def readable(descriptor: int) -> bool:
    """Whether a socket has bytes, or a connection, that nobody has taken yet."""
    if descriptor < 0:
        return False
    poll = select.poll()  # select() takes no descriptor above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def untaken(descriptor: int) -> int:
    """Bytes of a TCP socket that its other side has not acknowledged yet (SIOCOUTQ of tcp(7))."""
    return int.from_bytes(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


class _Lingering:
    """A transport that closes in two steps where a client still sends.

    A connection that is closed with bytes unread is reset, and a reset throws away the answer that is under way: who
    sends a body that is refused by its length would never be told why. So what it sends is thrown away for a moment.
    """

    def __init__(self, transport: asyncio.Transport, protocol: _LimitedProtocol) -> None:
        self._transport, self._protocol = transport, protocol
        self._left = -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._left >= 0 or self._transport.is_closing()

    def close(self) -> None:
        cycle = self._protocol.cycle
        unread = cycle is not None and cycle.more_body
        if self._left >= 0 or not unread or self._transport.is_closing():
            self._transport.close()
            return
        self._left = _LINGER_BYTES
        self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
            end = self._transport.close
        else:  # by TLS; there the answer's length alone says that it is whole, and closing it would wait for the client
            end = self._transport.abort
        self._protocol.loop.call_later(_LINGER_S, end)

    def lingers(self, count: int) -> bool:
        """Whether the connection is in its second step, in which `count` bytes more are thrown away."""
        if self._left < 0:
            return False
        self._left -= count
        if self._left < 0:
            self._left = 0
            self._transport.abort()
        return True
