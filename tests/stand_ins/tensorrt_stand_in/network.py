"""The parser, and what it makes: a network that is the ONNX file itself."""

from __future__ import annotations

import types

import onnx

from .base import Sealed
from .enums import ONNX_TYPES

# Of those that the parser's own documentation (for 10.15) gives as not supported, and a foreign one.
UNKNOWN = {"Bernoulli", "BitShift", "Compress", "Det", "DFT", "DynamicQuantizeLinear", "MaxUnpool", "Multinomial",
           "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "Unique", "TfIdfVectorizer"}  # fmt: skip


def network_types(world, enums, ERROR):
    """ITensor, ILayer, INetworkDefinition, ParserError and OnnxParser."""
    old = world.numbers < (11, 0)

    class ITensor(Sealed):
        name = property(lambda self: self._.name)
        dtype = property(lambda self: self._.dtype)
        shape = property(lambda self: self._.shape)
        is_shape_tensor = property(lambda self: False)

    class ILayer(Sealed):
        name = property(lambda self: self._.name)
        type = property(lambda self: self._.type)
        if old:
            precision = property(lambda self: enums["DataType"].FLOAT)
            precision_is_set = property(lambda self: False)

    class INetworkDefinition(Sealed):
        num_inputs = property(lambda self: len(self._.inputs))
        num_outputs = property(lambda self: len(self._.outputs))
        num_layers = property(lambda self: len(self._.layers))

        def get_input(self, index):
            return self._.inputs[index]

        def get_output(self, index):
            return self._.outputs[index]

        def get_layer(self, index):
            return self._.layers[index]

        def get_flag(self, flag):
            return bool(self._.flags >> int(flag) & 1)

        def __len__(self):
            return len(self._.layers)

        def __getitem__(self, index):
            return self._.layers[index]

    class ParserError(Sealed):
        def code(self):
            return self._.code

        def desc(self):
            return self._.desc

        def file(self):
            return "ModelImporter.cpp"

        def line(self):
            return 771

        def func(self):
            return "parseNode"

        def node(self):
            return self._.index

        def node_name(self):
            return self._.name

        def node_operator(self):
            return self._.operator

        def __str__(self):
            where = f"In node {self._.index} with name: {self._.name} and operator: {self._.operator}"
            return f"{where} (parseNode): {self._.desc}"

    class OnnxParser(Sealed):
        def __init__(self, network, logger):
            if not isinstance(network, INetworkDefinition):
                raise TypeError("OnnxParser: incompatible constructor arguments")
            self._ = types.SimpleNamespace(network=network, logger=logger, errors=[])

        num_errors = property(lambda self: len(self._.errors))

        def get_error(self, index):
            return self._.errors[index]

        def parse(self, model):
            return self._parse(bytes(model))

        def parse_from_file(self, path):
            try:
                model = onnx.load(str(path))
            except Exception:
                return self._parse(b"\xff")
            return self._parse(model.SerializeToString())

        def _parse(self, raw):
            try:
                model = onnx.load_from_string(raw)
            except Exception:
                return self._error("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model.", -1, "", "")
            for tensor in model.graph.initializer:
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    return self._error("INVALID_NODE", "Failed to open file: external data", -1, tensor.name, "")
            shaped = onnx.shape_inference.infer_shapes(model)
            values = [*shaped.graph.value_info, *shaped.graph.input]
            kinds = {value.name: value.type.tensor_type.elem_type for value in values}
            kinds |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
            for index, node in enumerate(model.graph.node):
                # Its documentation: INT8 is there by quantisation only, so a cast from it is refused.
                of_int8 = node.op_type == "Cast" and kinds.get(node.input[0]) == onnx.TensorProto.INT8
                if node.domain not in ("", "ai.onnx") or node.op_type in UNKNOWN or of_int8:
                    self._error("UNSUPPORTED_NODE", f"No importer for {node.op_type}", index, node.name, node.op_type)
            if self._.errors:
                return False
            inner = self._.network._
            inner.raw = raw
            for side, values in (("inputs", model.graph.input), ("outputs", model.graph.output)):
                setattr(inner, side, [self._tensor(value) for value in values])
            inner.layers = [self._layer(node) for node in model.graph.node]
            return True

        def _tensor(self, value):
            tensor = ITensor()
            kind = value.type.tensor_type
            shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
            dtype = enums["DataType"][ONNX_TYPES[kind.elem_type][0]]
            tensor._ = types.SimpleNamespace(name=value.name, dtype=dtype, shape=shape)
            return tensor

        def _layer(self, node):
            layer = ILayer()
            layer._ = types.SimpleNamespace(name=node.name or node.output[0], type=enums["LayerType"].CONVOLUTION)
            return layer

        def _error(self, code, desc, index, name, operator):
            for said in (f"While parsing node number {index} [{operator}]:", "--- Begin node ---", "--- End node ---"):
                self._.logger.log(ERROR, f"ModelImporter.cpp:948: {said}")
            error = ParserError()
            code = enums["ErrorCode"][code]
            error._ = types.SimpleNamespace(code=code, desc=desc, index=index, name=name, operator=operator)
            self._.errors.append(error)
            return False

    return {
        "ITensor": ITensor,
        "ILayer": ILayer,
        "INetworkDefinition": INetworkDefinition,
        "ParserError": ParserError,
        "OnnxParser": OnnxParser,
    }
