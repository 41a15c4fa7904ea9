"""Bundles: what is written comes back, and every way of being wrong gets one sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.errors import InputError, UsageError
from immunecam.kernels import Subspace
from immunecam.runtime import bundle_writer
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.bundle_manifest import BundleManifest, check_file_name
from immunecam.runtime.bundle_writer import write_bundle
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.subspace_file import subspace_from_bytes, subspace_to_bytes, tensor_spans

K = 64


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of the valid bundle that a test may spoil."""
    return Path(shutil.copytree(bundle.path, tmp_path / "copy.immune"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest as JSON."""
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def refused(path: Path, *parts: str) -> None:
    """Loading fails with one sentence that has all the parts."""
    with pytest.raises(InputError) as caught:
        Bundle.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    for part in parts:
        assert part in message


def test_round_trip(bundle: Bundle) -> None:
    again = Bundle.load(str(bundle.path))
    assert again.name == "tiny"
    assert again.k == K
    assert again.manifest.kind == "edge"
    assert again.manifest.value_range == (-1.0, 1.0)
    assert again.manifest.provenance == {"made by": "the tests"}
    assert again.subspace.basis.shape == (K, 112 * 112)
    assert again.sha256 == hashlib.sha256((bundle.path / "manifest.json").read_bytes()).hexdigest()
    assert set(again.files) == {"analyzer.onnx", "purifier.onnx", "subspace.safetensors"}
    assert again.graph("analyzer") == (bundle.path / "analyzer.onnx").read_bytes()
    assert not list(bundle.path.parent.glob(".*"))


def test_nothing_is_stored_twice(bundle: Bundle) -> None:
    assert len(bundle.files["purifier.onnx"]) < 3000
    assert len(bundle.files["analyzer.onnx"]) > 49 * K * 4


def test_bundle_without_whole_graph(split_bundle: Bundle) -> None:
    assert split_bundle.graph("purifier") is None


def test_bundle_cannot_be_changed(bundle: Bundle) -> None:
    with pytest.raises(TypeError):
        bundle.files["analyzer.onnx"] = b""  # type: ignore[index]
    with pytest.raises(AttributeError):
        bundle.sha256 = ""  # type: ignore[misc]


@pytest.mark.parametrize("name", ["analyzer.onnx", "purifier.onnx", "subspace.safetensors"])
def test_changed_byte(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    refused(folder, name, "SHA-256", "changed or damaged")


def test_truncated_and_lengthened_file(folder: Path) -> None:
    data = (folder / "analyzer.onnx").read_bytes()
    (folder / "analyzer.onnx").write_bytes(data[:-1])
    refused(folder, f"has {len(data) - 1} bytes", f"says {len(data)}")
    (folder / "analyzer.onnx").write_bytes(data + b"x")
    refused(folder, f"more than {len(data)} bytes")


def test_missing_file(folder: Path) -> None:
    (folder / "subspace.safetensors").unlink()
    refused(folder, "subspace.safetensors is missing")


def test_unlisted_files_are_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "notes.txt~")
    Bundle.load(folder)


def test_no_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.immune", "There is no bundle")


def test_neither_folder_nor_archive(tmp_path: Path) -> None:
    (tmp_path / "file.immune").write_bytes(b"")
    refused(tmp_path / "file.immune", "is not a bundle's archive, it has 0 bytes")
    os.mkfifo(tmp_path / "pipe.immune")
    refused(tmp_path / "pipe.immune", "neither a folder nor a regular file")


def test_not_a_bundle(tmp_path: Path) -> None:
    refused(tmp_path, "is not a bundle")


def test_truncated_manifest(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])
    refused(folder, "not valid JSON")


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "its format is 'list'"),
        (b'{"format": "other"}', "its format is 'other'"),
        (b'{"format": "immunecam-bundle", "format": "immunecam-bundle"}', "stands twice"),
    ],
)
def test_manifest_that_is_none(folder: Path, raw: bytes, part: str) -> None:
    (folder / "manifest.json").write_bytes(raw)
    refused(folder, part)


def drop(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content.pop(key)


def put(*path: Any) -> Callable[[dict[str, Any]], Any]:
    *keys, last, value = path

    def change(content: dict[str, Any]) -> None:
        for key in keys:
            content = content[key]
        content[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (put("format_version", 2), "format version 2, but this immunecam reads version 1"),
        (put("format_version", True), "format version True"),
        (drop("format_version"), "format version None"),
        (put("kind", "other"), "kind is 'other', but it must be one of edge, ais, pin"),
        (drop("shapes"), "shapes is None"),
        (put("shapes", "height", 224), "shapes.height is 224"),
        (put("shapes", "k", 0), "shapes.k is 0"),
        (put("shapes", "k", "64"), "shapes.k is '64'"),
        (put("shapes", "k", 65), "K = 64 eigenfaces, but the manifest says K = 65"),
        (put("value_range", [0, 1]), "value_range is [0, 1]"),
        (put("precision", "analyzer", "fp8"), "precision.analyzer is 'fp8'"),
        (put("precision", "basis", "fp16"), "basis in int8, but the manifest says fp16"),
        (put("options", 5), "options is 5"),
        (put("files", "x" * 200), "files is 'xxx"),
        (put("files", "analyzer.onnx", 5), "files.analyzer.onnx is 5"),
        (put("files", "analyzer.onnx", "sha256", "AB"), "files.analyzer.onnx.sha256 is 'AB'"),
        (put("files", "analyzer.onnx", "bytes", -1), "files.analyzer.onnx.bytes is -1"),
        (put("files", "analyzer.onnx", "bytes", 2**40), "files.analyzer.onnx.bytes is"),
        (lambda content: content["files"].pop("subspace.safetensors"), "has subspace.safetensors"),
        (put("graphs", {}), "has an analyzer"),
        (put("graphs", "trainer", "analyzer.onnx"), "graphs is 'trainer'"),
        (put("graphs", "purifier", "other.onnx"), "graphs.purifier is 'other.onnx'"),
    ],
)
def test_wrong_field(folder: Path, change: Callable[[dict[str, Any]], Any], part: str) -> None:
    edit(folder, change)
    refused(folder, part)


BAD_NAMES = [
    "../up.onnx",
    "a/b.onnx",
    "/etc/passwd",
    "..",
    ".",
    "",
    ".hidden",
    "a\\b",
    "a\0b",
    "-o",
    "manifest.json",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_file_name_that_is_not_plain(folder: Path, name: str) -> None:
    edit(folder, lambda content: content["files"].update({name: content["files"]["analyzer.onnx"]}))
    refused(folder, "name must be plain")


@given(st.text(max_size=20))
def test_plain_names_stay_in_their_folder(name: str) -> None:
    try:
        check_file_name(name)
    except InputError:
        return
    assert (Path("/bundle") / name).resolve().parent == Path("/bundle")
    assert "\0" not in name


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(
        [
            "format",
            "format_version",
            "kind",
            "shapes",
            "value_range",
            "precision",
            "files",
            "graphs",
            "options",
        ]
    ),
)
def test_any_manifest_is_read_or_refused(bundle: Bundle, value: Any, key: str) -> None:
    content = {**bundle.manifest.content, key: value}
    message = ""
    try:
        BundleManifest.from_bytes(json.dumps(content).encode(), "manifest.json")
    except InputError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1


def test_link_out_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "analyzer.onnx").rename(tmp_path / "outside.onnx")
    (folder / "analyzer.onnx").symlink_to(tmp_path / "outside.onnx")
    refused(folder, "is a link to", "own folder")


def test_installer_that_links_every_file(folder: Path, tmp_path: Path) -> None:
    """Some installers link a package's files to a cache; the whole bundle then lies there."""
    (tmp_path / "linked.immune").mkdir()
    for file in folder.iterdir():
        (tmp_path / "linked.immune" / file.name).symlink_to(file)
    assert Bundle.load(tmp_path / "linked.immune").k == K


def test_link_to_itself(folder: Path) -> None:
    (folder / "analyzer.onnx").unlink()
    (folder / "analyzer.onnx").symlink_to("analyzer.onnx")
    refused(folder, "analyzer.onnx")


def test_pipe_under_a_listed_name(folder: Path) -> None:
    (folder / "analyzer.onnx").unlink()
    os.mkfifo(folder / "analyzer.onnx")
    refused(folder, "not a regular file")


def test_folder_under_a_listed_name(folder: Path) -> None:
    (folder / "analyzer.onnx").unlink()
    (folder / "analyzer.onnx").mkdir()
    refused(folder, "analyzer.onnx")


def with_subspace(parts: Any, data: bytes) -> Any:
    made = parts(whole=False)
    made.files["subspace.safetensors"] = data
    return made


@pytest.mark.parametrize(
    ("tensors", "part"),
    [
        ({"mean": np.zeros(112 * 112, np.float32)}, "holds the tensors ['mean']"),
        (
            {"mean": np.zeros(4, np.float32), "basis": np.zeros((K, 112 * 112), np.float32)},
            "mean has 4 values",
        ),
        ({"mean": np.zeros(100, np.float32), "basis": np.eye(K, 100, dtype=np.float32)}, "of 100 pixels"),
    ],
)
def test_wrong_subspace(parts: Any, tmp_path: Path, tensors: dict[str, Any], part: str) -> None:
    from safetensors.numpy import save

    with pytest.raises(InputError) as caught:
        with_subspace(parts, save(tensors)).write(tmp_path / "b.immune")
    assert part in str(caught.value)
    assert "b.immune/subspace.safetensors" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"no", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{}x"])
def test_subspace_that_is_none(data: bytes) -> None:
    with pytest.raises(InputError, match=r"^FILE "):
        subspace_from_bytes(data, "FILE")


@pytest.mark.parametrize("spaces", [0, 1])
def test_subspace_is_a_view_of_its_file(spaces: int) -> None:
    """A header of an odd length, which no writer of ours makes, puts tensors where a processor may not read them."""
    rows = np.eye(2, 6, dtype=np.float32)
    data = subspace_to_bytes(Subspace(np.arange(6, dtype=np.float32), rows))
    size = int.from_bytes(data[:8], "little")
    data = (size + spaces).to_bytes(8, "little") + data[8 : 8 + size] + b" " * spaces + data[8 + size :]
    found = subspace_from_bytes(data, "file")
    assert np.array_equal(found.basis, rows)
    assert np.array_equal(found.mean, np.arange(6))
    assert found.basis.flags.aligned
    assert np.shares_memory(found.basis, np.frombuffer(data, np.uint8)) is (spaces == 0)


def test_subspace_file_keeps_transposed_arrays_right() -> None:
    rows = np.arange(6, dtype=np.float32).reshape(3, 2).T
    data = subspace_to_bytes(Subspace(np.zeros(3, np.float32), rows))
    assert np.array_equal(subspace_from_bytes(data, "file").basis, rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
def test_spans_are_where_the_tensors_lie(dtype: Any) -> None:
    rows = np.arange(6).reshape(2, 3).astype(dtype)
    data = subspace_to_bytes(Subspace(np.arange(3, dtype=np.float32), rows, np.ones(2, np.float32)))
    spans = tensor_spans(data)
    assert set(spans) == {"mean", "basis", "scale"}
    offset, length = spans["basis"]
    assert np.array_equal(np.frombuffer(data[offset : offset + length], dtype).reshape(2, 3), rows)


def test_write_needs_the_suffix(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.immune"):
        parts().write(tmp_path / "bundle")


def test_write_replaces_a_bundle_only_when_told(parts: Any, tmp_path: Path) -> None:
    path = tmp_path / "b.immune"
    first = parts().write(path)
    with pytest.raises(UsageError, match="exists already"):
        parts().write(path)
    second = parts(whole=False).write(path, overwrite=True, quality={"mse": 0.5})
    assert second.sha256 != first.sha256
    assert Bundle.load(path).manifest.quality == {"mse": 0.5}
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.immune"]


def test_write_never_replaces_anything_else(parts: Any, tmp_path: Path) -> None:
    (tmp_path / "b.immune").mkdir()
    (tmp_path / "b.immune" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="is not a bundle"):
        parts().write(tmp_path / "b.immune", overwrite=True)
    assert (tmp_path / "b.immune" / "thesis.txt").exists()


def test_write_refuses_what_could_not_be_loaded(parts: Any, tmp_path: Path) -> None:
    made = parts()
    made.k = K + 1
    with pytest.raises(InputError, match="K = 64"):
        made.write(tmp_path / "b.immune")
    assert not list(tmp_path.iterdir())


def test_write_refuses_numbers_that_json_lacks(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="JSON"):
        parts().write(tmp_path / "b.immune", quality={"mse": float("nan")})


def test_write_refuses_a_name_that_is_not_plain(parts: Any, tmp_path: Path) -> None:
    made = parts()
    made.files["../x"] = b""
    with pytest.raises(InputError, match="plain"):
        made.write(tmp_path / "b.immune")


def test_write_into_no_folder(parts: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file or directory"):
        parts().write(tmp_path / "none" / "b.immune")


def test_disk_full_leaves_nothing(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(bundle_writer.os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        parts().write(tmp_path / "b.immune")
    assert not list(tmp_path.iterdir())


def test_failed_replacement_leaves_the_old_bundle(parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "b.immune"
    first = parts().write(path)
    rename, calls = os.rename, []

    def second_fails(source: Any, target: Any) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        rename(source, target)

    monkeypatch.setattr(bundle_writer.os, "rename", second_fails)
    with pytest.raises(InputError, match="Permission denied"):
        parts(whole=False).write(path, overwrite=True)
    assert Bundle.load(path).sha256 == first.sha256
    assert [entry.name for entry in tmp_path.iterdir()] == ["b.immune"]


def test_default_bundle_is_there() -> None:
    try:
        folder = default_bundle()
    except InputError as error:
        pytest.skip(str(error))
    assert Bundle.load(folder).name == "edge"


def test_the_ais_bundle_of_the_repository() -> None:
    """It is no part of an install; in a checkout it loads, is AIS, and purifies the sample clip's faces as gently."""
    path = Path(__file__).resolve().parents[2] / "bundles" / "ais.immune"
    if not path.is_dir():
        pytest.skip(f"needs {path}, which an unpacked package does not have")
    ais = Bundle.load(path)
    assert (ais.name, ais.manifest.kind, ais.k) == ("ais", "ais", 512)
    _, frame = cv2.VideoCapture(str(default_bundle().with_name("sample.mp4"))).read()
    purified = Purifier.load(ais, seed=1).purify_frame(frame)
    grey = cv2.cvtColor(purified.crops.reshape(-1, 112, 3), cv2.COLOR_BGR2GRAY).reshape(-1, 112, 112)
    changed = np.abs(purified.purified.astype(float) - grey).mean((1, 2))
    assert len(changed) == 3
    assert (changed > 0.3).all()
    assert (changed < 6).all()


def test_missing_default_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(InputError, match="no default bundle at"):
        default_bundle()


def test_write_bundle_is_public() -> None:
    import immunecam.runtime

    assert immunecam.runtime.write_bundle is write_bundle
    assert immunecam.runtime.Bundle is Bundle
    assert "Purifier" in dir(immunecam.runtime)
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = immunecam.runtime.other
