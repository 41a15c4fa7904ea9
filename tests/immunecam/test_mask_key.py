"""A mask's key gives the same permutations everywhere, and others for another key or purpose."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.errors import InputError
from immunecam.mask_key import MaskKey

KEY = MaskKey(bytes(range(32)))
OTHER = MaskKey(bytes(range(1, 33)))


def test_derivation_is_hkdf():
    hashes = pytest.importorskip("cryptography.hazmat.primitives.hashes")
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    theirs = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"immunecam mask 1 check")
    assert KEY.check_value == theirs.derive(bytes(range(32)))[:16].hex()


def test_permutations_never_change():
    """What a recogniser was trained with must be found again by every later version."""
    assert KEY.permutation(12, "order") == (9, 3, 0, 7, 10, 2, 11, 4, 1, 6, 5, 8)
    assert KEY.check_value == "b2bdb722b90b91fe9e2f5a800ffa77e4"
    assert KEY.permutation(0, "order") == ()
    assert KEY.enrolment_order(12, 17) == KEY.permutation(12, "order of enrolment 17")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 110), st.text(max_size=12))
def test_every_number_occurs_once(count, purpose):
    assert sorted(KEY.permutation(count, purpose)) == list(range(count))


def test_key_and_purpose_count():
    found = {key.permutation(36, purpose) for key in (KEY, OTHER) for purpose in ("pairs", "order")} | {
        key.enrolment_order(36, enrolment) for key in (KEY, OTHER) for enrolment in (1, 2, "ann")
    }
    assert len(found) == 10


def test_draws_are_even():
    """Each of the six orders of three, about as often as the others."""
    counts: dict[tuple[int, ...], int] = {}
    for number in range(1200):
        order = KEY.permutation(3, f"draw {number}")
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(150 < count < 250 for count in counts.values())


def test_the_key_is_kept_to_itself():
    assert repr(KEY) == "MaskKey(...)"
    assert MaskKey.generate().check_value != MaskKey.generate().check_value


def test_what_must_raise():
    for secret in (b"", bytes(31), bytes(32)):
        with pytest.raises(InputError, match=f"has {len(secret)} bytes, but it must be 32 random ones"):
            MaskKey(secret)
    KEY.verify(KEY.check_value, "the recogniser 'a.run'")
    for wrong in (OTHER.check_value, "", "ü"):
        with pytest.raises(InputError, match=r"^the recogniser 'a.run' was made with another masking key"):
            KEY.verify(wrong, "the recogniser 'a.run'")
