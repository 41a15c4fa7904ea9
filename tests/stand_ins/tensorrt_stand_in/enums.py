"""Enumerations by version; what a version does not have is missing."""

from __future__ import annotations

import enum

import numpy as np


class Number(enum.Enum):
    """As pybind11 makes them: members have an integer, but are none."""

    def __int__(self):
        return self.value


def enumeration(name, *members):
    return Number(name, [(member, value) for value, member in enumerate(members)], module="tensorrt")


def enumerations(numbers):
    """All enumerations of a version, by their name in the module."""
    old = numbers < (11, 0)
    types = ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8", "BF16", "INT64", "INT4"]
    types += ["FP4", "E8M0"] if numbers >= (10, 8) else []
    flags = ["FP16", "BF16", "INT8", "FP8", "OBEY_PRECISION_CONSTRAINTS"] if old else []
    flags += ["TF32", "REFIT", "STRIP_PLAN", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"]
    hardware = ["NONE", "AMPERE_PLUS"] + (["SAME_COMPUTE_CAPABILITY"] if numbers >= (10, 9) else [])
    return {
        "DataType": enumeration("DataType", *types),
        "BuilderFlag": enumeration("BuilderFlag", *flags),
        "HardwareCompatibilityLevel": enumeration("HardwareCompatibilityLevel", *hardware),
        "NetworkDefinitionCreationFlag": enumeration(
            "NetworkDefinitionCreationFlag", *(["EXPLICIT_BATCH", "STRONGLY_TYPED"] if old else ["STRONGLY_TYPED"])
        ),
        "MemoryPoolType": enumeration("MemoryPoolType", "WORKSPACE", "DLA_MANAGED_SRAM", "TACTIC_DRAM"),
        "ProfilingVerbosity": enumeration("ProfilingVerbosity", "LAYER_NAMES_ONLY", "NONE", "DETAILED"),
        "TensorIOMode": enumeration("TensorIOMode", "NONE", "INPUT", "OUTPUT"),
        "LayerInformationFormat": enumeration("LayerInformationFormat", "ONELINE", "JSON"),
        "DeviceType": enumeration("DeviceType", "GPU", "DLA"),
        "LayerType": enumeration("LayerType", "CONVOLUTION", "SHAPE", "CONSTANT", "CAST", "QUANTIZE", "DEQUANTIZE"),
        "ErrorCode": enumeration(
            "ErrorCode", "SUCCESS", "MODEL_DESERIALIZE_FAILED", "INVALID_NODE", "UNSUPPORTED_NODE"
        ),
    }


ALIASES = {
    "float32": "FLOAT", "float16": "HALF", "int8": "INT8", "int32": "INT32", "bool": "BOOL", "uint8": "UINT8",
    "fp8": "FP8", "bfloat16": "BF16", "int64": "INT64", "int4": "INT4", "fp4": "FP4", "e8m0": "E8M0",
}  # fmt: skip

# TensorProto.DataType -> (DataType, NumPy)
ONNX_TYPES = {
    1: ("FLOAT", np.float32),
    10: ("HALF", np.float16),
    3: ("INT8", np.int8),
    6: ("INT32", np.int32),
    7: ("INT64", np.int64),
    9: ("BOOL", np.bool_),
    2: ("UINT8", np.uint8),
}
