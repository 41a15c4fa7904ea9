"""A stand-in for TensorRT on a machine without it: the members that the product may use, and no others.

It builds by remembering the ONNX file and runs it with ONNX Runtime on memory of the host. It is no TensorRT test: what
it proves is that our code calls what exists on a version, in an order that is allowed, and deals with what fails.
No figure rests on it.
"""

from .cuda_stand_in import cuda_modules
from .small_bundle import crops, small_bundle
from .tensorrt_module import VERSIONS, tensorrt_module
from .world import World

__all__ = ["VERSIONS", "World", "crops", "cuda_modules", "small_bundle", "tensorrt_module"]
