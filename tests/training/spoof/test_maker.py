"""Synthetic faces: the same from the same seed, labelled by CelebA-Spoof's convention."""

from __future__ import annotations

import zipfile

import cv2
import numpy as np
import pytest

from immunecam.errors import InputError
from immunecam.training.spoof import FacePictures, SpoofMaker
from immunecam.training.spoof import maker as maker_module
from immunecam.training.spoof.attributes import dressed, measured
from immunecam.training.spoof.face_shape import pose_of
from immunecam.training.spoof.labels import ATTRIBUTES, KINDS, SPOOF_TYPES
from immunecam.training.spoof.pictures import TEMPLATE

_KINDS = ("live", *KINDS)


@pytest.mark.parametrize("kind", _KINDS)
def test_labels_follow_the_convention(pictures, kind):
    for number in range(4):
        face = SpoofMaker(pictures, 96).make(number, kind)
        assert face.pixels.shape == (96, 96, 3)
        assert face.pixels.dtype == np.uint8
        assert face.name in pictures.names
        assert face.depth.shape == (14, 14)
        assert face.reflection.shape == (14, 14, 3)
        assert 0 <= face.reflection.min() <= face.reflection.max() <= 1
        assert face.spoof == (kind != "live")
        if face.spoof:
            assert SPOOF_TYPES[face.spoof_type] in KINDS[kind]
            assert 1 <= face.illumination <= 4
            assert not face.attributes.any()
            assert face.depth.max() == 0
            assert face.reflection.max() > 0.02
        else:
            assert face.spoof_type == face.illumination == 0
            assert face.reflection.max() == 0
            assert face.depth.max() > 0.5
            assert face.depth[0, 0] == 0


def test_the_same_again_and_another(pictures):
    first, again = SpoofMaker(pictures).make(5), SpoofMaker(pictures).make(5)
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.reflection, again.reflection)
    assert not np.array_equal(first.pixels, SpoofMaker(pictures).make(6).pixels)
    assert not np.array_equal(first.pixels, SpoofMaker(pictures, seed=1).make(5).pixels)


def test_every_kind_comes_up(pictures):
    maker = SpoofMaker(pictures, 64)
    types = [maker.make(number).spoof_type for number in range(60)]
    assert 10 < types.count(0) < 40
    assert {SPOOF_TYPES[t] for t in types} > {"live", "poster"}
    assert len(set(types)) > 6


def test_a_spoof_of_a_face_still_looks_like_it(pictures):
    """A spoof is a picture of the face: its coarse pattern is there, whatever ink and lamps do to it."""
    maker = SpoofMaker(pictures, 112)
    correlations = []
    for kind in ("print", "replay", "poster"):
        for number in range(6):
            small = [
                cv2.resize(cv2.cvtColor(maker.make(number, k).pixels, cv2.COLOR_RGB2GRAY), (14, 14), interpolation=3)
                for k in ("live", kind)
            ]
            a, b = (part[4:11, 4:10].ravel().astype(float) for part in small)
            correlations.append(np.corrcoef(a, b)[0, 1])
    assert np.median(correlations) > 0.5


@pytest.mark.parametrize("kind", ["print", "replay", "mask", "poster"])
def test_spoofs_wear_what_live_faces_wear(pictures, kind, monkeypatch):
    """Or glasses, caps and masks would tell a network that a face is live."""
    maker = SpoofMaker(pictures, 64)
    worn = [bool(maker.make(number, "live").attributes[-3:].any()) for number in range(12)]
    before = [maker.make(number, kind).pixels for number in range(12)]
    monkeypatch.setattr(maker_module, "dressed", lambda rng, light, pose: (light, np.zeros(len(ATTRIBUTES), bool)))
    changed = [bool((maker.make(number, kind).pixels != found).any()) for number, found in enumerate(before)]
    assert 2 <= sum(worn) <= 9
    assert all(there for on_live, there in zip(worn, changed, strict=True) if on_live)
    if kind != "mask":  # whose wearer may wear something, too
        assert changed == worn


