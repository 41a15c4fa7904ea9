"""One engine for many: who waits how long, who is refused, and that everybody gets his own faces."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, wait

import numpy as np
import pytest

from immunecam.errors import InputError, UsageError
from immunecam.runtime.results import PurifiedFaces
from immunecam.runtime.service.batcher import Batcher
from immunecam.runtime.service.refusal import Overloaded, Refusal


class Recorder:
    """A purifier that gives faces back one grey level brighter, and waits at a gate that a test holds."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Event()
        self.fail = False

    def purify_batch(self, faces: np.ndarray) -> PurifiedFaces:
        self.begun.set()
        assert self.open.wait(10)
        if self.fail:
            raise RuntimeError("the engine fell over")
        first = sum(self.batches)
        self.batches.append(len(faces))
        grey = np.full((len(faces), 3), 0.5, np.float32)
        return PurifiedFaces((faces + 1).astype(np.uint8), grey, first, {"engine": 1.0})


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def batcher(recorder):
    made = Batcher(recorder, wait_s=0.05, max_batch=8, max_waiting=16)
    yield made
    recorder.open.set()
    made.close()


def faces(count: int, value: int = 0) -> np.ndarray:
    return np.full((count, 112, 112), value, np.uint8)


def test_those_who_come_together_are_purified_together_and_get_their_own(batcher, recorder):
    given = [batcher.submit(faces(count, value)) for count, value in ((1, 10), (2, 20), (3, 30))]
    results = [one.result(5) for one in given]
    assert recorder.batches == [6]
    for result, (count, value) in zip(results, ((1, 11), (2, 21), (3, 31)), strict=True):
        assert result.purified.shape == (count, 112, 112)
        assert (result.purified == value).all()
    assert [result.first_image for result in results] == [0, 1, 3]
    assert all(result.timings_ms["wait"] < 1000 for result in results)


def test_a_full_batch_does_not_wait(recorder):
    batcher = Batcher(recorder, wait_s=60, max_batch=4, max_waiting=16)
    began = time.monotonic()
    wait([batcher.submit(faces(2)), batcher.submit(faces(2))], 5)
    assert recorder.batches == [4]
    assert time.monotonic() - began < 5
    last = batcher.submit(faces(1))
    batcher.close()  # neither does the end, and it finishes what was accepted
    assert last.done()
    with pytest.raises(Refusal, match="shutting down"):
        batcher.submit(faces(1))
    batcher.close()


def test_a_lone_face_waits_no_longer_than_it_was_told(recorder):
    batcher = Batcher(recorder, wait_s=0.2, max_batch=8, max_waiting=16)
    result = batcher.submit(faces(1)).result(5)
    assert 190 <= result.timings_ms["wait"] < 2000
    batcher.close()


def test_the_queue_is_bounded_and_says_when_to_come_back(batcher, recorder):
    recorder.open.clear()
    running = batcher.submit(faces(8))
    assert recorder.begun.wait(5)
    waiting = [batcher.submit(faces(8)), batcher.submit(faces(8))]
    assert batcher.waiting_faces == 16
    with pytest.raises(Overloaded, match="16 faces wait for the engine already, of 16") as caught:
        batcher.submit(faces(1))
    assert caught.value.status == 429
    assert caught.value.retry_after_s >= 1
    with pytest.raises(Refusal, match="has 17 faces, but it may have 16"):
        batcher.submit(faces(17))
    recorder.open.set()
    wait([running, *waiting], 5)
    assert recorder.batches == [8, 8, 8]


def test_a_wait_that_would_be_too_long_is_told_beforehand(recorder):
    batcher = Batcher(recorder, wait_s=0, max_batch=8, max_waiting=1000, max_wait_s=0.5)
    recorder.open.clear()
    running = batcher.submit(faces(1))
    assert recorder.begun.wait(5)
    waiting = [batcher.submit(faces(100))]  # two seconds' work, as far as is known before anything was measured
    with pytest.raises(Overloaded, match="100 faces wait") as caught:
        batcher.submit(faces(1))
    assert caught.value.retry_after_s == 2
    recorder.open.set()
    wait([running, *waiting], 5)
    batcher.close()


def test_who_left_is_not_computed_for_and_frees_his_place(batcher, recorder):
    recorder.open.clear()
    running = batcher.submit(faces(8))
    assert recorder.begun.wait(5)
    gone = [batcher.submit(faces(8)), batcher.submit(faces(8))]
    assert all(one.cancel() for one in gone)
    stays = batcher.submit(faces(5))
    assert not running.cancel()  # too late: it is being computed
    recorder.open.set()
    assert len(stays.result(5).purified) == 5
    assert recorder.batches == [8, 5]
    with pytest.raises(CancelledError):
        gone[0].result(0)


def test_bad_faces_spoil_nobody_elses_batch(batcher, recorder):
    good = batcher.submit(faces(1))
    with pytest.raises(InputError, match="shape"):
        batcher.submit(np.zeros((1, 112, 111), np.uint8))
    with pytest.raises(InputError, match="NaN"):
        batcher.submit(np.full((1, 112, 112), np.nan, np.float32))
    pixels = batcher.submit(np.full((1, 112, 112), 0.5, np.float32))  # another dtype, the same moment
    assert len(good.result(5).purified) == len(pixels.result(5).purified) == 1
    assert recorder.batches == [1, 1]


def test_an_engine_that_fails_tells_those_who_waited_and_goes_on(batcher, recorder):
    recorder.fail = True
    with pytest.raises(RuntimeError, match="fell over"):
        batcher.submit(faces(1)).result(5)
    recorder.fail = False
    assert len(batcher.submit(faces(1)).result(5).purified) == 1


def test_many_threads_lose_and_mix_nothing(recorder):
    batcher = Batcher(recorder, wait_s=0.001, max_batch=8, max_waiting=10_000)
    wrong = []

    def ask(value: int) -> None:
        for number in range(20):
            found = batcher.submit(faces(1 + number % 3, value)).result(10)
            if len(found.purified) != 1 + number % 3 or (found.purified != value + 1).any():
                wrong.append(value)

    threads = [threading.Thread(target=ask, args=(value,)) for value in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    assert not wrong
    assert sum(recorder.batches) == 12 * sum(1 + number % 3 for number in range(20))
    assert max(recorder.batches) <= 8


def test_impossible_limits_are_refused(recorder):
    with pytest.raises(UsageError, match="max_batch"):
        Batcher(recorder, wait_s=-1, max_batch=8, max_waiting=16)
