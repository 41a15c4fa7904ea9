"""Sets of live and spoofed faces, and the training of networks that tell them apart."""

from immunecam.training.liveness.celeba_spoof import load_celeba_spoof
from immunecam.training.liveness.config import AdversarialTraining, LivenessConfig
from immunecam.training.liveness.faces import LivenessSet
from immunecam.training.liveness.matrix import MatrixRun, matrix_runs, train_matrix
from immunecam.training.liveness.synthetic import synthetic_set
from immunecam.training.liveness.trainer import LivenessTrainer

__all__ = [
    "AdversarialTraining",
    "LivenessConfig",
    "LivenessSet",
    "LivenessTrainer",
    "MatrixRun",
    "load_celeba_spoof",
    "matrix_runs",
    "synthetic_set",
    "train_matrix",
]
