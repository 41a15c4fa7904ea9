"""Mutation and subspace projection: the numpy reference that every backend must agree with."""

from immunecam.kernels.mutation import (
    MUTATION_MODES,
    MutationMode,
    check_mutation_mode,
    check_probabilities,
    mutate,
)
from immunecam.kernels.philox import philox4x32, uniforms
from immunecam.kernels.pixels import dequantize_faces, quantize_faces
from immunecam.kernels.projection import project, project_float
from immunecam.kernels.subspace import Subspace

__all__ = [
    "MUTATION_MODES",
    "MutationMode",
    "Subspace",
    "check_mutation_mode",
    "check_probabilities",
    "dequantize_faces",
    "mutate",
    "philox4x32",
    "project",
    "project_float",
    "quantize_faces",
    "uniforms",
]
