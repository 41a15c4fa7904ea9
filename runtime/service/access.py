"""Who may ask: tokens, and protection of a service on loopback from pages in a browser on the same machine."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from immunecam.errors import InputError
from immunecam.runtime.service.refusal import Refusal

__all__ = ["TOKEN_VARIABLE", "check_access", "read_token"]

TOKEN_VARIABLE = "IMMUNECAM_SERVICE_TOKEN"

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_log = logging.getLogger(__name__)


def read_token(file: Path | None) -> str | None:
    """The token of a file, or of the environment variable ``IMMUNECAM_SERVICE_TOKEN``; None if there is neither.

    Raises
    ------
    InputError
        If the file cannot be read or others may write it, or what should hold a token is empty.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE)
        if token is not None and not token.strip():
            raise InputError(f"the variable {TOKEN_VARIABLE} is set, but empty: put a token into it, or unset it")
        return None if token is None else token.strip()
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"the token's file {str(file)!r} is no file: give one that holds the token")
        data = file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise InputError(
            f"the token's file {str(file)!r} cannot be read ({error.strerror}): check path and rights"
        ) from None
    if mode & 0o022:
        raise InputError(f"the token's file {str(file)!r} may be written by others: chmod 600 {file}")
    if mode & 0o004:
        _log.warning("the token's file %s may be read by everybody: chmod 600 it", file)
    if not data:
        raise InputError(f"the token's file {str(file)!r} holds no token: write one into it")
    return data


def check_access(headers: Mapping[str, str], token: str | None, *, loopback: bool, anybody: bool = False) -> None:
    """Refuse who may not ask.

    Parameters
    ----------
    headers : Mapping of str to str
        Of the request, names in lower case.
    token : str or None
        What must be shown. Without one a service is on loopback, where a page in this machine's browser could ask, too:
        by an address that its server points here, which shows in ``Host``, or from its own, which shows in ``Origin``.
    loopback : bool
        Whether the service listens to this machine only.
    anybody : bool
        Whether the token is not asked for: for the page that asks for it, since a browser shows none to load a page.

    Raises
    ------
    Refusal
        Status 401 or 403.
    """
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        raise Refusal(
            403, f"the request comes from a page of {origin[:100]!r}, which may not ask: use this service's own"
        )
    if token is None:
        host = headers.get("host", "")
        if loopback and _name(host) not in _LOOPBACK:
            raise Refusal(403, f"the host is {host[:100]!r}, but without a token it must be localhost or 127.0.0.1")
        return
    if anybody:
        return
    kind, _, shown = headers.get("authorization", "").partition(" ")
    # Of equal length, so that the time that it takes tells nothing of the token's, either.
    same = hmac.compare_digest(hashlib.sha256(shown.strip().encode()).digest(), hashlib.sha256(token.encode()).digest())
    if kind.lower() != "bearer" or not same:
        wrong = "has no token" if not shown else "has a wrong token"
        raise Refusal(401, f"the request {wrong}: send Authorization: Bearer TOKEN")


def _name(host: str) -> str:
    """Of a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
