"""The comparison of mixes: one mask for all, resumable, and every row says of how many faces its mixes were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from small_lfw import write_lfw  # noqa: E402

from immunecam.benchmarks.masking.mixing import WAYS, compare  # noqa: E402
from immunecam.benchmarks.masking.recognition import people_of_fold  # noqa: E402
from immunecam.errors import InputError  # noqa: E402
from immunecam.mask_key import MaskKey  # noqa: E402
from immunecam.training.faces import FaceSet  # noqa: E402
from immunecam.training.masking import MaskFile, MaskingConfig  # noqa: E402
from immunecam.training.masking.people import without  # noqa: E402
from immunecam.training.recognizer import Recognizer  # noqa: E402

KEY = MaskKey(bytes(range(32)))
CONFIG = MaskingConfig(keep=20, width=0.125, size=8, steps=2, batch=6, gate_steps=1, distilled=0.0)


def test_ways_side_by_side_and_again(tmp_path: Path):
    torch.set_num_threads(1)
    data = write_lfw(tmp_path / "data", {7: "cd", 8: "ef"})
    held_out = people_of_fold(data / "lfw" / "pairs.csv", 7)
    faces = without(FaceSet.load(data / "lfw" / "train_112.zip"), held_out)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(14), torch.nn.Flatten())
    judge, another = Recognizer(network, "coarse", "a"), Recognizer(network, "another", "b")
    told: list[str] = []

    def compared(ways: tuple[str, ...], judge: Recognizer = judge, fold: int = 8):
        return compare(
            CONFIG,
            faces,
            None,
            None,
            KEY,
            data,
            judge,
            tmp_path / "work",
            held_out=sorted(held_out),
            ways=ways,
            people=2,
            fold=fold,
            tell=lambda what, done, total: told.append(what),
        )

    first = compared(("none", "fixed 4"))
    assert [row["way"] for row in first] == ["none", "fixed 4"]
    assert [row["k4_percent"] for row in first] == [0, 100]
    assert [row["attack"] for row in first] == ["linear", "linear"]
    assert first[0]["psnr_db"] > first[1]["psnr_db"]  # of four faces one sees less
    for row in first:
        assert row["mixes_of"] == "as trained"
        assert row["privacy"] == pytest.approx(
            0.4 * (1 - max(0, row["ssim"])) + 0.6 * (1 - row["verified_percent"] / 100), abs=1e-3
        )
    specs = {MaskFile.load(tmp_path / "work" / f"{run}.run" / "mask.safetensors").spec for run in ("none", "fixed4")}
    assert len(specs) == 1
    told.clear()
    again = compared(("none", "fixed 4", "adaptive"))
    assert again[:2] == first
    assert "none" not in told  # not trained anew
    assert sum(again[2][f"k{k}_percent"] for k in range(2, 7)) == pytest.approx(100, abs=0.1)
    kept = json.loads((tmp_path / "work" / "adaptive.run" / "recognition.json").read_text())
    assert kept["what"][0]["accuracy_percent"] == again[2]["accuracy_percent"]
    assert {"none", "fixed 2", "fixed 4", "uniform", "adaptive"} == set(WAYS)
    # What was kept is of this judge and this fold, and is not told of others.
    assert [row["judge"] for row in compared(("none",), judge=another)] == ["another"]
    with pytest.raises(InputError, match="of folds 6 to 6 whose faces are there"):
        compared(("none",), fold=6)
