"""Frames on an emulated card (see `cuda_on_cpu`) against the CPU's alignment and paste-back: no GPU is tested here."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cuda_on_cpu
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime import Purifier
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.faces import TEMPLATE, Face

Load = Callable[..., Purifier]


class Finder:
    """Finds faces where it is told: x, y, size, angle."""

    def __init__(self, *places: tuple[float, float, float, float]) -> None:
        self.faces = []
        for x, y, size, angle in places:
            turn = size / 112 * np.exp(1j * angle)
            points = (TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]) * turn + complex(x, y)
            landmarks = np.stack([points.real, points.imag], 1).astype(np.float32)
            self.faces.append(Face(np.array([x, y, size, size], np.float32), landmarks, 1.0))

    def find(self, frame: NDArray[np.uint8]) -> list[Face]:
        return self.faces


def picture(seed: int = 0, width: int = 320, height: int = 240) -> NDArray[np.uint8]:
    small = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)  # type: ignore[return-value]


UPRIGHT = ((20.0, 30.0, 112.0, 0.0), (170.0, 100.0, 112.0, 0.0))


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("colour", ["keep", "grey"])
def test_faces_at_their_own_size_are_as_on_the_cpu(
    emulated: Any, on_card: Load, bundle: Bundle, colour: Any, integrated: bool
) -> None:
    """To within a grey level: nothing is interpolated. Three frames, so that the last ones are replays."""
    emulated.device = cuda_on_cpu.Device(cuda_on_cpu.card(cooperative=False, integrated=integrated))
    card, cpu = on_card(bundle, seed=5), Purifier.load(bundle, provider="cpu", seed=5)
    for seed in range(3):
        frame, finder = picture(seed), Finder(*UPRIGHT)
        before = frame.copy()
        found, wanted = (p.purify_frame(frame, finder, colour=colour) for p in (card, cpu))
        assert np.array_equal(frame, before)
        assert found.first_image == wanted.first_image
        assert set(found.timings_ms) == {"find", "card"}
        assert np.array_equal(found.crops, wanted.crops)
        assert np.abs(found.probabilities - wanted.probabilities).max() < 1e-6
        assert np.abs(found.purified.astype(int) - wanted.purified).max() <= 1
        assert np.abs(found.frame.astype(int) - wanted.frame).max() <= 1
        assert (found.frame != frame).mean() > 0.2
    card.close()


def test_turned_and_resized_faces_are_nearly_as_on_the_cpu(on_card: Load, bundle: Bundle) -> None:
    """OpenCV interpolates at 1/32 of a pixel, so pixels differ where the picture is steep; on average by little."""
    card, cpu = on_card(bundle, mutation="expected"), Purifier.load(bundle, provider="cpu", mutation="expected")
    finder = Finder((60.0, 20.0, 130.0, 0.2), (120.0, 90.0, 90.0, -0.3))  # they overlap
    found, wanted = (p.purify_frame(picture(), finder) for p in (card, cpu))
    for one, other in ((found.crops, wanted.crops), (found.purified, wanted.purified), (found.frame, wanted.frame)):
        difference = np.abs(one.astype(int) - other)
        assert difference.mean() < 0.4
        assert np.percentile(difference, 99) <= 2
    assert np.abs(found.crops.astype(int) - wanted.crops).max() <= 2
    assert np.abs(found.probabilities - wanted.probabilities).max() < 0.02
    card.close()


def test_two_threads_at_once(on_card: Load, bundle: Bundle) -> None:
    card, cpu = on_card(bundle, seed=5), Purifier.load(bundle, provider="cpu", seed=5)
    finder, frames = Finder(*UPRIGHT), [picture(seed) for seed in range(6)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda frame: card.purify_frame(frame, finder), frames))
    for frame, result in zip(frames, results, strict=True):
        grey = np.stack([cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY) for crop in result.crops])
        wanted = cpu.purify_batch(grey, first_image=result.first_image)
        assert np.abs(result.purified.astype(int) - wanted.purified).max() <= 1
        middle = (slice(60, 110), slice(50, 100))
        assert not np.array_equal(result.frame[middle], frame[middle])
    card.close()


def test_more_faces_than_a_batch(on_card: Load, bundle: Bundle) -> None:
    """All are cut out of the untouched frame, in parts, before the first is put back."""
    places = [(3.0 * number, 2.0 * number, 112.0, 0.0) for number in range(34)]
    card, cpu = on_card(bundle, seed=5), Purifier.load(bundle, provider="cpu", seed=5)
    found, wanted = (p.purify_frame(picture(), Finder(*places)) for p in (card, cpu))
    assert np.array_equal(found.crops, wanted.crops)
    assert np.abs(found.purified.astype(int) - wanted.purified).max() <= 1
    assert np.abs(found.frame.astype(int) - wanted.frame).mean() < 0.5
    assert card.next_image == 34
    card.close()


def test_frames_of_other_sizes_without_faces_and_without_pasting(on_card: Load, bundle: Bundle) -> None:
    card = on_card(bundle, seed=5)
    small, large = picture(), picture(1, 640, 480)
    for frame in (small, large, small):
        assert card.purify_frame(frame, Finder(*UPRIGHT)).frame.shape == frame.shape
    assert card.purify_frame(small, Finder()).frame is small
    kept = card.purify_frame(small, Finder(*UPRIGHT), paste=False)
    assert kept.frame is small
    assert kept.purified.shape == (2, 112, 112)
    away = card.purify_frame(small, Finder((5000.0, 5000.0, 112.0, 0.0)))
    assert np.array_equal(away.frame, small)
    strided = card.purify_frame(large[::2, ::2], Finder(*UPRIGHT))
    assert np.array_equal(strided.crops, card.purify_frame(large[::2, ::2].copy(), Finder(*UPRIGHT)).crops)
    card.close()


def test_wrong_frames(on_card: Load, bundle: Bundle) -> None:
    card = on_card(bundle)
    with pytest.raises(InputError, match="frame"):
        card.purify_frame(np.zeros((4, 4), np.uint8), Finder(*UPRIGHT))
    with pytest.raises(UsageError, match="colour is 'red'"):
        card.purify_frame(picture(), Finder(*UPRIGHT), colour="red")  # type: ignore[arg-type]
    assert card.next_image == 0
    card.close()


def test_a_closed_purifier_takes_no_frames(on_card: Load, bundle: Bundle) -> None:
    fresh, used = on_card(bundle), on_card(bundle)
    used.purify_frame(picture(), Finder(*UPRIGHT))
    for card in (fresh, used):
        card.close()
        with pytest.raises(UsageError, match="has been closed"):
            card.purify_frame(picture(), Finder(*UPRIGHT))


def test_a_frame_that_has_no_room_on_the_card(emulated: Any, on_card: Load, bundle: Bundle) -> None:
    card, memory = on_card(bundle, seed=5), emulated.device.memory_resource
    card.purify_frame(picture(), Finder(*UPRIGHT))
    memory.limit = memory.used + 100_000
    with pytest.raises(InputError, match="give a smaller frame"):
        card.purify_frame(picture(0, 640, 480), Finder(*UPRIGHT))
    cpu = Purifier.load(bundle, provider="cpu", seed=5)
    wanted = cpu.purify_batch(np.zeros((4, 112, 112), np.uint8)) and cpu.purify_frame(picture(), Finder(*UPRIGHT))
    found = card.purify_frame(picture(), Finder(*UPRIGHT))
    assert np.abs(found.purified.astype(int) - wanted.purified).max() <= 1
    card.close()
    assert (memory.used, emulated.pinned.used) == (0, 0)
