"""Tensors of the Open Inference Protocol (KServe version 2, HTTP), with the binary data extension.

https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md. The model is the purifier:
faces in, purified faces and probabilities out. Nothing here knows of a web framework.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError

__all__ = [
    "BINARY_HEADER",
    "INPUT",
    "MODEL",
    "OUTPUTS",
    "InferenceRequest",
    "encode_response",
    "model_metadata",
    "parse_request",
]

MODEL = "purifier"
INPUT = "faces"
OUTPUTS = ("purified", "probabilities")
BINARY_HEADER = "Inference-Header-Content-Length"

_SIDE = 112
_KINDS: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "UINT8": np.dtype("u1")}
_NAMES = {"f": "FP32", "u": "UINT8"}


@dataclass(frozen=True, eq=False)
class InferenceRequest:
    """What a client wants.

    Attributes
    ----------
    faces : ndarray of float32 or uint8, shape (N, 112, 112)
        Of values nothing was checked yet.
    outputs : Mapping of str to bool
        Names that are wanted, and whether as binary data.
    id : str or None
        Given back as it is.
    """

    faces: NDArray[Any]
    outputs: Mapping[str, bool]
    id: str | None


def model_metadata(k: int) -> dict[str, Any]:
    """What ``GET /v2/models/purifier`` says; `k` is the number of eigenfaces."""
    face = [-1, _SIDE, _SIDE]
    return {
        "name": MODEL,
        "versions": ["1"],
        "platform": "immunecam",
        "inputs": [{"name": INPUT, "datatype": "FP32", "shape": face}],
        "outputs": [
            {"name": "purified", "datatype": "UINT8", "shape": face},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, k]},
        ],
    }


def parse_request(body: bytes, header_length: str | None, *, max_faces: int) -> InferenceRequest:
    """Read an inference request.

    Parameters
    ----------
    body : bytes
        JSON, and binary data behind it.
    header_length : str or None
        Of the header `BINARY_HEADER`: bytes of the JSON. None if all is JSON.
    max_faces : int
        Most faces, which bounds what is allocated.

    Raises
    ------
    InputError
        If it is no such request, or is for other tensors.
    """
    if header_length is None:
        split = len(body)
    else:
        split = int(header_length) if header_length.isdecimal() and len(header_length) < 12 else -1
        if not 0 < split <= len(body):
            raise InputError(
                f"{BINARY_HEADER} is {header_length[:20]!r}, but the body has {len(body)} bytes: give the JSON's length"
            )
    content = _json(body[:split])
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise InputError(f"the request must have one input, {INPUT!r}, as an object in the list 'inputs'")
    parameters = _mapping(content.get("parameters"), "parameters")
    faces = _tensor(inputs[0], memoryview(body)[split:], max_faces)
    name = content.get("id")
    if name is not None and not isinstance(name, str):
        raise InputError(f"the request's id is a {type(name).__name__}, but it must be a string")
    return InferenceRequest(faces, _wanted(content.get("outputs"), parameters), name)


def encode_response(request: InferenceRequest, tensors: Mapping[str, NDArray[Any]]) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON if binary data follows that.

    Parameters
    ----------
    request : InferenceRequest
    tensors : Mapping of str to ndarray of float32 or uint8
        One for each of `OUTPUTS`.
    """
    described, binary = [], []
    for name, as_bytes in request.outputs.items():
        array = tensors[name]
        kind = _NAMES[array.dtype.kind]
        about: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(array.shape)}
        if as_bytes:
            data = np.ascontiguousarray(array, _KINDS[kind]).tobytes()
            about["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            about["data"] = array.ravel().tolist()
        described.append(about)
    content: dict[str, Any] = {"model_name": MODEL, "model_version": "1", "outputs": described}
    if request.id is not None:
        content["id"] = request.id
    head = json.dumps(content, allow_nan=False).encode()
    return b"".join([head, *binary]), len(head) if binary else None


def _json(data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is no JSON ({' '.join(str(error).split())[:100]})") from None
    return _mapping(content, "the request")


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _mapping(value: Any, what: str) -> dict[str, Any]:
    if value is None and what == "parameters":
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{what} is a {type(value).__name__}, but it must be an object of JSON")
    return value


def _tensor(about: dict[str, Any], rest: memoryview, max_faces: int) -> NDArray[Any]:
    name, kind, shape = about.get("name"), about.get("datatype"), about.get("shape")
    if name != INPUT:
        raise InputError(f"the input is {str(name)[:50]!r}, but it must be {INPUT!r}")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"the datatype of {INPUT!r} is {str(kind)[:20]!r}, but it must be FP32 in [-1, 1] or UINT8")
    if (
        not isinstance(shape, list)
        or len(shape) != 3
        or not all(isinstance(length, int) and not isinstance(length, bool) for length in shape)
        or shape[1:] != [_SIDE, _SIDE]
        or not 1 <= shape[0] <= max_faces
    ):
        raise InputError(
            f"the shape of {INPUT!r} is {str(shape)[:50]}, but it must be [N, {_SIDE}, {_SIDE}], N from 1 to "
            f"{max_faces}"
        )
    count, dtype = math.prod(shape), _KINDS[kind]
    size = _mapping(about.get("parameters"), "parameters").get("binary_data_size")
    if size is None:
        if len(rest):
            raise InputError(f"{len(rest)} bytes follow the JSON, but no input says binary_data_size")
        return _listed(about.get("data"), count, dtype).reshape(shape)
    if isinstance(size, bool) or size != len(rest) or size != count * dtype.itemsize:
        raise InputError(
            f"{INPUT!r} says binary_data_size {str(size)[:20]} and {len(rest)} bytes follow the JSON, but it has "
            f"{count * dtype.itemsize}"
        )
    return np.frombuffer(rest, dtype).reshape(shape)


def _listed(data: Any, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers of JSON, flat or nested."""
    wrong = f"the data of {INPUT!r} must be a list of {count} numbers"
    if not isinstance(data, list):
        raise InputError(f"{wrong}, and is {'not there' if data is None else 'a ' + type(data).__name__}")
    try:
        values = np.array(data)
    except ValueError:  # rows of unequal length
        raise InputError(f"{wrong}, flat or in whole rows") from None
    if values.size != count or values.dtype.kind not in "iuf":
        raise InputError(f"{wrong}, and has {values.size} values")
    if dtype.kind == "u" and (values.dtype.kind == "f" or values.min() < 0 or values.max() > 255):
        raise InputError(f"the data of {INPUT!r} is UINT8, but has other values than the integers 0 to 255")
    return values.astype(dtype)


def _wanted(outputs: Any, parameters: dict[str, Any]) -> dict[str, bool]:
    default = parameters.get("binary_data_output", False) is True
    if outputs is None:
        return dict.fromkeys(OUTPUTS, default)
    if not isinstance(outputs, list) or not outputs:
        raise InputError("'outputs' must be a list of objects with names, or left out")
    found: dict[str, bool] = {}
    for one in outputs:
        about = _mapping(one, "an output")
        name = about.get("name")
        if name not in OUTPUTS or name in found:
            raise InputError(f"the output {str(name)[:50]!r} is not one of {', '.join(OUTPUTS)}, or is named twice")
        found[name] = _mapping(about.get("parameters"), "parameters").get("binary_data", default) is True
    return found
