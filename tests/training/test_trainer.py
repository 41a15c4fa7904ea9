"""A run is seeded, resumable and leaves everything that an export needs."""

from __future__ import annotations

import csv
import json

import pytest
import torch
from safetensors.torch import load_file

from immunecam.errors import InputError
from immunecam.training.config import PRESETS, Attack, Phase, TrainConfig, preset
from immunecam.training.ema import ExponentialMovingAverage
from immunecam.training.trainer import Trainer

TINY = TrainConfig(
    kind="edge",
    k=16,
    model_options={"width": 8, "dim": 16},
    phases=(Phase("warm-up", steps=3), Phase("adversarial", steps=3, adversarial=1.0, clean=0.25)),
    batch=8,
    clones=2,
    estimator="straight-through",
    optimizer="adam",
    lr=1e-3,
    attack=Attack(steps=(1, 2), through=0.5, gradient="expected", impersonation=0.5, random_start=True),
    augment=True,
)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint.safetensors")


def test_a_run_leaves_its_files(faces, recognizer, tmp_path):
    trainer = Trainer(TINY, faces, [recognizer], tmp_path)
    trainer.run(log_every=2)
    assert trainer.total_steps == trainer.step == 6
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        *("checkpoint.safetensors", "config.json", "curves.csv", "curves.png"),
        *("eigenspace.safetensors", "sample.safetensors"),
    ]
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert rows[-1]["phase"] == "adversarial"
    assert all(0 <= float(row["sparsity"]) <= 16 for row in rows)
    assert json.loads((tmp_path / "config.json").read_text())["recognizers"][0]["name"] == "small"


@pytest.mark.parametrize("estimator", ["straight-through", "reinforce"])
def test_an_interrupted_run_ends_as_a_whole_one(faces, recognizer, tmp_path, estimator):
    config = TINY.replace(estimator=estimator, optimizer="sgd" if estimator == "reinforce" else "adam")
    Trainer(config, faces, [recognizer], tmp_path / "whole").run(log_every=1)

    def stop(step, phase, values):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trainer(config, faces, [recognizer], tmp_path / "cut").run(on_step=stop, log_every=1)
    resumed = Trainer(config, faces, [recognizer], tmp_path / "cut", resume=True)
    assert resumed.step == 4
    resumed.run(log_every=1)
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    steps = [row["step"] for row in csv.DictReader((tmp_path / "cut" / "curves.csv").open())]
    assert steps == [str(n) for n in range(1, 7)]


def test_a_run_is_not_overwritten_nor_mixed(faces, recognizer, tmp_path):
    Trainer(TINY, faces, [recognizer], tmp_path).run()
    with pytest.raises(InputError, match="--resume"):
        Trainer(TINY, faces, [recognizer], tmp_path)
    with pytest.raises(InputError, match="other config"):
        Trainer(TINY.replace(lr=0.5), faces, [recognizer], tmp_path, resume=True)
    data = (tmp_path / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="damaged"):
        Trainer(TINY, faces, [recognizer], tmp_path, resume=True)


def test_noise_teaches_to_drop_what_is_mostly_noise(faces, tmp_path):
    """With strong noise and no identity term, trailing eigenfaces of no energy must become improbable."""
    config = TINY.replace(
        phases=(Phase("warm-up", steps=60),),
        identity_weight=0.0,
        noise_level=0.4,
        pixel_weight=1.0,
        lr=1e-2,
        augment=False,
    )
    trainer = Trainer(config, faces, [], tmp_path)
    seen = []
    trainer.run(on_step=lambda step, phase, values: seen.append(float(values.loss.detach())))
    assert sum(seen[-10:]) < sum(seen[:10])


@pytest.mark.parametrize("estimator", ["reinforce", "straight-through"])
def test_pin_trains_its_autoencoder_then_freezes_it(faces, tmp_path, estimator):
    config = preset("pin", "paper").replace(
        k=8, batch=2, clones=3, estimator=estimator, phases=(Phase("autoencoder", steps=2), Phase("selection", steps=2))
    )
    trainer = Trainer(config, faces, [], tmp_path)
    seen = []

    def watch(step, phase, values):
        seen.append({n: p.clone() for n, p in trainer.network.autoencoder.state_dict().items()})

    trainer.run(on_step=watch)
    assert any(not torch.equal(seen[0][n], seen[1][n]) for n in seen[0])
    assert all(torch.equal(seen[1][n], seen[3][n]) for n in seen[0])


def test_ais_by_reinforce(faces, recognizer, tmp_path):
    config = preset("ais", "paper").replace(
        k=8, batch=2, clones=4, phases=(Phase("warm-up", steps=1), Phase("adversarial", steps=1, adversarial=1.0))
    )
    trainer = Trainer(config, faces, [recognizer], tmp_path)
    trainer.run()
    assert trainer.step == 2


def test_epochs_count_steps(faces, recognizer, tmp_path):
    config = TINY.replace(phases=(Phase("warm-up", epochs=2),))
    assert Trainer(config, faces, [recognizer], tmp_path).total_steps == 10


def test_presets_and_bad_values():
    assert {("ais", "paper"), ("ais", "fast"), ("pin", "paper"), ("edge", "fast")} <= PRESETS.keys()
    for config in PRESETS.values():
        assert json.loads(json.dumps(config.to_dict()))["kind"] == config.kind
    with pytest.raises(ValueError, match="no preset"):
        preset("edge", "slow")
    for change in ({"estimator": "x"}, {"k": 0}, {"optimizer": "x"}, {"noise": "x"}, {"schedule": "x"}):
        with pytest.raises(ValueError, match=next(iter(change))):
            TINY.replace(**change)
    with pytest.raises(ValueError, match="steps"):
        Attack(steps=(3, 1))


def test_needs_a_recognizer(faces, tmp_path):
    with pytest.raises(ValueError, match="recognizer"):
        Trainer(TINY, faces, [], tmp_path)


def test_slow_copy_averages_buffers_too():
    network = torch.nn.BatchNorm1d(4).train()
    slow = ExponentialMovingAverage(network, 0.5)
    network(torch.randn(16, 4) + 3)
    slow.update(network)
    torch.testing.assert_close(slow.network.running_mean, 0.5 * network.running_mean)
    assert int(slow.network.num_batches_tracked) == 1
    assert not slow.network.training
    with pytest.raises(ValueError, match="decay"):
        ExponentialMovingAverage(network, 1.0)
