"""Arrays on an emulated card, in and out (see `cuda_on_cpu`): no GPU and no library of others is tested here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_on_cpu import Buffer, StridedMemoryView, _OnHost
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels import dequantize_faces
from immunecam.runtime import Purifier
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.card import CardArray, lies_on_card

Load = Callable[..., Purifier]
Pictures = Callable[..., NDArray[np.uint8]]


class CudaArray:
    """As CuPy's and PyCUDA's: ``__cuda_array_interface__`` only."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        a = self.array
        strides = None if a.flags.c_contiguous else a.strides
        return {"shape": a.shape, "typestr": a.dtype.str, "data": (a.ctypes.data, False), "version": 3,
                "strides": strides, "stream": None}  # fmt: skip


class DLPackArray:
    """DLPack only, on a card."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array, self.streams = array, list[Any]()

    def __dlpack__(self, *, stream: Any = None, **_: Any) -> Any:
        self.streams.append(stream)
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


def values(array: CardArray) -> NDArray[Any]:
    """What lies where the array says."""
    told = array.__cuda_array_interface__
    assert (told["strides"], told["stream"], told["version"]) == (None, None, 3)
    size = int(np.prod(told["shape"]))
    return Buffer.from_handle(told["data"][0], size).view(np.dtype(told["typestr"]), *told["shape"])


@pytest.mark.parametrize("wrap", [CudaArray, DLPackArray])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_device_arrays_in_and_out(
    emulated: Any, on_card: Load, bundle: Bundle, pictures: Pictures, wrap: Any, dtype: str
) -> None:
    card, cpu = on_card(bundle, seed=4), Purifier.load(bundle, provider="cpu", seed=4)
    for seed in range(3):
        faces = pictures(3, seed)
        given = wrap(faces if dtype == "uint8" else dequantize_faces(faces))
        before = given.array.copy()
        found = card.purify(given)
        assert isinstance(found, CardArray)
        assert (found.shape, found.dtype, len(found), found.device_id) == ((3, 112, 112), np.uint8, 3, 0)
        assert np.array_equal(values(found), found.to_numpy())
        assert np.abs(found.to_numpy().astype(int) - cpu.purify(faces)).max() <= 1
        assert np.array_equal(given.array, before)
        if wrap is DLPackArray:
            assert given.streams == [emulated.device.streams[0].handle]  # whose producer must be waited for
    assert card.next_image == 9
    card.close()


def test_single_many_and_no_faces(on_card: Load, bundle: Bundle, pictures: Pictures) -> None:
    card, cpu = on_card(bundle, seed=4), Purifier.load(bundle, provider="cpu", seed=4)
    faces = pictures(34)
    many = card.purify(CudaArray(faces)).to_numpy()  # in two parts
    assert np.abs(many.astype(int) - cpu.purify(faces)).max() <= 1
    single = card.purify(CudaArray(faces[0]))
    assert single.shape == (112, 112)
    assert np.abs(single.to_numpy().astype(int) - cpu.purify(faces[0])).max() <= 1
    assert card.purify(CudaArray(faces[:0])).to_numpy().shape == (0, 112, 112)
    assert card.next_image == 35
    again = card.purify(many_on_card := card.purify(CudaArray(faces[:2])))  # its own arrays are arrays on a card
    assert lies_on_card(many_on_card)
    assert again.shape == (2, 112, 112)
    card.close()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rows_and_faces_that_lie_apart(on_card: Load, bundle: Bundle, pictures: Pictures, dtype: str) -> None:
    """Slices, pitched memory and one face that stands for several."""
    card, cpu = on_card(bundle, mutation="expected"), Purifier.load(bundle, provider="cpu", mutation="expected")
    faces = pictures(34)
    values = faces if dtype == "uint8" else dequantize_faces(faces)
    room = np.full((68, 115, 128), 255 if dtype == "uint8" else np.nan, dtype)
    room[::2, :112, 3:115] = values
    given = (room[::2, :112, 3:115], values[::3], room[0, :112, 3:115], np.broadcast_to(values[1], (3, 112, 112)))
    wanted = (faces, faces[::3], faces[0], faces[[1, 1, 1]])
    for array, pixels in zip(given, wanted, strict=True):
        assert np.abs(card.purify(CudaArray(array)).to_numpy().astype(int) - cpu.purify(pixels)).max() <= 1
    card.close()


class GpuMat:
    """What of OpenCV's is used: memory with a pitch, an address, and no protocol."""

    def __init__(self, array: NDArray[Any], kind: int) -> None:
        self.array, self._kind, self.step = array, kind, array.strides[0]

    def cudaPtr(self) -> int:
        return self.array.ctypes.data

    def size(self) -> tuple[int, int]:
        return self.array.shape[1], self.array.shape[0]

    def type(self) -> int:
        return self._kind


