"""Graphs of masked faces through the exporter to TensorRT, on the stand-in: no TensorRT and no GPU is tested here."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("cryptography")

from rich.console import Console  # noqa: E402
from small_masking import FREQUENCIES, bundle_with_masking  # noqa: E402

from immunecam.export.build_options import BuildOptions  # noqa: E402
from immunecam.export.card_graph import masking_card_graphs  # noqa: E402
from immunecam.export.plan_build import build_plan  # noqa: E402
from immunecam.export.plan_parity import run_graph  # noqa: E402
from immunecam.export.to_trt import check_bundle  # noqa: E402
from immunecam.runtime.bundle import Bundle, default_bundle  # noqa: E402

SHAPE = (len(FREQUENCIES), 14, 14)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_with_masking(tmp_path_factory.mktemp("door"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_check_looks_at_masks_too(door, precision):
    checks = check_bundle(door, BuildOptions(precision, (1, 2, 4)))
    masking = {role: check for role, check in checks.items() if role.startswith("masking ")}
    assert sorted(masking) == ["masking mask", "masking picture", "masking recognizer"]
    for check in masking.values():
        assert check.unsupported == ()
        assert check.unknown_shapes == ()
    kinds = {row.types for row in masking["masking recognizer"].operators if row.operator == "Conv"}
    assert kinds == {"float16" if precision == "fp16" else "float32"}
    assert not any(role.startswith("masking") for role in check_bundle(default_bundle(), BuildOptions("fp32")))


def test_half_precision_sees_what_single_does(door):
    bundle = Bundle.load(door)
    single, half = (masking_card_graphs(bundle, precision)["recognizer"] for precision in ("fp32", "fp16"))
    assert len(half) < 0.75 * len(single)
    channels = np.random.default_rng(0).standard_normal((5, *SHAPE)).astype(np.float32)
    one, other = (run_graph(graph, "embedding")({"channels": channels}) for graph in (single, half))
    assert ((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min() > 0.999


def test_the_recogniser_compiles(world, door):
    graph = masking_card_graphs(Bundle.load(door), "fp16")["recognizer"]
    plan = build_plan(
        graph,
        {"channels": SHAPE},
        BuildOptions("fp16", (1, 2, 4)),
        name="the masked recogniser",
        timings=None,
        console=Console(file=io.StringIO()),
    )
    from tensorrt_stand_in.plan import read_plan

    assert read_plan(plan)[1] == graph
    (profile,) = world.built[-1]["profiles"]
    assert profile == {"channels": ((1, *SHAPE), (2, *SHAPE), (4, *SHAPE))}
