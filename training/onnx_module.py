"""An ONNX network as a PyTorch module, so that gradients reach its input.

A recogniser is often only to be had as an ONNX file, and every gradient attack needs its derivative. The operators
below are the ones face recognisers are made of; anything else is refused by name. Libraries that convert more want
torchvision, which a CPU install of this project cannot have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.training.onnx_quantisation import dequantize_linear, quantize_linear
from immunecam.training.prelu import prelu

__all__ = ["OnnxModule"]

_Attributes = dict[str, Any]


class OnnxModule(nn.Module):
    """Runs an ONNX graph with one output by PyTorch's differentiable operators.

    Weights are buffers (frozen). Networks in int8 (QDQ) have the straight-through gradient. Shape arithmetic stays on
    the CPU as integer tensors.

    Parameters
    ----------
    model : onnx.ModelProto
        Checked.
    inputs : int
        How many inputs it must have; they are given to `forward` in the graph's order.
    """

    def __init__(self, model: Any, inputs: int = 1) -> None:
        super().__init__()
        import onnx

        graph = model.graph
        constants = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        self._inputs = [item.name for item in graph.input if item.name not in constants]
        if len(self._inputs) != inputs or not graph.output:
            raise ValueError(
                f"the graph has {len(self._inputs)} inputs and {len(graph.output)} outputs, wanted are {inputs} and 1"
            )
        self._output = graph.output[0].name
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in constants.items()}
        self._nodes: list[tuple[str, list[str], list[str], _Attributes]] = []
        for node in graph.node:
            attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
            inputs_of = list(node.input)
            if node.op_type == "Constant":
                tensors[node.output[0]] = torch.from_numpy(np.array(_constant(onnx, attributes)))
            elif node.op_type not in _OPERATORS:
                raise ValueError(f"operator {node.op_type} (node {node.name!r}) has no differentiable form here")
            elif inputs_of and all(name in tensors or not name for name in inputs_of):
                # Weights that are stored smaller are made float32 here, and not at every call.
                given = [tensors.get(name) for name in inputs_of]
                tensors[node.output[0]] = _OPERATORS[node.op_type](given, attributes)
            else:
                self._nodes.append((node.op_type, inputs_of, list(node.output), attributes))
        used = {self._output}.union(*(inputs_of for _, inputs_of, _, _ in self._nodes))
        self._constants, self._shapes = {}, {}
        for number, (name, value) in enumerate((name, tensors[name]) for name in tensors if name in used):
            if value.dtype == torch.int64:  # stays where Python can read it without waiting for a device
                self._shapes[name] = value
            else:
                self._constants[name] = f"constant_{number}"
                self.register_buffer(f"constant_{number}", value)

    @classmethod
    def load(cls, path: str | Path) -> OnnxModule:
        """Read and check an ONNX file.

        Raises
        ------
        InputError
            If it is no ONNX file, or needs an operator that is not here.
        """
        import onnx

        try:
            model = onnx.load(str(path))
            onnx.checker.check_model(model)
            return cls(model)
        except Exception as error:  # protobuf, checker and our own errors: one sentence for all
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"ONNX network {str(path)!r} cannot be used: {reason[:200]}: give another file") from None

    def forward(self, *inputs: Tensor) -> Tensor:
        values: dict[str, Tensor | None] = {"": None, **self._shapes, **dict(zip(self._inputs, inputs, strict=True))}
        for name, buffer in self._constants.items():
            values[name] = getattr(self, buffer)
        for kind, inputs, outputs, attributes in self._nodes:
            values[outputs[0]] = _OPERATORS[kind]([values[name] for name in inputs], attributes)
        result = values[self._output]
        assert result is not None
        return result


def _constant(onnx: Any, attributes: _Attributes) -> np.ndarray:
    if "value" in attributes:
        return np.asarray(onnx.numpy_helper.to_array(attributes["value"]))
    (value,) = attributes.values()
    return np.asarray(value, dtype=np.int64 if isinstance(value, int) or "ints" in attributes else None)


def _ints(value: Tensor | None) -> list[int]:
    return [] if value is None else [int(v) for v in value.reshape(-1)]


def _padding(attributes: _Attributes, spatial: int) -> tuple[list[int], list[int]]:
    """Symmetric padding for the operator, and what is padded apart from it (F.pad order) if it is not symmetric."""
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise ValueError(f"auto_pad {attributes['auto_pad']!r} has no form here: write explicit pads")
    pads = list(attributes.get("pads", [0] * 2 * spatial))
    begin, end = pads[:spatial], pads[spatial:]
    if begin == end:
        return begin, []
    return [0] * spatial, [p for pair in zip(begin[::-1], end[::-1], strict=True) for p in pair]


def _conv(values: list[Any], attributes: _Attributes) -> Tensor:
    x, weight = values[0], values[1]
    bias = values[2] if len(values) > 2 else None
    padding, before = _padding(attributes, weight.ndim - 2)
    if before:
        x = F.pad(x, before)
    stride = tuple(attributes.get("strides", [1] * (weight.ndim - 2)))
    dilation = tuple(attributes.get("dilations", [1] * (weight.ndim - 2)))
    operator = {3: F.conv1d, 4: F.conv2d}[weight.ndim]
    if x.ndim == 4 and x.device.type == "cpu":  # a tenth faster there, forwards and backwards
        x = x.contiguous(memory_format=torch.channels_last)
    return operator(x, weight, bias, stride, tuple(padding), dilation, attributes.get("group", 1))


def _conv_transpose(values: list[Any], attributes: _Attributes) -> Tensor:
    x, weight = values[0], values[1]
    bias = values[2] if len(values) > 2 else None
    if "output_shape" in attributes:
        raise ValueError("a transposed convolution with output_shape has no form here: write explicit pads")
    spatial = weight.ndim - 2
    padding, after = _padding(attributes, spatial)
    y = {3: F.conv_transpose1d, 4: F.conv_transpose2d}[weight.ndim](
        x,
        weight,
        bias,
        tuple(attributes.get("strides", [1] * spatial)),
        tuple(padding),
        tuple(attributes.get("output_padding", [0] * spatial)),
        attributes.get("group", 1),
        tuple(attributes.get("dilations", [1] * spatial)),
    )
    # Pads are what a transposed convolution takes away from its result.
    return F.pad(y, [-p for p in after]) if after else y


def _batch_norm(values: list[Any], attributes: _Attributes) -> Tensor:
    x, scale, bias, mean, variance = values
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, attributes.get("epsilon", 1e-5))


def _prelu(values: list[Any], attributes: _Attributes) -> Tensor:
    x, slope = values
    shape = [1] * (x.ndim - slope.ndim) + list(slope.shape)
    if shape == [1, x.shape[1], *[1] * (x.ndim - 2)]:  # a slope a channel: much the faster operator
        return prelu(x, slope.reshape(-1))
    return torch.where(x > 0, x, x * slope)


def _pool(average: bool) -> Callable[[list[Any], _Attributes], Tensor]:
    def pool(values: list[Any], attributes: _Attributes) -> Tensor:
        kernel = tuple(attributes["kernel_shape"])
        stride = tuple(attributes.get("strides", [1] * len(kernel)))
        padding, before = _padding(attributes, len(kernel))
        if before or attributes.get("ceil_mode", 0):
            raise ValueError("a pool with uneven padding or ceil_mode has no form here")
        if average:
            if set(attributes.get("dilations", [1])) != {1}:
                raise ValueError("an average pool with dilations has no form here")
            inside = bool(attributes.get("count_include_pad", 0))
            return F.avg_pool2d(values[0], kernel, stride, tuple(padding), count_include_pad=inside)
        return F.max_pool2d(values[0], kernel, stride, tuple(padding), tuple(attributes.get("dilations", [1, 1])))

    return pool


def _gemm(values: list[Any], attributes: _Attributes) -> Tensor:
    a, b = values[0], values[1]
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    y = attributes.get("alpha", 1.0) * (a @ b)
    return y if len(values) < 3 or values[2] is None else y + attributes.get("beta", 1.0) * values[2]


def _axes(values: list[Any], attributes: _Attributes) -> list[int]:
    """Axes are an input since opset 13 or 18, and an attribute before."""
    return list(attributes["axes"]) if "axes" in attributes else _ints(values[1] if len(values) > 1 else None)


def _reduce(operator: Callable[..., Tensor]) -> Callable[[list[Any], _Attributes], Tensor]:
    def reduce(values: list[Any], attributes: _Attributes) -> Tensor:
        axes = _axes(values, attributes)
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return values[0]
        axes = axes or list(range(values[0].ndim))
        return operator(values[0], tuple(axes), bool(attributes.get("keepdims", 1)))

    return reduce


def _reshape(values: list[Any], attributes: _Attributes) -> Tensor:
    x = values[0]
    shape = [x.shape[i] if size == 0 else size for i, size in enumerate(_ints(values[1]))]
    return x.reshape(shape)


def _unsqueeze(values: list[Any], attributes: _Attributes) -> Tensor:
    x = values[0]
    axes = _axes(values, attributes)
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(values: list[Any], attributes: _Attributes) -> Tensor:
    axes = _axes(values, attributes)
    return values[0].squeeze(tuple(axes)) if axes else values[0].squeeze()


def _slice(values: list[Any], attributes: _Attributes) -> Tensor:
    x, starts, ends = values[0], _ints(values[1]), _ints(values[2])
    axes = _ints(values[3]) if len(values) > 3 and values[3] is not None else list(range(len(starts)))
    steps = _ints(values[4]) if len(values) > 4 else [1] * len(starts)
    index: list[slice] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step == -1 and start in (-1, x.shape[axis] - 1) and end < -x.shape[axis]:
            x = x.flip(axis)  # how exporters write a change of channel order
            continue
        if step < 1:
            raise ValueError("a slice with a negative step that is no whole reversal has no form here")
        index[axis] = slice(start, min(end, x.shape[axis]), step)
    return x[tuple(index)]


def _flatten(values: list[Any], attributes: _Attributes) -> Tensor:
    x, axis = values[0], attributes.get("axis", 1)
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def _gather(values: list[Any], attributes: _Attributes) -> Tensor:
    x, index = values
    axis = attributes.get("axis", 0) % x.ndim
    # Negative indices count from the end, which index_select does not know.
    flat = torch.index_select(x, axis, index.reshape(-1).to(x.device) % x.shape[axis])
    return flat.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _shape(values: list[Any], attributes: _Attributes) -> Tensor:
    return torch.tensor(values[0].shape[attributes.get("start", 0) : attributes.get("end")], dtype=torch.int64)


def _expand(values: list[Any], attributes: _Attributes) -> Tensor:
    x, shape = values[0], _ints(values[1])
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(shape)))


def _grid_sample(values: list[Any], attributes: _Attributes) -> Tensor:
    modes = {"linear": "bilinear", "bilinear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}
    return F.grid_sample(
        values[0],
        values[1],
        modes[attributes.get("mode", b"linear").decode()],
        attributes.get("padding_mode", b"zeros").decode(),
        bool(attributes.get("align_corners", 0)),
    )


def _clip(values: list[Any], attributes: _Attributes) -> Tensor:
    low = values[1] if len(values) > 1 else attributes.get("min")
    high = values[2] if len(values) > 2 else attributes.get("max")
    return torch.clamp(values[0], low, high)


def _cast(values: list[Any], attributes: _Attributes) -> Tensor:
    types = {
        1: torch.float32,
        6: torch.int32,
        7: torch.int64,
        9: torch.bool,
        10: torch.float16,
        11: torch.float64,
    }
    return values[0].to(types[attributes["to"]])


def _concat(values: list[Any], attributes: _Attributes) -> Tensor:
    return torch.cat(values, attributes["axis"])


def _fill(values: list[Any], attributes: _Attributes) -> Tensor:
    import onnx

    value = onnx.numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return torch.from_numpy(np.array(value)).expand(_ints(values[0])).clone()


def _hard_sigmoid(values: list[Any], attributes: _Attributes) -> Tensor:
    return torch.clamp(attributes.get("alpha", 0.2) * values[0] + attributes.get("beta", 0.5), 0, 1)


def _depth_to_space(values: list[Any], attributes: _Attributes) -> Tensor:
    x, size = values[0], attributes["blocksize"]
    if attributes.get("mode", b"DCR") == b"CRD":
        return F.pixel_shuffle(x, size)
    n, channels, height, width = x.shape
    x = x.reshape(n, size, size, channels // size**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, channels // size**2, height * size, width * size)


def _elementwise(operator: Callable[..., Tensor]) -> Callable[[list[Any], _Attributes], Tensor]:
    return lambda values, attributes: operator(*values)


_OPERATORS: dict[str, Callable[[list[Any], _Attributes], Tensor]] = {
    "Abs": _elementwise(torch.abs),
    "Add": _elementwise(torch.add),
    "AveragePool": _pool(average=True),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _fill,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": dequantize_linear,
    "DepthToSpace": _depth_to_space,
    "Div": _elementwise(lambda a, b: a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")),
    "Dropout": lambda values, attributes: values[0],
    "Elu": lambda values, attributes: F.elu(values[0], attributes.get("alpha", 1.0)),
    "Equal": _elementwise(torch.eq),
    "Exp": _elementwise(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda values, attributes: values[0].mean((2, 3), keepdim=True),
    "GridSample": _grid_sample,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _elementwise(F.hardswish),
    "Identity": _elementwise(lambda a: a),
    "LeakyRelu": lambda values, attributes: F.leaky_relu(values[0], attributes.get("alpha", 0.01)),
    "MatMul": _elementwise(torch.matmul),
    "MaxPool": _pool(average=False),
    "Mul": _elementwise(torch.mul),
    "PRelu": _prelu,
    "Pow": _elementwise(torch.pow),
    "QuantizeLinear": quantize_linear,
    "ReduceL2": _reduce(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _elementwise(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _elementwise(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda values, attributes: torch.softmax(values[0], attributes.get("axis", -1)),
    "Sqrt": _elementwise(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _elementwise(torch.sub),
    "Tanh": _elementwise(torch.tanh),
    "Transpose": lambda values, attributes: values[0].permute(*attributes.get("perm", range(values[0].ndim)[::-1])),
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(torch.where),
}
