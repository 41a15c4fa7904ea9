"""The gate on the sample clip's faces, whose people do not exist, and on real ones where they are."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from importlib import resources

import cv2
import numpy as np
import pytest

from immunecam.errors import InputError, UsageError
from immunecam.kernels import project_float
from immunecam.runtime.faces import Face, face_finder
from immunecam.runtime.gate.access_gate import AccessGate
from immunecam.runtime.gate.audit_verify import verify_trail
from immunecam.runtime.gate.enrolment import chosen_spread
from immunecam.runtime.gate.evidence import Evidence, evidence_limits, residual_energy, suspected
from immunecam.runtime.gate.images import ImageArchive
from immunecam.runtime.gate.operating_point import OperatingPoint
from immunecam.runtime.gate.quality import PROBE, QualityLimits, assess
from immunecam.runtime.gate.track import FaceTracker, Sighting
from immunecam.runtime.purifier import Purifier

LOOSE = QualityLimits(min_eye_distance=8, min_sharpness=0, min_contrast=1, max_yaw=3, min_pitch=-3, max_pitch=3)


@pytest.fixture(scope="module")
def frames():
    """Frames that show one face each, of two people, cut out of the sample clip: {person: [frame, ...]}."""
    capture = cv2.VideoCapture(str(resources.files("immunecam") / "data" / "sample.mp4"))
    finder, found = face_finder(), {"left": [], "right": []}
    for _ in range(6):
        _, image = capture.read()
        faces = sorted(finder.find(image), key=lambda face: face.box[0])
        for name, face in (("left", faces[0]), ("right", faces[-1])):
            x, y, w, h = face.box.astype(int)
            canvas = np.full((360, 360, 3), 100, np.uint8)
            part = image[max(0, y - h // 2) : y + 3 * h // 2, max(0, x - w // 2) : x + 3 * w // 2]
            part = cv2.resize(part, (320, 320))
            canvas[20:340, 20:340] = part
            if len(finder.find(canvas)) == 1:
                found[name].append(canvas)
    assert min(len(own) for own in found.values()) >= 3
    return found


@pytest.fixture
def opened(tmp_path, key, recognizer_file):
    def make(**options):
        options = {"threshold": 0.9, "limits": LOOSE, "create": True, **options}
        return AccessGate.open(tmp_path / "door.gate", key, recognizer_file(), **options)

    return make


@pytest.fixture
def gate(opened, frames):
    with opened() as made:
        for person, own in frames.items():
            made.enrol(person, [(f"{i}", frame) for i, frame in enumerate(own[:2])], limits=LOOSE)
        yield made


def records(gate):
    files = sorted(gate.audit.folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_people_are_told_apart_and_every_decision_is_written_down(gate, frames):
    for person, own in frames.items():
        other = next(name for name in frames if name != person)
        event = gate.identify(own[2:])
        assert (event.event, event.person, event.candidate) == ("granted", person, person)
        assert gate.verify(person, own[2:]).granted
        denied = gate.verify(other, own[2:])
        assert (denied.event, denied.person, denied.claimed) == ("denied", None, other)
        assert denied.score < event.score
    decisions = [record for record in records(gate) if record["type"] == "decision"]
    assert len(decisions) == 6
    for record in decisions:
        assert record["bundle_sha256"] == gate.observer.purifier.bundle.sha256
        assert record["threshold"] == 0.9
        assert -1 <= record["score"] <= 1
        assert record["active"] > 0
        assert record["latency_ms"] > 0
        assert record["models"]["recognizer_sha256"] == gate.observer.embedder.spec.sha256
        assert record["models"]["immunecam"]
        assert "images" not in record
        assert len(record["seed_commitment"]) == 64
    assert verify_trail(gate.audit.folder, anchor=gate.store.anchors).intact
    assert not (gate.audit.folder / "images").exists()


def test_the_seed_leaks_neither_as_it_is_nor_by_a_plain_hash(gate, key, frames):
    gate.identify(frames["left"][2:])
    text = "".join(file.read_text() for file in gate.audit.folder.glob("*.jsonl"))
    seed = gate.observer.purifier._seed
    plain = [seed.to_bytes(8, "big"), seed.to_bytes(8, "little"), str(seed).encode()]
    for shape in (str(seed), f"{seed:x}", *(hashlib.sha256(data).hexdigest() for data in plain)):
        assert shape not in text
    with Purifier.load(seed=seed) as again:  # who knows the seed and has the key can check it
        assert again.seed_commitment(key.derive("seed commitment")) in text
    with Purifier.load(seed=seed ^ 1) as other:
        assert other.seed_commitment(key.derive("seed commitment")) not in text
    with pytest.raises(UsageError, match="16 or more"):
        other.seed_commitment(b"short")


def test_no_face_and_poor_faces_are_told(gate, opened, frames):
    empty = np.full((240, 320, 3), 90, np.uint8)
    assert gate.identify([empty]).event == "no-face"
    with pytest.raises(UsageError, match="no frame"):
        gate.identify([])
    gate.close()
    with opened(limits=QualityLimits(min_eye_distance=500)) as strict:
        event = strict.verify("left", frames["left"][2:])
        assert event.event == "low-quality"
        assert "too small" in event.reasons[1]
        assert event.score is None


def test_a_track_needs_its_good_faces(gate, frames):
    empty = np.full_like(frames["left"][0], 90)
    event = gate.identify([frames["left"][2], empty, empty, empty])
    assert event.event == "low-quality"
    assert event.reasons[0] == "1 good faces, 3 wanted"


def test_evidence_beyond_the_limits_is_suspected_whoever_it_is(gate, frames):
    setting = gate.store.setting
    for residual, cosine, wanted in (
        (2.0, -1.0, "granted"),
        (None, None, "granted"),
        (0.0, None, "suspected-attack"),
        (None, 1.0, "suspected-attack"),
    ):
        gate.store.set_operating_point(
            OperatingPoint(0.5, setting.recognizer, setting.purification, residual_limit=residual, cosine_limit=cosine)
        )
        event = gate.verify("left", frames["left"][2:])
        assert event.event == wanted
        assert event.granted == (wanted == "granted")
    with pytest.raises(InputError, match="it looks attacked"):
        gate.enrol("new", [("a", frames["left"][2])], limits=LOOSE)


def test_two_people_in_one_track_reach_neither(gate, frames):
    """The mean of embeddings is not brought back to unit length, so half a track adds half a score."""
    alone = gate.verify("left", frames["left"][:3]).score
    mixed = gate.verify("left", [frames["left"][0], frames["right"][0], frames["left"][1], frames["right"][1]])
    other = gate.verify("left", frames["right"][:3]).score
    assert other < mixed.score < alone
    assert mixed.score == pytest.approx((alone + other) / 2, abs=0.1)
    assert mixed.event == "denied"


def test_enrolment_says_why_pictures_are_left_out_and_changes_nothing_without_a_good_one(gate, frames):
    empty = np.full((240, 320, 3), 90, np.uint8)
    two = np.hstack([frames["left"][0], frames["right"][0]])
    found = gate.enrol("new", [("empty", empty), ("two", two), ("good", frames["left"][2])], limits=LOOSE)
    assert dict(found.refused) == {"empty": "no face", "two": "2 faces, but one is wanted"}
    assert (found.added, found.total) == (1, 1)
    assert found.resembles.person == "left"
    before = gate.store.generation
    with pytest.raises(InputError, match="'new' was not enrolled, because no picture is good enough \\(empty: no face"):
        gate.enrol("new", [("empty", empty)], replace=True)
    with pytest.raises(InputError, match="printable"):
        gate.enrol("", [("good", frames["left"][2])])
    assert gate.store.generation == before
    gate.delete("new")
    with pytest.raises(InputError, match="nobody is enrolled as 'new'"):
        gate.verify("new", frames["left"])
    kinds = ["enrolment-begun", "enrolment", "deletion-begun", "deletion"]
    assert [r["type"] for r in records(gate)[-4:]] == kinds


def test_purified_and_plain_stores_are_two(gate, opened):
    gate.close()
    with pytest.raises(InputError, match=r"another purification setting \(purification by edge \(sample\)"):
        opened(purify=False)
    with pytest.raises(InputError, match="another purification setting"):
        opened(purifier=Purifier.load(mutation="expected"))


def test_without_purification_there_is_no_evidence(opened, frames):
    with opened(purify=False) as plain:
        plain.enrol("left", [("a", frames["left"][0])], limits=LOOSE)
        event = plain.identify(frames["left"][2:])
        assert event.granted
        assert event.cosine is event.residual is event.active is None
        last = records(plain)[-1]
        assert last["bundle_sha256"] is last["seed_commitment"] is None


def test_a_gate_without_a_threshold_says_so(opened, frames):
    with opened(threshold=None) as gate:
        with pytest.raises(UsageError, match="no threshold: find one by `immunecam gate calibrate`"):
            gate.identify(frames["left"])
        setting = gate.store.setting
        gate.calibrated(OperatingPoint(0.2, setting.recognizer, setting.purification, 1e-3), {"fmr_target": 1e-3})
        assert gate.threshold() == 0.2
        assert gate.identify(frames["left"]).event == "denied"  # nobody is enrolled
        gate.enrol("left", [("a", frames["left"][0])], limits=LOOSE)
        assert gate.expected_false_positives() == pytest.approx(1e-3)
        assert records(gate)[2]["type"] == "calibration"


def test_a_preview_says_the_same_and_leaves_no_trace(gate, opened, frames):
    sightings = [seen for frame in frames["left"][2:] for seen in gate.observer.sightings(frame)]
    before = len(records(gate))
    event = gate.preview(sightings, len(sightings))
    assert (event.event, event.person, event.threshold, event.seq) == ("granted", "left", 0.9, None)
    assert len(records(gate)) == before
    assert gate.identify(frames["left"][2:]).score == pytest.approx(event.score, abs=0.02)
    assert gate.preview([], 3).event == "no-face"
    gate.close()
    with opened(threshold=None) as uncalibrated:
        event = uncalibrated.preview(sightings, len(sightings))
        assert (event.event, event.candidate, event.threshold) == ("denied", "left", None)
        assert event.score > 0.9


def test_a_stream_gives_one_decision_for_each_face_that_stays(gate, frames):
    empty = np.full_like(frames["left"][0], 90)
    stream = [*frames["left"][:3], *[empty] * 8, *frames["right"][:3], *[empty] * 8]
    events = list(gate.watch(stream))
    assert [(event.event, event.person) for event in events] == [("granted", "left"), ("granted", "right")]
    assert [event.event for event in gate.watch([empty] * 3)] == ["no-face"]
    assert [event.missed for event in events] == [0, 0]


def test_who_was_gone_before_the_decision_is_told_as_gone(gate, frames):
    empty = np.full_like(frames["left"][0], 90)
    for gone in (6, 2):  # the track ends, or the stream does
        (event,) = gate.watch([frames["left"][0], *[empty] * gone])
        assert (event.event, event.missed) == ("granted", gone)
        assert records(gate)[-1]["missed"] == gone


def test_images_are_kept_only_when_switched_on_and_then_encrypted(gate, opened, key, frames, tmp_path):
    gate.close()
    with opened(save_images=True) as keeping:
        keeping.identify(frames["left"][2:3])
        (image,) = records(keeping)[-1]["images"]
        (file,) = (keeping.audit.folder / "images").iterdir()
        data = file.read_bytes()
        assert file.name == image["file"]
        assert hashlib.sha256(data).hexdigest() == image["sha256"]
        assert b"PNG" not in data
        archive = ImageArchive(keeping.audit.folder / "images", key)
        picture = cv2.imdecode(np.frombuffer(archive.read(file.name), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (112, 112, 3)
        file.write_bytes(data[:-1] + b"x")
        with pytest.raises(InputError, match="was changed, or sealed by another key"):
            archive.read(file.name)


def test_images_go_by_age_and_size(key, tmp_path):
    from immunecam.runtime.gate.audit_log import Retention

    archive = ImageArchive(tmp_path / "images", key, Retention(total_bytes=30_000))
    rng = np.random.default_rng(0)
    for _ in range(9):
        archive.add(rng.integers(0, 256, (50, 50, 3), np.uint8))
    sizes = [file.stat().st_size for file in (tmp_path / "images").iterdir()]
    assert 2 <= len(sizes) < 9
    assert sum(sizes) <= 30_000
    for file in (tmp_path / "images").iterdir():
        os.utime(file, (1, 1))
    ImageArchive(tmp_path / "images", key, Retention(days=1)).add(np.zeros((9, 9), np.uint8))
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_retention_of_images_minds_neither_other_processes_nor_what_they_left(key, tmp_path):
    from immunecam.runtime.gate.audit_log import Retention

    (tmp_path / "gone.png.sealed").symlink_to(tmp_path / "nothing")  # another process has just dropped it
    abandoned, in_work = (tmp_path / f".{name}.png.sealed.77.partial" for name in ("old", "new"))
    for file in (abandoned, in_work):
        file.write_bytes(b"half a picture")
    os.utime(abandoned, (1, 1))
    archive = ImageArchive(tmp_path, key, Retention(total_bytes=1000, days=1))
    kept = archive.add(np.zeros((9, 9), np.uint8))
    assert {path.name for path in tmp_path.iterdir()} == {"gone.png.sealed", in_work.name, kept["file"]}


def test_a_decision_that_cannot_be_written_down_is_not_given(gate, frames, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="no decision is given without its record"):
        gate.identify(frames["left"][2:])
    monkeypatch.undo()
    assert gate.identify(frames["left"][2:]).granted
    assert verify_trail(gate.audit.folder, anchor=gate.store.anchors).intact


def test_no_change_of_the_store_goes_without_a_record(gate, frames, setting_point):
    """The disk can fill up between the change and its record, so one is written before, or the change is not made."""
    in_the_way = gate.audit.folder / "audit-00000099.jsonl"
    people, generation = len(gate.store), gate.store.generation
    new = [("new", frames["left"][0])]
    changes = (
        lambda: gate.enrol("eve", new, limits=LOOSE),
        lambda: gate.delete("left"),
        lambda: gate.calibrated(setting_point, {}),
    )
    in_the_way.mkdir()
    for change in changes:
        with pytest.raises(InputError, match="audit trail"):
            change()
    assert (len(gate.store), gate.store.generation, gate.store.operating_point()) == (people, generation, None)
    in_the_way.rmdir()
    for change in changes:
        change()
    with pytest.raises(InputError, match="nobody is enrolled as 'left'"):
        gate.delete("left")
    told = [(record["type"], record.get("generation")) for record in records(gate)][-8:]
    assert told == [
        ("enrolment-begun", generation),
        ("enrolment", generation + 1),
        ("deletion-begun", generation + 1),
        ("deletion", generation + 2),
        ("calibration-begun", generation + 2),
        ("calibration", generation + 3),
        ("deletion-begun", generation + 3),
        ("deletion-failed", generation + 3),
    ]


@pytest.fixture
def setting_point(gate):
    return OperatingPoint(0.5, gate.store.setting.recognizer, gate.store.setting.purification)


def test_a_gate_that_cannot_end_its_trail_gives_back_the_rest(gate, monkeypatch):
    gate.audit.append("note", {})
    monkeypatch.setattr(gate.audit, "close", lambda: (_ for _ in ()).throw(InputError("the disk is gone")))
    with pytest.raises(InputError, match="the disk is gone"):
        gate.close()
    monkeypatch.undo()
    gate.audit.close()
    with pytest.raises(Exception, match="closed database"):
        len(gate.store)


def test_antibodies_and_residual_are_those_of_the_purification():
    with Purifier.load(seed=5) as purifier:
        faces = np.random.default_rng(0).integers(0, 256, (3, 112, 112), np.uint8)
        batch = purifier.purify_batch(faces, first_image=7)
        bits = purifier.antibodies(batch)
        assert set(np.unique(bits)) <= {0.0, 1.0}
        assert abs(bits.mean() - batch.probabilities.mean()) < 0.02
        np.testing.assert_array_equal(bits, purifier.antibodies(purifier.purify_batch(faces, first_image=7)))
        grey = (faces / np.float32(127.5) - 1).astype(np.float32)
        found = residual_energy(grey, bits, purifier.bundle.subspace)
        outside = grey - project_float(grey, bits, purifier.bundle.subspace)
        centred = grey.reshape(3, -1) - purifier.bundle.subspace.mean
        np.testing.assert_allclose(found, np.square(outside).sum((1, 2)) / np.square(centred).sum(1), rtol=1e-4)
        assert residual_energy(grey, np.zeros_like(bits), purifier.bundle.subspace) == pytest.approx(1)


def test_limits_of_evidence_stand_a_margin_beyond_clean_faces():
    clean = [Evidence(0.01 * (i % 100) / 100, 1 - 0.02 * (i % 100) / 100, 5) for i in range(1000)]
    assert evidence_limits(clean[:200], 0.01) is None
    residual, cosine = evidence_limits(clean, 0.1, margin=2)
    assert residual == pytest.approx(0.019, abs=3e-4)
    assert cosine == pytest.approx(1 - 0.038, abs=6e-4)
    point = OperatingPoint(0.3, "", "", residual_limit=residual, cosine_limit=cosine)
    assert not suspected(clean, point)
    attacked = Evidence(0.0, 0.5, 5)
    assert suspected([attacked, attacked, clean[0]], point)
    assert not suspected([attacked, clean[0], clean[0]], point)
    assert not suspected([attacked], None)


def test_a_purifier_undoes_an_attack_and_the_evidence_shows_it(shared_data, tmp_path, key):
    """PGD on a real recogniser: the attacked person is suspected, the clean one is not."""
    torch = pytest.importorskip("torch", reason="needs PyTorch to attack (pip install 'immunecam[train]')")
    from immunecam.runtime.gate.embedder import Embedder
    from immunecam.runtime.gate.observer import FaceObserver
    from immunecam.runtime.gate.recognizer import RecognizerSpec
    from immunecam.training.attacks import PGD, dodging
    from immunecam.training.recognizer import Recognizer

    model = shared_data / "recognizers" / "mobilefacenet_y1.onnx"
    (tmp_path / "r.onnx").symlink_to(model)
    (tmp_path / "r.toml").write_text(
        f'name = "y1"\n[model]\nfile = "r.onnx"\nsha256 = "{hashlib.sha256(model.read_bytes()).hexdigest()}"\n'
        '[input]\nwidth = 112\nheight = 112\nlayout = "NCHW"\ncolour = "BGR"\nrange = [0, 255]\n'
    )
    with zipfile.ZipFile(shared_data / "lfw" / "dev_112.zip") as archive:
        names = sorted(archive.namelist())[:120]
        faces = np.stack([cv2.imdecode(np.frombuffer(archive.read(n), np.uint8), cv2.IMREAD_GRAYSCALE) for n in names])
    recognizer = Recognizer.load(shared_data / "recognizers" / "mobilefacenet_y1.torchscript.pt")
    victim = torch.from_numpy(faces[:1]).float() / 127.5 - 1
    torch.manual_seed(0)
    with torch.no_grad():
        own = recognizer(victim)
    found = PGD(steps=10)(dodging(recognizer, own), victim, 16 / 255)
    attacked = ((found + 1) * 127.5).round().to(torch.uint8).numpy()
    embedder = Embedder(RecognizerSpec.load(tmp_path / "r.toml"), threads=1)
    observer = FaceObserver(embedder, face_finder(), Purifier.load(seed=1))
    clean = observer.observe(np.repeat(faces[..., None], 3, 3), faces).evidence
    limits = evidence_limits(clean, 0.05)
    assert limits is not None
    point = OperatingPoint(0.3, "", "", residual_limit=limits[0], cosine_limit=limits[1])
    found = observer.observe(np.repeat(attacked[..., None], 3, 3), attacked)
    assert all(suspected([one], point) for one in found.evidence)
    assert not any(suspected([one], point) for one in clean)
    # Purified, the face is its owner's again, which undefended it is not.
    assert (found.embeddings * own.numpy()).sum(1).min() > 0.3
    assert (observer.embedder.embed(attacked) * own.numpy()).sum(1).max() < 0.3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda crop, face: (crop // 8, face), "too dark"),
        (lambda crop, face: (255 - (255 - crop) // 12, face), "too bright"),
        (lambda crop, face: (crop // 32 + 120, face), "too little contrast"),
        (lambda crop, face: (cv2.GaussianBlur(crop, (0, 0), 4), face), "blurred"),
        (lambda crop, face: (np.where(crop > 128, 255, 0).astype(np.uint8), face), "white or black"),
        (lambda crop, face: (crop, moved(face, 2, 18, 0)), "turned to the side"),
        (lambda crop, face: (crop, moved(face, 2, 0, -25)), "tilted"),
        (lambda crop, face: (crop, moved(face, 1, 0, 60)), "leaning"),
        (lambda crop, face: (crop, Face(face.box, face.landmarks / 4, face.score)), "too small"),
        (lambda crop, face: (crop, Face(face.box, face.landmarks, 0.2)), "not surely a face"),
    ],
)
def test_poor_faces_are_told_why(frames, change, said):
    from immunecam.runtime.faces import TEMPLATE

    noise = np.random.default_rng(0).integers(0, 256, (112, 112), np.uint8)
    coarse, fine = (cv2.GaussianBlur(noise.astype(np.float32) - 127.5, (0, 0), sigma) for sigma in (12, 1.2))
    grey = np.clip(127 + 40 * coarse / coarse.std() + 12 * fine / fine.std(), 6, 249).astype(np.uint8)
    crop = np.repeat(grey[..., None], 3, 2)
    face = Face(np.array([0, 0, 112, 112], np.float32), TEMPLATE.astype(np.float32), 0.9)
    assert assess(crop, face, PROBE).good
    found = assess(*change(crop, face), PROBE)
    assert any(said in reason for reason in found.reasons), found


def moved(face, number, x, y):
    points = face.landmarks.copy()
    points[number] += (x, y)
    return Face(face.box, points, face.score)


@pytest.mark.parametrize(("min_frames", "shown", "used"), [(3, 4, 4), (3, 12, 5), (7, 12, 7), (20, 24, 20)])
def test_a_decision_rests_on_the_newest_faces_and_no_more_than_it_needs(opened, frames, min_frames, shown, used):
    with opened(min_frames=min_frames, purify=False) as gate:
        event = gate.identify([frames["left"][0]] * shown)
        assert (event.event, event.used, event.frames) == ("denied", used, shown)
        (watched, *_) = gate.watch([frames["left"][0]] * shown)
        assert (watched.event, watched.used) == ("denied", min_frames)


def test_tracks_follow_overlap_and_end_after_a_while():
    def seen(x):
        face = Face(np.array([x, 0, 100, 100], np.float32), np.zeros((5, 2), np.float32), 1.0)
        return Sighting(face, np.zeros((112, 112, 3), np.uint8), np.zeros((112, 112), np.float32))

    tracker = FaceTracker(max_missed=1, max_sightings=4)
    for step in range(6):
        assert tracker.update([seen(400 - 10 * step), seen(10 * step)]) == []
    assert [(track.number, track.frames, len(track.sightings)) for track in tracker.tracks] == [(1, 6, 4), (2, 6, 4)]
    assert tracker.tracks[1].sightings[-1].face.box[0] == 50
    assert tracker.update([seen(360)]) == []
    assert [track.number for track in tracker.update([seen(370)])] == [2]
    tracker.update([seen(900)])
    assert [track.number for track in tracker.tracks] == [1, 3]


def test_the_best_of_each_stretch_is_taken():
    scores = [0.1, 0.9, 0.2, 0.3, 0.8, 0.7]
    assert chosen_spread(scores, 3) == [1, 3, 4]
    assert chosen_spread(scores, 99) == list(range(6))
    assert chosen_spread(scores, 1) == [1]


def test_settings_out_of_range_are_refused(opened):
    for options, said in (
        ({"threshold": 2.0}, "from -1 to 1"),
        ({"min_frames": 0}, "1 face or more"),
        ({"purify": False, "purifier": object()}, "leave one of both out"),
    ):
        with pytest.raises(UsageError, match=said):
            opened(**options)
