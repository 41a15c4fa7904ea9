"""Faces attacked while a network learns from them."""

from __future__ import annotations

import json

import pytest
import torch

from immunecam.models.liveness import LivenessNetwork
from immunecam.models.liveness_loss import LivenessLabels
from immunecam.training.attacks import round_to_8bit
from immunecam.training.liveness import AdversarialTraining, LivenessConfig, LivenessTrainer
from immunecam.training.liveness.adversarial import attacked_batch
from immunecam.training.liveness.trained import crop_of, load_trained


@pytest.mark.parametrize("sfa", [False, True])
def test_a_share_of_the_faces_is_attacked_within_the_budget(sfa):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = LivenessNetwork("vgg", (), side=64)
    pictures = round_to_8bit(torch.rand(8, 3, 64, 64) - 0.5)
    labels = LivenessLabels(torch.tensor([0, 1] * 4))
    averages = network.trunk.stages["stem"][1].running_mean.clone()
    how = AdversarialTraining(level=4.0, share=0.25, steps=2, sfa=sfa)
    found = attacked_batch(network, pictures, labels, how)
    change = (found - pictures).abs().flatten(1).amax(1)
    assert int((change > 0).sum()) == 2
    assert float(change.max()) == pytest.approx(4 / 127.5, abs=1e-5)
    assert torch.equal(network.trunk.stages["stem"][1].running_mean, averages)
    assert all(weight.grad is None for weight in network.parameters())
    with torch.no_grad():
        attacked = change > 0
        losses = [
            torch.nn.functional.cross_entropy(network.eval()(one[attacked])["live"], labels.live[attacked])
            for one in (pictures, found)
        ]
    assert losses[1] > losses[0]


def test_a_run_says_what_it_was_trained_against(small_set, tmp_path):
    how = AdversarialTraining(level=2.0, share=0.5, steps=1)
    config = LivenessConfig(backbone="vgg", tasks=(), steps=2, batch=4, adversarial=how)
    LivenessTrainer(config, small_set, tmp_path).run()
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["config"]["adversarial"] == {"level": 2.0, "share": 0.5, "steps": 1, "sfa": False}
    assert "adversarial" not in LivenessConfig().to_dict()  # older runs resume
    resumed = LivenessTrainer(config, small_set, tmp_path, resume=True)
    assert resumed.step == 2
    resumed.close()
    _, known = load_trained(tmp_path)
    crop = crop_of(known)
    assert (crop["around"], crop["size"], crop["down"]) == ("landmarks", 3.354, 0.409)
    known["faces"]["synthetic"] = False
    assert crop_of(known) == {"around": "box", "size": 1.3, "down": 0.0}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"level": 0.0}, "0 grey levels: give more than 0, and 128 at most"),
        ({"level": float("nan")}, "nan grey levels"),
        ({"share": 0.0}, "must be above 0, and 1 at most"),
        ({"steps": 0}, "takes 0 steps: give 1 or more"),
    ],
)
def test_what_must_raise(settings, said):
    with pytest.raises(ValueError, match=said):
        AdversarialTraining(**settings)
