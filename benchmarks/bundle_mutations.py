"""What an attacker, or a dying flash chip, may do to a signed bundle without its private key.

A bundle is a mapping of names to bytes; a mutation gives another mapping (to be written as a folder or packed as an
archive), or the bytes of an archive. All are drawn from a `random.Random`, so that each can be made again by its seed.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["ARCHIVE_MUTATIONS", "CONTENT_MUTATIONS", "Material", "packed"]

Contents = dict[str, bytes]
MANIFEST, SIGNATURE = "manifest.json", "signature.json"

_ODD_NAMES = (
    "../x.onnx", "/etc/cron.d/x", "a/b.onnx", "..\\x.onnx", "C:x.onnx", "x\0.onnx", "./analyzer.onnx", "d/", "é.onnx"
)  # fmt: skip


@dataclass(frozen=True)
class Material:
    """What there is to mutate, and to mix in.

    Attributes
    ----------
    good : Mapping of bytes
        The bundle that a device accepts.
    old : Mapping of bytes
        An older version of it, by the same key.
    foreign : Mapping of bytes
        Another of the same name and version, by a key that is not trusted.
    resigned : callable
        Content of a ``signature.json`` over a manifest, by the key that is not trusted.
    """

    good: Mapping[str, bytes]
    old: Mapping[str, bytes]
    foreign: Mapping[str, bytes]
    resigned: Callable[[bytes], bytes]


def _bytes(data: bytes, draw: random.Random) -> bytes:
    """Some bytes other than they were, at one to four places."""
    found = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(found) + 1)
        how = draw.choice(("bit", "bit", "bit", "byte", "cut", "end", "more", "twice", "zeros"))
        length = draw.choice((1, 2, 7, 64, 4096))
        if how == "bit" and at < len(found):
            found[at] ^= 1 << draw.randrange(8)
        elif how == "byte" and at < len(found):
            found[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif how == "cut":
            del found[at : at + length]
        elif how == "end":
            del found[at:]
        elif how == "more":
            found[at:at] = draw.randbytes(length)
        elif how == "twice":
            found[at:at] = found[max(0, at - length) : at]
        else:
            found[at : at + length] = bytes(min(length, len(found) - at))
    return bytes(found)


def _damaged_file(of: Material, draw: random.Random) -> Contents:
    name = draw.choice(sorted(of.good))
    return {**of.good, name: _bytes(of.good[name], draw)}


def _damaged_manifest(of: Material, draw: random.Random) -> Contents:
    return {**of.good, MANIFEST: _bytes(of.good[MANIFEST], draw)}


def _damaged_signature(of: Material, draw: random.Random) -> Contents:
    return {**of.good, SIGNATURE: _bytes(of.good[SIGNATURE], draw)}


def _swapped(of: Material, draw: random.Random) -> Contents:
    one, other = draw.sample(sorted(of.good), 2)
    return {**of.good, one: of.good[other], other: of.good[one]}


def _removed(of: Material, draw: random.Random) -> Contents:
    gone = draw.choice(sorted(of.good))
    return {name: data for name, data in of.good.items() if name != gone}


def _added(of: Material, draw: random.Random) -> Contents:
    """A file that nobody lists; a folder may have it, an archive may not."""
    return {**of.good, draw.choice(("x.onnx", "restorer-1.plan", "README")): draw.randbytes(20)}


def _mixed(of: Material, draw: random.Random) -> Contents:
    """Some files of another bundle, which has signatures and hashes that are right for itself."""
    other = draw.choice((of.old, of.foreign))
    taken = draw.sample(sorted(other), draw.randrange(1, len(other)))
    return {**of.good, **{name: other[name] for name in taken}}


def _rolled_back(of: Material, draw: random.Random) -> Contents:
    return dict(of.old)


def _by_another(of: Material, draw: random.Random) -> Contents:
    return dict(of.foreign)


def _edited(of: Material, draw: random.Random) -> Contents:
    """A field of the manifest is another, the text is valid JSON; sometimes signed by the key that is not trusted."""
    content = json.loads(of.good[MANIFEST])
    _edit(content, draw)
    raw = json.dumps(content, indent=draw.choice((2, None))).encode()
    return _covered(of, {**of.good, MANIFEST: raw}, draw)


def _edited_signature(of: Material, draw: random.Random) -> Contents:
    content = json.loads(of.good[SIGNATURE])
    _edit(content, draw)
    return {**of.good, SIGNATURE: json.dumps(content).encode()}


def _rehashed(of: Material, draw: random.Random) -> Contents:
    """A file is another, and the manifest has its new size and hash: what only the signature can tell."""
    name = draw.choice(sorted(set(of.good) - {MANIFEST, SIGNATURE}))
    data = _bytes(of.good[name], draw)
    content = json.loads(of.good[MANIFEST])
    content["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    raw = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    return _covered(of, {**of.good, name: data, MANIFEST: raw}, draw)


def _covered(of: Material, contents: Contents, draw: random.Random) -> Contents:
    """The old signature, one by another key, or that one under the name of the trusted key."""
    how = draw.choice(("old", "other", "named"))
    if how == "old":
        return contents
    made = of.resigned(contents[MANIFEST])
    if how == "named":
        theirs = json.loads(of.good[SIGNATURE])["signatures"][0]["key"].encode()
        made = re.sub(rb'"key": "[0-9a-f]{16}"', b'"key": "' + theirs + b'"', made)
    return {**contents, SIGNATURE: made}


def _edit(content: Any, draw: random.Random) -> None:
    """Change one place of a JSON document."""
    place, key = content, None
    while isinstance(place, (dict, list)) and place:
        parent, key = place, draw.choice(sorted(place) if isinstance(place, dict) else range(len(place)))
        place = place[key]
        if draw.random() < 0.3:
            break
    values = (None, True, 0, -1, 1, 2**31, 2**63, 1e300, "", "..", "../x", "/etc/passwd", "é", "x" * 5000, [], {}, [[]])
    how = draw.choice(("value", "value", "value", "gone", "near", "renamed"))
    if how == "gone":
        del parent[key]
    elif how == "near" and isinstance(place, int):
        parent[key] = place + draw.choice((-1, 1))
    elif how == "near" and isinstance(place, str) and place:
        at = draw.randrange(len(place))
        parent[key] = place[:at] + draw.choice("0123456789abcdefgZ/.") + place[at + 1 :]
    elif how == "renamed" and isinstance(parent, dict):
        parent[draw.choice(("x", "../x", MANIFEST, SIGNATURE, "version", "name"))] = parent.pop(key)
    else:
        parent[key] = draw.choice(values)


CONTENT_MUTATIONS: Mapping[str, Callable[[Material, random.Random], Contents]] = {
    "damaged file": _damaged_file,
    "damaged manifest": _damaged_manifest,
    "damaged signature": _damaged_signature,
    "swapped files": _swapped,
    "removed file": _removed,
    "added file": _added,
    "mixed with another bundle": _mixed,
    "rolled back": _rolled_back,
    "signed by another key": _by_another,
    "edited manifest": _edited,
    "edited signature": _edited_signature,
    "rehashed file": _rehashed,
}
"""Give what a folder holds, or an archive that is packed as it should be."""


def packed(contents: Mapping[str, bytes], order: list[str] | None = None, **fields: Any) -> bytes:
    """A zip archive with the manifest and the signature first; `fields` are set on one member's `ZipInfo`."""
    names = order or sorted(contents, key=lambda name: (name != MANIFEST, name != SIGNATURE, name))
    stream = io.BytesIO()
    victim = fields.pop("victim", None)
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w") as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name in names:
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            for field, value in fields.items() if name == victim else ():
                setattr(info, field, value)
            archive.writestr(info, contents[name])
    return stream.getvalue()


