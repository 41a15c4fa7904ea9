"""Finding, alignment and paste-back."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.errors import InputError, UsageError
from immunecam.runtime.faces import (
    TEMPLATE,
    CascadeFinder,
    Face,
    FaceFinder,
    YuNetFinder,
    align,
    face_finder,
    paste,
    similarity,
)
from immunecam.runtime.faces import landmarks as landmark_module
from immunecam.runtime.faces.crop import CROP_SIDE, crop_square, points_from_crop


def turned(scale: float, degrees: float, x: float, y: float) -> np.ndarray:
    c, s = scale * np.cos(np.deg2rad(degrees)), scale * np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, x], [s, c, y]])


def face_at(matrix: np.ndarray) -> Face:
    """A face whose landmarks are the template's, moved by a matrix."""
    points = (TEMPLATE @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    return Face(np.array([*points.min(0), *np.ptp(points, 0)], np.float32), points, 1.0)


def smooth(height: int = 160, width: int = 200, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).uniform(0, 255, (6, 6, 3)).astype(np.float32)
    return np.clip(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)


moves = st.builds(turned, st.floats(0.15, 4), st.floats(-180, 180), st.floats(-150, 250), st.floats(-150, 250))


@given(moves)
def test_similarity_undoes_what_moved_the_template(move):
    found = similarity(TEMPLATE @ move[:, :2].T + move[:, 2])
    there = np.vstack([move, [0, 0, 1]])
    np.testing.assert_allclose(np.vstack([found, [0, 0, 1]]) @ there, np.eye(3), atol=1e-6)
    assert np.linalg.det(found[:, :2]) > 0


@given(st.lists(st.floats(-300, 300), min_size=10, max_size=10))
def test_similarity_is_the_least_squares_one(values):
    points = np.array(values).reshape(5, 2)
    if np.linalg.norm(points - points.mean(0)) < 1:
        return
    try:
        found = similarity(points)
    except InputError:  # points whose best similarity is none
        return
    # The same problem as linear least squares in (a, b, tx, ty), which numpy solves on its own.
    rows = [[[x, -y, 1, 0], [y, x, 0, 1]] for x, y in points]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows).reshape(10, 4), TEMPLATE.reshape(10), rcond=None)[0]
    np.testing.assert_allclose(found, [[a, -b, tx], [b, a, ty]], atol=1e-5)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        (np.full((5, 2), np.nan), "NaN"),
        (np.full((5, 2), 7.0), "one spot"),
        (np.zeros((4, 2)), "five points"),
    ],
)
def test_bad_landmarks(points, words):
    with pytest.raises(InputError, match=words):
        similarity(points)


def test_align_of_the_template_is_the_frame():
    frame = smooth(112, 112)
    aligned = align(frame, [face_at(turned(1, 0, 0, 0))])
    np.testing.assert_array_equal(aligned.crops[0], frame)
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY)
    np.testing.assert_array_equal(np.rint((aligned.grey[0] + 1) * 127.5).astype(np.uint8), grey)
    assert len(align(frame, [])) == 0


def test_align_of_a_large_face_does_not_alias():
    frame = np.zeros((1000, 1000, 3), np.uint8)
    frame[::2, ::2] = frame[1::2, 1::2] = 255
    aligned = align(frame, [face_at(turned(8, 3, 20, 20))])
    assert np.abs(aligned.crops[0].astype(int) - 127).max() < 12


@pytest.mark.parametrize(
    "frame",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3)), np.zeros((9, 9, 4), np.uint8), [1], np.zeros((0, 9, 3), "u1")],
)
def test_bad_frames(frame):
    with pytest.raises(InputError, match="frame is"):
        align(frame, [])


