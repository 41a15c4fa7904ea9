"""The purifier that keeps faces on a card, with its real kernels, launchers and graphs, on a CPU.

No GPU is tested here: `cuda_on_cpu` stands in for cuda.core and runs the kernels' sources thread by thread, and ONNX
Runtime runs the networks on the CPU, at the same addresses. What that shows: addresses, sizes, arguments, order on the
stream, what graphs repeat, who waits for whom, and what is given back. What it cannot show: a card's rounding, memory
model and timing, ONNX Runtime's CUDA provider, and what CUDA forbids during a capture.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from host_engine import HostEngine, LaunchedEngine
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels import dequantize_faces
from immunecam.kernels.cuda import SubspaceKernels
from immunecam.runtime import Purifier
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card import opening

MODES = ["sample", "threshold", "expected"]
Load = Callable[..., Purifier]
Pictures = Callable[..., NDArray[np.uint8]]


OF_INTEGERS = 2.0
"""Percent of pixels: the CPU's integer products round a pixel of the default bundle by a hundredth of a grey level."""


def agree(found: Any, wanted: Any, percent: float = 0.1) -> None:
    """The same antibodies, and pixels that differ by one grey level where rounding has tipped them."""
    assert np.abs(found.probabilities - wanted.probabilities).max() < 1e-6
    difference = np.abs(found.purified.astype(int) - wanted.purified)
    assert difference.max() <= 1, f"{difference.max()} grey levels"
    differing = 100 * (difference > 0).mean()
    assert differing <= percent, f"{differing:.3f} % of the pixels differ"
    assert wanted.purified.std() > 10


@pytest.mark.parametrize("mode", MODES)
def test_it_purifies_as_the_cpu_does(on_card: Load, edge: Bundle, pictures: Pictures, mode: str) -> None:
    """Few pixels differ, all by one grey level; faces and numbers change from replay to replay."""
    card = on_card(edge, mutation=mode, seed=5)
    cpu = Purifier.load(edge, provider="cpu", mutation=mode, seed=5)
    assert (card.provider, card.k) == ("cuda", 512)
    for seed, n in enumerate((1, 3, 3, 3, 32)):  # a graph is replayed from the second call with a number of faces on
        faces = pictures(n, seed)
        found, wanted = card.purify_batch(faces), cpu.purify_batch(faces)
        assert found.first_image == wanted.first_image
        assert set(found.timings_ms) == {"card"}
        agree(found, wanted, OF_INTEGERS)
    card.close()


