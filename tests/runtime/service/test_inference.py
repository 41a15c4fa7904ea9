"""The Open Inference Protocol: what is parsed and refused, and Triton's public client against a real server."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

from immunecam.errors import InputError
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.service.inference import encode_response, model_metadata, parse_request

SIDE = 112


def described(**changes: object) -> dict[str, object]:
    tensor = {"name": "faces", "datatype": "UINT8", "shape": [1, SIDE, SIDE], "data": [7] * SIDE * SIDE}
    return {"inputs": [{**tensor, **changes}]}


def parsed(content: object, tail: bytes = b"", **more: object):
    head = json.dumps(content).encode()
    return parse_request(head + tail, str(len(head)) if tail else None, max_faces=4, **more)


def test_numbers_flat_and_nested_are_the_same():
    flat = parsed(described())
    nested = parsed(described(data=[[[7] * SIDE] * SIDE]))
    assert flat.faces.dtype == nested.faces.dtype == np.uint8
    assert (flat.faces == nested.faces).all()
    assert flat.outputs == {"purified": False, "probabilities": False}
    floats = parsed(described(datatype="FP32", data=[0.25] * SIDE * SIDE))
    assert floats.faces.dtype == np.float32
    assert (floats.faces == 0.25).all()


def test_binary_data_goes_there_and_back():
    faces = np.random.default_rng(0).uniform(-1, 1, (2, SIDE, SIDE)).astype("<f4")
    content = described(datatype="FP32", shape=[2, SIDE, SIDE], parameters={"binary_data_size": faces.nbytes})
    del content["inputs"][0]["data"]
    content |= {"id": "seven", "parameters": {"binary_data_output": True}}
    content["outputs"] = [{"name": "probabilities"}, {"name": "purified", "parameters": {"binary_data": False}}]
    request = parsed(content, faces.tobytes())
    assert (request.faces == faces).all()
    assert request.outputs == {"probabilities": True, "purified": False}
    tensors = {
        "purified": np.full((2, 2, 2), 9, np.uint8),
        "probabilities": np.array([[0.5, 1], [0, 0.25]], np.float32),
    }
    body, head = encode_response(request, tensors)
    answer = json.loads(body[:head])
    assert answer["id"] == "seven"
    assert answer["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert answer["outputs"][1]["data"] == [9] * 8
    assert np.frombuffer(body[head:], "<f4").tolist() == [0.5, 1, 0, 0.25]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "the request is a list"),
        ({}, "must have one input"),
        ({"inputs": []}, "must have one input"),
        ({"inputs": [7]}, "must have one input"),
        (described(name="image"), "the input is 'image', but it must be 'faces'"),
        (described(datatype="FP64"), "the datatype of 'faces' is 'FP64'"),
        (described(datatype=["FP32"]), "the datatype"),
        (described(shape=[1, 64, 64]), "the shape of 'faces' is"),
        (described(shape=[0, SIDE, SIDE]), "N from 1 to 4"),
        (described(shape=[10**12, SIDE, SIDE]), "N from 1 to 4"),
        (described(shape=[True, SIDE, SIDE]), "the shape"),
        (described(shape="1"), "the shape"),
        (described(data=None), "is not there"),
        (described(data={"a": 1}), "is a dict"),
        (described(data=[1, 2, 3]), "has 3 values"),
        (described(data=[[1, 2], [3]]), "in whole rows"),
        (described(data=["7"] * SIDE * SIDE), "must be a list of 12544 numbers"),
        (described(data=[256] * SIDE * SIDE), "the integers 0 to 255"),
        (described(data=[10**30] * SIDE * SIDE), "numbers"),
        (described(data=[0.5] * SIDE * SIDE), "the integers 0 to 255"),
        (described(parameters=[]), "parameters is a list"),
        (described(parameters={"binary_data_size": 5}), "says binary_data_size 5"),
        ({**described(), "id": 7}, "id is a int"),
        ({**described(), "outputs": [{"name": "secrets"}]}, "'secrets' is not one of purified, probabilities"),
        ({**described(), "outputs": [{"name": "purified"}] * 2}, "named twice"),
        ({**described(), "outputs": [{"name": ["purified"]}]}, "is not one of"),
        ({**described(), "outputs": []}, "'outputs' must be a list"),
    ],
)
def test_other_requests_are_refused_in_one_sentence(content, says):
    with pytest.raises(InputError, match=says) as caught:
        parsed(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"inputs": NaN}', b"\xff\xfe", b"null"])
def test_what_is_no_json_is_refused(body):
    with pytest.raises(InputError, match=r"no JSON|is a NoneType"):
        parse_request(body, None, max_faces=4)


@pytest.mark.parametrize("length", ["0", "-1", "x", "999", "9" * 5000, "1.5", ""])
def test_lengths_that_are_none_are_refused(length):
    with pytest.raises(InputError, match="give the JSON's length"):
        parse_request(b"{}", length, max_faces=4)


def test_bytes_that_nobody_announced_are_refused():
    with pytest.raises(InputError, match="4 bytes follow the JSON"):
        parsed(described(), b"abcd")


@pytest.fixture(scope="module")
def server(start):
    return start("--mutation", "threshold")


@pytest.fixture
def triton(server):
    http = pytest.importorskip("tritonclient.http", reason="needs Triton's client (pip install 'tritonclient[http]')")
    client = http.InferenceServerClient(server.url.removeprefix("http://"), network_timeout=60)
    yield http, client
    client.close()


@pytest.fixture(scope="module")
def faces(frame):
    from immunecam.runtime.faces import align, face_finder

    return align(frame, face_finder().find(frame)).grey


def test_tritons_client_finds_the_model(triton):
    _, client = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("purifier")
    assert client.is_model_ready("purifier", "1")
    assert not client.is_model_ready("dog")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    with Purifier.load(threads=1) as purifier:
        assert client.get_model_metadata("purifier") == model_metadata(purifier.k)
    assert client.get_model_metadata("purifier", "1")["name"] == "purifier"


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("kind", ["FP32", "UINT8"])
def test_tritons_client_gets_what_the_library_gives(triton, faces, binary_in, binary_out, kind):
    http, client = triton
    given = faces if kind == "FP32" else np.rint((faces + 1) * 127.5).astype(np.uint8)
    tensor = http.InferInput("faces", list(given.shape), kind)
    tensor.set_data_from_numpy(given, binary_data=binary_in)
    wanted = [http.InferRequestedOutput(name, binary_data=binary_out) for name in ("purified", "probabilities")]
    result = client.infer("purifier", [tensor], outputs=wanted, request_id="a1")
    assert result.get_response()["id"] == "a1"
    with Purifier.load(mutation="threshold", threads=1) as purifier:
        expected = purifier.purify_batch(given)
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected.probabilities, atol=1e-4)
    purified = result.as_numpy("purified")
    assert purified.dtype == np.uint8
    assert np.abs(purified.astype(int) - expected.purified).mean() < 0.1


def test_tritons_client_is_told_what_is_wrong(triton, faces):
    http, client = triton
    exception = pytest.importorskip("tritonclient.utils").InferenceServerException
    tensor = http.InferInput("faces", [1, SIDE, SIDE], "FP32")
    tensor.set_data_from_numpy(np.full((1, SIDE, SIDE), 200, np.float32))
    with pytest.raises(exception, match="values range from 200 to 200, but they must be in"):
        client.infer("purifier", [tensor])
    with pytest.raises(exception, match="there is no model 'dog'"):
        client.infer("dog", [tensor])
    tensor.set_data_from_numpy(faces[:1])
    with pytest.raises(exception, match="'depth' is not one of purified, probabilities"):
        client.infer("purifier", [tensor], outputs=[http.InferRequestedOutput("depth")])
    with pytest.raises(exception, match="do not compress it"):
        client.infer("purifier", [tensor], request_compression_algorithm="gzip")


def test_without_outputs_all_come_as_json(server, faces):
    tensor = {"name": "faces", "datatype": "FP32", "shape": [1, SIDE, SIDE], "data": faces[0].ravel().tolist()}
    answer = httpx.post(f"{server.url}/v2/models/purifier/infer", json={"inputs": [tensor]}, timeout=60).json()
    assert [output["name"] for output in answer["outputs"]] == ["purified", "probabilities"]
    assert answer["model_name"] == "purifier"
