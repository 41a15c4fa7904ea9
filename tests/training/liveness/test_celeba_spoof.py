"""CelebA-Spoof's format, on a made-up sample."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from small_celeba_spoof import celeba_spoof

from immunecam.errors import InputError
from immunecam.training.liveness import load_celeba_spoof


@pytest.mark.parametrize("entries", [43, 44])
def test_labels_and_boxes(tmp_path, entries):
    labels = celeba_spoof(tmp_path, entries=entries)
    faces = load_celeba_spoof(tmp_path, side=64)
    assert len(faces) == 8
    assert not faces.synthetic
    assert faces.tasks == ("attributes", "spoof_type", "illumination")
    for number, name in enumerate(sorted(labels)):
        values = labels[name]
        assert faces.labels.attributes[number].tolist() == values[:40]
        assert int(faces.labels.spoof_type[number]) == values[40]
        assert int(faces.labels.illumination[number]) == values[41]
        assert int(faces.labels.live[number]) == values[-1]
    # The box is in the middle, upright, in RGB, with a margin around it.
    assert faces.pixels[0, :, 32, 32].tolist() == pytest.approx([200, 100, 50], abs=3)
    assert faces.pixels[0, :, 32, 3].tolist() == pytest.approx([10, 10, 10], abs=3)
    column = faces.pixels[0, 0, :, 32] > 100
    assert int(column.sum()) == pytest.approx(64 / 1.3, abs=3)


def test_a_draw_is_balanced_and_seeded(tmp_path):
    celeba_spoof(tmp_path)
    four = load_celeba_spoof(tmp_path, side=64, limit=4)
    assert four.labels.live.bincount().tolist() == [2, 2]
    again = load_celeba_spoof(tmp_path, side=64, limit=4)
    assert torch.equal(four.labels.spoof_type, again.labels.spoof_type)
    with pytest.raises(InputError, match="1 faces of CelebA-Spoof were asked for"):
        load_celeba_spoof(tmp_path, side=64, limit=1)


def test_maps_go_with_the_convention(tmp_path):
    labels = celeba_spoof(tmp_path)
    for name in labels:
        kind = "depth" if "/live/" in name else "reflection"
        file = (tmp_path / "maps" / name).with_name(f"{name[-10:-4]}_{kind}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((28, 28, 3), (0, 51, 102), np.uint8))
    faces = load_celeba_spoof(tmp_path, side=64, maps=tmp_path / "maps")
    spoof = faces.labels.live == 1
    assert float(faces.labels.depth[spoof].sum()) == float(faces.labels.reflection[~spoof].sum()) == 0
    assert faces.labels.depth[~spoof].unique().tolist() == pytest.approx([0.4])
    assert faces.labels.reflection[spoof][0, :, 0, 0].tolist() == pytest.approx([0.4, 0.2, 0])
    file.unlink()
    with pytest.raises(InputError, match=r"map .* is missing or no picture: add it, or leave the maps out"):
        load_celeba_spoof(tmp_path, side=64, maps=tmp_path / "maps")


def _break(labels: dict[str, list[int]], name: str, place: int, value: object) -> None:
    labels[name] = [*labels[name][:place], value, *labels[name][place + 1 :]]  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (40, 11, "spoof type 11"),
        (41, 9, "illumination 9"),
        (43, 1, "1 and a type above 0 in a folder spoof"),
        (40, 3, "is labelled 0 with spoof type 3"),
        (5, "yes", "43 or 44 whole numbers are wanted"),
    ],
)
def test_labels_that_are_wrong(tmp_path, place, value, said):
    labels = celeba_spoof(tmp_path)
    _break(labels, "Data/train/100/live/000000.png", place, value)
    (tmp_path / "metas/intra_test/train_label.json").write_text(json.dumps(labels))
    with pytest.raises(InputError, match=said):
        load_celeba_spoof(tmp_path, side=64)


def test_folders_that_are_wrong(tmp_path):
    with pytest.raises(InputError, match="give the folder of CelebA-Spoof that holds metas/"):
        load_celeba_spoof(tmp_path)
    labels = celeba_spoof(tmp_path)
    file = tmp_path / "metas/intra_test/train_label.json"
    with pytest.raises(InputError, match="32 px wide"):
        load_celeba_spoof(tmp_path, side=32)
    file.write_text("[]")
    with pytest.raises(InputError, match="name no pictures"):
        load_celeba_spoof(tmp_path)
    file.write_text(json.dumps({"/etc/live/passwd": labels["Data/train/100/live/000000.png"]}))
    with pytest.raises(InputError, match="is no path inside the set"):
        load_celeba_spoof(tmp_path)
    file.write_text(json.dumps({"Data/train/100/live/000000.png": [0, 1]}))
    with pytest.raises(InputError, match="has 2 labels: 43 or 44"):
        load_celeba_spoof(tmp_path)
    file.write_text(json.dumps(labels))
    box = tmp_path / "Data/train/100/live/000000_BB.txt"
    for text, said in (("1 2 3", "x, y, width, height are wanted"), ("1 2 0 5 1", "no area")):
        box.write_text(text)
        with pytest.raises(InputError, match=said):
            load_celeba_spoof(tmp_path, side=64)
    (tmp_path / "Data/train/100/live/000000.png").write_text("no picture")
    with pytest.raises(InputError, match="is not a readable picture"):
        load_celeba_spoof(tmp_path, side=64)
    (tmp_path / "Data/train/100/live/000000.png").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_celeba_spoof(tmp_path, side=64)
