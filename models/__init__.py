"""PyTorch modules: eigenspace, AIS, PIN, edge. Pure functions of tensors; no files are touched here."""

from immunecam.models.ais import AIS, AntibodyGenerator, AntigenAnalyzer, AntigenFeature, ais
from immunecam.models.build import KINDS, build_model, model_options
from immunecam.models.edge import EdgeAnalyzer, EdgeFeature, edge
from immunecam.models.eigenspace import Eigenspace
from immunecam.models.memory import AntigenMemory
from immunecam.models.pin import ESN, PIN, DenoisingAutoEncoder, pin

__all__ = [
    "AIS",
    "ESN",
    "KINDS",
    "PIN",
    "AntibodyGenerator",
    "AntigenAnalyzer",
    "AntigenFeature",
    "AntigenMemory",
    "DenoisingAutoEncoder",
    "EdgeAnalyzer",
    "EdgeFeature",
    "Eigenspace",
    "ais",
    "build_model",
    "edge",
    "model_options",
    "pin",
]
