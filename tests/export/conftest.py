"""Quantised graphs as a CPU gets them, and ONNX Runtime on them."""

from __future__ import annotations

import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from immunecam.export.unsigned_activations import unsigned_activations
from immunecam.runtime.engines.onnxruntime_session import add_in_32_bits


@pytest.fixture(scope="session")
def for_cpu():
    """Content of a graph with uint8 activations, rewritten by a function of nodes, initializers and shapes."""

    def make(content, rewrite=None):
        model = onnx.load_from_string(content)
        inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
        shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inferred}
        nodes = list(model.graph.node)
        initializers = unsigned_activations(nodes, list(model.graph.initializer))
        if rewrite is not None:
            nodes, initializers = rewrite(nodes, initializers, shapes)
        graph = helper.make_graph(nodes, "cpu", model.graph.input, model.graph.output, initializers)
        made = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
        onnx.checker.check_model(made, full_check=True)
        return made.SerializeToString()

    return make


@pytest.fixture(scope="session")
def run():
    """First output of a graph; what ONNX Runtime made of it is left in a file, if one is named."""

    def first(content, feeds, optimised=None):
        options = ort.SessionOptions()
        add_in_32_bits(options)
        if optimised is not None:
            options.optimized_model_filepath = str(optimised)
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]

    return first
