"""Whoever is not live is never granted, whatever the recogniser says, and the trail says why."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")

from importlib import resources

from small_liveness import bundle_with_liveness

from immunecam.errors import InputError, NotLiveError, UsageError
from immunecam.runtime.faces import align, face_finder
from immunecam.runtime.gate.access_gate import AccessGate
from immunecam.runtime.gate.quality import QualityLimits
from immunecam.runtime.gate.track import Sighting
from immunecam.runtime.liveness import LivenessDetector
from immunecam.runtime.purifier import Purifier

LOOSE = QualityLimits(min_eye_distance=8, min_sharpness=0, min_contrast=1, max_yaw=3, min_pitch=-3, max_pitch=3)


@pytest.fixture(scope="module")
def frame() -> np.ndarray:
    """One face of the bundled clip."""
    clip = str(resources.files("immunecam") / "data" / "sample.mp4")
    found, image = cv2.VideoCapture(clip).read()
    assert found
    face = min(face_finder().find(image), key=lambda one: one.box[0])
    left, top, width, height = (int(value) for value in face.box)
    part = image[max(0, top - height // 2) : top + 3 * height // 2, max(0, left - width // 2) : left + 3 * width // 2]
    canvas = np.full((360, 360, 3), 100, np.uint8)
    canvas[20:340, 20:340] = cv2.resize(part, (320, 320))
    return canvas


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return bundle_with_liveness(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def opened(tmp_path, key, recognizer_file, bundle, frame):
    def make(threshold, **options):
        detector = LivenessDetector.load(bundle, threshold=threshold, threads=1)
        options = {"threshold": 0.5, "limits": LOOSE, "create": True, "threads": 1, "liveness": detector, **options}
        gate = AccessGate.open(tmp_path / "door.gate", key, recognizer_file(), **options)
        if not len(gate.store):
            gate.enrol("ada", [("a", frame)], limits=LOOSE)
        return gate

    return make


def record_of(gate, event):
    (file,) = sorted(gate.audit.folder.glob("*.jsonl"))
    (record,) = [one for line in file.read_text().splitlines() if (one := json.loads(line))["seq"] == event.seq]
    return record


@pytest.mark.parametrize("options", [{}, {"liveness_view": "purified"}, {"purify": False}])
def test_a_spoof_is_never_granted(opened, frame, options):
    with opened(1e-6, **options) as gate:
        event = gate.verify("ada", [frame])
        assert (event.event, event.liveness_threshold) == ("granted", 1e-6)
        score = event.liveness
        assert 0 < score < 1
    with opened(score + 0.01, **options) as gate:
        for event in (gate.verify("ada", [frame]), gate.identify([frame]), *gate.watch([frame] * 3)):
            assert event.event == "suspected-attack"
            assert (event.person, event.candidate) == (None, "ada")
            assert event.score > event.threshold
            assert event.liveness == pytest.approx(score, abs=0.02)
            assert event.reasons[0].startswith("no live face: liveness 0.")
            record = record_of(gate, event)
            assert record["event"] == "suspected-attack"
            assert record["liveness"] == pytest.approx(event.liveness, abs=1e-6)
            assert record["liveness_threshold"] == pytest.approx(event.liveness_threshold, abs=1e-6)
            assert record["reasons"] == list(event.reasons)
            assert record["models"]["liveness_sha256"] == gate.observer.liveness.about["liveness_sha256"]
            assert record["models"]["liveness_view"] == options.get("liveness_view", "camera")


def trail_of(gate):
    (file,) = sorted(gate.audit.folder.glob("*.jsonl"))
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_who_shows_a_print_is_not_enrolled(opened, frame):
    with opened(1e-6) as gate:
        score = gate.verify("ada", [frame]).liveness
    with opened(min(1.0, score + 0.01)) as gate:
        before = gate.store.generation
        with pytest.raises(NotLiveError, match=r"'eve' was not enrolled, because .* median of 2, at least") as caught:
            gate.enrol("eve", [("a", frame), ("b", frame)], limits=LOOSE)
        assert caught.value.exit_code == 5
        assert [person.person for person in gate.store.people()] == ["ada"]
        assert gate.store.generation == before
        refused = trail_of(gate)[-1]
        assert (refused["type"], refused["person"]) == ("enrolment-refused", "eve")
        assert refused["liveness"] == pytest.approx(score, abs=0.02)
        assert refused["liveness_threshold"] == pytest.approx(min(1.0, score + 0.01))
        assert refused["models"]["liveness_sha256"] == gate.observer.liveness.about["liveness_sha256"]
        # A photo of somebody who is known may be let in, and the trail says so.
        assert gate.enrol("eve", [("a", frame)], limits=LOOSE, allow_not_live=True).added == 1
        begun, done = trail_of(gate)[-2:]
        for record, kind in ((begun, "enrolment-begun"), (done, "enrolment")):
            assert (record["type"], record["allow_not_live"]) == (kind, True)
            assert record["liveness"] < record["liveness_threshold"]


def test_one_picture_that_is_not_live_is_left_out(opened, frame):
    with opened(1e-6) as gate:
        detector, scores = gate.observer.liveness, iter([0.9, 0.1, 0.8])
        detector.scores = lambda crops: np.array([next(scores)], np.float32)
        detector.threshold = 0.5
        done = gate.enrol("eve", [(name, frame) for name in "abc"], limits=LOOSE)
        assert done.added == 2
        assert done.refused == (("b", "no live face: liveness 0.100, at least 0.500 wanted"),)
        record = trail_of(gate)[-1]
        assert record["liveness"] == pytest.approx(0.8)
        assert "allow_not_live" not in record


def test_a_gate_without_it_says_nothing_of_it(opened, frame):
    with opened(1e-6, liveness=None) as gate:
        event = gate.identify([frame])
        assert event.granted
        assert event.liveness is event.liveness_threshold is None
        assert "liveness_sha256" not in record_of(gate, event)["models"]


def test_the_purified_view_is_another_picture(opened, frame):
    seen = {}
    for view in ("camera", "purified"):
        with opened(1e-6, liveness_view=view, purifier=Purifier.load(seed=1)) as gate:
            seen[view] = gate.observer.observe_sightings(gate.observer.sightings(frame)).liveness
    assert seen["camera"] != pytest.approx(seen["purified"], abs=1e-6)


def test_faces_that_liveness_did_not_see_are_no_decision(opened, frame):
    with opened(1e-6) as gate:
        faces = gate.observer.finder.find(frame)
        aligned = align(frame, faces)
        blind = [Sighting(faces[0], aligned.crops[0], aligned.grey[0])]
        with pytest.raises(InputError, match="without what liveness is judged by"):
            gate.preview(blind, 1)
        assert gate.preview(gate.observer.aligned_sightings(frame, faces, aligned), 1).granted


def test_views_that_cannot_be(opened):
    with pytest.raises(UsageError, match="nothing is purified: use the view camera"):
        opened(0.5, purify=False, liveness_view="purified")
    with pytest.raises(UsageError, match="the liveness view is 'x-ray'"):
        opened(0.5, liveness_view="x-ray")
