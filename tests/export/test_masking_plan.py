"""TensorRT plans of masked faces, on stand-ins for 10.3, 10.16 and 11: no TensorRT is tested, and no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cryptography")

from small_masking import FREQUENCIES, KEY, small_export, small_recognizer  # noqa: E402

from immunecam.errors import InputError, UsageError  # noqa: E402
from immunecam.export.build_options import BuildOptions  # noqa: E402
from immunecam.export.card_graph import card_graph  # noqa: E402
from immunecam.export.plan_parity import run_graph  # noqa: E402
from immunecam.export.to_trt import check_bundle, export_plans  # noqa: E402
from immunecam.mask_key import MaskKey  # noqa: E402
from immunecam.runtime.bundle import Bundle, default_bundle  # noqa: E402
from immunecam.runtime.bundle_manifest import BundleManifest  # noqa: E402
from immunecam.runtime.bundle_masking import put_masking  # noqa: E402
from immunecam.runtime.bundle_parts import kept_parts  # noqa: E402
from immunecam.runtime.masking import FaceMask, MaskedEmbedder  # noqa: E402

SHAPE = (len(FREQUENCIES), 14, 14)


@pytest.fixture(scope="module")
def part():
    """Graphs and record, which take a while."""
    return small_export(small_recognizer())


@pytest.fixture
def door(stand_in, part, tmp_path) -> Bundle:
    """A small bundle with them."""
    exported, record = part
    return put_masking(stand_in.small_bundle(tmp_path / "a.immune").path, exported.graphs, record, KEY)


@pytest.fixture
def faces(stand_in, tmp_path) -> Path:
    return stand_in.crops(tmp_path / "faces", 3)


def crops(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, (count, 112, 112), np.uint8)


def embedder(bundle: Bundle, **settings) -> MaskedEmbedder:
    return MaskedEmbedder(FaceMask(bundle, KEY, threads=1, **settings), threads=1)


def test_the_check_looks_at_masks_too(world, door):
    for precision, kind in (("fp32", "float32"), ("fp16", "float16"), ("int8", "float16")):
        checks = check_bundle(door.path, BuildOptions(precision, (1, 2, 4)))
        assert {"mask", "recognizer"} < set(checks)
        assert "picture" not in checks  # no gate runs it
        for role in ("mask", "recognizer"):
            assert checks[role].unsupported == checks[role].unknown_shapes == ()
        assert {row.types for row in checks["recognizer"].operators if row.operator == "Conv"} == {kind}
    assert not {"mask", "recognizer"} & set(check_bundle(default_bundle(), BuildOptions("fp32")))


def test_half_precision_sees_what_single_does(world, door):
    single, half = (card_graph(door, "recognizer", precision) for precision in ("fp32", "fp16"))
    assert len(half) < 0.75 * len(single)
    channels = np.random.default_rng(0).standard_normal((5, *SHAPE)).astype(np.float32)
    one, other = (run_graph(graph, "embedding")({"channels": channels}) for graph in (single, half))
    assert ((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min() > 0.999


def test_a_card_recognises_as_a_cpu_does(world, door, faces):
    stored, exported = export_plans(door.path, BuildOptions("fp16", (1, 2, 4)), faces=faces)
    assert [made.report.role for made in exported] == ["analyzer", "restorer", "mask", "recognizer"]
    assert [made.plan_parity.unit for made in exported[2:]] == [
        "standard deviation of a channel",
        "component of a unit embedding",
    ]
    record = stored.manifest.masking
    assert {plan.role: plan.key.precision for plan in record.plans} == {"mask": "fp16", "recognizer": "fp16"}
    for plan in record.plans:
        assert plan.key.onnx_sha256 == stored.manifest.files[record.graphs[plan.role]].sha256
    # Versions that know of no such plan read the bundle as before.
    assert {entry.role for entry in stored.manifest.plans} == {"analyzer", "restorer"}
    assert set(kept_parts(door.path)[1]) == {*record.graphs.values(), *(plan.file for plan in record.plans)}
    on_cpu, on_card = embedder(stored), embedder(stored, provider="tensorrt")
    assert on_card.spec == on_cpu.spec  # who was enrolled by one is known to the other
    for count in (1, 3, 11):
        wanted = on_cpu.embed(crops(count))
        assert (on_card.embed(crops(count)) * wanted).sum(1).min() > 0.999
    assert on_card.embed(crops(0)).shape == (0, 16)
    assert {name for launch in world.launches for name in launch[2]} >= {"faces", "channels"}
    held = len(world.contexts)
    on_card.close()
    on_card.close()
    assert len(world.contexts) < held
    with pytest.raises(UsageError, match="plan of the mask was closed"):
        on_card.embed(crops(1))


def test_plans_are_verified_and_belong_to_their_part(world, door, part, faces):
    stored, _ = export_plans(door.path, BuildOptions("fp32", (1, 2, 4)), faces=faces)
    with pytest.raises(InputError, match="was made with another masking key"):
        FaceMask(stored, MaskKey(bytes(range(1, 33))), provider="tensorrt")
    content = json.loads(stored.manifest_bytes)
    content["masking"]["plans"][0]["role"] = "picture"
    with pytest.raises(InputError, match=r"masking.plans\[0\].role is 'picture', but it must be one of mask, recog"):
        BundleManifest.from_bytes(json.dumps(content).encode(), "m")
    content["masking"]["plans"][0] |= {"role": "mask", "file": "no.plan"}
    with pytest.raises(InputError, match=r"masking.plans\[0\].file is 'no.plan'"):
        BundleManifest.from_bytes(json.dumps(content).encode(), "m")
    plan = door.path / stored.manifest.masking.plans[1].file
    data = plan.read_bytes()
    plan.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match="was changed or damaged"):
        Bundle.load(door.path)
    plan.write_bytes(data)
    exported, record = part
    again = put_masking(door.path, exported.graphs, record, KEY)
    assert again.manifest.masking.plans == ()
    assert not plan.exists()
    with pytest.raises(InputError, match=r"no TensorRT plan of its mask .*: run 'immunecam export .* --target"):
        embedder(again, provider="tensorrt")
    with pytest.raises(UsageError, match="the mask runs on cpu or tensorrt, but 'cuda' was asked for"):
        embedder(again, provider="cuda")
