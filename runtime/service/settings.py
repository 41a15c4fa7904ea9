"""What a service is started with."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from immunecam.errors import UsageError

__all__ = ["ServiceSettings"]


@dataclass(frozen=True)
class ServiceSettings:
    """Address and limits.

    Attributes
    ----------
    host : str
        Address to listen at, by number, or "localhost". Any but the machine's own wants a token.
    port : int
        0 takes a free one.
    token : str or None
        What clients must show, as ``Authorization: Bearer TOKEN``; 16 characters or more.
    tls_certificate, tls_key : path or None
        PEM files, both or none.
    batch_wait_ms : float
        Longest that a face waits for others to be purified with.
    queue_faces : int
        Faces that may wait for the engine.
    queue_requests : int
        Requests that may be in work or wait for it.
    max_body_bytes, max_pixels, max_pictures : int
        Of one request's body, of one picture, and pictures of a request.
    max_pending_bytes : int
        Of all bodies that are in memory at a time.
    max_connections : int
        Open at a time; more are closed at once.
    rate_per_s : float
        Requests a second of one client address, in the mean; twice as many at once. 0 sets no limit.
    head_timeout_s, body_timeout_s, write_timeout_s : float
        Longest that a client may take to send a request's head, to send its body, and to take in what is sent.
    idle_timeout_s : float
        Until a connection without a request is closed.
    request_timeout_s : float
        From a request that is whole to its answer.
    drain_s : float
        After the signal to stop, for how long new connections are still let in, while /readyz says that it ends.

    Raises
    ------
    UsageError
        If a value is out of its range, or the address wants a token and has none.
    """

    host: str = "127.0.0.1"
    port: int = 8600
    token: str | None = field(default=None, repr=False)
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    batch_wait_ms: float = 5.0
    queue_faces: int = 256
    queue_requests: int = 128
    max_body_bytes: int = 32 * 2**20
    max_pixels: int = 25_000_000
    max_pictures: int = 32
    max_pending_bytes: int = 256 * 2**20
    max_connections: int = 512
    rate_per_s: float = 100.0
    head_timeout_s: float = 5.0
    body_timeout_s: float = 20.0
    write_timeout_s: float = 20.0
    idle_timeout_s: float = 15.0
    request_timeout_s: float = 30.0
    drain_s: float = 0.5

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                continue
            least = 0 if one.name in ("port", "batch_wait_ms", "rate_per_s", "drain_s") else None
            wrong = value < 0 if least == 0 else value <= 0
            if wrong or not math.isfinite(value):
                raise UsageError(f"{one.name} is {value!r}, wanted {'0 or more' if least == 0 else 'more than 0'}")
        if self.port > 65535:
            raise UsageError(f"the port is {self.port}, wanted 0 to 65535")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise UsageError("TLS wants both a certificate and its key: give both files, or none")
        if self.token is not None and (
            len(self.token) < 16 or not self.token.isascii() or not self.token.isprintable()
        ):
            raise UsageError(
                f"the token has {len(self.token)} characters, wanted 16 or more printable ASCII ones: make one by "
                '`python3 -c "import secrets; print(secrets.token_urlsafe(32))"`'
            )
        if self.token is None and not self.is_loopback:
            raise UsageError(
                f"the address {self.host} can be reached from other machines, which wants a token: give --token-file, "
                "or listen at 127.0.0.1"
            )

    @property
    def end_s(self) -> float:
        """Longest that it takes to finish what was accepted: to be sent whole, answered, and taken in."""
        return self.body_timeout_s + self.request_timeout_s + self.write_timeout_s

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            raise UsageError(
                f"the address {self.host!r} is no number of an interface: give one such as 127.0.0.1, 0.0.0.0 or ::1"
            ) from None