@pytest.mark.parametrize("engine", [HostEngine, LaunchedEngine])
def test_graphs(
    emulated: Any, on_card: Load, bundle: Bundle, pictures: Pictures, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph for each number of faces after its first run, where the engine can be captured."""
    monkeypatch.setattr(opening, "OnnxRuntimeCardEngine", engine)
    emulated.device = cuda_on_cpu.Device(cuda_on_cpu.card(24, 232_448))
    card, cpu = on_card(bundle, seed=1), Purifier.load(bundle, provider="cpu", seed=1)
    launched = []
    for seed in range(4):
        before = len(emulated.launched)
        faces = pictures(2, seed)
        agree(card.purify_batch(faces), cpu.purify_batch(faces))
        launched.append([kernel for kernel, _ in emulated.launched[before:]])
    taken, rest = ["take_uint8"], ["mutate_float32", "project_once_int8"]
    # What is captured is launched once more, to the builder; a replay launches nothing but what brings the faces in.
    captured, replayed = (rest, taken) if engine is HostEngine else ([], taken + rest)
    assert launched == [taken + rest + captured, replayed, replayed, replayed]
    repeated = card.purify_batch(pictures(2, 0), first_image=0)
    assert np.array_equal(repeated.purified, Purifier.load(bundle, provider="cpu", seed=1).purify(pictures(2, 0)))
    card.close()


def test_seeds_differ_between_replays(on_card: Load, bundle: Bundle, pictures: Pictures) -> None:
    purifier = on_card(bundle, seed=1)
    card, faces = purifier._card, pictures(2)
    assert card is not None
    for seed in (1, 2, 3, 2**64 - 1):
        found, _ = card.purify(faces, seed=seed, first_image=2**64 - 2)
        wanted = Purifier.load(bundle, provider="cpu", seed=seed).purify_batch(faces, first_image=2**64 - 2)
        assert np.abs(found.astype(int) - wanted.purified).max() <= 1
    purifier.close()


def test_a_capture_that_fails_is_told_and_done_without(
    on_card: Load, bundle: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(builder: Any, options: Any = None) -> Any:
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")

    monkeypatch.setattr(cuda_on_cpu.GraphBuilder, "complete", full)
    with caplog.at_level(logging.WARNING):
        card, cpu = on_card(bundle, seed=1), Purifier.load(bundle, provider="cpu", seed=1)
        for seed in range(4):
            agree(card.purify_batch(pictures(2, seed)), cpu.purify_batch(pictures(2, seed)))
    assert [record.message for record in caplog.records] == [
        f"No CUDA graph of {n} faces (CUDA_ERROR_OUT_OF_MEMORY): they are launched kernel by kernel." for n in (1, 2)
    ]
    card.close()


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_capture_that_cuda_invalidates_is_done_without(
    on_card: Load,
    bundle: Bundle,
    pictures: Pictures,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    swallowed: bool,
) -> None:
    """A network that waits for its stream, which a capture forbids; what cuda.core makes of that would be a crash."""
    analyze = HostEngine.analyze_on

    def waits(own: Any, n: int, *, stream: Any, **places: int) -> None:
        analyze(own, n, stream=stream, **places)
        with contextlib.suppress(RuntimeError) if swallowed else contextlib.nullcontext():
            stream.sync()

    monkeypatch.setattr(HostEngine, "analyze_on", waits)
    with caplog.at_level(logging.WARNING):
        card, cpu = on_card(bundle, seed=1), Purifier.load(bundle, provider="cpu", seed=1)
        for seed in range(4):
            agree(card.purify_batch(pictures(2, seed)), cpu.purify_batch(pictures(2, seed)))
    told = [record.message for record in caplog.records]
    assert [message[:26] for message in told] == ["No CUDA graph of 1 faces (", "No CUDA graph of 2 faces ("]
    assert all(("INVALIDATED" if swallowed else "UNSUPPORTED") in message for message in told)
    card.close()
    gc.collect()
    assert not cuda_on_cpu.GraphBuilder.crashes


def test_a_capture_that_something_else_stops_leaves_nothing(
    emulated: Any, on_card: Load, bundle: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is whole then, and is given back; the number of faces is not tried again."""
    analyze, begun = HostEngine.analyze_on, list[Any]()

    def refuses(own: Any, n: int, *, stream: Any, **places: int) -> None:
        if stream.capturing is not None:
            begun.append(weakref.ref(stream.capturing))
            raise UsageError("not now")
        analyze(own, n, stream=stream, **places)

    monkeypatch.setattr(HostEngine, "analyze_on", refuses)
    card, cpu = on_card(bundle, seed=1), Purifier.load(bundle, provider="cpu", seed=1)
    for seed in range(3):
        agree(card.purify_batch(pictures(2, seed)), cpu.purify_batch(pictures(2, seed)))
    assert len(begun) == 2  # of one face, when it was loaded, and of two
    assert emulated.device.streams[0].capturing is None
    gc.collect()
    assert [builder() for builder in begun] == [None, None]
    card.close()


def test_a_capture_that_cannot_be_ended_as_usual(
    emulated: Any, on_card: Load, bundle: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(builder: Any) -> Any:
        raise RuntimeError("CUDA_ERROR_STREAM_CAPTURE_UNJOINED")

    monkeypatch.setattr(cuda_on_cpu.GraphBuilder, "end_building", refuses)
    card, cpu = on_card(bundle, seed=1), Purifier.load(bundle, provider="cpu", seed=1)
    for seed in range(3):
        agree(card.purify_batch(pictures(2, seed)), cpu.purify_batch(pictures(2, seed)))
    assert emulated.device.streams[0].capturing is None
    card.close()


def test_float_faces_single_faces_many_faces_and_none(on_card: Load, bundle: Bundle, pictures: Pictures) -> None:
    card, cpu = on_card(bundle, seed=1), Purifier.load(bundle, provider="cpu", seed=1)
    faces = pictures(34)
    agree(card.purify_batch(dequantize_faces(faces)), cpu.purify_batch(faces))  # in two parts
    assert card.purify(faces[0]).shape == (112, 112)
    assert card.purify(faces[:0]).shape == (0, 112, 112)
    assert card.next_image == 35
    assert np.abs(card.analyze(faces[:3]) - cpu.analyze(faces[:3])).max() < 1e-6
    card.close()


def test_a_card_that_shares_the_machines_memory_copies_no_faces(
    emulated: Any, on_card: Load, edge: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated.device = cuda_on_cpu.Device(cuda_on_cpu.card(8, 166_912, integrated=True))
    card, cpu = on_card(edge, seed=2), Purifier.load(edge, provider="cpu", seed=2)
    copied, copy = [], cuda_on_cpu.Buffer.copy_to

    def counted(own: Any, other: Any, *, stream: Any) -> None:
        copied.append(own.size)
        copy(own, other, stream=stream)

    monkeypatch.setattr(cuda_on_cpu.Buffer, "copy_to", counted)
    faces = pictures(2)
    agree(card.purify_batch(faces), cpu.purify_batch(faces), OF_INTEGERS)
    assert copied == [8 * 3, 4 * 2 * 512, 4]  # numbers there; probabilities and faults back
    card.close()


@pytest.mark.parametrize("mode", MODES)
def test_two_threads_at_once(on_card: Load, bundle: Bundle, pictures: Pictures, mode: str) -> None:
    card = on_card(bundle, mutation=mode, seed=21)
    sizes = [1 + number % 2 for number in range(8)]
    given = [pictures(size, seed) for seed, size in enumerate(sizes)]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(card.purify_batch, given))
    taken = sorted(r.first_image + i for r, size in zip(results, sizes, strict=True) for i in range(size))
    assert taken == list(range(sum(sizes)))
    cpu = Purifier.load(bundle, provider="cpu", mutation=mode, seed=21)
    for faces, result in zip(given, results, strict=True):
        agree(result, cpu.purify_batch(faces, first_image=result.first_image))
    card.close()


# What is wrong


def test_wrong_faces_are_refused_before_they_are_uploaded(on_card: Load, bundle: Bundle) -> None:
    faces = np.zeros((2, 112, 112), np.float32)
    faces[1, 3, 3] = np.nan
    card = on_card(bundle)
    with pytest.raises(InputError, match="Face 1 holds NaN"):
        card.purify(faces)
    assert card.next_image == 0
    card.close()


@pytest.mark.parametrize("wrong", [np.nan, 1.5, -0.1])
def test_invalid_probabilities(
    on_card: Load, bundle: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    card, cpu = on_card(bundle, seed=1), Purifier.load(bundle, provider="cpu", seed=1)
    mutate, kernels = SubspaceKernels.mutate, card._card.pipeline.kernels  # type: ignore[union-attr]

    def spoiled(own: Any, n: int, *, mode: str, stream: Any) -> None:
        p = kernels.probabilities.view(np.float32, n, own.k)
        stream.enqueue(lambda: p.__setitem__((n - 1, 7), wrong))
        mutate(own, n, mode=mode, stream=stream)

    with monkeypatch.context() as patch:
        patch.setattr(SubspaceKernels, "mutate", spoiled)
        with pytest.raises(InputError, match=r"outside \[0, 1\] or NaN"):
            card.purify(pictures(3))
        with pytest.raises(InputError, match=r"outside \[0, 1\] or NaN"):
            card.purify(pictures(3))  # by the graph
    cpu.purify(pictures(6))  # the numbers of the failed calls are gone
    agree(card.purify_batch(pictures(2)), cpu.purify_batch(pictures(2)))
    card.close()


def test_a_sigmoid_that_rounds_above_one_is_let_through(
    on_card: Load, bundle: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = on_card(bundle, mutation="expected")
    mutate, kernels = SubspaceKernels.mutate, card._card.pipeline.kernels  # type: ignore[union-attr]

    def lifted(own: Any, n: int, *, mode: str, stream: Any) -> None:
        p = kernels.probabilities.view(np.float32, n, own.k)
        stream.enqueue(lambda: p.__setitem__((0, 7), np.float32(1.0000001)))
        mutate(own, n, mode=mode, stream=stream)

    monkeypatch.setattr(SubspaceKernels, "mutate", lifted)
    assert card.purify_batch(pictures(2)).probabilities.max() == 1
    card.close()


def test_a_restorer_that_gives_nan(
    on_card: Load, edge: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = on_card(edge)
    restore = HostEngine.restore_on

    def spoiled(own: Any, n: int, *, stream: Any, **places: int) -> None:
        restore(own, n, stream=stream, **places)
        found = cuda_on_cpu.Buffer.from_handle(places["restored"], 4 * n * 12544).view(np.float32, n * 12544)
        stream.enqueue(lambda: found.__setitem__(-1, np.nan))

    monkeypatch.setattr(HostEngine, "restore_on", spoiled)
    with pytest.raises(InputError, match="restored faces hold NaN"):
        card.purify(pictures(2))
    card.close()


def test_out_of_memory_at_the_start_gives_everything_back(emulated: Any, edge: Bundle, pictures: Pictures) -> None:
    whole = 512 * 12544 + 30 * 4 * 12544  # the basis, and room for some faces
    emulated.device = cuda_on_cpu.Device(cuda_on_cpu.card(), limit=whole)
    memory = emulated.device.memory_resource
    with pytest.raises(InputError, match="bytes left") as full:
        opening.open_card(edge, "cuda")
    assert len(str(full.value).splitlines()) == 1
    assert (memory.used, emulated.pinned.used) == (0, 0)
    assert all(stream.closed for stream in emulated.device.streams)
    with opening.open_card(edge, "cuda", max_batch=2) as card:  # the process is as usable as before
        assert card.purify(pictures(3), seed=1, first_image=0)[0].shape == (3, 112, 112)
    assert (memory.used, emulated.pinned.used) == (0, 0)


def test_no_pinned_memory(emulated: Any, bundle: Bundle) -> None:
    emulated.pinned.limit = 2_000_000
    with pytest.raises(InputError, match="pinned memory"):
        opening.open_card(bundle, "cuda")
    assert (emulated.device.memory_resource.used, emulated.pinned.used) == (0, 0)
    opening.open_card(bundle, "cuda", max_batch=4).close()


def test_out_of_memory_during_a_call_leaves_smaller_ones_working(
    on_card: Load, bundle: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, cpu = on_card(bundle, seed=1), Purifier.load(bundle, provider="cpu", seed=1)
    monkeypatch.setattr(HostEngine, "fails_above", 2)
    with pytest.raises(InputError, match=r"no memory left for 3 faces at once .*give fewer") as full:
        card.purify(pictures(3))
    assert len(str(full.value).splitlines()) == 1
    stream = card._card.stream  # type: ignore[union-attr]
    assert stream._done == stream._asked  # nothing is under way that the next call might disturb
    cpu.purify(pictures(3))
    for seed in range(3):
        agree(card.purify_batch(pictures(2, seed)), cpu.purify_batch(pictures(2, seed)))
    monkeypatch.setattr(HostEngine, "fails_above", None)
    agree(card.purify_batch(pictures(3)), cpu.purify_batch(pictures(3)))
    card.close()


def test_an_error_of_the_card_is_one_sentence(
    on_card: Load, bundle: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = on_card(bundle)

    def fails(own: Any, session: Any, binding: Any, stream: Any) -> None:
        def work() -> None:
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access\nwas encountered")

        stream.enqueue(work)  # and shows only when somebody waits

    with monkeypatch.context() as patch:
        patch.setattr(HostEngine, "_launch", fails)
        with pytest.raises(InputError, match=r"failed on 2 faces .*ILLEGAL_ADDRESS.*nvidia-smi") as told:
            card.purify(pictures(2))
        assert len(str(told.value).splitlines()) == 1
    card.close()


# The end


def test_closing(emulated: Any, bundle: Bundle, pictures: Pictures) -> None:
    with Purifier.load(bundle, provider="cuda", seed=1) as card:
        for _ in range(3):
            card.purify(pictures(2))
    memory, pinned = emulated.device.memory_resource, emulated.pinned
    assert (memory.used, pinned.used) == (0, 0)
    assert all(stream.closed for stream in emulated.device.streams)
    card.close()
    with pytest.raises(UsageError, match="has been closed"):
        card.purify(pictures(1))
    with pytest.raises(UsageError, match="has been closed"):
        card.purify(pictures(1))  # who comes later finds it closed, too
    Purifier.load(bundle, provider="cpu").close()  # has nothing to give back


def test_closing_waits_for_calls_and_may_come_from_two_threads(
    emulated: Any, on_card: Load, bundle: Bundle, pictures: Pictures
) -> None:
    card = on_card(bundle, seed=1)

    def call(number: int) -> bool:
        if number in (5, 6):
            card.close()
            return True
        try:
            return card.purify(pictures(2)).shape == (2, 112, 112)
        except UsageError:
            return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(12)))
    assert (emulated.device.memory_resource.used, emulated.pinned.used) == (0, 0)


def test_what_nobody_holds_is_given_back(emulated: Any, bundle: Bundle, pictures: Pictures) -> None:
    card = Purifier.load(bundle, provider="cuda", seed=1)
    card.purify(pictures(1))
    del card
    gc.collect()
    assert (emulated.device.memory_resource.used, emulated.pinned.used) == (0, 0)


def test_wrong_parts(emulated: Any, bundle: Bundle, edge: Bundle) -> None:
    del emulated
    with opening.open_card(bundle, "cuda") as card:
        with pytest.raises(UsageError, match="made for 'sample'"):
            Purifier(bundle, card, mutation="expected")
        with pytest.raises(InputError, match=r"K = 64.*K = 512"):
            Purifier(edge, card)
        with pytest.raises(InputError, match=r"K = 64.*K = 512"):
            type(card)(edge, card.pipeline._engine, card.programs, stream=card.stream)
        with pytest.raises(UsageError, match="max_batch is 500"):
            type(card)(bundle, card.pipeline._engine, card.programs, stream=card.stream, max_batch=500)
