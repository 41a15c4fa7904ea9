"""A recovery network learns to see through a mask, in a run that can be resumed."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from immunecam.errors import InputError
from immunecam.models.frequency import FrequencyMask, channel_statistics
from immunecam.models.mask_spec import MaskSpec
from immunecam.training.attacks.recovery_trainer import RecoveryConfig, RecoveryTrainer

TINY = RecoveryConfig(widths=(8, 8), steps=4, batch=4)


@pytest.fixture
def mask(faces) -> FrequencyMask:
    mean, std = channel_statistics(faces.batches(40), 28)
    return FrequencyMask(MaskSpec.of(range(1, 37), 28), mean, std)


def test_it_learns_to_see(faces, mask, tmp_path):
    found: list[float] = []
    config = RecoveryConfig(widths=(16, 16), steps=40, batch=4, lr=1e-2)
    RecoveryTrainer(config, mask, "m", faces, tmp_path).run(on_step=lambda _, values: found.append(values["ssim"]))
    assert sum(found[-5:]) / 5 > found[0] + 0.1


def test_a_cut_run_ends_as_a_whole_one(faces, mask, tmp_path):
    RecoveryTrainer(TINY, mask, "m", faces, tmp_path / "whole").run(log_every=1)

    def stop(step, values):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RecoveryTrainer(TINY, mask, "m", faces, tmp_path / "cut").run(on_step=stop)
    with pytest.raises(InputError, match="a run with other target"):
        RecoveryTrainer(TINY, mask, "another mask", faces, tmp_path / "cut", resume=True)
    resumed = RecoveryTrainer(TINY, mask, "m", faces, tmp_path / "cut", resume=True)
    resumed.run()
    whole, cut = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    with torch.no_grad():
        assert tuple(resumed.recover(mask(torch.zeros(2, 112, 112))).shape) == (2, 1, 112, 112)


def test_what_must_raise():
    with pytest.raises(ValueError, match="batches of 2 faces"):
        RecoveryConfig(batch=1)
    with pytest.raises(ValueError, match="lr must be finite and above 0"):
        RecoveryConfig(lr=0.0)
