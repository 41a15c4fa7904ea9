"""Runtime, engine, execution contexts and inspector: the remembered ONNX file by ONNX Runtime, on streams
and memory of `cuda_on_cpu`."""

from __future__ import annotations

import ctypes
import json
import threading
import types

import numpy as np
import onnxruntime
from cuda_on_cpu import STREAMS

from .base import Sealed, property_of
from .plan import read_plan

_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64,
          "BOOL": np.bool_, "UINT8": np.uint8}  # fmt: skip


def run_types(world, enums, ILogger):
    """Everything from a plan on."""
    old = world.numbers < (11, 0)

    class EngineInspector(Sealed):
        def get_engine_information(self, format):
            content = self._.content
            detailed = content["verbosity"] == "DETAILED"
            layers = [_layer(name, index, old) if detailed else name for index, name in enumerate(content["layers"])]
            tensors = [
                {
                    "Name": name,
                    "IOMode": mode.title(),
                    "DataType": dtype.title(),
                    "Dimensions": shape,
                    "Location": "Device",
                }
                for mode, name, dtype, shape in content["tensors"]
            ]
            named = {"Bindings": [tensor["Name"] for tensor in tensors]} if old else {"I/O Tensors": tensors}
            if enums["LayerInformationFormat"](format).name != "JSON":
                return "\n".join(content["layers"])
            return json.dumps({"Layers": layers, **named})

    class IExecutionContext(Sealed):
        def set_input_shape(self, name, shape):
            world.shapes_set += 1
            low, _, high = self._.profile[name]
            shape = tuple(shape)
            fits = len(shape) == len(low) and all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True))
            if not fits:
                return self._fail(
                    f"Error Code 3: API Usage Error (set dimension {shape} of {name} is not in the profile.)"
                )
            self._.shapes[name] = shape
            return True

        def infer_shapes(self):
            return [name for name in self._.profile if name not in self._.shapes]

        def set_tensor_address(self, name, memory):
            if not isinstance(memory, int):
                raise TypeError("set_tensor_address: incompatible function arguments")
            world.addresses_set += 1
            if memory % 256:
                return self._fail(f"Error Code 3: API Usage Error (the address of {name} is not aligned to 256 bytes.)")
            if name not in self._.tensors:
                return self._fail(f"Error Code 3: API Usage Error (no tensor {name}.)")
            self._.addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle):
            if not isinstance(stream_handle, int):
                raise TypeError("execute_async_v3: incompatible function arguments")
            if not self._.running.acquire(blocking=False):
                return self._fail("Error Code 3: API Usage Error (a context is used by two threads at a time.)")
            try:
                return self._execute(stream_handle)
            finally:
                self._.running.release()

        def _execute(self, stream):
            missing = [name for name in self._.tensors if not self._.addresses.get(name)]
            if missing or self.infer_shapes():
                return self._fail(f"Error Code 3: API Usage Error (Address is not set for {missing}.)")
            if stream == 0:
                return self._fail("Using default stream in enqueueV3() may lead to performance issues.")
            if threading.get_ident() not in world.current:
                return self._fail("Error Code 1: Cuda Runtime (invalid device context)")
            if callable(world.on_execute) and world.on_execute() is False:
                return self._fail("Error Code 1: Cuda Runtime (out of memory)")
            # The stream comes to it later, and a graph again: with these shapes and addresses, whatever is set by then.
            state, session, tensors = self._, self._.session, self._.tensors
            shapes, addresses = dict(self._.shapes), dict(self._.addresses)

            def work():
                # Neither a stream nor a graph keeps it, and its scratch memory goes with it.
                assert state.alive, "the execution context of a launch is gone"
                feeds = {
                    name: _array(addresses[name], tensors[name][1], shape).copy() for name, shape in shapes.items()
                }
                outputs = [name for name, (mode, _) in tensors.items() if mode == "OUTPUT"]
                for name, value in zip(outputs, session.run(outputs, feeds), strict=True):
                    target = _array(addresses[name], tensors[name][1], value.shape)
                    target[...] = value + np.asarray(world.perturb, value.dtype)
                world.executed += 1

            STREAMS[stream].enqueue(work)
            world.launches.append((threading.get_ident(), stream, shapes))
            return True

        def _fail(self, said):
            self._.logger.log(ILogger.ERROR, f"[executionContext.cpp] {said}")
            return False

        def __del__(self):
            self._.alive = False
            world.contexts.discard(id(self))

    class ICudaEngine(Sealed):
        num_io_tensors = property(lambda self: len(self._.content["tensors"]))

        def get_tensor_name(self, index):
            return self._.content["tensors"][index][1]

        def get_tensor_mode(self, name):
            return enums["TensorIOMode"][self._tensor(name)[0]]

        def get_tensor_dtype(self, name):
            return enums["DataType"][self._tensor(name)[2]]

        def get_tensor_shape(self, name):
            return tuple(self._tensor(name)[3])

        def get_tensor_profile_shape(self, name, profile_index):
            if self._tensor(name)[0] != "INPUT":
                raise RuntimeError("get_tensor_profile_shape: not an input")
            return [tuple(shape) for shape in self._.content["profiles"][profile_index][name]]

        def create_execution_context(self):
            if len(self._.raw) > world.memory:
                self._.logger.log(ILogger.ERROR, "[defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)")
                return None
            context = IExecutionContext()
            tensors = {name: (mode, _NUMPY[dtype]) for mode, name, dtype, _ in self._.content["tensors"]}
            profile = {
                name: self.get_tensor_profile_shape(name, 0) for name, (mode, _) in tensors.items() if mode == "INPUT"
            }
            context._ = types.SimpleNamespace(
                engine=self, logger=self._.logger, session=self._.session(), tensors=tensors, profile=profile,
                shapes={}, addresses={}, running=threading.Lock(), alive=True,
            )  # fmt: skip
            world.contexts.add(id(context))
            return context

        def create_engine_inspector(self):
            inspector = EngineInspector()
            inspector._ = types.SimpleNamespace(content=self._.content, engine=self)
            return inspector

        def _tensor(self, name):
            return next(tensor for tensor in self._.content["tensors"] if tensor[1] == name)

    class Runtime(Sealed):
        engine_host_code_allowed = property_of("host_code", bool)

        def __init__(self, logger):
            if not isinstance(logger, ILogger):
                raise TypeError("Runtime: incompatible constructor arguments")
            world.start(logger, ILogger.ERROR)
            self._ = types.SimpleNamespace(logger=logger, host_code=False)

        def deserialize_cuda_engine(self, serialized_engine):
            found = read_plan(serialized_engine)
            complaint = found if isinstance(found, str) else self._complaint(found[0])
            if complaint is None and len(found[1]) > world.memory:
                complaint = "Error Code 2: OutOfMemory (out of memory)"
            if complaint is not None:
                self._.logger.log(ILogger.ERROR, f"[runtime.cpp] IRuntime::deserializeCudaEngine: {complaint}")
                return None
            engine = ICudaEngine()
            content, raw = found
            engine._ = types.SimpleNamespace(
                content=content, raw=raw, logger=self._.logger, runtime=self, session=lambda: _session(raw)
            )
            return engine

        def _complaint(self, content):
            there = tuple(map(int, content["version"].split(".")))
            here = tuple(map(int, world.version.split(".")))
            compatible = "VERSION_COMPATIBLE" in content["flags"]
            if there != here and not (compatible and there[0] == here[0] and there <= here):
                return (
                    "Error Code 1: Serialization (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION "
                    f"failed. Version tag does not match: {content['version']} and {world.version}.)"
                )
            if compatible and not self._.host_code:
                return "Error Code 4: API Usage Error (host code of the engine is not allowed.)"
            capability = tuple(content["capability"])
            runs = capability == world.capability
            if content["hardware"] == "AMPERE_PLUS":
                runs = world.capability >= (8, 0)
            if not runs:
                wanted, have = (".".join(map(str, numbers)) for numbers in (capability, world.capability))
                return (
                    "Error Code 6: API Usage Error (The engine plan file is generated on an incompatible device, "
                    f"expecting compute {have} got compute {wanted}, please rebuild.)"
                )
            return None

    return {
        "EngineInspector": EngineInspector,
        "IExecutionContext": IExecutionContext,
        "ICudaEngine": ICudaEngine,
        "Runtime": Runtime,
    }


def _layer(name, index, old):
    """A layer of the detailed report; in 11 format and type of a tensor are two entries."""
    tensor = {"Name": f"{name}_out", "Dimensions": [-1, 8, 8, 8]}
    if old:
        tensor |= {"Format/Datatype": "Channel major FP16 format where C % 8 == 0"}
    else:
        tensor |= {"Format": "Channel major format where C % 8 == 0 (kHWC8)", "DataType": "Half"}
    return {
        "Name": name, "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": [tensor],
        "ParameterType": "Convolution", "Weights": {"Type": "Half", "Count": 100 + index},
        "TacticName": f"stand_in_tactic_{index}", "StreamId": 0, "Metadata": "",
    }  # fmt: skip


def _session(raw):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    # A card adds products of int8 in 32 bits; so must a processor that has no VNNI.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"])


def _array(address, dtype, shape):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(address)).view(dtype).reshape(shape)
