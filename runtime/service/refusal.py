"""A request that is not answered, and why."""

from __future__ import annotations

import json

from immunecam.errors import ImmuneCamError

__all__ = ["Overloaded", "Refusal", "refusal_parts"]


class Refusal(ImmuneCamError):
    """A request is refused.

    Parameters
    ----------
    status : int
        Of HTTP, 400 to 599.
    sentence : str
        What is wrong and what to do.
    retry_after_s : int, optional
        When trying again may help.
    """

    def __init__(self, status: int, sentence: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.retry_after_s = status, retry_after_s


class Overloaded(Refusal):
    """More is waiting than the service may keep (status 429)."""

    def __init__(self, sentence: str, retry_after_s: int) -> None:
        super().__init__(429, sentence, retry_after_s=retry_after_s)


def refusal_parts(error: ImmuneCamError) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an error's answer: what is no refusal by its own words is bad input, 400."""
    content = json.dumps({"error": " ".join(str(error).split())}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content))}
    status = 400
    if isinstance(error, Refusal):
        status = error.status
        if error.retry_after_s is not None:
            headers["retry-after"] = str(error.retry_after_s)
        if status == 401:
            headers["www-authenticate"] = "Bearer"
    return status, headers, content
