"""Engines: what turns aligned faces into antibody probabilities, one module a backend."""

from immunecam.runtime.engines.onnxruntime_engine import OnnxRuntimeEngine, OnnxRuntimePurifier
from immunecam.runtime.engines.protocol import CardEngine, Engine, WholePurifier
from immunecam.runtime.engines.providers import (
    PROVIDERS,
    ProviderChoice,
    ProviderName,
    choose_provider,
)

__all__ = [
    "PROVIDERS",
    "CardEngine",
    "Engine",
    "OnnxRuntimeEngine",
    "OnnxRuntimePurifier",
    "ProviderChoice",
    "ProviderName",
    "WholePurifier",
    "choose_provider",
]
