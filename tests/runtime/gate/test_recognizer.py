"""Recogniser descriptions and the sessions made of them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from immunecam.errors import InputError, UsageError
from immunecam.runtime.gate.embedder import Embedder
from immunecam.runtime.gate.recognizer import RecognizerSpec


@pytest.fixture
def faces():
    return np.random.default_rng(0).integers(0, 256, (5, 112, 112, 3), np.uint8)


def test_pixels_become_what_the_description_says(recognizer_file, faces):
    spec = RecognizerSpec.load(
        recognizer_file(colour="RGB", low=-1, high=1, more="mean = [0.5, 0, 0]\nstd = [1, 2, 4]")
    )
    found = spec.prepare(faces)
    rgb = faces[..., ::-1].transpose(0, 3, 1, 2) / 127.5 - 1
    wanted = (rgb - np.array([0.5, 0, 0])[:, None, None]) / np.array([1, 2, 4])[:, None, None]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_layouts_and_grey_faces_give_one_embedding(recognizer_file, faces):
    grey = faces[..., 0]
    first = Embedder(RecognizerSpec.load(recognizer_file())).embed(grey)
    other = Embedder(RecognizerSpec.load(recognizer_file(layout="NHWC"))).embed(np.repeat(grey[..., None], 3, 3))
    np.testing.assert_allclose(first, other, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-5)


def test_colour_order_matters(recognizer_file, faces):
    bgr = Embedder(RecognizerSpec.load(recognizer_file(colour="BGR"))).embed(faces)
    rgb = Embedder(RecognizerSpec.load(recognizer_file(colour="RGB"))).embed(faces[..., ::-1])
    np.testing.assert_allclose(bgr, rgb, atol=1e-5)
    assert np.abs(bgr - Embedder(RecognizerSpec.load(recognizer_file(colour="RGB"))).embed(faces)).max() > 0.05


def test_a_fixed_batch_and_another_size_are_served(recognizer_file, faces):
    free = Embedder(RecognizerSpec.load(recognizer_file(side=64))).embed(faces)
    fixed = Embedder(RecognizerSpec.load(recognizer_file(side=64, batch=2))).embed(faces)
    np.testing.assert_allclose(free, fixed, atol=1e-5)


def test_a_changed_file_is_refused_before_it_is_opened(recognizer_file):
    spec = RecognizerSpec.load(recognizer_file(side=48))
    data = bytearray(spec.path.read_bytes())
    data[-40] ^= 1
    spec.path.write_bytes(data)
    with pytest.raises(InputError, match=r"has the SHA-256 .* but its description says"):
        Embedder(spec)


def test_a_model_that_is_no_unit_vector_must_say_so(recognizer_file):
    Embedder(RecognizerSpec.load(recognizer_file(unit_length=True, more="[output]\nnormalise = false")))
    with pytest.raises(InputError, match="normalise = false, which wants 1"):
        Embedder(RecognizerSpec.load(recognizer_file(more="[output]\nnormalise = false")))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('colour = "BGR"', 'colour = "bgr"', "must be one of RGB, BGR, GREY"),
        ('layout = "NCHW"', 'layout = "CHW"', "must be one of NCHW, NHWC"),
        ("range = [0, 255]", "range = [1, 1]", "maps every pixel to one value"),
        ("range = [0, 255]", "range = [0, inf]", "must be a list of 2 finite numbers"),
        ("range = [0, 255]", "range = [0, 255]\nstdev = [1, 1, 1]", "unknown entry 'stdev' in \\[input\\]"),
        ("range = [0, 255]", "range = [0, 255]\nstd = [1, 0, 1]", "must be above 0"),
        ("width = 112", "width = 5", "whole number from 16 to 1024"),
        ("width = 112", "width = true", "whole number from 16 to 1024"),
        ('sha256 = "', 'sha256 = "x', "64 hex digits"),
        ('file = "', 'file = "/', "must be relative"),
        ("[model]", "[modell]", "unknown entry 'modell'"),
        ("name =", "name ==", "is no TOML"),
    ],
)
def test_a_wrong_description_is_told_in_a_sentence(recognizer_file, tmp_path, old, new, said):
    text = recognizer_file().read_text()
    assert old in text
    (tmp_path / "r.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=said):
        RecognizerSpec.load(tmp_path / "r.toml")


def test_what_does_not_fit_the_model_is_told(recognizer_file, tmp_path):
    path = recognizer_file()
    spec = RecognizerSpec.load(path)
    for old, new, said in (
        ("width = 112", "width = 96", "correct size, layout or colour"),
        ('colour = "BGR"', 'colour = "GREY"', "correct size, layout or colour"),
        ("range = [0, 255]", 'range = [0, 255]\nname = "input"', "has the inputs \\['face'\\]"),
        ("range = [0, 255]", 'range = [0, 255]\n[output]\nname = "x"', "names 'x'"),
    ):
        changed = path.with_name("changed.toml")
        changed.write_text(path.read_text().replace(old, new))
        with pytest.raises(InputError, match=said):
            Embedder(RecognizerSpec.load(changed))
    with pytest.raises(UsageError, match="must be cpu or cuda"):
        Embedder(spec, provider="auto")
    with pytest.raises(InputError, match="must be uint8"):
        spec.prepare(np.zeros((1, 112, 112), np.float32))


def test_a_model_that_is_no_model_or_refers_to_files_is_refused(recognizer_file, tmp_path):
    onnx = pytest.importorskip("onnx")
    text = recognizer_file().read_text()
    spec = RecognizerSpec.load(recognizer_file())
    model = onnx.load_from_string(spec.path.read_bytes())
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location="/etc/passwd")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for data, said in (
        (b"not a model", "cannot be used|cannot be run"),
        (model.SerializeToString(), "holds its weights"),
    ):
        (tmp_path / "m.onnx").write_bytes(data)
        lines = [
            'file = "m.onnx"'
            if line.startswith("file")
            else f'sha256 = "{hashlib.sha256(data).hexdigest()}"'
            if line.startswith("sha256")
            else line
            for line in text.splitlines()
        ]
        (tmp_path / "m.toml").write_text("\n".join(lines))
        with pytest.raises(InputError, match=said):
            Embedder(RecognizerSpec.load(tmp_path / "m.toml"))


def test_identity_is_of_the_way_not_of_the_name(recognizer_file):
    path = recognizer_file()
    spec = RecognizerSpec.load(path)
    renamed = path.with_name("renamed.toml")
    renamed.write_text(path.read_text().replace('"small"', '"other"'))
    assert RecognizerSpec.load(renamed).identity == spec.identity
    assert RecognizerSpec.load(recognizer_file(low=-1, high=1)).identity != spec.identity


def test_a_real_recogniser_tells_people_apart(shared_data, tmp_path):
    import zipfile

    import cv2

    name = "mobilefacenet_y1.onnx"
    model = shared_data / "recognizers" / name
    (tmp_path / name).symlink_to(model)
    (tmp_path / "r.toml").write_text(
        f'name = "y1"\n[model]\nfile = "{name}"\nsha256 = "{hashlib.sha256(model.read_bytes()).hexdigest()}"\n'
        '[input]\nwidth = 112\nheight = 112\nlayout = "NCHW"\ncolour = "BGR"\nrange = [0, 255]\n'
    )
    with zipfile.ZipFile(shared_data / "faces" / "orl_112.zip") as archive:
        names = [f"s{person}/{picture}.jpg" for person in (1, 2, 3) for picture in (1, 2)]
        pictures = [cv2.imdecode(np.frombuffer(archive.read(n), np.uint8), cv2.IMREAD_GRAYSCALE) for n in names]
    found = Embedder(RecognizerSpec.load(tmp_path / "r.toml")).embed(np.stack(pictures))
    cosines = found @ found.T
    same = [cosines[i, i + 1] for i in (0, 2, 4)]
    different = [cosines[i, j] for i in range(6) for j in range(6) if i // 2 != j // 2]
    assert min(same) > max(different)
