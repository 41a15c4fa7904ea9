"""The extras of the package, and what messages and documents say of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from immunecam.kernels.cuda.card import OLDEST_CORE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def extras():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_every_extra_that_is_named_is_there(extras):
    folders = ("benchmarks", "docs", "examples", "export", "immunecam", "kernels", "runtime", "tests", "training")
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    files += [path for folder in folders for kind in ("*.py", "*.md") for path in (ROOT / folder).rglob(kind)]
    text = "\n".join(path.read_text() for path in files)
    named = {name for group in re.findall(r"immunecam\[([\w,]+)\]", text) for name in group.split(",")}
    assert named <= set(extras)
    assert named >= {"train", "tensorrt", "cuda12", "cuda13"}


@pytest.mark.parametrize("major", [12, 13])
def test_cuda_core_comes_for_one_cuda(extras, major):
    """With the bindings of the driver's CUDA and a compiler, which cuda.core's own extras bring."""
    (wanted,) = extras[f"cuda{major}"]
    assert wanted == "cuda-core[cu{}]>={}.{}".format(major, *OLDEST_CORE)


def test_no_extra_takes_the_newest_cuda_there_is(extras):
    assert not [
        wanted for group in extras.values() for wanted in group if re.match(r"cuda-(bindings|core\b(?!\[))", wanted)
    ]
