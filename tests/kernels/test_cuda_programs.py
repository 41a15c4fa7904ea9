"""Kernels compiled ahead of time and at first use, as far as a machine without a GPU can."""

from __future__ import annotations

import json
import shutil
import types

import pytest

from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.kernels.cuda import SOURCES, Programs, kernel_names, prebuilt, programs, source
from immunecam.kernels.cuda.prebuilt import build, find_prebuilt, main

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


def test_a_source_is_one_text_with_every_header_once():
    for name in SOURCES:
        text = source(name)
        assert "#include" not in text
        assert "#pragma once" not in text
        assert text.count("using uint8 = unsigned char;") == 1
        assert kernel_names(name)
    assert kernel_names("project")[0] == "coefficients_float32"
    assert kernel_names("align") == ("align_bgr", "align_nv12")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prebuilt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prebuilt, "ARCHITECTURES", (80, 90))
        assert main(["--out", str(folder)]) == 0
    return folder


@needs_nvcc
def test_fat_binaries(built):
    record = json.loads((built / "record.json").read_text())
    assert record["architectures"] == [80, 90]
    assert set(record["files"]) == set(SOURCES)
    for name in SOURCES:
        code = find_prebuilt(name, (9, 0), built)
        assert len(code) > 10_000
        # Ampere's later revisions run its code; later generations take the newest one's PTX; older ones have nothing.
        assert find_prebuilt(name, (8, 6), built) == code
        assert find_prebuilt(name, (12, 0), built) == code
        assert find_prebuilt(name, (7, 5), built) is None
    assert not list(built.glob("*.partial"))


@needs_nvcc
def test_what_was_built_of_other_sources_or_changed_is_not_used(built, tmp_path):
    assert find_prebuilt("mutate", (9, 0), tmp_path) is None
    shutil.copytree(built, tmp_path / "changed")
    file = tmp_path / "changed" / "mutate.fatbin"
    code = bytearray(file.read_bytes())
    code[1000] ^= 1
    file.write_bytes(code)
    assert find_prebuilt("mutate", (9, 0), tmp_path / "changed") is None
    assert find_prebuilt("project", (9, 0), tmp_path / "changed") is not None
    record = tmp_path / "changed" / "record.json"
    content = json.loads(record.read_text())
    content["files"]["project"]["source_sha256"] = "0" * 64
    record.write_text(json.dumps(content))
    assert find_prebuilt("project", (9, 0), tmp_path / "changed") is None
    record.write_text("{")
    assert find_prebuilt("align", (9, 0), tmp_path / "changed") is None


@needs_nvcc
def test_a_source_that_does_not_compile(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prebuilt, "ARCHITECTURES", (90,))
    monkeypatch.setattr(prebuilt, "SOURCES", ("mutate",))
    monkeypatch.setattr(prebuilt, "source", lambda name: "__global__ void f() { int unused = nothing; }")
    assert main(["--out", str(tmp_path)]) == 3
    assert "identifier" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_no_compiler(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--nvcc", "no-such-nvcc"]) == 4
    assert "no-such-nvcc" in capsys.readouterr().err
    with pytest.raises(BackendMissingError):
        build(tmp_path, nvcc="no-such-nvcc")


def test_kernels_are_cached_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("IMMUNECAM_CACHE", str(tmp_path))
    assert programs.cache_folder() == tmp_path / "kernels"
    monkeypatch.delenv("IMMUNECAM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert programs.cache_folder() == tmp_path / "immunecam" / "kernels"


def device():
    properties = types.SimpleNamespace(
        multiprocessor_count=132, max_shared_memory_per_block_optin=232_448, cooperative_launch=True, integrated=False
    )
    return types.SimpleNamespace(name="H200", compute_capability=(9, 0), properties=properties, device_id=0)


def test_an_unknown_kernel(tmp_path):
    found = Programs(device(), cache=tmp_path)
    assert found.card.architecture == "sm_90"
    with pytest.raises(UsageError, match="mutate_float32"):
        found.kernel("mutate_float64")


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("ahead", [True, False])
def test_code_that_the_driver_does_not_take(core, tmp_path, monkeypatch, ahead, late):
    """cuda.core raises its own error when the first kernel is asked for, or only what it needs."""

    class Refused:
        @property
        def attributes(self):
            raise RuntimeError(f"{said}\n: the API call failed")

    monkeypatch.setattr(core.ObjectCode, "get_kernel", lambda code, name: Refused() if late else Refused().attributes)
    monkeypatch.setattr(programs, "find_prebuilt", lambda *_: b"code" if ahead else None)
    found = Programs(device(), prebuilt=tmp_path / "built", cache=tmp_path)
    said = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
    for kernel in ("mutate_float32", "coefficients_int8"):
        with pytest.raises(InputError, match=f"{kernel} cannot be loaded on H200 .sm_90; {said}") as told:
            found.kernel(kernel)
        assert ("remove it for NVRTC" if ahead else "update the driver") in str(told.value)
        assert (str(tmp_path / "built") in str(told.value)) == ahead
        assert len(str(told.value).splitlines()) == 1
    said = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(InputError, match=r"OUT_OF_MEMORY.*close another user"):
        found.kernel("mutate_float32")
    monkeypatch.undo()
    assert found.kernel("mutate_float32").name == "mutate_float32"


def test_nvrtc_compiles_without_a_card_and_keeps_what_it_made(tmp_path, monkeypatch):
    core = pytest.importorskip("cuda.core", reason="cuda.core is not installed")
    for name in SOURCES:
        made = programs.compiled(name, "sm_87", tmp_path)
        assert len(made.code) > 5_000
    kept = sorted(p for p in tmp_path.rglob("*") if p.is_file())
    assert len(kept) >= len(SOURCES)
    again = programs.compiled("mutate", "sm_87", tmp_path)
    assert again.code == programs.compiled("mutate", "sm_87", tmp_path).code
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == kept
    assert core.__version__
    with pytest.raises(BackendMissingError, match="make kernels"):
        programs.compiled("mutate", "sm_20", tmp_path)
    monkeypatch.setattr(programs, "source", lambda name: "nonsense")
    with pytest.raises(InputError, match="does not compile"):
        programs.compiled("mutate", "sm_87", tmp_path)


def test_without_cuda_core(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "cuda.core", None)
    with pytest.raises(BackendMissingError, match=r"immunecam\[cuda12\]"):
        programs.compiled("mutate", "sm_90", tmp_path)
