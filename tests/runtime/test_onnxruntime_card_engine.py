"""ONNX Runtime between addresses. Its CUDA provider does not run here: the same code is run on the CPU's memory."""

from __future__ import annotations

from typing import Any

import cuda_on_cpu
import numpy as np
import pytest
from host_engine import HostEngine
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.engines import OnnxRuntimeEngine
from immunecam.runtime.engines.onnxruntime_card_engine import OnnxRuntimeCardEngine


def test_it_writes_where_it_is_told(faces: NDArray[np.float32]) -> None:
    bundle = Bundle.load(default_bundle())
    stream, plain = cuda_on_cpu.Stream(), OnnxRuntimeEngine.from_bundle(bundle, provider="cpu", threads=1, whole=False)
    engine = HostEngine(bundle, stream=stream, threads=1)
    assert (engine.k, engine.max_batch, engine.provider) == (512, 128, "cuda")
    for n in (3, 1, 3):
        given = np.ascontiguousarray(faces[::-1][:n])
        p, restored = np.full((n + 1, 512), 7, np.float32), np.full((n + 1, 112, 112), 7, np.float32)
        engine.analyze_on(n, faces=given.ctypes.data, probabilities=p.ctypes.data, stream=stream)
        wanted = plain.analyze(given)
        assert np.abs(p[:n] - wanted).max() < 1e-5
        assert (p[n] == 7).all()
        projected = np.ascontiguousarray(given * np.float32(0.5))
        places = {"faces": given.ctypes.data, "projected": projected.ctypes.data, "restored": restored.ctypes.data}
        engine.restore_on(n, **places, stream=stream)
        assert np.abs(restored[:n] - plain.restore(given, projected)).max() < 1e-5
        assert (restored[n] == 7).all()
    engine.close()
    engine.close()


def test_a_stream_has_sessions_of_its_own(bundle: Bundle, faces: NDArray[np.float32]) -> None:
    one, other = cuda_on_cpu.Stream(), cuda_on_cpu.Stream()
    engine = HostEngine(bundle, stream=one)
    p = np.empty((1, 64), np.float32)
    for stream in (one, other, one):
        engine.analyze_on(1, faces=faces.ctypes.data, probabilities=p.ctypes.data, stream=stream)
    assert len(engine._sessions) == 2
    default = cuda_on_cpu.Stream()
    default.handle = 0
    with pytest.raises(UsageError, match="default one"):
        engine.analyze_on(1, faces=faces.ctypes.data, probabilities=p.ctypes.data, stream=default)


def test_what_the_cuda_provider_is_told(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime documents it: strings, and the stream by its address."""
    told: list[Any] = []
    session = HostEngine(bundle, stream=cuda_on_cpu.Stream())._sessions.popitem()[1][1]

    def opened(bundle: Bundle, role: str, provider: str, threads: Any, options: Any) -> Any:
        told.append((role, provider, threads, options))
        return session

    monkeypatch.setattr("immunecam.runtime.engines.onnxruntime_card_engine.open_session", opened)
    stream = cuda_on_cpu.Stream()
    engine = OnnxRuntimeCardEngine(bundle, stream=stream, device_id=2, threads=3)
    ((role, provider, threads, options),) = told
    assert (role, provider, threads) == ("analyzer", "CUDAExecutionProvider", 3)
    assert (options["device_id"], options["user_compute_stream"], options["use_tf32"]) == ("2", str(stream.handle), "0")
    assert engine.capturable is False
    assert engine._options.get_run_config_entry("disable_synchronize_execution_providers") == "1"


def test_an_analyzer_with_another_k(parts: Any, tmp_path: Any) -> None:
    bundle = parts(gives=32, whole=False).write(tmp_path / "b.immune")
    with pytest.raises(InputError, match=r"\['N', 32\].*\['N', 64\]"):
        HostEngine(bundle, stream=cuda_on_cpu.Stream())
