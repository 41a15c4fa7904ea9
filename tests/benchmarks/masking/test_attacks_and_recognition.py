"""Recognition and recovery of masked faces, measured on small sets that are laid out as LFW is."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_lfw import write_lfw  # noqa: E402

from immunecam.benchmarks.evaluation.pairs import Pairs  # noqa: E402
from immunecam.benchmarks.masking.evaluation import evaluate  # noqa: E402
from immunecam.benchmarks.masking.privacy import attack, write_sheet  # noqa: E402
from immunecam.benchmarks.masking.recognition import (  # noqa: E402
    cosines,
    held_out_folds,
    measure,
    people_of_fold,
)
from immunecam.errors import InputError  # noqa: E402
from immunecam.mask_key import MaskKey  # noqa: E402
from immunecam.models.frequency import FrequencyMask, channel_statistics  # noqa: E402
from immunecam.models.mask_spec import MaskSpec  # noqa: E402
from immunecam.models.masked_recognizer import MaskedRecognizer  # noqa: E402
from immunecam.models.mobile_face import MobileFace  # noqa: E402
from immunecam.runtime.bundle import Bundle, default_bundle  # noqa: E402
from immunecam.training.attacks.recovery_trainer import RecoveryConfig  # noqa: E402
from immunecam.training.faces import FaceSet, from_uint8  # noqa: E402
from immunecam.training.masking import MaskFile, MaskingConfig, MaskingTrainer  # noqa: E402
from immunecam.training.masking.people import without  # noqa: E402
from immunecam.training.recognizer import Recognizer  # noqa: E402

KEY = MaskKey(bytes(range(32)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_lfw(tmp_path_factory.mktemp("data"), {6: "ac", 7: "cd", 8: "ef"})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of training, nobody of fold 7 on its faces."""
    config = MaskingConfig(positions=14, keep=20, width=0.125, size=8, steps=1, batch=6, gate_steps=1, distilled=0.0)
    folder = tmp_path_factory.mktemp("runs") / "a.run"
    held_out = people_of_fold(data / "lfw" / "pairs.csv", 7)
    faces = without(FaceSet.load(data / "lfw" / "train_112.zip"), held_out)
    MaskingTrainer(config, faces, None, KEY, folder, held_out=held_out).run()
    return folder


@pytest.fixture
def judge() -> Recognizer:
    """Sees the face's coarse structure, and nothing is enrolled with it."""
    network = torch.nn.Sequential(torch.nn.AvgPool2d(14), torch.nn.Flatten())
    return Recognizer(network, "coarse")


def test_thresholds_come_from_people_who_were_held_out(data, run):
    table = data / "lfw" / "pairs.csv"
    assert people_of_fold(table, 7) == {"c", "d"}
    assert held_out_folds(table, {"c", "d"}) == [7]  # of fold 6 one person was trained on
    (row,) = measure([run], KEY, data)
    assert row["pairs"] == 6
    assert row["run"] == "a.run"
    assert row["channels"] == 20
    assert row["accuracy_percent"] == (row["same_accepted_percent"] + row["different_rejected_percent"]) / 2
    with pytest.raises(InputError, match="has no pairs of fold 9"):
        people_of_fold(table, 9)
    with pytest.raises(InputError, match="made with another masking key"):
        measure([run], MaskKey(bytes(range(1, 33))), data)


def test_recognition_behind_a_purifier(data, run, tmp_path):
    """Threshold and pairs are of purified faces; both ways stand in one report."""
    bundle = Bundle.load(default_bundle())
    (bare,), (behind,) = (measure([run], KEY, data, bundle=one) for one in (None, bundle))
    assert (bare["purified_by"], behind["purified_by"]) == (None, "edge")
    assert bare["threshold_cosine"] != behind["threshold_cosine"]
    rows = evaluate([run], KEY, data, tmp_path / "work", bundle=bundle)["recognition"]
    assert [row["purified_by"] for row in rows] == [None, "edge"]
    assert rows[0].items() >= bare.items()
    assert rows[1].items() >= behind.items()
    assert evaluate([run], KEY, data, tmp_path / "work", bundle=bundle)["recognition"] == rows