@settings(deadline=None, max_examples=60)
@given(moves, st.sampled_from(["keep", "grey"]), st.integers(0, 255))
def test_paste_leaves_every_pixel_outside_alone(move, colour, level):
    frame = smooth()
    before = frame.copy()
    matrix = similarity(face_at(move).landmarks)
    out = paste(frame, np.full((1, 112, 112), level, np.uint8), matrix[None], colour=colour)
    np.testing.assert_array_equal(frame, before)
    y, x = np.mgrid[0 : frame.shape[0], 0 : frame.shape[1]]
    u, v = (matrix[:, :2] @ np.stack([x.ravel(), y.ravel()]) + matrix[:, 2:]).reshape(2, *x.shape)
    # Half a pixel of the frame's grid may fall to either side of the square's edge.
    slack = 1 + np.hypot(*matrix[:, 0])
    outside = (u < -slack) | (v < -slack) | (u > 111 + slack) | (v > 111 + slack)
    np.testing.assert_array_equal(out[outside], frame[outside])
    middle = (abs(u - 55.5) < 40) & (abs(v - 55.5) < 40)
    if middle.any():
        luminance = cv2.cvtColor(out, cv2.COLOR_BGR2GRAY)[middle].astype(int)
        if colour == "grey":
            assert np.abs(luminance - level).max() <= 1
            assert np.ptp(out[middle].astype(int), axis=1).max() == 0


@settings(deadline=None, max_examples=30)
@given(st.floats(0.6, 1.3), st.floats(-30, 30))
def test_align_and_paste_of_the_same_face_is_nearly_nothing(scale, degrees):
    frame = smooth(260, 300)
    offset = np.array([150, 130]) - turned(scale, degrees, 0, 0)[:, :2] @ [56, 56]
    aligned = align(frame, [face_at(turned(scale, degrees, *offset))])
    same = np.rint((aligned.grey + 1) * 127.5).astype(np.uint8)
    out = paste(frame, same, aligned.matrices)
    assert np.abs(out.astype(int) - frame).mean() < 1
    assert np.percentile(np.abs(out.astype(int) - frame), 99) <= 6


def test_landmarks_far_wider_than_the_frame_cost_no_more():
    """A blur as wide as the face says would take minutes; the crop is of the frame's repeated edge anyway."""
    aligned = align(smooth(), [face_at(turned(1e5, 0, 0, 0))])
    assert np.isfinite(aligned.grey).all()


def test_paste_keeps_chroma():
    frame = np.full((200, 200, 3), (60, 120, 160), np.uint8)
    matrix = similarity(face_at(turned(1, 0, 40, 40)).landmarks)
    out = paste(frame, np.full((1, 112, 112), 110, np.uint8), matrix[None])
    before, after = (cv2.cvtColor(f, cv2.COLOR_BGR2YCrCb)[96, 96].astype(int) for f in (frame, out))
    assert after[0] == pytest.approx(110, abs=1)
    assert np.abs(after - before)[1:].max() <= 1


def test_bad_paste():
    frame, face, matrix = smooth(), np.zeros((1, 112, 112), np.uint8), np.zeros((1, 2, 3))
    with pytest.raises(UsageError, match="colour"):
        paste(frame, face, matrix, colour="sepia")
    for wrong in (face.astype(np.float32), face[0], np.zeros((1, 64, 64), np.uint8)):
        with pytest.raises(InputError, match="purified"):
            paste(frame, wrong, matrix)
    for wrong in (np.zeros((2, 2, 3)), np.full((1, 2, 3), np.nan), matrix):
        with pytest.raises(InputError, match="matri"):
            paste(frame, face, wrong)


@given(st.floats(5, 180), st.floats(-40, 240), st.floats(-40, 240))
def test_crop_square_places_points(side, x, y):
    """A bright dot in the picture is bright at the place in the crop that `points_from_crop` maps back to it."""
    centre = np.array([x, y])
    np.testing.assert_allclose(points_from_crop(np.array([[0, 0], [-1, -1], [1, 1]]), centre, side), [
        centre, centre - side / 2, centre + side / 2
    ], atol=1e-3)  # fmt: skip
    assert crop_square(smooth()[..., 0], centre, side).shape == (CROP_SIDE, CROP_SIDE)