def test_a_thumb_mirrors_nothing(pictures, monkeypatch):
    """Reflection maps show the glare of a sheet, not of the hand that covers it."""
    maker = SpoofMaker(pictures, 64)
    held = [maker.make(number, "replay").reflection for number in range(12)]
    monkeypatch.setattr(maker_module, "fingers", _seen_through(maker_module.fingers))
    bare = [maker.make(number, "replay").reflection for number in range(12)]
    assert all((one <= other + 1e-6).all() for one, other in zip(held, bare, strict=True))
    assert any((one < other - 0.02).any() for one, other in zip(held, bare, strict=True))


def _seen_through(fingers):
    def drawn(*arguments):
        scene, thumb = fingers(*arguments)
        return scene, np.zeros_like(thumb)

    return drawn


def test_attributes_of_points_and_things():
    def named(found: np.ndarray) -> set[str]:
        return {name for name, there in zip(ATTRIBUTES, found, strict=True) if there}

    assert named(measured(pose_of(TEMPLATE), 0.83)) == set()
    assert named(measured(pose_of(TEMPLATE), 1.1)) == {"wide mouth"}
    right = TEMPLATE + np.array([[0, 0], [0, 0], [14, 0], [0, 0], [0, 0]])
    assert "turned right" in named(measured(pose_of(right), 0.83))
    turn = np.array([[0.94, -0.34], [0.34, 0.94]])
    assert named(measured(pose_of(TEMPLATE @ turn.T), 0.83)) == {"tilted"}
    face = np.full((112, 112, 3), 0.3, np.float32)
    for seed in range(12):
        changed, worn = dressed(np.random.default_rng(seed), face, pose_of(TEMPLATE))
        assert bool(named(worn)) == bool((changed != face).any())
        assert named(worn) <= {"glasses", "cap", "covered mouth"}


def test_pictures_of_a_folder_and_an_archive(pictures, tmp_path):
    for name, data in zip(pictures.names, pictures.data, strict=True):
        (tmp_path / "faces" / name).parent.mkdir(parents=True)
        (tmp_path / "faces" / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for name, data in zip(pictures.names, pictures.data, strict=True):
            archive.writestr(name, data)
    np.savez(tmp_path / "points.npz", names=np.array(["p1/1.png"]), points=TEMPLATE[None] + 1)
    folder, packed = FacePictures.load(tmp_path / "faces"), FacePictures.load(tmp_path / "faces.zip")
    assert folder.names == packed.names == pictures.names
    assert folder.data == packed.data
    some = FacePictures.load(tmp_path / "faces.zip", tmp_path / "points.npz")
    assert some.names == ("p1/1.png",)
    np.testing.assert_array_equal(some.points, TEMPLATE[None] + 1)
    assert len(some.joined(folder)) == 7
    assert [folder.decode(n)[1] for n in range(2)] == [True, False]


def test_the_template_is_the_runtimes():
    from immunecam.runtime.faces.align import TEMPLATE as theirs  # which training may not import

    np.testing.assert_array_equal(TEMPLATE, theirs)


def test_what_must_raise(pictures, tmp_path):
    with pytest.raises(ValueError, match="48 px wide"):
        SpoofMaker(pictures, 48)
    with pytest.raises(ValueError, match="kind must be live, print"):
        SpoofMaker(pictures).make(0, "hologram")
    with pytest.raises(InputError, match="neither a folder nor a zip archive"):
        FacePictures.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no face pictures in"):
        FacePictures.load(tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"'a\.jpg' is not a readable picture"):
        FacePictures.load(tmp_path / "bad")
    cv2.imwrite(str(tmp_path / "bad" / "a.jpg"), np.zeros((250, 250, 3), np.uint8))
    with pytest.raises(InputError, match="250 px wide and no points are given"):
        FacePictures.load(tmp_path / "bad")
    cv2.imwrite(str(tmp_path / "bad" / "a.jpg"), np.zeros((80, 100, 3), np.uint8))
    with pytest.raises(InputError, match="100x80: crop it to a square"):
        FacePictures.load(tmp_path / "bad")
    np.savez(tmp_path / "points.npz", names=np.array(["a.jpg"]), points=np.zeros((1, 4, 2)))
    with pytest.raises(InputError, match=r"shape \(1, 4, 2\)"):
        FacePictures.load(tmp_path / "bad", tmp_path / "points.npz")
    (tmp_path / "points.npz").write_bytes(b"x")
    with pytest.raises(InputError, match=r"are no \.npz file"):
        FacePictures.load(tmp_path / "bad", tmp_path / "points.npz")
