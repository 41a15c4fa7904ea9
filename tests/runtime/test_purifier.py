"""The purifier: its numbers, seeds and threads, what it refuses, and frames."""

from __future__ import annotations

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels import dequantize_faces, mutate, project, quantize_faces
from immunecam.runtime import FrameResult, PurifiedFaces, Purifier
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.engines import OnnxRuntimeEngine
from immunecam.runtime.faces import TEMPLATE, Face

K = 64
MODES = ["sample", "threshold", "expected"]


@pytest.mark.parametrize("mode", MODES)
def test_one_graph_and_separate_kernels_agree(
    bundle: Bundle, split_bundle: Bundle, faces: NDArray[np.float32], mode: str
) -> None:
    whole = Purifier.load(bundle, mutation=mode, seed=3).purify_batch(faces)
    split = Purifier.load(split_bundle, mutation=mode, seed=3).purify_batch(faces)
    assert isinstance(whole, PurifiedFaces)
    assert np.abs(whole.probabilities - split.probabilities).max() < 1e-6
    # One bit could tip where p comes within rounding of a uniform; with these numbers none does.
    assert np.abs(whole.purified.astype(int) - split.purified).max() <= 1
    assert set(whole.timings_ms) == {"mutate", "engine"}
    assert set(split.timings_ms) == {"analyze", "mutate", "project"}
    assert min(*whole.timings_ms.values(), *split.timings_ms.values()) > 0


@pytest.mark.parametrize("mode", MODES)
def test_it_is_the_definition(bundle: Bundle, faces: NDArray[np.float32], mode: Any) -> None:
    purifier = Purifier.load(bundle.path, mutation=mode, seed=11)
    result = purifier.purify_batch(faces)
    antibody = mutate(result.probabilities, mode=mode, seed=11, images=np.arange(5))
    wanted = project(faces, antibody, bundle.subspace)
    assert np.abs(result.purified.astype(int) - wanted).max() <= 1
    assert np.abs(purifier.analyze(faces) - result.probabilities).max() < 1e-6


def test_uint8_float_and_single_faces(bundle: Bundle, faces: NDArray[np.float32]) -> None:
    pixels = quantize_faces(faces)
    results = [Purifier.load(bundle, seed=1).purify(given) for given in (faces, pixels, pixels[:, :, ::-1][:, :, ::-1])]
    assert all(np.array_equal(result, results[0]) for result in results)
    single = Purifier.load(bundle, seed=1).purify(pixels[0])
    assert single.shape == (112, 112)
    assert single.dtype == np.uint8
    assert np.abs(single.astype(int) - results[0][0]).max() <= 1


def test_no_face(bundle: Bundle) -> None:
    purifier = Purifier.load(bundle)
    assert purifier.purify(np.zeros((0, 112, 112), np.uint8)).shape == (0, 112, 112)
    assert purifier.analyze(np.zeros((0, 112, 112), np.float32)).shape == (0, K)
    assert purifier.next_image == 0


@pytest.mark.parametrize("n", [1, 31, 32, 33, 70])
def test_any_number_of_faces(bundle: Bundle, n: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 112, 112), np.uint8)
    purifier = Purifier.load(bundle, seed=1)
    whole = purifier.purify(pixels)
    assert purifier.next_image == n
    one_by_one = Purifier.load(bundle, seed=1)
    for face, result in zip(pixels, whole, strict=True):
        assert np.abs(one_by_one.purify(face).astype(int) - result).max() <= 1
    assert purifier.analyze(pixels).shape == (n, K)


def test_every_face_gets_its_own_numbers(bundle: Bundle, faces: NDArray[np.float32]) -> None:
    purifier = Purifier.load(bundle, seed=1)
    same = np.repeat(faces[:1], 3, axis=0)
    first, second = purifier.purify_batch(same), purifier.purify_batch(same)
    assert (first.first_image, second.first_image, purifier.next_image) == (0, 3, 6)
    results = [face.tobytes() for face in (*first.purified, *second.purified)]
    assert len(set(results)) == 6


def test_replay(bundle: Bundle, faces: NDArray[np.float32]) -> None:
    purifier = Purifier.load(bundle, seed=1)
    purifier.purify(faces)
    later = purifier.purify_batch(faces)
    again = Purifier.load(bundle, seed=1).purify_batch(faces, first_image=later.first_image)
    assert np.array_equal(again.purified, later.purified)
    before = purifier.next_image
    purifier.purify_batch(faces, first_image=2**64 - 5)
    assert purifier.next_image == before


