"""Training asks for bfloat16 where it is computed, and for float32 where it would be emulated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from immunecam.training.config import preset
from immunecam.training.mixed_precision import computes_bfloat16, in_precision_of

FULL = preset("edge", "full")


def _has(monkeypatch, *names: str) -> None:
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False} | dict.fromkeys(names, True)
    )


def test_this_processor_says_what_its_kernel_says():
    flags = Path("/proc/cpuinfo")
    if not flags.is_file() or torch.cpu.get_capabilities()["architecture"] != "x86_64":
        pytest.skip("no /proc/cpuinfo of an x86-64 processor to compare with")
    words = set(flags.read_text().split())
    assert computes_bfloat16("cpu") == bool(words & {"avx512_bf16", "amx_bf16"})


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16", "sve_bf16", "bf16"])
def test_bfloat16_is_kept_where_it_is_computed(monkeypatch, name):
    _has(monkeypatch, name)
    assert in_precision_of(FULL, "cpu") == FULL


def test_bfloat16_is_not_emulated(monkeypatch):
    _has(monkeypatch)
    assert in_precision_of(FULL, "cpu") == FULL.replace(precision="fp32")
    assert not computes_bfloat16("meta")
    fast = preset("edge", "fast")
    assert in_precision_of(fast, "cpu") == fast


@pytest.mark.parametrize(("names", "begun"), [((), "bf16"), (("avx512_bf16",), "fp32")])
def test_a_run_goes_on_in_its_own_precision(monkeypatch, tmp_path, names, begun):
    _has(monkeypatch, *names)
    own = FULL.replace(precision=begun)
    (tmp_path / "config.json").write_text(json.dumps({"config": own.to_dict()}))
    assert in_precision_of(FULL, "cpu", tmp_path) == own


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"config": 3}'])
def test_what_cannot_be_read_is_left_to_who_resumes(monkeypatch, tmp_path, content):
    _has(monkeypatch)
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    assert in_precision_of(FULL, "cpu", tmp_path).precision == "fp32"
