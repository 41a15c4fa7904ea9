"""The stand-in has what a version has: code that leans on more fails on it."""

from __future__ import annotations

import sys

import pytest


def test_what_a_version_does_not_have_is_missing(world):
    trt = sys.modules["tensorrt"]
    assert trt.__version__ == world.version
    had = {
        "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": world.numbers >= (10, 9),
        "DataType.FP4": world.numbers >= (10, 8),
        "BuilderFlag.FP16": world.numbers < (11, 0),
        "BuilderFlag.INT8": world.numbers < (11, 0),
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": world.numbers < (11, 0),
    }
    for name, there in had.items():
        owner, member = name.split(".")
        assert (member in getattr(trt, owner).__members__) == there, name
    assert "STRONGLY_TYPED" in trt.NetworkDefinitionCreationFlag.__members__
    with pytest.raises(AttributeError):
        trt.IInt8EntropyCalibrator2  # noqa: B018
    logger = trt.Logger()
    config = trt.Builder(logger).create_builder_config()
    assert hasattr(config, "int8_calibrator") == (world.numbers < (11, 0))
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1 << 20  # gone since 10; a class of the binding takes no new attributes
    with pytest.raises(TypeError):
        config.progress_monitor = "a bar"


def test_a_network_without_a_profile_or_parsed_in_part_is_not_built(world, stand_in, tmp_path):
    trt = sys.modules["tensorrt"]
    said = []

    class Ear(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, msg):
            said.append(msg)

    builder = trt.Builder(Ear())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, Ear())
    graph = stand_in.small_bundle(tmp_path / "a.immune").graph("analyzer")
    assert not parser.parse(graph)  # its weights are stored in int8, and cast
    error = parser.get_error(0)
    assert (error.node_operator(), error.node_name(), error.node()) == ("Cast", "cast", 3)
    assert error.code() == trt.ErrorCode.UNSUPPORTED_NODE
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "no layers" in said[-1]


def test_a_file_is_parsed_as_its_bytes_are(world, stand_in, tmp_path):
    trt = sys.modules["tensorrt"]
    bundle = stand_in.small_bundle(tmp_path / "a.immune")
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network()
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR))
    assert parser.parse_from_file(str(bundle.path / "restorer.onnx"))
    assert [network.get_input(index).name for index in range(network.num_inputs)] == ["faces", "projected"]
    assert network.get_output(0).shape == (-1, 112, 112)
    assert not parser.parse_from_file(str(tmp_path / "gone.onnx"))
    assert parser.get_error(0).code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED
