"""Which backend is opened, what is said of it, and what is missing."""

from __future__ import annotations

import importlib.util
import logging
import sys
from typing import Any

import onnxruntime as ort
import pytest

from immunecam.errors import BackendMissingError, InputError
from immunecam.kernels.cuda import programs
from immunecam.runtime import Purifier
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card import CardPurifier, opening

CUDA = "CUDAExecutionProvider"
without_cuda = pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this onnxruntime has CUDA")


def missing(bundle: Bundle, provider: str) -> str:
    with pytest.raises(BackendMissingError) as told:
        Purifier.load(bundle, provider=provider)
    assert told.value.exit_code == 4
    assert len(str(told.value).splitlines()) == 1
    return str(told.value)


@without_cuda
def test_onnxruntime_without_cuda(bundle: Bundle) -> None:
    assert "built without CUDA" in missing(bundle, "cuda")


def test_no_cuda_core(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "require_cuda", lambda ort: None)
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    assert "pip install immunecam[cuda]" in missing(bundle, "cuda")


def test_no_driver(core: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert core.device is None
    monkeypatch.setattr(opening, "require_cuda", lambda ort: None)
    assert "check the card and its driver" in missing(bundle, "cuda")


def test_no_compiler_and_nothing_built(emulated: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(*_: Any, **__: Any) -> Any:
        raise RuntimeError("libnvrtc.so.13 cannot be found")

    monkeypatch.setattr(emulated.Program, "compile", compile_)
    monkeypatch.setattr(programs, "find_prebuilt", lambda *_: None)
    said = missing(bundle, "cuda")
    assert "NVRTC cannot compile" in said
    assert "make kernels" in said
    assert (emulated.device.memory_resource.used, emulated.pinned.used) == (0, 0)
    assert all(stream.closed for stream in emulated.device.streams)


@without_cuda
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_provider_that_does_not_start(emulated: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(opening, "require_cuda", lambda ort: None)
    assert "'cuda' does not start" in missing(bundle, "cuda")
    assert all(stream.closed for stream in emulated.device.streams)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_no_tensorrt(bundle: Bundle) -> None:
    assert "tensorrt" in missing(bundle, "tensorrt")


def test_auto_takes_the_card_and_says_so(emulated: Any, bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    del emulated
    with caplog.at_level(logging.INFO), Purifier.load(bundle) as card:
        assert card.provider == "cuda"
    assert "The provider tensorrt is not used: " in caplog.text
    assert "Provider cuda for the bundle tiny on a CPU: the first of tensorrt, cuda and cpu" in caplog.text


@without_cuda
def test_auto_takes_the_cpu_and_says_why(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        purifier = Purifier.load(bundle)
    assert purifier.provider == "cpu"
    assert "The provider cuda is not used: " in caplog.text
    assert "Provider cpu for the bundle tiny: no provider on a card can be used (" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@without_cuda
def test_auto_warns_where_a_card_was_meant(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with caplog.at_level(logging.INFO):
        assert Purifier.load(bundle).provider == "cpu"
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith("The provider cuda is not used: cuda.core cannot be imported")


def test_a_full_card_is_no_reason_for_the_cpu_if_it_was_asked_for(
    emulated: Any, bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    emulated.device.memory_resource.limit = 100_000
    with pytest.raises(InputError, match="bytes left"):
        Purifier.load(bundle, provider="cuda")
    with caplog.at_level(logging.INFO):
        assert Purifier.load(bundle).provider == "cpu"
    assert "no provider on a card can be used (The card has no " in caplog.text


def test_an_opened_purifier(emulated: Any, bundle: Bundle) -> None:
    del emulated
    with opening.open_card(bundle, "cuda", mutation="threshold", max_batch=3) as card:
        assert isinstance(card, CardPurifier)
        assert (card.mutation, card.max_batch, card.k, card.provider) == ("threshold", 3, 64, "cuda")