def test_opencvs_pitched_pictures(on_card: Load, bundle: Bundle, pictures: Pictures) -> None:
    card, cpu = on_card(bundle, mutation="expected"), Purifier.load(bundle, provider="cpu", mutation="expected")
    (face,) = pictures(1)
    pitched = np.full((112, 512), 255, np.uint8)
    pitched[:, :112] = face
    wide = np.full((112, 128), np.nan, np.float32)
    wide[:, :112] = dequantize_faces(face)
    for given in (GpuMat(pitched[:, :112], 0), GpuMat(wide[:, :112], 5)):
        assert lies_on_card(given)
        found = card.purify(given)
        assert found.shape == (112, 112)
        assert np.abs(found.to_numpy().astype(int) - cpu.purify(face)).max() <= 1
    with pytest.raises(InputError, match="OpenCV's type 16, but it must be CV_8UC1 or CV_32FC1"):
        card.purify(GpuMat(pitched[:, :112], 16))
    with pytest.raises(InputError, match=r"GpuMat has the shape \(112, 100\)"):
        card.purify(GpuMat(pitched[:, :100], 0))
    card.close()


def test_an_array_owns_its_memory(emulated: Any, on_card: Load, bundle: Bundle, pictures: Pictures) -> None:
    card, memory = on_card(bundle, seed=4), emulated.device.memory_resource
    before = memory.used
    found = card.purify(CudaArray(pictures(2)))
    kept, other = found.to_numpy(), card.purify(CudaArray(pictures(2, 1)))
    assert memory.used == before + 4 * 112 * 112
    other.close()
    other.close()
    assert memory.used == before + 2 * 112 * 112
    for call in (other.to_numpy, other.__dlpack__, lambda: other.__cuda_array_interface__):
        with pytest.raises(UsageError, match="has been released"):
            call()
    card.close()
    assert np.array_equal(found.to_numpy(), kept)  # the purifier need not live as long
    assert found.__dlpack_device__() == (2, 0)
    taken = np.from_dlpack(_OnHost(found.__dlpack__(stream=1)))
    found.close()
    assert np.array_equal(taken, kept)  # nor the array, once somebody has taken it
    del taken, found
    assert memory.used == 0


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 112, 112)), "dtype float64"),
        (np.zeros((2, 112, 96), np.uint8), r"shape \(2, 112, 96\)"),
        (np.zeros((1, 2, 112, 112), np.uint8), r"shape \(1, 2, 112, 112\)"),
        (np.zeros((2, 112, 224), np.uint8)[:, :, ::2], "must lie side by side"),
        (np.zeros((2, 112, 112), np.uint8).transpose(0, 2, 1), "must lie side by side"),
        (np.zeros((2, 112, 112), np.uint8)[:, ::-1], "one row after another"),
        (np.zeros((2, 112, 112), np.uint8)[::-1], "one row after another"),
        (np.full((2, 112, 112), np.nan, np.float32), "NaN or infinity"),
        (np.full((2, 112, 112), -np.inf, np.float32), "NaN or infinity"),
        (np.full((2, 112, 112), 1.01, np.float32), r"leave \[-1, 1\]"),
    ],
)
def test_wrong_arrays(on_card: Load, bundle: Bundle, pictures: Pictures, array: Any, message: str) -> None:
    card = on_card(bundle)
    with pytest.raises(InputError, match=message) as told:
        card.purify(CudaArray(array))
    assert len(str(told.value).splitlines()) == 1
    assert card.purify(CudaArray(pictures(2))).shape == (2, 112, 112)
    card.close()


def test_a_little_beyond_the_range_is_let_through(on_card: Load, bundle: Bundle) -> None:
    card = on_card(bundle)
    card.purify(CudaArray(np.full((1, 112, 112), 1.0005, np.float32)))
    card.close()


def test_arrays_of_other_cards_and_libraries_gone_wrong(
    on_card: Load, bundle: Bundle, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, view = on_card(bundle), StridedMemoryView.from_any_interface

    def elsewhere(given: Any, stream_ptr: int) -> Any:
        found = view(given, stream_ptr)
        found.device_id = 1
        return found

    monkeypatch.setattr(StridedMemoryView, "from_any_interface", elsewhere)
    with pytest.raises(InputError, match="lie on device 1, but the purifier runs on 0"):
        card.purify(CudaArray(pictures(1)))

    def broken(given: Any, stream_ptr: int) -> Any:
        raise BufferError("it requires\na gradient")

    monkeypatch.setattr(StridedMemoryView, "from_any_interface", broken)
    with pytest.raises(InputError, match=r"a CudaArray, cannot be read \(it requires a gradient\)"):
        card.purify(CudaArray(pictures(1)))
    card.close()


def test_no_memory_for_the_result(emulated: Any, on_card: Load, bundle: Bundle, pictures: Pictures) -> None:
    card, memory = on_card(bundle, seed=4), emulated.device.memory_resource
    used = memory.used
    memory.limit = used + 3 * 112 * 112
    with pytest.raises(InputError, match="give fewer faces at once"):
        card.purify(CudaArray(pictures(4)))
    assert memory.used == used
    cpu = Purifier.load(bundle, provider="cpu", seed=4)
    found = card.purify(CudaArray(pictures(3)))
    assert np.abs(found.to_numpy().astype(int) - cpu.purify(pictures(3))).max() <= 1
    card.close()


def test_a_purifier_on_the_cpu_takes_none(bundle: Bundle, pictures: Pictures) -> None:
    with pytest.raises(InputError, match=r"runs on cpu: copy them to the host.*provider='cuda'"):
        Purifier.load(bundle, provider="cpu").purify(CudaArray(pictures(1)))
    assert not lies_on_card(pictures(1))
    assert not lies_on_card([1])
