"""The secret of a mask: one key, from which every permutation follows, the same on every machine.

Only the standard library is used, so that a device without PyTorch derives what training derived.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator

from immunecam.errors import InputError

__all__ = ["MASK_KEY_BYTES", "MaskKey"]

MASK_KEY_BYTES = 32
_WORD = 2**32


class MaskKey:
    """32 secret bytes, of which every use gets a key of its own (HKDF-SHA256, RFC 5869).

    Random numbers are HMAC-SHA256 of a counter, not those of a generator of NumPy or PyTorch, which may change from
    version to version; a mask must not.

    Parameters
    ----------
    secret : bytes
        Exactly 32, from a good source of randomness, such as ``GateKey.derive("masking")``.

    Raises
    ------
    InputError
        If there are not 32, or all are equal.
    """

    def __init__(self, secret: bytes) -> None:
        if len(secret) != MASK_KEY_BYTES or len(set(secret)) == 1:
            raise InputError(
                f"the mask's key has {len(secret)} bytes, but it must be {MASK_KEY_BYTES} random ones: make a key by "
                "`immunecam gate keygen FILE`"
            )
        self._secret = bytes(secret)

    def __repr__(self) -> str:
        return "MaskKey(...)"  # never in a log or a traceback

    @classmethod
    def generate(cls) -> MaskKey:
        """A new one from the operating system."""
        return cls(secrets.token_bytes(MASK_KEY_BYTES))

    @property
    def check_value(self) -> str:
        """32 hex digits that tell this key from another and nothing else of it; a recogniser keeps them."""
        return self._derive("check")[:16].hex()

    def verify(self, check_value: str, what: str) -> None:
        """Refuse to go on if this is not the key that a check value is of.

        Raises
        ------
        InputError
            If it is another; `what` names the thing that was made with the right one.
        """
        # Compared as bytes: text from a damaged file may hold what compare_digest refuses.
        if not hmac.compare_digest(self.check_value.encode(), check_value.encode("utf-8", "replace")):
            raise InputError(
                f"{what} was made with another masking key (check value {check_value[:32]!r}, this key's is "
                f"{self.check_value!r}): give the key that it was made with"
            )

    def permutation(self, count: int, purpose: str) -> tuple[int, ...]:
        """The numbers 0 to count - 1 in an order that follows from the key and the purpose alone.

        Fisher-Yates with unbiased draws: 32-bit words from a keyed stream, those above the largest multiple of the
        range being passed over.

        Parameters
        ----------
        count : int
            0 or more.
        purpose : str
            Such as "pairs" or "order".
        """
        words = self._words(purpose)
        order = list(range(count))
        for last in range(count - 1, 0, -1):
            fair = _WORD - _WORD % (last + 1)
            word = next(word for word in words if word < fair)
            other = word % (last + 1)
            order[last], order[other] = order[other], order[last]
        return tuple(order)

    def enrolment_order(self, count: int, enrolment: int | str) -> tuple[int, ...]:
        """The order of `count` channels that is one enrolment's own, and comes on top of the mask's.

        Parameters
        ----------
        count : int
        enrolment : int or str
            Its number or name; one that is not enrolled anew has the same order again.
        """
        return self.permutation(count, f"order of enrolment {enrolment}")

    def _words(self, purpose: str) -> Iterator[int]:
        key, block = self._derive("permutation " + purpose), 0
        while True:
            data = hmac.digest(key, block.to_bytes(8, "big"), "sha256")
            for start in range(0, len(data), 4):
                yield int.from_bytes(data[start : start + 4], "big")
            block += 1

    def _derive(self, purpose: str) -> bytes:
        # RFC 5869 with an empty salt, for one block of output.
        extracted = hmac.digest(bytes(hashlib.sha256().digest_size), self._secret, "sha256")
        return hmac.digest(extracted, b"immunecam mask 1 " + purpose.encode() + b"\x01", "sha256")
