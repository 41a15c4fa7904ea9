"""A recogniser of masked faces that starts from one of plain faces: equal to it before any training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx", reason="needs onnx (pip install 'immunecam[train]')")

from immunecam.errors import InputError, UsageError
from immunecam.export.torch_graph import graph_from_module
from immunecam.models.frequency import FrequencyMask, channel_statistics
from immunecam.models.mask_spec import MaskSpec
from immunecam.models.mobile_face import MobileFace
from immunecam.models.unmasking import Unmasking
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.masking import MaskingTrainer, TeacherEmbeddings, load_trained
from immunecam.training.masking.starting import StartingWeights, train_mode
from immunecam.training.recognizer import Recognizer

WIDTH = 0.125


class Plain(torch.nn.Module):
    """As such recognisers come: BGR in 0..255, scaled inside."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MobileFace(3, 112, 16, WIDTH)

    def forward(self, face: torch.Tensor) -> torch.Tensor:
        return self.network((face - 127.5) / 128)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    plain = Plain()
    with torch.no_grad():
        plain.train()
        for _ in range(10):
            smooth = torch.nn.functional.interpolate(torch.rand(8, 3, 9, 9) * 255, 112, mode="bicubic")
            plain(smooth)
    path = tmp_path_factory.mktemp("start") / "plain.onnx"
    path.write_bytes(graph_from_module(plain, ["face"], "embedding", shape=(3, 112, 112)))
    return path


def test_the_plain_twin_sees_what_the_recogniser_sees(file, faces):
    network = MobileFace(1, 112, 16, WIDTH).eval()
    StartingWeights.load(file).start(network, None, faces)
    seen = from_uint8(faces.pixels[:4])
    with torch.no_grad():
        assert torch.allclose(network(seen.unsqueeze(1)), Recognizer.load(file)(seen), atol=1e-3)


def test_behind_a_mask_that_drops_nothing_it_sees_the_same(file, faces):
    few = FaceSet(faces.pixels[:8], faces.names[:8])
    mean, std = channel_statistics(few.batches(8), 14)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0)).tolist()
    mask = FrequencyMask(MaskSpec.of(range(64), 14), mean, std, order, order[::-1])
    network = MobileFace(64, 14, 16, WIDTH, unmasking=True).eval()
    StartingWeights.load(file).start(network, mask, few)
    seen = from_uint8(few.pixels)
    with torch.no_grad():
        alike = (network(mask(seen)) * Recognizer.load(file)(seen)).sum(1)
    assert float(alike.min()) > 0.999


def test_normalisation_stays_as_it_is(file, faces):
    network = MobileFace(1, 112, 16, WIDTH)
    StartingWeights.load(file).put_into(network)
    before = [buffer.clone() for buffer in network.buffers()]
    train_mode(network, frozen=True)
    network(from_uint8(faces.pixels[:4]).unsqueeze(1))
    assert all(torch.equal(one, other) for one, other in zip(before, network.buffers(), strict=True))


def test_a_run_starts_from_it_and_is_loaded(file, faces, key, tiny, tmp_path):
    teacher = TeacherEmbeddings.of(Recognizer.load(file), faces)
    config = tiny.replace(started=True, positions=14, keep=30, lr=1e-6, steps=2, mixing="fixed", width=WIDTH)
    start = StartingWeights.load(file)
    MaskingTrainer(config, faces, teacher, key, tmp_path / "a.run", start=start).run(log_every=1)
    recognizer, about = load_trained(tmp_path / "a.run", key)
    assert about["start"] == start.sha256
    assert isinstance(recognizer.network.enter, Unmasking)
    seen = from_uint8(faces.pixels[:8])
    with torch.no_grad():
        alike = (recognizer(seen) * teacher.plain[:8]).sum(1)
    assert float(alike.mean()) > 0.5  # nothing was learnt in two steps of no rate: this is what it started with
    with pytest.raises(UsageError, match="give --start-from FILE where started is true"):
        MaskingTrainer(config, faces, teacher, key, tmp_path / "b.run")
    with pytest.raises(ValueError, match="knows one order of channels"):
        config.replace(permutation="enrolment")


def test_what_must_raise(file, tmp_path):
    with pytest.raises(InputError, match="has not the layers of this network"):
        StartingWeights.load(file).put_into(MobileFace(1, 112, 16, 0.25))
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"cannot start from .*: give a MobileFaceNet as ONNX"):
        StartingWeights.load(tmp_path / "no.onnx")
    with pytest.raises(InputError, match="cannot start from"):
        StartingWeights.load(tmp_path / "missing.onnx")
    with pytest.raises(ValueError, match="cannot take weights of"):
        Unmasking(4, 14).take(torch.zeros(64, 5, 3, 3), torch.zeros(64))
