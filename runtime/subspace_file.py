"""A subspace as a safetensors file: the tensors mean, basis and, for a quantised basis, scale."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.kernels import Subspace

__all__ = ["subspace_from_bytes", "subspace_to_bytes", "tensor_spans"]


def subspace_to_bytes(subspace: Subspace) -> bytes:
    """Content of a ``subspace.safetensors``.

    Row-major copies are written: safetensors stores an array's memory as it lies, so a transposed array
    would come back scrambled, without an error.
    """
    import safetensors.numpy

    tensors = {"mean": subspace.mean, "basis": subspace.basis}
    if subspace.scale is not None:
        tensors["scale"] = subspace.scale
    return safetensors.numpy.save({name: np.array(array, order="C") for name, array in tensors.items()})


def subspace_from_bytes(data: bytes, where: str) -> Subspace:
    """Subspace in the content of a ``subspace.safetensors``.

    Parameters
    ----------
    data : bytes
        The whole file.
    where : str
        What to call the file in an error.

    Raises
    ------
    InputError
        If it is not a safetensors file, has other tensors, or they are no valid subspace.
    """
    import safetensors
    import safetensors.numpy

    try:
        tensors: dict[str, Any] = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{where} is not a safetensors file of numpy types ({reason}): export the bundle again."
        ) from None
    if not {"mean", "basis"} <= set(tensors) <= {"mean", "basis", "scale"}:
        raise InputError(
            f"{where} holds the tensors {sorted(tensors)}, but it must hold mean, basis and, if need be, "
            "scale: export the bundle again."
        )
    # The reader makes copies. What is kept are views of the file's own bytes, which a bundle holds anyway: a basis of
    # 1500 eigenfaces in fp32 is 75 MB.
    views = {name: _view(data, tensors[name], start) for name, (start, _) in tensor_spans(data).items()}
    try:
        return Subspace(views["mean"], views["basis"], views.get("scale"))
    except InputError as error:
        raise InputError(f"{where} cannot be used: {error}") from None


def _view(data: bytes, tensor: NDArray[Any], start: int) -> NDArray[Any]:
    """The tensor where it lies in the file; copied only if a foreign writer has put it at an odd place."""
    view = np.frombuffer(data, tensor.dtype, tensor.size, start).reshape(tensor.shape)
    return np.require(view, requirements="A")


def tensor_spans(data: bytes) -> dict[str, tuple[int, int]]:
    """Offset and length in bytes of each tensor of a safetensors file, as ONNX external data names them.

    The format is 8 bytes of the header's length (little-endian), the header in JSON, then the data,
    https://github.com/huggingface/safetensors#format.
    """
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    spans = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return {name: (8 + size + begin, end - begin) for name, (begin, end) in spans.items()}
