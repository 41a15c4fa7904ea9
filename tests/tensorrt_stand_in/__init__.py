"""A stand-in for TensorRT on a machine without it: the members that the product may use, and no others.

It builds by remembering the ONNX file and runs it with ONNX Runtime on memory of the host. It is no TensorRT test: what
it proves is that our code calls what exists on a version, in an order that is allowed, and deals with what fails.
No figure rests on it.
"""

from .cuda_stand_in import cuda_modules
from .library import VERSIONS, tensorrt_module
from .world import World

__all__ = ["VERSIONS", "World", "cuda_modules", "tensorrt_module"]