def test_crop_square_is_where_it_says():
    picture = np.zeros((200, 200), np.uint8)
    picture[78:83, 118:123] = 255  # centre of mass at pixel (120, 80), which is the point (120.5, 80.5)
    for side in (40.0, 60.0, 120.0):
        crop = crop_square(picture, np.array([115.0, 85.0]), side).astype(float)
        rows, columns = np.mgrid[0:CROP_SIDE, 0:CROP_SIDE] + 0.5
        found = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()
        back = points_from_crop(found / (CROP_SIDE / 2) - 1, np.array([115.0, 85.0]), side)
        np.testing.assert_allclose(back, [120.5, 80.5], atol=0.6)


@pytest.fixture(scope="module")
def finder() -> CascadeFinder:
    return CascadeFinder()


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    found, image = cv2.VideoCapture(str(resources.files("immunecam") / "data" / "sample.mp4")).read()
    assert found
    return image


def test_finder_on_the_sample_clip(finder, sample):
    faces = finder.find(sample)
    assert len(faces) == 3
    for face in faces:
        assert 0.5 <= face.score <= 1
        left, right, nose, *mouth = face.landmarks
        assert left[0] < nose[0] < right[0]
        assert max(left[1], right[1]) < nose[1] < min(mouth[0][1], mouth[1][1])


def test_finder_serves_threads(finder, sample):
    alone = [face.landmarks for face in finder.find(sample)]
    with ThreadPoolExecutor(4) as pool:
        for faces in pool.map(finder.find, [sample] * 6):
            np.testing.assert_array_equal([face.landmarks for face in faces], alone)


@pytest.mark.parametrize("size", [(1, 1), (10, 10), (19, 300)])
def test_tiny_frames_have_no_faces(finder, size):
    assert finder.find(np.zeros((*size, 3), np.uint8)) == []


def test_nothing_is_found_in_nothing(finder):
    assert finder.find(np.full((240, 320, 3), 90, np.uint8)) == []
    assert finder.find(cv2.GaussianBlur(smooth(480, 640), (0, 0), 3)) == []


def test_finder_on_a_photograph(finder, shared_data):
    frame = cv2.imread(str(shared_data / "faces" / "six_people.jpg"))
    ours = finder.find(frame)
    theirs = YuNetFinder(shared_data / "finders" / "yunet_n_320_320.onnx").find(frame)
    assert len(ours) == len(theirs) == 6
    for face in theirs:
        eyes = np.hypot(*(face.landmarks[1] - face.landmarks[0]))
        errors = [np.hypot(*(other.landmarks - face.landmarks).T).mean() / eyes for other in ours]
        assert min(errors) < 0.2


def test_finder_on_held_out_people(finder, shared_data):
    import zipfile

    table = np.load(shared_data / "lfw" / "landmarks5_250.npz", allow_pickle=False)
    points = dict(zip(table["names"].tolist(), table["points"], strict=True))
    found = errors = tried = 0
    with zipfile.ZipFile(shared_data / "lfw" / "dev_250.zip") as archive:
        for name in sorted(n for n in archive.namelist() if n in points)[::20]:
            grey = cv2.imdecode(np.frombuffer(archive.read(name), np.uint8), cv2.IMREAD_GRAYSCALE)
            tried += 1
            eyes = np.hypot(*(points[name][1] - points[name][0]))
            faces = finder.find(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))
            distance = [np.hypot(*(f.landmarks - points[name]).T).mean() / eyes for f in faces]
            found += bool(distance) and min(distance) < 0.25
            errors += sum(d > 1 for d in distance)
    assert found / tried > 0.93
    assert errors / tried < 0.15  # other people in the picture count as errors here


def test_bad_finders(tmp_path):
    with pytest.raises(InputError, match="min_face"):
        CascadeFinder(min_face=10)
    with pytest.raises(InputError, match="does not exist"):
        YuNetFinder(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(InputError, match="no YuNet model"):
        face_finder(tmp_path / "text.onnx")
    assert isinstance(face_finder(), FaceFinder)


def test_a_changed_landmark_model_is_refused(tmp_path, monkeypatch):
    assets = Path(str(resources.files("immunecam.runtime") / "assets"))
    shutil.copytree(assets, tmp_path / "assets")
    model = tmp_path / "assets" / "landmarks5.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    monkeypatch.setattr(landmark_module.resources, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match="SHA-256"):
        CascadeFinder()
    model.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        CascadeFinder()
