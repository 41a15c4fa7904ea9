"""A mask is the explicit route exactly, can be undone where nothing was dropped, and exports as plain operators."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.mask_key import MaskKey
from immunecam.models.block_dct import POSITIONS, block_inverse, block_kernels, block_margin, block_stride
from immunecam.models.frequency import FrequencyMask, channel_statistics, luminance
from immunecam.models.mask_spec import MaskSpec

KEY = MaskKey(bytes(range(32)))


def pictures(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def explicit(faces: torch.Tensor, upsampling: int) -> np.ndarray:
    """Upsample, cut into blocks, transform each: (N, 64, P, P), in float64."""
    large = F.interpolate(faces.unsqueeze(1), scale_factor=upsampling, mode="bilinear", align_corners=False)[:, 0]
    count, side = len(large), large.shape[1] // 8
    blocks = large.numpy().reshape(count, side, 8, side, 8).transpose(0, 1, 3, 2, 4)
    return scipy.fft.dctn(blocks, axes=(3, 4), norm="ortho").reshape(count, side, side, 64).transpose(0, 3, 1, 2)


def by_convolution(faces: torch.Tensor, upsampling: int) -> torch.Tensor:
    padded = F.pad(faces.unsqueeze(1), (block_margin(upsampling),) * 4, mode="replicate")
    return F.conv2d(padded, block_kernels(upsampling), stride=block_stride(upsampling))


def mask_of(spec: MaskSpec, faces: torch.Tensor, *, keyed: bool = True) -> FrequencyMask:
    mean, std = channel_statistics([faces], spec.positions, spec.colours)
    if not keyed:
        return FrequencyMask(spec, mean, std)
    return FrequencyMask(
        spec, mean, std, KEY.permutation(spec.channels, "pairs"), KEY.permutation(spec.channels, "order")
    )


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), side=st.sampled_from([16, 24, 40]), upsampling=st.sampled_from([1, 2, 4, 8]))
def test_the_convolution_is_upsampling_and_block_dct(seed, side, upsampling):
    faces = pictures(seed, 2, side, side)
    assert np.abs(by_convolution(faces, upsampling).numpy() - explicit(faces, upsampling)).max() < 1e-13


def test_a_whole_face_takes_the_same_route():
    faces = pictures(0, 1, 112, 112)
    found = by_convolution(faces, 8)
    assert tuple(found.shape) == (1, 64, 112, 112)
    assert np.abs(found.numpy() - explicit(faces, 8)).max() < 1e-13


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**31), upsampling=st.sampled_from([1, 2, 4, 8]))
def test_all_channels_give_the_face_back(seed, upsampling):
    faces = pictures(seed, 2, 24, 24)
    inverse = F.conv_transpose2d(
        by_convolution(faces, upsampling), block_inverse(upsampling), stride=block_stride(upsampling)
    )
    assert float((inverse[:, 0] - faces).abs().max()) < 1e-13


@pytest.mark.parametrize(("upsampling", "different"), [(1, 64), (2, 36), (4, 16), (8, 9)])
def test_how_many_channels_are_different(upsampling, different):
    kernels = block_kernels(upsampling).flatten(1)
    assert int(torch.linalg.matrix_rank(kernels)) == different
    if upsampling == 8:  # not only dependent: multiples of each other, or nothing
        norms = kernels.norm(dim=1)
        assert int((norms < 1e-12).sum()) == 15
        unit = kernels[norms > 1e-12] / norms[norms > 1e-12, None]
        assert len({tuple((row > 1 - 1e-12).tolist()) for row in (unit @ unit.T).abs()}) == 9


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("colours", ["grey", "ycbcr"])
def test_masking_can_be_undone_where_nothing_was_dropped(positions, colours):
    shape = (2, 112, 112) if colours == "grey" else (2, 3, 112, 112)
    faces = pictures(1, *shape).float()
    mask = mask_of(MaskSpec.of(range(64), positions, colours), faces)
    orders = torch.tensor([KEY.enrolment_order(mask.spec.channels, n) for n in range(2)])
    masked = mask(faces, orders)
    assert tuple(masked.shape) == (2, mask.spec.channels, positions, positions)
    assert float((mask.inverse(masked, orders).reshape(shape) - faces).abs().max()) < 1e-4


def test_channels_are_normalised_mixed_and_ordered():
    faces = pictures(2, 3, 112, 112).float()
    spec = MaskSpec.of(range(1, 37))
    plain = mask_of(spec, faces, keyed=False)(faces)
    assert float(plain.mean((0, 2, 3)).abs().max()) < 1e-4
    empty = torch.tensor([4 in divmod(f, 8) for f in spec.frequencies[0]])
    assert torch.allclose(plain.std((0, 2, 3)), (~empty).float(), atol=1e-3)
    mask = mask_of(spec, faces)
    first, second = mask.pairing[:2]
    half = 0.5**0.5
    at = mask(faces)
    place = mask.order.index(first), mask.order.index(second)
    assert torch.allclose(at[:, place[0]], half * (plain[:, first] + plain[:, second]), atol=1e-4)
    assert torch.allclose(at[:, place[1]], half * (plain[:, first] - plain[:, second]), atol=1e-4)
    matrix = mask.matrix()
    assert torch.allclose(matrix @ matrix.T, torch.eye(36, dtype=torch.float64))
    assert not {"weight", "bias"} & set(mask.state_dict())  # they would tell the key


def test_grey_and_colour_agree():
    grey = pictures(3, 2, 112, 112).float()
    rgb = grey.unsqueeze(1).repeat(1, 3, 1, 1)
    spec = MaskSpec.of(range(1, 37), 56)
    mask = mask_of(spec, grey)
    assert torch.allclose(mask(grey), mask(rgb), atol=1e-4)
    colour = mask_of(MaskSpec.of(range(1, 37), 56, "ycbcr"), rgb, keyed=False)
    both = colour(rgb)
    assert torch.allclose(both, colour(grey), atol=1e-5)
    assert torch.allclose(both[:, :36], mask_of(spec, grey, keyed=False)(grey), atol=1e-3)
    assert float(both[:, 36:].abs().max()) < 1e-4  # grey has no chroma, and its rounding is not blown up
    red = torch.zeros(1, 3, 8, 8)
    red[:, 0] = 1
    assert float(luminance(red)[0, 0, 0, 0]) == pytest.approx(0.299)


def test_the_export_is_padding_and_a_convolution(tmp_path):
    onnx = pytest.importorskip("onnx")
    import onnxruntime

    faces = pictures(4, 2, 112, 112).float()
    mask = mask_of(MaskSpec.of(range(1, 37)), faces).eval()
    path = tmp_path / "mask.onnx"
    torch.onnx.export(mask, (faces,), path, dynamo=True, opset_version=18, input_names=["face"], external_data=False)
    operators = {node.op_type for node in onnx.load(path).graph.node}
    assert operators == {"Unsqueeze", "Pad", "Conv"}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"face": faces.numpy()})
    assert np.abs(found - mask(faces).numpy()).max() < 1e-4


def test_what_must_raise():
    with pytest.raises(ValueError, match="by 1, 2, 4 or 8 before the block DCT, not by 3"):
        block_stride(3)
    with pytest.raises(ValueError, match="unknown colours 'lab'"):
        MaskSpec.of([1], colours="lab")
    with pytest.raises(ValueError, match="100 positions a side"):
        MaskSpec.of([1], 100)
    with pytest.raises(ValueError, match=r"ascending and of 0 to 63, got \[3, 64\]"):
        MaskSpec.of([3, 64])
    with pytest.raises(ValueError, match="3 colour planes, got 1"):
        MaskSpec(((1,),), colours="ycbcr")
    faces = pictures(5, 1, 112, 112).float()
    mask = mask_of(MaskSpec.of(range(1, 37)), faces)
    with pytest.raises(ValueError, match="keeps 36 of 64 frequencies has no inverse"):
        mask.inverse(mask(faces))
    with pytest.raises(ValueError, match=r"must be \(N, H, W\) grey or \(N, 3, H, W\) RGB, got \(1, 1, 112, 112\)"):
        mask(faces.unsqueeze(1))
    with pytest.raises(ValueError, match="pairing must be a permutation of its 36 channels"):
        FrequencyMask(mask.spec, torch.zeros(64), torch.ones(64), pairing=(0, 0))
    with pytest.raises(ValueError, match=r"statistics of 64 channels, got \(36,\)"):
        FrequencyMask(mask.spec, torch.zeros(36), torch.ones(36))
    with pytest.raises(ValueError, match="need faces, got none"):
        channel_statistics([])
