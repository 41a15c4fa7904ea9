"""Followed faces are analysed again when they have changed, and not before; nothing else is shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels import mutate
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.faces import Face
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.shared_analysis import SharedAnalysis


def face(track: int | None) -> Face:
    return Face(np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 1.0, track)


def grey(*levels: float) -> NDArray[np.float32]:
    """Flat faces of these grey levels."""
    return np.stack([np.full((112, 112), level / 127.5 - 1, np.float32) for level in levels])


def see(shared: SharedAnalysis, tracks: list[int | None], *levels: float) -> list[bool]:
    """Which faces of a frame were analysed; their probabilities then are (track + frame's level) / 1000."""
    faces, pictures = [face(track) for track in tracks], grey(*levels)
    known = shared.known(faces, pictures, 3)
    anew = np.isnan(known).any(1)
    p = known.copy()
    p[anew] = (np.array(levels, np.float32)[anew] / 1000)[:, None]
    shared.learn(faces, pictures, known, p)
    return [bool(value) for value in anew]


def test_a_face_is_analysed_once_until_it_has_changed() -> None:
    shared = SharedAnalysis(change=5.0, longest=100)
    assert see(shared, [7], 100) == [True]
    assert see(shared, [7], 104) == [False]
    # What counts is the distance to the face that was analysed: a slow change does not creep past.
    assert see(shared, [7], 104.9) == [False]
    assert see(shared, [7], 105.5) == [True]
    assert see(shared, [7], 104.9) == [False]
    np.testing.assert_allclose(shared.known([face(7)], grey(106), 3), 0.1055, rtol=1e-6)


def test_fine_texture_is_no_change_and_half_a_face_is() -> None:
    shared = SharedAnalysis(change=5.0)
    picture = grey(100)
    shared.learn([face(1)], picture, np.full((1, 3), np.nan, np.float32), np.ones((1, 3), np.float32))
    checkered = picture.copy()
    checkered[0, ::2] += 8 / 127.5
    checkered[0, 1::2] -= 8 / 127.5
    assert not np.isnan(shared.known([face(1)], checkered, 3)).any()
    covered = picture.copy()
    covered[0, 56:] += 20 / 127.5
    assert np.isnan(shared.known([face(1)], covered, 3)).all()


def test_an_analysis_gets_old() -> None:
    shared = SharedAnalysis(longest=3)
    assert [see(shared, [1], 100)[0] for _ in range(8)] == [True, False, False, True, False, False, True, False]
    assert shared.shared == 5
    never = SharedAnalysis(longest=1)
    assert all(see(never, [1], 100) == [True] for _ in range(3))


def test_faces_do_not_share_with_each_other() -> None:
    shared = SharedAnalysis()
    assert see(shared, [1, 2], 100, 100) == [True, True]
    assert see(shared, [2, 3, 1], 100, 100, 100) == [False, True, False]
    assert see(shared, [None], 100) == [True]
    # The others have gone; a number that comes back is another face's.
    assert see(shared, [None, 1], 100, 100) == [True, True]


@pytest.mark.parametrize("wrong", [{"change": -1.0}, {"change": float("nan")}, {"longest": 0}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SharedAnalysis(**wrong)


def test_known_probabilities_are_used_and_bits_are_drawn_anew(bundle: Bundle, faces: NDArray[np.float32]) -> None:
    purifier = Purifier.load(bundle, seed=3)
    own = purifier.analyze(faces)
    known = np.full_like(own, np.nan)
    known[0] = 1.0 - own[0]
    found = purifier.purify_batch(faces, first_image=5, probabilities=known)
    np.testing.assert_array_equal(found.probabilities[0], known[0])
    np.testing.assert_allclose(found.probabilities[1:], own[1:], atol=1e-6)
    plain = purifier.purify_batch(faces, first_image=5).purified.astype(int)
    assert np.abs(found.purified[1:].astype(int) - plain[1:]).max() <= 1
    assert np.abs(found.purified[0].astype(int) - plain[0]).max() > 1
    # Two frames of one analysis have antibodies of their own.
    again = purifier.purify_batch(faces, probabilities=own)
    images = np.arange(again.first_image, again.first_image + len(faces), dtype=np.uint64)
    bits = mutate(own, mode="sample", seed=3, images=images)
    np.testing.assert_array_equal(purifier.antibodies(again), bits)
    assert (bits != mutate(own, mode="sample", seed=3, images=images + 100)).any()
    with pytest.raises(InputError, match="probabilities are"):
        purifier.purify_batch(faces, probabilities=own[:, :-1])


def test_a_frame_shares_what_the_frame_before_has_found(bundle: Bundle) -> None:
    class Following:
        def find(self, frame: NDArray[np.uint8]) -> list[Face]:
            points = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]], np.float32)
            return [Face(np.array([0, 0, 112, 112], np.float32), points, 1.0, 1)]

    rng = np.random.default_rng(0)
    image = np.repeat(rng.integers(60, 190, (120, 120, 1)), 3, 2).astype(np.uint8)
    purifier, shared = Purifier.load(bundle, seed=0), SharedAnalysis()
    first = purifier.purify_frame(image, Following(), shared=shared)
    found = first.probabilities.copy()
    first.probabilities[:] = 0.5  # the frame's is the caller's, to do with what he likes
    brighter = purifier.purify_frame(image + np.uint8(3), Following(), shared=shared)
    np.testing.assert_array_equal(found, brighter.probabilities)
    assert shared.shared == 1
    other = purifier.purify_frame(255 - image, Following(), shared=shared)
    assert shared.shared == 1
    np.testing.assert_allclose(
        other.probabilities, purifier.purify_frame(255 - image, Following()).probabilities, atol=1e-6
    )