def test_a_pair_is_compared_in_its_own_order(data):
    faces = FaceSet.load(data / "lfw" / "dev_112.zip")
    mean, std = channel_statistics(faces.batches(6), 14)
    torch.manual_seed(0)
    network = MobileFace(4, 14, 8, 0.125)
    recognizer = MaskedRecognizer(FrequencyMask(MaskSpec.of([1, 2, 8, 9], 14), mean, std), network).eval()
    pixels = faces.pixels.numpy()
    pairs = Pairs(pixels[:2], pixels[2:4], np.array([True, False]))
    found = cosines(recognizer, pairs, KEY)
    orders = torch.tensor([KEY.enrolment_order(4, n) for n in range(2)])
    with torch.no_grad():
        left, right = (recognizer(from_uint8(faces.pixels[part]), orders) for part in (slice(0, 2), slice(2, 4)))
    assert np.allclose(found, (left * right).sum(1).numpy(), atol=1e-6)
    assert not np.allclose(found, cosines(recognizer, pairs), atol=1e-6)


def test_what_is_seen_of_a_mask(data, judge, tmp_path):
    faces = FaceSet.load(data / "lfw" / "train_112.zip")
    mean, std = channel_statistics(faces.batches(12), 28)
    MaskFile(MaskSpec.of(range(1, 37), 28), mean, std, KEY.check_value).save(tmp_path / "mask.safetensors")
    guess, solved, unordered = (
        attack(tmp_path, KEY, data, judge, method, per_enrolment=own, faces=12, people=2)
        for method, own in (("mean", False), ("linear", False), ("linear", True))
    )
    assert solved.row["people"] == 2
    assert solved.row["attacker_faces"] == 12
    # A mask in one order for all is affine and gives the face away; in orders that nobody knows it does not so easily.
    assert solved.row["psnr_db"] > guess.row["psnr_db"] + 3
    assert solved.row["psnr_db"] > unordered.row["psnr_db"] + 3
    once, often = (
        attack(tmp_path, KEY, data, judge, "linear", k=3, encodings=count, faces=12, people=2) for count in (1, 60)
    )
    assert (often.row["mixes_of"], often.row["encodings"]) == (3, 60)
    assert once.row["psnr_db"] + 2 < often.row["psnr_db"] < solved.row["psnr_db"] + 1
    write_sheet(solved, tmp_path / "sheet.png")
    assert cv2.imread(str(tmp_path / "sheet.png"), 0).shape == (224, 224)


def test_orders_of_each_face_are_looked_for(data, judge, tmp_path):
    """People who have something in common, as faces do, which these drawn ones else do not."""
    alike = shutil.copytree(data, tmp_path / "alike")
    common = cv2.imread(str(data / "lfw" / "dev_112.zip" / "f" / "0.png"), 0)
    for path in alike.rglob("*.png"):
        cv2.imwrite(str(path), cv2.addWeighted(common, 0.9, cv2.imread(str(path), 0), 0.1, 0))
    faces = FaceSet.load(alike / "lfw" / "train_112.zip")
    mean, std = channel_statistics(faces.batches(12), 14)
    spec = MaskSpec.of([1, 2, 3, 8, 9, 10, 16, 17, 24], 14)
    MaskFile(spec, mean, std, KEY.check_value).save(tmp_path / "mask.safetensors")
    unknown, sought = (
        attack(tmp_path, KEY, alike, judge, "linear", per_enrolment=True, sought=one, faces=12, people=2).row
        for one in (False, True)
    )
    assert (unknown["orders"], sought["orders"]) == ("per enrolment", "per enrolment, sought")
    assert sought["psnr_db"] > unknown["psnr_db"] + 3


def test_a_network_sees_it_too(data, judge, tmp_path):
    faces = FaceSet.load(data / "lfw" / "train_112.zip")
    mean, std = channel_statistics(faces.batches(12), 28)
    MaskFile(MaskSpec.of(range(1, 37), 28), mean, std, KEY.check_value).save(tmp_path / "mask.safetensors")
    config = RecoveryConfig(widths=(8, 8), steps=2, batch=2)
    found = attack(tmp_path, KEY, data, judge, "network", people=2, work=tmp_path / "work", config=config)
    assert found.row["attack"] == "network"
    assert (tmp_path / "work" / "checkpoint.safetensors").is_file()
    with pytest.raises(InputError, match="already holds a run"):
        attack(tmp_path, KEY, data, judge, "network", people=2, work=tmp_path / "work", config=config)


def test_what_must_raise(data, judge, tmp_path):
    with pytest.raises(ValueError, match="one of mean, linear, network"):
        attack(tmp_path, KEY, data, judge, "guess")
    with pytest.raises(ValueError, match="in one order"):
        attack(tmp_path, KEY, data, judge, "linear", k=2, per_enrolment=True)
    with pytest.raises(ValueError, match="orders are sought for linear recovery"):
        attack(tmp_path, KEY, data, judge, "linear", sought=True)
    with pytest.raises(InputError, match="is no mask"):
        attack(tmp_path, KEY, data, judge, "linear")
