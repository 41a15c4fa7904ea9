"""How often one client may ask."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

from immunecam.runtime.service.refusal import Overloaded

__all__ = ["RateLimiter"]

_REMEMBERED = 10_000


class RateLimiter:
    """A bucket of tokens for each client; for one thread.

    Parameters
    ----------
    per_s : float
        Requests a second in the mean; 0 sets no limit.
    burst : float, optional
        Requests at once; None is twice `per_s`, and at least 1.
    """

    def __init__(self, per_s: float, burst: float | None = None) -> None:
        self._per_s, self._burst = per_s, max(1.0, 2 * per_s) if burst is None else burst
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when

    def check(self, client: str, now: float | None = None) -> None:
        """Count a request of `client`, at `now` seconds of the monotonic clock.

        Raises
        ------
        Overloaded
            If it is one too many; it is not counted then.
        """
        if not self._per_s:
            return
        now = time.monotonic() if now is None else now
        tokens, last = self._clients.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - last) * self._per_s)
        enough = tokens >= 1
        self._clients[client] = (tokens - enough, now)
        while len(self._clients) > _REMEMBERED:  # whoever was silent longest has a full bucket anyway
            self._clients.popitem(last=False)
        if not enough:
            after = max(1, math.ceil((1 - tokens) / self._per_s))
            raise Overloaded(
                f"the client asks more than {self._per_s:g} times a second, which is the limit: try again in {after} s",
                after,
            )
