"""Two processes train one network: the same weights in both, one run folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from immunecam.errors import UsageError
from immunecam.models import build_model
from immunecam.training.config import Phase, TrainConfig
from immunecam.training.distributed import Workers
from immunecam.training.faces import FaceSet
from immunecam.training.recognizer import Recognizer
from immunecam.training.trainer import Trainer

_SCRIPT = """
import sys
import torch
from safetensors.torch import load_file, save_file
from immunecam.training.config import Attack, Phase, TrainConfig
from immunecam.training.distributed import Workers
from immunecam.training.faces import FaceSet
from immunecam.training.recognizer import Recognizer
from immunecam.training.trainer import Trainer

kind, folder, out, resume = sys.argv[1:]
torch.set_num_threads(1)
workers = Workers.join()
pixels = load_file(out + "/faces.safetensors")["pixels"]
faces = FaceSet(pixels, tuple(str(n) for n in range(len(pixels))))
recognizer = Recognizer.load(out + "/recognizer.pt")
options = {"edge": {"width": 8, "dim": 16, "restorer": {"widths": [8], "depths": [1]}}, "pin": {}}[kind]
config = TrainConfig(
    kind=kind, k=16, model_options=options, batch=4, clones=1, estimator="straight-through", optimizer="adam",
    phases=(
        Phase("autoencoder" if kind == "pin" else "warm-up", steps=1), Phase("adversarial", steps=3, adversarial=0.5)
    ),
    attack=Attack(through=0.5, gradient="straight-through"),
)
trainer = Trainer(config, faces, [recognizer], folder, workers=workers, resume=resume == "resume")
before = trainer.step
losses = []
trainer.run(on_step=lambda step, values: losses.append(float(values.loss)), log_every=1)
weights = {name: value.clone() for name, value in trainer.network.state_dict().items()}
save_file(weights, f"{out}/rank{workers.rank}.safetensors")
print(workers.rank, workers.count, before, trainer.step, losses)
workers.leave()
"""


def torchrun(tmp_path: Path, *arguments: str) -> str:
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            str(script),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("kind", ["edge", "pin"])
def test_two_processes_end_with_the_same_weights(kind, faces, network, tmp_path):
    from safetensors.torch import save_file

    save_file({"pixels": faces.pixels}, tmp_path / "faces.safetensors")
    torch.jit.trace(network, torch.zeros(2, 3, 112, 112)).save(str(tmp_path / "recognizer.pt"))
    out = torchrun(tmp_path, kind, str(tmp_path / "run"), str(tmp_path), "fresh")
    lines = sorted(line for line in out.splitlines() if line[:2] in ("0 ", "1 "))
    assert [line.split(" ", 4)[:4] for line in lines] == [["0", "2", "0", "4"], ["1", "2", "0", "4"]]
    assert lines[0].split(" ", 4)[4] != lines[1].split(" ", 4)[4]  # each has faces of its own
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    trained = dict(build_model(kind, 16, {} if kind == "pin" else {"width": 8, "dim": 16}).named_parameters())
    assert all(torch.equal(first[name], second[name]) for name in trained)
    saved = load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert all(torch.equal(saved[f"network.{name}"], value) for name, value in first.items())
    again = torchrun(tmp_path, kind, str(tmp_path / "run"), str(tmp_path), "resume")
    assert "0 2 4 4 []" in again


def test_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    workers = Workers.join()
    assert (workers.rank, workers.count, workers.first) == (0, 1, True)
    assert workers.any(True)
    assert not workers.any(False)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Workers.own_device("cuda") == "cuda:3"
    assert Workers.own_device("cpu") == "cpu"


def test_a_batch_that_cannot_be_shared(faces: FaceSet, recognizer: Recognizer, tmp_path):
    config = TrainConfig(k=16, phases=(Phase("warm-up", steps=1),), batch=8)
    with pytest.raises(UsageError, match="8 faces cannot be shared by 3"):
        Trainer(config, faces, [recognizer], tmp_path / "run", workers=Workers(1, 3))
    assert not (tmp_path / "run").exists()
