"""Frames that show the present: gaps end a run, and what is old is left out."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from immunecam.runtime.frame_interrupt import FrameInterrupt
from immunecam.runtime.frames import Frame, FrameSource


class Script(FrameSource):
    """Frames that come when a list says, with the number of each as its grey level."""

    kind, live, name = "camera", True, "script"

    def __init__(self, *frames: tuple[float, float]) -> None:
        self._frames = frames  # seconds to wait before, and age on arrival

    def __iter__(self):
        began = time.monotonic()
        for index, (wait, age) in enumerate(self._frames):
            time.sleep(wait)
            yield Frame(np.full((2, 2, 3), index, np.uint8), index, time.monotonic() - began - age, self.name)


@pytest.fixture
def watch():
    from fresh_frames import FreshFrames

    def make(source, processed=lambda: None, max_age_s=0.5):
        return FreshFrames(source, max_age_s, FrameInterrupt(), processed, str)

    return make


def test_a_gap_ends_a_run_and_an_old_frame_is_left_out(watch):
    frames = watch(Script((0, 0), (0.01, 0), (0.8, 0), (0.01, 0), (0.01, 2), (0.01, 0), (0.01, 0)))
    runs = [[int(image[0, 0, 0]) for image in run] for run in frames.runs()]
    # The frame that tells of a gap goes with it: the next is as good.
    assert runs == [[0, 1], [3, 5, 6]]


def test_the_present_is_over_when_work_takes_too_long_or_the_run_ends(watch):
    frames = watch(Script((0, 0), (0.01, 0)))
    assert not frames.now()
    (run,) = [next(frames.runs())]
    next(run)
    assert frames.now()
    time.sleep(0.6)  # the door is held open, or a decision takes its time
    assert not frames.now()
    assert list(run) == []
    assert not frames.now()


def test_a_frame_counts_as_processed_when_the_next_is_asked_for(watch):
    done = []
    run = next(watch(Script((0, 0), (0, 0)), lambda: done.append(1)).runs())
    next(run)
    assert done == []
    next(run)
    assert done == [1]
    assert list(run) == []
    assert done == [1, 1]


def test_the_frames_of_a_file_are_never_old(watch):
    source = Script((0, 0), (0, 9))
    source.live = False
    frames = watch(source)
    for run in frames.runs():
        for _ in run:
            assert frames.now()


def test_a_signal_waits_for_the_frame(watch):
    from fresh_frames import FreshFrames

    seen = []
    with pytest.raises(KeyboardInterrupt), FrameInterrupt(signal.SIGTERM) as interrupt:
        for run in FreshFrames(Script((0, 0), (0, 0)), 1, interrupt, lambda: None, str).runs():
            for _ in run:
                os.kill(os.getpid(), signal.SIGTERM)
                seen.append("finished")
    assert seen == ["finished"]
