"""A stand-in for TensorRT on a machine without it: the members that the product may use, and no others.

It builds by remembering the ONNX file and runs it with ONNX Runtime on the streams and memory of `cuda_on_cpu`. It is
no TensorRT test: what it proves is that our code calls what exists on a version, in an order that is allowed, and deals
with what fails. No figure rests on it.
"""

from .small_bundle import crops, small_bundle
from .tensorrt_module import VERSIONS, tensorrt_module
from .world import World

__all__ = ["VERSIONS", "World", "crops", "small_bundle", "tensorrt_module"]