def _damaged_archive(of: Material, draw: random.Random) -> bytes:
    return _bytes(packed(of.good), draw)


def _damaged_directory(of: Material, draw: random.Random) -> bytes:
    """Bytes of the headers, which are few among those of the members."""
    raw = bytearray(packed(of.good))
    start = struct.unpack("<L", raw[-6:-2])[0]
    heads = [match.start() for match in re.finditer(b"PK\3\4", raw)]
    places = [*range(start, len(raw)), *(head + at for head in heads for at in range(30))]
    for _ in range(draw.choice((1, 1, 2, 3))):
        raw[draw.choice(places)] = draw.choice((0, 1, 8, 0x20, 0x80, 0xFF, draw.randrange(256)))
    return bytes(raw)


def _twice(of: Material, draw: random.Random) -> bytes:
    """A name twice: two readers could take two contents for it."""
    names = [MANIFEST, SIGNATURE, *sorted(set(of.good) - {MANIFEST, SIGNATURE})]
    again = draw.choice(names)
    contents, order = dict(of.good), [*names]
    order.insert(draw.randrange(len(order) + 1), "again.tmp"[: len(again)].ljust(len(again), "x"))
    other = next(name for name in order if name not in contents)
    contents[other] = draw.choice((of.good, of.old, of.foreign)).get(again, b"other")
    return packed(contents, order).replace(other.encode(), again.encode())


