"""The masking part of a bundle: put in, read back, and used, by its key alone."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx", reason="needs onnx (pip install 'immunecam[train]')")
pytest.importorskip("cryptography")

from small_gate import write_people  # noqa: E402
from small_liveness import small_graph, small_record  # noqa: E402
from small_masking import (  # noqa: E402
    FREQUENCIES,
    GATE_KEY,
    KEY,
    bundle_with_masking,
    small_export,
    small_faces,
    small_recognizer,
)

from immunecam.errors import InputError, UsageError  # noqa: E402
from immunecam.mask_key import MaskKey  # noqa: E402
from immunecam.runtime.bundle import Bundle, default_bundle  # noqa: E402
from immunecam.runtime.bundle_liveness import put_liveness  # noqa: E402
from immunecam.runtime.bundle_manifest import BundleManifest  # noqa: E402
from immunecam.runtime.bundle_masking import put_masking  # noqa: E402
from immunecam.runtime.bundle_writer import write_bundle  # noqa: E402
from immunecam.runtime.frames import FrameSource  # noqa: E402
from immunecam.runtime.gate.access_gate import AccessGate  # noqa: E402
from immunecam.runtime.masking import FaceMask, MaskedEmbedder  # noqa: E402
from immunecam.runtime.masking_sheet import kept_energy, masking_sheet  # noqa: E402
from immunecam.runtime.trust import PrivateKey, Trust  # noqa: E402


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_with_masking(tmp_path_factory.mktemp("door"))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.asarray(((small_faces() + 1) * 127.5).round(), np.uint8)


@pytest.fixture(scope="module")
def others():
    """Graphs and record of another mask, which take a while."""
    return small_export(small_recognizer(28, unmasking=False))


def test_a_device_masks_and_sees_as_training_does(door, pixels):
    embedder = MaskedEmbedder.load(door, KEY, threads=1)
    recognizer = small_recognizer()
    with torch.no_grad():
        faces = torch.from_numpy(pixels).float() / 127.5 - 1
        wanted = recognizer.channels(faces)
        seen = recognizer.embed(wanted).numpy()
    assert np.allclose(embedder.mask.channels(pixels), wanted.numpy(), atol=1e-3)
    found = embedder.embed(pixels)
    assert np.allclose(found, seen, atol=1e-4)
    assert np.allclose(embedder.embed(np.repeat(pixels[..., None], 3, 3)), found, atol=1e-4)
    assert embedder.embed(pixels[:0]).shape == (0, 16)
    assert embedder.mask.channels(pixels).shape == (6, len(FREQUENCIES), 14, 14)


def test_what_is_seen_with_the_key_and_without(door, pixels):
    mask = FaceMask.load(door, KEY)
    with_key, without = (mask.picture(part(pixels)) for part in (mask.open_channels, mask.channels))
    assert with_key.shape == without.shape == pixels.shape

    def alike(picture):
        return np.corrcoef(picture.ravel().astype(float), pixels.ravel().astype(float))[0, 1]

    assert alike(with_key) > alike(without) + 0.1
    assert 0 < kept_energy(mask, pixels[0]) < 1
    sheet = masking_sheet(mask, pixels[0], pixels[0])
    assert sheet.dtype == np.uint8
    assert (sheet[:112, :112] == pixels[0]).all()


def test_put_in_signed_and_replaced(door, others, tmp_path):
    path = tmp_path / "door.immune"
    shutil.copytree(door, path)
    before = Bundle.load(path)
    assert before.manifest.masking.frequencies == FREQUENCIES
    assert before.manifest.masking.channels == 6
    exported, record = others
    private = PrivateKey.generate()
    after = put_masking(path, exported.graphs, record, KEY, sign=private)
    assert after.manifest.masking.positions == 28
    gone = set(before.manifest.masking.graphs.values())
    assert not gone & set(after.manifest.files)
    assert not any((path / name).exists() for name in gone)
    assert after.manifest.graphs == before.manifest.graphs
    Bundle.load(path, trust=Trust((private.public,)))
    with pytest.raises(UsageError, match="is signed and would not be any more"):
        put_masking(path, exported.graphs, record, KEY)
    file = path / after.manifest.masking.graphs["recognizer"]
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="was changed or damaged"):
        MaskedEmbedder.load(path, KEY)


def rewritten(path: Path, **settings: object) -> Bundle:
    """The installed bundle written over what lies there, as an export does."""
    source = Bundle.load(default_bundle())
    manifest = source.manifest
    parts = {"kind": manifest.kind, "k": manifest.k, "graphs": manifest.graphs, "precision": manifest.precision}
    settings = {"files": source.files, "overwrite": True, **settings}
    return write_bundle(path, **parts, **settings)  # type: ignore[arg-type]


def test_a_bundle_that_is_replaced_hands_all_its_parts_on(door, pixels, tmp_path):
    path = tmp_path / "door.immune"
    shutil.copytree(door, path)
    put_liveness(path, small_graph(), small_record())
    before = Bundle.load(path)
    kept = rewritten(path)
    assert set(kept.manifest.parts) == {"liveness", "masking"}
    assert kept.manifest.parts == before.manifest.parts
    wanted = MaskedEmbedder.load(door, KEY, threads=1).embed(pixels)
    assert np.array_equal(MaskedEmbedder(FaceMask(kept, KEY, threads=1), threads=1).embed(pixels), wanted)
    # A bundle that brings one part has the other all the same.
    own = dataclasses.replace(kept.manifest.liveness, threshold=0.7)
    network = {own.file: kept.files[own.file]}
    brought = rewritten(path, files={**Bundle.load(default_bundle()).files, **network}, parts={"liveness": own})
    assert brought.manifest.liveness.threshold == 0.7
    assert brought.manifest.masking == before.manifest.masking
    (path / before.manifest.masking.graphs["mask"]).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"masking part's file .* cannot be kept .*`immunecam export --drop-masking`"):
        rewritten(path)
    dropped = rewritten(path, drop_parts=["masking"])
    assert set(dropped.manifest.parts) == {"liveness"}
    assert not set(before.manifest.masking.files) & set(dropped.files)


def test_a_graph_that_does_not_run_changes_nothing(door, others, tmp_path):
    path = tmp_path / "door.immune"
    shutil.copytree(door, path)
    raw = (path / "manifest.json").read_bytes()
    exported, record = small_export(small_recognizer())
    with pytest.raises(InputError, match="is not an ONNX model"):
        put_masking(path, {**exported.graphs, "recognizer": b"nothing"}, record, KEY)
    with pytest.raises(InputError, match="a masking part has the graphs mask, picture, recognizer, got mask"):
        put_masking(path, {"mask": exported.graphs["mask"]}, record, KEY)
    # A recogniser of other channels than the mask's, by number and by size.
    with pytest.raises(InputError, match=r"the recognizer's input 'channels' is .* 28, 28\], but it must .* 14, 14\]"):
        put_masking(path, {**exported.graphs, "recognizer": others[0].graphs["recognizer"]}, record, KEY)
    fewer = dataclasses.replace(record, frequencies=FREQUENCIES[:-1])
    with pytest.raises(InputError, match=r"the picture's input 'channels' is .* 6, 14, 14\], but it must .* 5, 14"):
        put_masking(path, exported.graphs, fewer, KEY)
    assert (path / "manifest.json").read_bytes() == raw


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("graphs", {"mask": "a.onnx"}, "a file for each of mask, picture, recognizer"),
        ("frequencies", [0, 1], "different numbers of 1 to 63"),
        ("frequencies", [2, 1], "ascending"),
        ("positions", 15, "one of 14, 28, 56, 112"),
        ("size", True, "from 8 to 8192"),
        ("key_check", "AB", "32 lower-case hexadecimal digits"),
        ("parity", 1, "an object"),
    ],
)
def test_a_manifest_that_says_something_else(door, field, value, said):
    content = json.loads((door / "manifest.json").read_text())
    content["masking"][field] = value
    with pytest.raises(InputError, match=rf"masking\.{field} is .*{said}"):
        BundleManifest.from_bytes(json.dumps(content).encode(), "It")


def test_wrong_keys_and_faces(door, pixels):
    with pytest.raises(InputError, match="has no mask: put one in by"):
        FaceMask.load(default_bundle(), KEY)
    with pytest.raises(InputError, match="was made with another masking key"):
        FaceMask.load(door, MaskKey(bytes(range(1, 33))))
    mask = FaceMask.load(door, KEY)
    for wrong in (pixels.astype(np.float32), pixels[:, :100], pixels[0], "face"):
        with pytest.raises(InputError, match="the faces to mask are"):
            mask.channels(wrong)


def test_a_gate_that_stores_no_visible_face(door, tmp_path):
    people = write_people(tmp_path / "people")

    def frames(*names):
        for name in names:
            with FrameSource.open(str(people / name)) as source:
                yield name, next(iter(source)).image

    def opened(**more):
        masked = MaskedEmbedder.load(door, KEY, threads=1)
        return AccessGate.open(tmp_path / "door.gate", GATE_KEY, masked, threshold=0.5, min_frames=1, **more)

    with opened(create=True) as gate:
        assert gate.enrol("ann", frames("ann/0.png", "ann/1.png")).added == 2
        event = gate.verify("ann", [image for _, image in frames("ann/2.png")])
        assert event.granted
        assert gate.observer.purifier is not None  # what is masked was purified
    with pytest.raises(UsageError, match="no visible one is stored"):
        opened(save_images=True)
    stored = b"".join(
        path.read_bytes() for path in tmp_path.rglob("*") if "people" not in path.parts and path.is_file()
    )
    assert b"PNG" not in stored
    assert b"JFIF" not in stored
    with pytest.raises(InputError, match="recogniser"):  # templates of masked faces are no other recogniser's
        from small_gate import write_recognizer

        AccessGate.open(tmp_path / "door.gate", GATE_KEY, write_recognizer(tmp_path))
