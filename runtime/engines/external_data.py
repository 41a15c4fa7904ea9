"""ONNX external data, put back into the graph from bytes that were already verified.

In a bundle the graphs refer to weights in other files (file, offset, length), so that nothing is stored
twice. ONNX Runtime would open those files itself, by path, after they were checked; from memory it can
take them only since 1.24 from Python, and JetPack 6's last release is 1.23. So the references are
resolved here: the graph's bytes are rewritten with each reference replaced by the bytes it means. That
works with every release, for TensorRT's parser too, and no reference can reach a file that the bundle
does not list.

The protobuf wire format is simple enough to read without the onnx package, which a device does not have:
https://protobuf.dev/programming-guides/encoding, field numbers from onnx.proto (ONNX IR).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from immunecam.errors import InputError

__all__ = ["inline_external_data"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 7, 11
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

# Where a tensor can hide below each kind of message: field number -> kind of the submessage.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {_MODEL_GRAPH: "graph", _MODEL_FUNCTIONS: "function"},
    "graph": {_GRAPH_NODE: "node", _GRAPH_INITIALIZER: "tensor", _GRAPH_SPARSE: "sparse"},
    "function": {_FUNCTION_NODE: "node", _FUNCTION_ATTRIBUTE: "attribute"},
    "node": {_NODE_ATTRIBUTE: "attribute"},
    "attribute": {
        _ATTRIBUTE_TENSOR: "tensor",
        _ATTRIBUTE_TENSORS: "tensor",
        _ATTRIBUTE_GRAPH: "graph",
        _ATTRIBUTE_GRAPHS: "graph",
        _ATTRIBUTE_SPARSE: "sparse",
        _ATTRIBUTE_SPARSES: "sparse",
    },
    "sparse": {_SPARSE_VALUES: "tensor", _SPARSE_INDICES: "tensor"},
}

# Bits of one value of each TensorProto.DataType that a reference may have.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16}

_MAX_DEPTH = 64


def inline_external_data(model: bytes, files: Mapping[str, bytes], *, name: str = "the model") -> bytes:
    """The model with every external reference replaced by the bytes it refers to.

    Parameters
    ----------
    model : bytes
        A serialised ONNX ModelProto.
    files : Mapping of str to bytes
        The only contents that a reference may name.
    name : str
        What to call the model in an error.

    Returns
    -------
    bytes
        A self-contained model, equal to ``model`` in all else.

    Raises
    ------
    InputError
        If ``model`` is not a protobuf message, or a reference names a file that is not in ``files``, lies
        outside of it, or does not have its tensor's size.
    """
    return b"".join(_rewrite("model", memoryview(model), files, name, 0))


def _rewrite(
    kind: str, message: memoryview, files: Mapping[str, bytes], name: str, depth: int
) -> list[bytes | memoryview]:
    """The message's pieces; whatever holds no tensor is passed through as it is."""
    if depth > _MAX_DEPTH:
        raise InputError(f"{name} nests graphs more than {_MAX_DEPTH} deep: export the bundle again.")
    if kind == "tensor":
        return _tensor(message, files, name)
    pieces: list[bytes | memoryview] = []
    for number, wire, start, body, end in _fields(message, name):
        child = _CHILDREN[kind].get(number)
        if child is None or wire != _BYTES:
            pieces.append(message[start:end])
            continue
        inner = _rewrite(child, message[body:end], files, name, depth + 1)
        pieces += [_tag(number, _BYTES), _varint(sum(map(len, inner))), *inner]
    return pieces


def _tensor(message: memoryview, files: Mapping[str, bytes], name: str) -> list[bytes | memoryview]:
    """The tensor itself, or with its reference replaced by raw data."""
    kept: list[bytes | memoryview] = []
    entries: dict[str, str] = {}
    label, data_type, count = "", 0, 1
    external = False
    for number, wire, start, body, end in _fields(message, name):
        if number == _TENSOR_EXTERNAL and wire == _BYTES:
            key, value = _entry(message[body:end], name)
            entries[key] = value
            continue
        if number == _TENSOR_LOCATION and wire == _VARINT:
            external = _read_varint(message, body, name)[0] == 1
            continue
        if number == _TENSOR_DIMS:
            for size in _integers(message, wire, body, end, name):
                count *= size
        elif number == _TENSOR_TYPE and wire == _VARINT:
            data_type = _read_varint(message, body, name)[0]
        elif number == _TENSOR_NAME and wire == _BYTES:
            label = bytes(message[body:end]).decode("utf-8", "replace")
        kept.append(message[start:end])
    if not external:
        if entries:
            raise InputError(f"{name}: the tensor {label!r} has external data but does not say so.")
        return [message]
    if data_type not in _BITS:
        raise InputError(f"{name}: the tensor {label!r} has external data of the unknown type {data_type}.")
    data = _resolve(entries, count * _BITS[data_type] // 8, files, f"{name}: the tensor {label!r}")
    return [*kept, _tag(_TENSOR_RAW, _BYTES), _varint(len(data)), data]


def _resolve(entries: dict[str, str], wanted: int, files: Mapping[str, bytes], label: str) -> memoryview:
    location = entries.get("location", "")
    if location not in files:
        raise InputError(
            f"{label} refers to the file {location!r}, but only files that the bundle's manifest lists may "
            "be referred to: export the bundle again."
        )
    content = memoryview(files[location])
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(len(content) - offset)))
    except ValueError:
        raise InputError(f"{label} has an offset or length that is not a number.") from None
    if offset < 0 or length < 0 or offset + length > len(content):
        raise InputError(
            f"{label} refers to the bytes {offset} to {offset + length} of {location}, but that file has "
            f"{len(content)}: export the bundle again."
        )
    if length != wanted:
        raise InputError(
            f"{label} refers to {length} bytes of {location}, but its shape and type need {wanted}: export "
            "the bundle again."
        )
    return content[offset : offset + length]


def _entry(message: memoryview, name: str) -> tuple[str, str]:
    texts = {_ENTRY_KEY: "", _ENTRY_VALUE: ""}
    for number, wire, _, body, end in _fields(message, name):
        if number in texts and wire == _BYTES:
            texts[number] = bytes(message[body:end]).decode("utf-8", "replace")
    return texts[_ENTRY_KEY], texts[_ENTRY_VALUE]


def _integers(message: memoryview, wire: int, body: int, end: int, name: str) -> Iterator[int]:
    """Repeated integers, packed or not."""
    position = body
    while position < end:
        value, position = _read_varint(message, position, name)
        yield value
        if wire == _VARINT:
            return


def _fields(message: memoryview, name: str) -> Iterator[tuple[int, int, int, int, int]]:
    """Fields of a message as (number, wire type, start of the tag, start of the value, end)."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _read_varint(message, position, name)
        number, wire = tag >> 3, tag & 7
        body = position
        if wire == _VARINT:
            _, end = _read_varint(message, position, name)
        elif wire == _FIXED64:
            end = position + 8
        elif wire == _FIXED32:
            end = position + 4
        elif wire == _BYTES:
            length, body = _read_varint(message, position, name)
            end = body + length
        else:
            raise _damaged(name)
        if number == 0 or end > len(message):
            raise _damaged(name)
        yield number, wire, start, body, end
        position = end


def _read_varint(message: memoryview, position: int, name: str) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _damaged(name)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _tag(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _damaged(name: str) -> InputError:
    return InputError(f"{name} is not an ONNX model: its bytes do not decode, export the bundle again.")
