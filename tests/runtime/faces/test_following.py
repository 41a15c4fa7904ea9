"""Faces followed through frames that the tests move themselves, so that it is known where they are."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from importlib import resources

import cv2
import numpy as np
import pytest

from immunecam.errors import InputError, UsageError
from immunecam.runtime.faces import Face, FollowingFinder, face_finder
from immunecam.runtime.faces.overlap import overlap


class Counted:
    """The bundled finder; says what it was shown, and waits or fails when told to."""

    def __init__(self) -> None:
        self.finder, self.frames = face_finder(), 0
        self.go = threading.Event()
        self.go.set()
        self.failure: Exception | None = None

    def find(self, frame: np.ndarray) -> list[Face]:
        self.frames += 1
        assert self.go.wait(60)
        if self.failure is not None:
            raise self.failure
        return self.finder.find(frame)


@pytest.fixture
def searched() -> Counted:
    return Counted()


@pytest.fixture(scope="module")
def portraits() -> list[np.ndarray]:
    """Two squares of the sample clip with one face each."""
    clip = resources.files("immunecam") / "data" / "sample.mp4"
    _, image = cv2.VideoCapture(str(clip)).read()
    faces = sorted(face_finder().find(image), key=lambda face: face.box[0])
    cut = []
    for face in (faces[0], faces[-1]):
        x, y, w, h = face.box.astype(int)
        part = image[max(0, y - h // 4) : y + h + h // 4, max(0, x - w // 4) : x + w + w // 4]
        cut.append(cv2.resize(part, (120, 120), interpolation=cv2.INTER_AREA))
    return cut


def scene(*placed: tuple[np.ndarray, tuple[int, int]], size: tuple[int, int] = (260, 420)) -> np.ndarray:
    canvas = np.full((*size, 3), 110, np.uint8)
    for picture, (x, y) in placed:
        canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return canvas


def test_a_moving_face_is_followed_with_few_searches(searched, portraits):
    finder = FollowingFinder(searched, background=False)
    path = [(20 + 6 * step, 40 + 2 * step) for step in range(40)]
    first = None
    for step, place in enumerate(path):
        (face,) = finder.find(scene((portraits[0], place)))
        first = face.landmarks if first is None else first
        # As far from where it began as the picture was moved, but for a few hundredths of the distance of the eyes.
        moved = np.array(place) - path[0]
        assert np.abs(face.landmarks - first - moved).mean() < 0.06 * (first[1, 0] - first[0, 0]), step
        assert face.track == 1
    # Searched at 0, 1, 3, 7, 15, 23, 31 and 39: intervals double up to 8.
    assert searched.frames == finder.searches == 8
    assert finder.interval == 8


def test_a_face_that_joins_is_found_at_the_next_search_and_searches_come_close_again(searched, portraits):
    finder = FollowingFinder(searched, longest=4, background=False)
    alone, both = scene((portraits[0], (20, 60))), scene((portraits[0], (20, 60)), (portraits[1], (250, 60)))
    for _ in range(12):
        assert len(finder.find(alone)) == 1
    assert finder.interval == 4
    seen = [len(finder.find(both)) for _ in range(5)]
    assert seen == sorted(seen)
    assert seen[-1] == 2
    assert seen.index(2) <= 4
    assert finder.interval < 4


def test_a_frame_in_which_a_face_was_lost_is_searched(searched, portraits):
    finder = FollowingFinder(searched, background=False)
    for _ in range(8):
        assert len(finder.find(scene((portraits[0], (20, 60))))) == 1
    before = searched.frames
    (jumped,) = finder.find(scene((portraits[0], (270, 100))))
    assert searched.frames == before + 1
    assert jumped.box[0] > 250
    assert finder.find(scene()) == []
    assert searched.frames == before + 2
    assert finder.find(scene()) == []
    assert searched.frames == before + 3, "nobody is followed, so every frame is searched"


def test_what_no_search_confirms_is_forgotten(portraits):
    class Forgetful(Counted):
        def find(self, frame):
            return super().find(frame) if self.frames == 0 else self._nothing()

        def _nothing(self):
            self.frames += 1
            return []

    forgetful = Forgetful()
    finder = FollowingFinder(forgetful, longest=1, background=False)
    still = scene((portraits[0], (20, 60)))
    counts = [len(finder.find(still)) for _ in range(8)]
    assert counts == [1] * 5 + [0] * 3
    assert forgetful.frames == 8


def test_another_size_is_another_stream(searched, portraits):
    finder = FollowingFinder(searched, background=False)
    for _ in range(8):
        finder.find(scene((portraits[0], (20, 60))))
    before = searched.frames
    (face,) = finder.find(scene((portraits[1], (200, 20)), size=(240, 400)))
    assert face.box[0] > 180
    assert searched.frames == before + 1


def test_the_search_beside_holds_no_frame_up(searched, portraits):
    alone, both = scene((portraits[0], (20, 60))), scene((portraits[0], (20, 60)), (portraits[1], (250, 60)))
    with FollowingFinder(searched, longest=1) as finder:
        assert len(finder.find(alone)) == 1
        searched.go.clear()
        seen = [len(finder.find(both)) for _ in range(10)]  # none of these waits for the search
        assert seen == [1] * 10
        assert finder.searches == 2
        both[:] = 0  # the caller's frame is his again
        both = scene((portraits[0], (20, 60)), (portraits[1], (250, 60)))
        searched.go.set()
        deadline = time.monotonic() + 60
        while len(finder.find(both)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        left, right = sorted(finder.find(both), key=lambda face: face.box[0])
    expected = sorted(face_finder().find(both), key=lambda face: face.box[0])
    assert overlap(left.box, expected[0].box) > 0.8
    assert overlap(right.box, expected[1].box) > 0.8
    until_ended()
    assert searched.frames == finder.searches


def test_what_the_search_raises_is_raised_to_the_caller(searched, portraits):
    still = scene((portraits[0], (20, 60)))
    with FollowingFinder(searched, longest=1) as finder:
        finder.find(still)
        searched.failure = InputError("the finder's file is gone")
        deadline = time.monotonic() + 60
        with pytest.raises(InputError, match="file is gone"):
            while time.monotonic() < deadline:
                finder.find(still)
                time.sleep(0.01)
        searched.failure = None
        assert len(finder.find(still)) == 1
    until_ended()


def test_a_process_ends_while_a_search_goes_on():
    code = """
import cv2, sys
from immunecam.runtime.bundle import default_bundle
from immunecam.runtime.faces import FollowingFinder
found, frame = cv2.VideoCapture(str(default_bundle().with_name("sample.mp4"))).read()
finder = FollowingFinder(longest=1)
finder.find(frame)
print(len(finder.find(frame)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


def test_values_out_of_range_are_refused():
    for options in ({"longest": 0}, {"min_score": 1.5}, {"min_score": float("nan")}):
        with pytest.raises(UsageError, match=next(iter(options))):
            FollowingFinder(**options)
    with pytest.raises(InputError):
        FollowingFinder().find(np.zeros((4, 4), np.uint8))


def until_ended() -> None:
    deadline = time.monotonic() + 30
    while any(thread.name.startswith("face search") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
