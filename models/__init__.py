"""PyTorch modules: eigenspace, AIS, PIN, edge, liveness. Pure functions of tensors; no files are touched here."""

from immunecam.models.ais import AIS, AntibodyGenerator, AntigenAnalyzer, AntigenFeature, PooledFeature, ais
from immunecam.models.build import KINDS, build_model, model_options
from immunecam.models.edge import EdgeAnalyzer, edge
from immunecam.models.eigenspace import Eigenspace
from immunecam.models.liveness import LivenessNetwork
from immunecam.models.memory import AntigenMemory
from immunecam.models.noise_level import NoiseLevel
from immunecam.models.pin import ESN, PIN, DenoisingAutoEncoder, pin
from immunecam.models.purification import GRADIENTS, Purification
from immunecam.models.restorer import Restorer

__all__ = [
    "AIS",
    "ESN",
    "GRADIENTS",
    "KINDS",
    "PIN",
    "AntibodyGenerator",
    "AntigenAnalyzer",
    "AntigenFeature",
    "AntigenMemory",
    "DenoisingAutoEncoder",
    "EdgeAnalyzer",
    "Eigenspace",
    "LivenessNetwork",
    "NoiseLevel",
    "PooledFeature",
    "Purification",
    "Restorer",
    "ais",
    "build_model",
    "edge",
    "model_options",
    "pin",
]
