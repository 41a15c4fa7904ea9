"""The liveness part of a bundle: read, put in, cut out of frames, judged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")

from small_liveness import LANDMARKS, bundle_with_liveness, small_graph, small_record

from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import Bundle, default_bundle, read_bundle
from immunecam.runtime.bundle_archive import write_archive
from immunecam.runtime.bundle_liveness import put_liveness
from immunecam.runtime.bundle_manifest import BundleManifest
from immunecam.runtime.bundle_quality import put_quality
from immunecam.runtime.bundle_signer import sign_bundle
from immunecam.runtime.bundle_writer import write_bundle
from immunecam.runtime.faces import TEMPLATE, Face, align, face_finder, paste
from immunecam.runtime.faces.liveness_crop import liveness_crops, liveness_matrix
from immunecam.runtime.faces.liveness_mark import mark_liveness
from immunecam.runtime.liveness import LivenessDetector, LivenessResult
from immunecam.runtime.liveness_record import LivenessCrop
from immunecam.runtime.trust import PrivateKey, Trust


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_with_liveness(tmp_path_factory.mktemp("door"))


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    clip = Path(str(resources.files("immunecam") / "data" / "sample.mp4"))
    found, image = cv2.VideoCapture(str(clip)).read()
    assert found
    return image


def face_at(scale: float, x: float, y: float) -> Face:
    points = (TEMPLATE * scale + [x, y]).astype(np.float32)
    return Face(np.array([x, y, 112 * scale, 112 * scale], np.float32), points, 1.0)


def test_a_bundle_without_the_part_is_as_before():
    bundle = Bundle.load(default_bundle())
    assert bundle.manifest.liveness is None
    with pytest.raises(InputError, match="has no liveness network: put one in by"):
        LivenessDetector(bundle)


def test_put_in_read_back_and_replaced(tmp_path):
    path = tmp_path / "door.immune"
    shutil.copytree(default_bundle(), path)
    before = Bundle.load(path)
    first = put_liveness(path, small_graph(), small_record())
    record = first.manifest.liveness
    assert record.crop == LANDMARKS
    assert (record.threshold, record.synthetic, record.quality["acer"]) == (0.5, True, 0.25)
    assert first.files[record.file] == small_graph()
    # Nothing that older versions read has changed, and the gate's enrolled faces stay comparable.
    assert first.manifest.graphs == before.manifest.graphs
    again = put_liveness(path, small_graph(96), small_record(side=96))
    assert again.manifest.liveness.side == 96
    assert not (path / record.file).exists()
    assert set(again.files) == {*before.files, again.manifest.liveness.file}


def rewritten(path: Path, source: Bundle, **settings: object) -> Bundle:
    """The installed bundle written over what lies there, as an export does."""
    manifest, plain = source.manifest, json.loads(source.manifest_bytes)
    parts = {"kind": manifest.kind, "k": manifest.k, "graphs": manifest.graphs, "precision": manifest.precision}
    settings = {"files": source.files, "options": plain["options"], "overwrite": True, **settings}
    return write_bundle(path, **parts, **settings)  # type: ignore[arg-type]


def test_a_bundle_that_is_replaced_hands_its_network_on(door, tmp_path):
    path, installed = tmp_path / "c.immune", Bundle.load(default_bundle())
    shutil.copytree(door, path)
    record = Bundle.load(path).manifest.liveness
    kept = rewritten(path, installed)
    assert kept.manifest.liveness == record
    assert kept.files[record.file] == small_graph()
    LivenessDetector(kept)
    # A bundle that brings one has its own.
    own = dataclasses.replace(small_record(0.7), file="own.onnx")
    brought = rewritten(
        path, installed, files={**installed.files, "own.onnx": small_graph(80)}, parts={"liveness": own}
    )
    assert (brought.manifest.liveness.threshold, record.file in brought.files) == (0.7, False)
    dropped = rewritten(path, installed, drop_parts=["liveness"])
    assert dropped.manifest.liveness is None
    assert set(dropped.files) == set(installed.files)
    assert rewritten(path, installed).manifest.liveness is None


def test_a_damaged_network_is_not_handed_on(door, tmp_path):
    path, installed = tmp_path / "c.immune", Bundle.load(default_bundle())
    shutil.copytree(door, path)
    network = path / Bundle.load(path).manifest.liveness.file
    for damage in (b"another network", None):
        network.unlink() if damage is None else network.write_bytes(damage)
        with pytest.raises(
            InputError,
            match=r"cannot be kept .*: put it in again by .*, leave it behind by `immunecam export --drop-liveness`",
        ):
            rewritten(path, installed)
    assert rewritten(path, installed, drop_parts=["liveness"]).manifest.liveness is None
    (path / "manifest.json").write_text("{")  # nothing is known of it, so nothing is kept
    assert rewritten(path, installed).manifest.liveness is None


def test_signing_and_measuring_leave_the_network_in(door, tmp_path):
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[sign]')")
    path, key = tmp_path / "c.immune", PrivateKey.generate()
    shutil.copytree(door, path)
    record = Bundle.load(path).manifest.liveness
    files = Bundle.load(path).manifest.files
    report = {"schema": "immunecam.evaluation/1", "rows": [], "bundle_files": {n: f.sha256 for n, f in files.items()}}
    (tmp_path / "r.json").write_text(json.dumps(report))
    assert put_quality(path, tmp_path / "r.json").manifest.liveness == record
    assert sign_bundle(path, key, version=2).manifest.liveness == record
    with pytest.raises(UsageError, match="is signed and the new one would not be"):
        rewritten(path, Bundle.load(default_bundle()))
    signed = rewritten(path, Bundle.load(default_bundle()), sign=key)
    assert (signed.manifest.liveness, signed.manifest.version) == (record, 2)
    assert read_bundle(path, Trust((key.public,))).manifest.liveness == record


def test_a_changed_network_is_refused(door, tmp_path):
    copy = tmp_path / "c.immune"
    shutil.copytree(door, copy)
    name = Bundle.load(copy).manifest.liveness.file
    data = bytearray((copy / name).read_bytes())
    data[-1] ^= 1
    (copy / name).write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"SHA-256 .* it was changed or damaged"):
        Bundle.load(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=name):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": "else.onnx"}, "liveness.file is 'else.onnx', but it must be the name of a listed file"),
        ({"side": 48}, "liveness.side is 48, but it must be a multiple of 16 from 64"),
        ({"threshold": 0}, "liveness.threshold is 0, but it must be a number above 0"),
        ({"threshold": True}, "liveness.threshold is True"),
        ({"precision": "fp8"}, "liveness.precision is 'fp8'"),
        ({"synthetic": "no"}, "liveness.synthetic is 'no'"),
        ({"quality": []}, r"liveness.quality is \[\]"),
        ({"crop": None}, "liveness.crop is None"),
        ({"crop": {"around": "ears", "size": 3}}, "liveness.crop.around is 'ears'"),
        ({"crop": {"around": "box", "size": 0}}, "liveness.crop.size is 0"),
        ({"crop": {"around": "box", "size": 2, "down": 9}}, "liveness.crop.down is 9"),
    ],
)
def test_a_wrong_field_is_named(door, change, said):
    content = json.loads(Bundle.load(door).manifest_bytes)
    content["liveness"] |= change
    with pytest.raises(InputError, match=said):
        BundleManifest.from_bytes(json.dumps(content).encode(), "m")
    with pytest.raises(InputError, match="liveness is 7, but it must be an object"):
        BundleManifest.from_bytes(json.dumps(content | {"liveness": 7}).encode(), "m")


def test_what_cannot_be_put_in(door, tmp_path):
    archive = tmp_path / "a.immune"
    bundle = Bundle.load(door)
    write_archive(archive, bundle.manifest_bytes, None, bundle.files)
    with pytest.raises(InputError, match="is an archive: unpack it first"):
        put_liveness(archive, small_graph(), small_record())
    copy = tmp_path / "c.immune"
    shutil.copytree(door, copy)
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    with pytest.raises(InputError, match="but it must be tensor"):
        put_liveness(copy, small_graph(96), small_record(side=64))
    with pytest.raises(InputError, match="is not an ONNX model"):
        put_liveness(copy, b"no graph", small_record())
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before
    (copy / "signature.json").write_text("{}")
    with pytest.raises(UsageError, match="is signed and would not be any more"):
        put_liveness(copy, small_graph(), small_record())


def test_a_written_bundle_keeps_it(door, tmp_path):
    source = Bundle.load(door)
    manifest = source.manifest
    made = write_bundle(
        tmp_path / "m.immune",
        kind=manifest.kind,
        k=manifest.k,
        files=source.files,
        graphs=manifest.graphs,
        precision=manifest.precision,
        parts=manifest.parts,
    )
    assert made.manifest.liveness == manifest.liveness


def test_scores_and_threshold(door):
    detector = LivenessDetector.load(door, threads=1)
    crops = np.stack([np.full((64, 64, 3), value, np.uint8) for value in (0, 127, 128, 255)] * 5)
    scores = detector.scores(crops)
    mean = np.tile([-1, 127 / 127.5 - 1, 128 / 127.5 - 1, 1], 5)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-8 * mean)), atol=1e-5)
    assert [detector.result(float(score)).live for score in scores[:4]] == [False, False, True, True]
    assert LivenessDetector.load(door, threshold=0.4).result(0.45).live
    assert detector.scores(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0,)
    # Channels reach the network as RGB: only their order differs here, so a network of one channel would tell.
    with pytest.raises(InputError, match=r"uint8 \(N, 64, 64, 3\)"):
        detector.scores(np.zeros((1, 112, 112, 3), np.uint8))
    with pytest.raises(UsageError, match="above 0, and 1 at most"):
        LivenessDetector.load(door, threshold=0.0)


def test_the_square_is_where_training_has_it():
    # Eyes 0.29 of the side apart, the square's middle 0.45 of that below them but for the fit's 0.03.
    face = face_at(2.0, 300, 200)
    matrix = liveness_matrix(face, LANDMARKS, 112)
    points = face.landmarks * matrix[0, 0] + matrix[:, 2]
    apart = float(np.linalg.norm(points[1] - points[0]))
    assert apart / 112 == pytest.approx(0.29, abs=0.01)
    assert 56 - points[:2].mean(0)[1] == pytest.approx(0.42 * apart, rel=0.03)
    assert points[:2].mean(0)[0] == pytest.approx(56, abs=0.5)
    box = liveness_matrix(face, LivenessCrop("box", 1.3), 112)
    corners = face.box[:2] * box[0, 0] + box[:, 2]
    np.testing.assert_allclose(corners, 56 - 112 / 1.3 / 2, atol=1e-3)


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_crops_show_the_same_face_at_any_size(scale, frame):
    ramp = np.tile(np.linspace(20, 220, 900).astype(np.uint8)[None, :, None], (900, 1, 3))
    face = face_at(scale, 300, 300)
    (crop,) = liveness_crops(ramp, [face], LANDMARKS, 64)
    matrix = liveness_matrix(face, LANDMARKS, 64)
    columns = (np.arange(64) - matrix[0, 2]) / matrix[0, 0]
    np.testing.assert_allclose(crop[32, :, 0], 20 + 200 * columns / 899, atol=1.5)


def test_beyond_the_picture_it_is_as_in_training():
    white = np.full((200, 200, 3), 255, np.uint8)
    face = face_at(1.0, -60, -60)
    (mirrored,) = liveness_crops(white, [face], LANDMARKS, 64)
    assert mirrored.min() == 255
    (black,) = liveness_crops(white, [face], LivenessCrop("box", 3.0), 64)
    assert black[0, 0].max() == 0
    far = face_at(1.0, 5000, 5000)
    assert liveness_crops(white, [far], LivenessCrop("box", 1.3), 64).max() == 0
    nowhere = Face(np.zeros(4, np.float32), np.zeros((5, 2), np.float32), 1.0)
    with pytest.raises(InputError, match="has no size"):
        liveness_crops(white, [nowhere], LANDMARKS, 64)


def test_purified_crops_are_those_of_the_purified_frame(door, frame):
    detector = LivenessDetector.load(door, threads=1)
    faces = face_finder().find(frame)
    assert len(faces) == 3
    crops = detector.crops(frame, faces)
    aligned = align(frame, faces)
    grey = np.rint((aligned.grey + 1) * 127.5).astype(np.uint8)
    for purified, most in ((grey, 2.0), (255 - grey, 4.0)):
        wanted = detector.crops(paste(frame, purified, aligned.matrices), faces)
        found = detector.purified_crops(crops, faces, purified)
        assert np.abs(found.astype(int) - wanted).mean() < most
    assert np.abs(found.astype(int) - crops).mean() > 20  # an inverted face is another one


def test_marks_say_it_in_words_and_by_line(frame):
    faces = face_finder().find(frame)
    results = [LivenessResult(0.9, True), LivenessResult(0.1, False), LivenessResult(0.2, False)]
    marked = mark_liveness(frame, faces, results)
    assert marked.shape == frame.shape
    changed = [(marked != mark_liveness(frame, faces[:n] + faces[n + 1 :], results[:n] + results[n + 1 :])).any(2).sum()
               for n in range(3)]  # fmt: skip
    assert min(changed) > 0
    assert np.array_equal(mark_liveness(frame, [], []), frame)


def test_a_detector_takes_no_bundle_past_the_signature_that_is_demanded(door, tmp_path):
    pytest.importorskip("cryptography", reason="needs cryptography (pip install 'immunecam[sign]')")
    from immunecam.runtime.trust import write_key_pair

    key = write_key_pair(tmp_path / "k.pem", tmp_path / "k.pub.pem", passphrase=None)
    bundle = Bundle.load(door)
    with pytest.raises(InputError, match="without a trusted signature"):
        LivenessDetector.load(bundle, trust=tmp_path / "k.pub.pem")
    with pytest.raises(InputError, match="signed"):
        LivenessDetector.load(door, trust=tmp_path / "k.pub.pem")
    copy = tmp_path / "c.immune"
    shutil.copytree(door, copy)
    put_liveness(copy, small_graph(), small_record(0.7), sign=key)
    assert LivenessDetector.load(copy, trust=tmp_path / "k.pub.pem").threshold == 0.7