def _odd_member(of: Material, draw: random.Random) -> bytes:
    """A member that is a link, device or folder, has another name, method, comment or field."""
    victim = draw.choice(sorted(of.good))
    kinds = (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFSOCK)
    field, value = draw.choice(
        [
            ("external_attr", (draw.choice(kinds) | 0o777) << 16),
            ("external_attr", 0x10),
            ("compress_type", zipfile.ZIP_BZIP2),
            ("compress_type", zipfile.ZIP_LZMA),
            ("comment", b"hello"),
            ("extra", struct.pack("<HH4s", 0x7075, 4, b"abcd")),
        ]
    )
    return packed(of.good, victim=victim, **{field: value})


def _odd_name(of: Material, draw: random.Random) -> bytes:
    """A further member, or one in another's place, whose name leads out of the bundle."""
    name = draw.choice(_ODD_NAMES)
    contents = dict(of.good)
    if draw.random() < 0.5:
        contents[name] = contents.pop(draw.choice(sorted(set(contents) - {MANIFEST, SIGNATURE})))
    else:
        contents[name] = b"x"
    if "\0" in name:  # zipfile cuts names there when it writes, too
        contents["xZ.onnx"] = contents.pop(name)
        return packed(contents).replace(b"xZ.onnx", b"x\0.onnx")
    return packed(contents)


def _odd_order(of: Material, draw: random.Random) -> bytes:
    names = sorted(of.good)
    draw.shuffle(names)
    return packed(of.good, names)


def _bomb(of: Material, draw: random.Random) -> bytes:
    """A member of many zeros, or one that claims to be small or large."""
    victim = draw.choice(sorted(of.good))
    if draw.random() < 0.5:
        return packed({**of.good, victim: bytes(draw.choice((10**5, 10**6, 3 * 10**6)))})
    raw = bytearray(packed(of.good))
    name = victim.encode()
    head = next(match.start() for match in re.finditer(b"PK\1\2", raw) if raw[match.start() + 46 :].startswith(name))
    size = draw.choice((0, 1, len(of.good[victim]) - 1, len(of.good[victim]) + 1, 2**31, 2**32 - 1))
    struct.pack_into("<L", raw, head + 24, size)
    return bytes(raw)


def _wrapped(of: Material, draw: random.Random) -> bytes:
    """Something before, behind or between, as in a file that is a zip archive to one reader only."""
    raw, junk = packed(of.good), draw.randbytes(draw.choice((1, 22, 100)))
    other = packed(draw.choice((of.old, of.foreign)))
    return draw.choice((junk + raw, raw + junk, other + raw, raw + other, raw + b"PK\5\6" + bytes(18)))


def _deflated_otherwise(of: Material, draw: random.Random) -> bytes:
    """Another form of the same bytes, which may be accepted, or the deflate stream of other ones."""
    raw = packed(of.good)
    name = draw.choice(sorted(of.good)).encode()
    at = raw.index(name) + len(name)
    stream = zlib.compressobj(draw.choice((0, 1, 9)), zlib.DEFLATED, -15)
    other = stream.compress(draw.randbytes(50)) + stream.flush()
    return raw[:at] + other + raw[at + len(other) :]


ARCHIVE_MUTATIONS: Mapping[str, Callable[[Material, random.Random], bytes]] = {
    "damaged archive": _damaged_archive,
    "damaged directory": _damaged_directory,
    "member twice": _twice,
    "odd member": _odd_member,
    "odd name": _odd_name,
    "odd order": _odd_order,
    "bomb": _bomb,
    "wrapped": _wrapped,
    "other deflate stream": _deflated_otherwise,
}
"""Give the bytes of an archive."""
