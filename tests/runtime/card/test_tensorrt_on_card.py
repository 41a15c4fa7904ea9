"""From a face to a purified face by TensorRT plans and our kernels, both on a CPU: no TensorRT is tested here, no GPU.

The stand-in for TensorRT runs the networks, `cuda_on_cpu` the kernels' sources, on the same lazy streams and in the
same graphs; everything between them is the product's own.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime import Purifier
from immunecam.runtime.bundle import Bundle, default_bundle

pytest.importorskip("onnx", reason="needs onnx to build graphs (pip install 'immunecam[train]')")

from immunecam.cli import main
from immunecam.export.build_options import BuildOptions
from immunecam.export.to_trt import export_plans

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
Pictures = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def compiled(world: Any, stand_in: ModuleType, tmp_path: Path) -> Bundle:
    """A small bundle with plans for 1 to 4 faces."""
    bundle = stand_in.small_bundle(tmp_path / "a.immune")
    faces = stand_in.crops(tmp_path / "faces", 2)
    stored, _ = export_plans(bundle.path, BuildOptions("fp32", (1, 2, 4)), faces=faces)
    world.launches.clear()
    world.executed = 0
    return stored


def agree(found: Any, wanted: Any) -> None:
    difference = np.abs(found.purified.astype(int) - wanted.purified)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert np.abs(found.probabilities - wanted.probabilities).max() < 1e-6
    assert found.first_image == wanted.first_image


@pytest.mark.parametrize("mode", ["sample", "threshold", "expected"])
def test_it_purifies_as_the_cpu_does(world: Any, compiled: Bundle, pictures: Pictures, mode: str) -> None:
    """Any number of faces; what is longer than the plans take is split, and graphs are replayed."""
    cpu = Purifier.load(compiled, provider="cpu", mutation=mode, seed=5)
    with Purifier.load(compiled, provider="tensorrt", mutation=mode, seed=5) as card:
        assert (card.provider, card.k) == ("tensorrt", 16)
        for seed, n in enumerate((1, 3, 3, 3, 7)):
            faces = pictures(n, seed)
            agree(card.purify_batch(faces), cpu.purify_batch(faces))
    assert not world.contexts


def test_a_graph_repeats_the_networks_too(world: Any, compiled: Bundle, pictures: Pictures) -> None:
    with Purifier.load(compiled, provider="tensorrt", seed=1) as card:
        asked, done = [], []
        for seed in range(4):
            before = len(world.launches), world.executed
            card.purify(pictures(2, seed))
            asked.append(len(world.launches) - before[0])
            done.append(world.executed - before[1])
    # Run, then captured, then replayed: two networks each time, of which the last calls ask for none.
    assert asked == [4, 0, 0, 0]
    assert done == [2, 2, 2, 2]


def test_threads_share_a_purifier(compiled: Bundle, pictures: Pictures) -> None:
    cpu = Purifier.load(compiled, provider="cpu", mutation="threshold")
    faces = [pictures(1 + number % 4, number) for number in range(8)]
    with Purifier.load(compiled, provider="tensorrt", mutation="threshold") as card:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(card.purify, faces))
        for purified, batch in zip(found, faces, strict=True):
            assert np.abs(purified.astype(int) - cpu.purify(batch)).max() <= 1


def test_auto_takes_it_and_says_so(
    world: Any, compiled: Bundle, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), Purifier.load(compiled) as card:
        assert card.provider == "tensorrt"
        assert card.purify(pictures(1)).shape == (1, 112, 112)
    assert "Provider tensorrt for the bundle a on NVIDIA H200: the first of tensorrt, cuda and cpu" in caplog.text
    caplog.clear()
    world.move(gpu="Orin", capability=(8, 7))
    with caplog.at_level(logging.INFO):
        assert Purifier.load(compiled).provider == "cpu"
    assert "has no TensorRT plan of its analyzer for this machine" in caplog.text


def test_a_launch_that_fails_leaves_it_usable(world: Any, compiled: Bundle, pictures: Pictures) -> None:
    faces = pictures(3)
    wanted = Purifier.load(compiled, provider="cpu", seed=1).purify_batch(faces, first_image=7)
    with Purifier.load(compiled, provider="tensorrt", seed=1) as card:
        world.on_execute = lambda: False
        with pytest.raises(InputError, match="does not find the device memory it needs"):
            card.purify(faces)
        world.on_execute = None
        agree(card.purify_batch(faces, first_image=7), wanted)


def test_the_command(compiled: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`immunecam purify` of a frame with real faces, by the graphs that frames have."""
    frame, out, report = tmp_path / "frame.png", tmp_path / "out.png", tmp_path / "r.json"
    video = cv2.VideoCapture(str(default_bundle().parent / "sample.mp4"))
    cv2.imwrite(str(frame), cv2.resize(video.read()[1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    given = ["purify", str(frame), "--bundle", str(compiled.path), "--mutation", "threshold"]
    plain = tmp_path / "cpu.png"
    for more in (
        ["-o", str(out), "--provider", "tensorrt", "--json", str(report)],
        ["-o", str(plain), "--provider", "cpu"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*given, *more])
        assert ended.value.code == 0
    capsys.readouterr()
    told = json.loads(report.read_text())
    assert told["provider"] == "tensorrt"
    before, found, wanted = (cv2.imread(str(path)).astype(int) for path in (frame, out, plain))
    assert np.abs(found - before).mean() > 1  # faces are there, and were changed
    assert np.abs(found - wanted).mean() < 0.1