@pytest.mark.parametrize(
    ("first", "message"), [(-1, "is -1"), (2**64, "is 184"), (2**64 - 4, "too few"), (1.5, "float")]
)
def test_wrong_first_image(bundle: Bundle, faces: NDArray[np.float32], first: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Purifier.load(bundle).purify_batch(faces, first_image=first)


@pytest.mark.parametrize("mode", MODES)
def test_threads_get_what_one_thread_gets(
    bundle: Bundle, split_bundle: Bundle, faces: NDArray[np.float32], mode: str
) -> None:
    """Eight threads on one purifier: numbers are handed out once, results depend on nothing but them."""
    for which in (bundle, split_bundle):
        shared = Purifier.load(which, mutation=mode, seed=21)
        sizes = [1 + n % 5 for n in range(40)]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(shared.purify_batch, [faces[:size] for size in sizes]))
        taken = [result.first_image + n for result, size in zip(results, sizes, strict=True) for n in range(size)]
        assert sorted(taken) == list(range(sum(sizes)))
        alone = Purifier.load(which, mutation=mode, seed=21)
        for result, size in zip(results, sizes, strict=True):
            again = alone.purify_batch(faces[:size], first_image=result.first_image)
            assert np.array_equal(again.purified, result.purified)


# Seeds


def test_drawn_seeds_differ_and_stay_secret(
    bundle: Bundle,
    faces: NDArray[np.float32],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import secrets

    drawn: list[int] = []
    draw = secrets.randbits

    def noted(bits: int) -> int:
        drawn.append(draw(bits))
        return drawn[-1]

    monkeypatch.setattr(secrets, "randbits", noted)
    with caplog.at_level(logging.DEBUG):
        first, second = Purifier.load(bundle), Purifier.load(bundle)
        assert not np.array_equal(first.purify(faces), second.purify(faces))
    assert len(set(drawn)) == 2
    assert first.fixed_seed is None
    assert "drawn from the operating system" in caplog.text
    for seed in drawn:
        assert str(seed) not in caplog.text + repr(first) + repr(second)
        assert f"{seed:x}" not in caplog.text


def test_fixed_seed_is_logged(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        purifier = Purifier.load(bundle, seed=2**64 - 1)
    assert purifier.fixed_seed == 2**64 - 1
    assert "the seed is fixed to 18446744073709551615" in caplog.text


def test_modes_without_randomness_say_so(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Purifier.load(bundle, mutation="expected")
    assert "no random numbers" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mutation": "guess"}, "sample, threshold, expected"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
        ({"seed": 0.5}, "seed is a float"),
        ({"provider": "gpu"}, "auto, cpu, cuda, tensorrt"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_options(bundle: Bundle, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Purifier.load(bundle, **options)


def test_another_mode_on_the_same_engine(bundle: Bundle, faces: NDArray[np.float32]) -> None:
    drawn = Purifier.load(bundle, mutation="sample", seed=5)
    other = drawn.with_mutation("threshold")
    assert (other.mutation, other.fixed_seed, other.bundle) == ("threshold", None, drawn.bundle)
    assert np.array_equal(other.purify(faces), Purifier.load(bundle, mutation="threshold").purify(faces))
    assert drawn.next_image == 0  # its numbers are its own
    with pytest.raises(UsageError, match="mutation"):
        drawn.with_mutation("often")


def test_engine_of_another_bundle(bundle: Bundle, parts: Any, tmp_path: Any) -> None:
    other = parts(k=8).write(tmp_path / "other.immune")
    with pytest.raises(InputError, match=r"K = 8.*K = 64"):
        Purifier(bundle, OnnxRuntimeEngine.from_bundle(other))


def test_what_it_tells(bundle: Bundle) -> None:
    purifier = Purifier.load(bundle, provider="cpu", mutation="threshold")
    assert (purifier.provider, purifier.mutation, purifier.k) == ("cpu", "threshold", K)
    assert purifier.bundle is bundle


# Bad faces


def with_value(value: float) -> NDArray[np.float32]:
    faces = np.zeros((3, 112, 112), np.float32)
    faces[1, 5, 5] = value
    return faces


@pytest.mark.parametrize(
    ("faces", "message"),
    [
        ([[0.0]], "a list"),
        (np.zeros((1, 112, 112)), "dtype float64"),
        (np.zeros((1, 112, 112), np.int8), "dtype int8"),
        (np.zeros((1, 112, 112, 3), np.uint8), r"shape \(1, 112, 112, 3\)"),
        (np.zeros((112, 96), np.uint8), r"shape \(112, 96\)"),
        (np.zeros(112, np.float32), r"shape \(112,\)"),
        (with_value(np.nan), "Face 1 holds NaN"),
        (with_value(np.inf), "Face 1 holds NaN or infinity"),
        (with_value(1.01), r"from 0 to 1.01, but they must be in \[-1, 1\]"),
        (with_value(-2), "from -2 to 0"),
        (with_value(255), "give uint8 pixels"),
    ],
)
def test_wrong_faces(bundle: Bundle, faces: Any, message: str) -> None:
    purifier = Purifier.load(bundle)
    for call in (purifier.purify, purifier.analyze):
        with pytest.raises(InputError, match=message) as caught:
            call(faces)
        assert len(str(caught.value).splitlines()) == 1
    assert purifier.next_image == 0


def test_rounding_outside_the_range_is_let_through(bundle: Bundle) -> None:
    Purifier.load(bundle).purify(with_value(1.0005))


def test_probabilities_that_are_none(parts: Any, tmp_path: Any, faces: NDArray[np.float32]) -> None:
    """An analyzer gone wrong must not pass for one that switches everything off."""
    onnx = pytest.importorskip("onnx")
    made = parts()
    model = onnx.load_from_string(made.files["purifier.onnx"])
    sigmoid = next(node for node in model.graph.node if node.op_type == "Sigmoid")
    sigmoid.op_type = "Sqrt"
    made.files["purifier.onnx"] = model.SerializeToString()
    with pytest.raises(InputError, match="outside"):
        Purifier.load(made.write(tmp_path / "b.immune")).purify(faces)


# Frames


class Finder:
    """Says where the faces are, since the test put them there."""

    def __init__(self, *shifts: tuple[float, float]) -> None:
        self.faces = [
            Face(
                np.array([x, y, 112, 112], np.float32),
                (TEMPLATE + np.array([x, y])).astype(np.float32),
                0.9,
            )
            for x, y in shifts
        ]

    def find(self, frame: NDArray[np.uint8]) -> list[Face]:
        return self.faces


@pytest.fixture
def frame() -> NDArray[np.uint8]:
    return np.random.default_rng(2).integers(0, 256, (240, 320, 3), np.uint8)


def test_frame(bundle: Bundle, frame: NDArray[np.uint8]) -> None:
    before = frame.copy()
    finder = Finder((20, 30), (170, 100))
    result = Purifier.load(bundle, seed=5, finder=finder).purify_frame(frame)
    assert isinstance(result, FrameResult)
    assert np.array_equal(frame, before)
    assert result.faces == finder.faces
    assert result.crops.shape == (2, 112, 112, 3)
    assert np.abs(result.crops[0].astype(int) - frame[30:142, 20:132]).max() <= 1
    assert result.probabilities.shape == (2, K)
    assert set(result.timings_ms) == {"find", "align", "mutate", "engine", "paste"}
    grey = (result.crops @ np.array([0.114, 0.587, 0.299])).round().astype(np.uint8)
    again = Purifier.load(bundle, seed=5).purify_batch(dequantize_faces(grey), first_image=result.first_image)
    assert np.abs(result.purified.astype(int) - again.purified).max() <= 2
    changed = (result.frame != frame).any(axis=2)
    assert changed.any()
    for left, top in ((20, 30), (170, 100)):
        changed[top - 1 : top + 113, left - 1 : left + 113] = False
    assert not changed.any()


def test_frame_without_faces_passes_through(bundle: Bundle, frame: NDArray[np.uint8]) -> None:
    before = frame.copy()
    purifier = Purifier.load(bundle)
    result = purifier.purify_frame(frame, Finder())
    assert result.frame is frame
    assert np.array_equal(frame, before)
    assert result.faces == []
    assert result.purified.shape == (0, 112, 112)
    assert "paste" not in result.timings_ms
    assert purifier.next_image == 0


def test_frame_without_pasting(bundle: Bundle, frame: NDArray[np.uint8]) -> None:
    result = Purifier.load(bundle).purify_frame(frame, Finder((20, 30)), paste=False)
    assert result.frame is frame
    assert result.purified.shape == (1, 112, 112)


def test_grey_frame(bundle: Bundle, frame: NDArray[np.uint8]) -> None:
    result = Purifier.load(bundle).purify_frame(frame, Finder((20, 30)), colour="grey")
    middle = result.frame[60:110, 50:100]
    assert (middle == middle[..., :1]).all()


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), "frame"])
def test_wrong_frame(bundle: Bundle, wrong: Any) -> None:
    with pytest.raises(InputError, match="frame"):
        Purifier.load(bundle).purify_frame(wrong, Finder())


def test_bundled_finder_is_opened_at_the_first_frame(bundle: Bundle) -> None:
    grey = np.full((120, 160, 3), 128, np.uint8)
    purifier = Purifier.load(bundle)
    try:
        result = purifier.purify_frame(grey)
    except InputError as error:
        pytest.skip(f"the landmark model is not in this tree: {error}")
    assert result.frame is grey


def test_import_is_light(tmp_path: Any) -> None:
    """Neither PyTorch nor ONNX Runtime nor OpenCV for the package, no PyTorch for the purifier."""
    code = (
        "import sys, immunecam.runtime as r; heavy = {'torch', 'onnx', 'onnxruntime', 'cv2', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "r.Purifier; assert not {'torch', 'onnx', 'onnxruntime', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path)
