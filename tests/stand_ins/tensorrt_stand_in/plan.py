"""The made-up plan format: a header without a checksum, and the ONNX file."""

from __future__ import annotations

import json
import struct

MAGIC = b"TRTSTAND"


def plan_bytes(content, raw):
    """A plan of what a build decided (plain values) and the ONNX file."""
    head = json.dumps(content).encode()
    return MAGIC + struct.pack("<II", len(head), len(raw)) + head + raw


def read_plan(data):
    """Content and ONNX file, or the complaint as a text."""
    data = bytes(data)
    if data[:8] != MAGIC or len(data) < 16:
        return "Error Code 1: Serialization (Serialization assertion magicTagRead == kMAGIC_TAG failed.)"
    head, raw = struct.unpack("<II", data[8:16])
    if len(data) != 16 + head + raw:
        return f"Error Code 1: Serialization (failed to read {16 + head + raw} bytes, got {len(data)}.)"
    try:
        return json.loads(data[16 : 16 + head]), data[16 + head :]
    except ValueError:
        return "Error Code 1: Serialization (header does not decode.)"
