"""ONNX Runtime's engine between addresses, on the CPU: its own code, with the memory of `cuda_on_cpu` for a card's."""

from __future__ import annotations

from immunecam.runtime.engines.onnxruntime_card_engine import OnnxRuntimeCardEngine


class HostEngine(OnnxRuntimeCardEngine):
    """Runs when the stand-in's stream comes to it, and may be recorded."""

    _execution_provider, _memory = "CPUExecutionProvider", "cpu"
    capturable = True
    fails_above = None  # faces, as a card whose memory is full

    def _provider_options(self, handle):
        return None

    def _launch(self, session, binding, stream):
        stream.enqueue(lambda: session.run_with_iobinding(binding, self._options), keep=(session, binding))

    def _run(self, session, given, wanted, stream):
        n = next(iter(given.values()))[1][0]
        if self.fails_above is not None and n > self.fails_above:
            raise RuntimeError("Available memory of 0 is smaller than requested: Failed to allocate memory")
        super()._run(session, given, wanted, stream)


class LaunchedEngine(HostEngine):
    """As the real one, not to be recorded."""

    capturable = False
