"""A request that is not answered, and why."""

from __future__ import annotations

from immunecam.errors import ImmuneCamError

__all__ = ["Overloaded", "Refusal"]


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
