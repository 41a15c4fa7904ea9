"""A bundle gives its network back, normalisation and all, and can be trained on."""

from __future__ import annotations

import json

import pytest
import torch

from immunecam.errors import InputError
from immunecam.export.to_onnx import export_bundle
from immunecam.models import build_model
from immunecam.runtime.bundle import Bundle
from immunecam.training.config import Phase, TrainConfig
from immunecam.training.faces import from_uint8
from immunecam.training.from_bundle import eigenspace_from_bundle, weights_from_bundle
from immunecam.training.trainer import Trainer

CONFIG = TrainConfig(
    kind="edge",
    k=12,
    model_options={"width": 8, "dim": 16, "restorer": {"widths": [8], "depths": [1], "sees_noise": True}},
    phases=(Phase("warm-up", steps=4),),
    batch=8,
    clones=1,
    estimator="straight-through",
    optimizer="adam",
    lr=1e-2,
    ema_decay=0.5,
)
# Recalls by a memory, a normalised generator, an analyzer whose stem is not normalised.
REMEMBERING = CONFIG.replace(
    kind="ais", k=6, model_options={"dim": 16, "memory_slots": 4, "generator_batch_norm": True, "pooled": True}
)

# Its autoencoder is passed twice.
PIN = CONFIG.replace(kind="pin", model_options={}, phases=(Phase("autoencoder", steps=1),), identity_weight=0.0)


def trained(config, faces, recognizer, folder, *, weights="fp32"):
    trainer = Trainer(config, faces, [recognizer], folder / "bundle.run")
    trainer.run()
    bundle, _ = export_bundle(folder / "bundle.run", folder / "bundle.immune", weights=weights)
    return trainer.network.eval(), bundle


@pytest.mark.parametrize("config", [CONFIG, REMEMBERING, PIN], ids=["edge", "ais", "pin"])
def test_the_network_is_the_one_that_was_exported(faces, recognizer, tmp_path, config):
    network, bundle = trained(config, faces, recognizer, tmp_path)
    some = from_uint8(faces.pixels[:16])
    again = build_model(config.kind, config.k, config.model_options)
    missing = again.load_state_dict(weights_from_bundle(bundle, some))
    assert not missing.missing_keys
    other = torch.rand(5, 112, 112) * 2 - 1
    with torch.no_grad():
        for x in (some, other):
            torch.testing.assert_close(again.eval()(x), network(x), rtol=0, atol=1e-4)
            if network.restorer is not None:
                torch.testing.assert_close(again.restorer(x, x / 2), network.restorer(x, x / 2), rtol=0, atol=1e-5)
        # The very faces that were measured are a batch of the statistics, so training goes on from where it was.
        torch.testing.assert_close(again.train()(some), network(some), rtol=0, atol=0.05)


def test_training_goes_on_from_a_bundle(faces, recognizer, tmp_path):
    _, bundle = trained(CONFIG, faces, recognizer, tmp_path, weights="fp16")
    further = Trainer(CONFIG, faces, [recognizer], tmp_path / "further", start_from=bundle)
    torch.testing.assert_close(further.eigenspace.basis, eigenspace_from_bundle(bundle).basis)
    further.run()
    note = json.loads((tmp_path / "further" / "config.json").read_text())
    assert note["started_from"] == {"bundle": bundle.sha256, "recognizers": note["recognizers"]}
    assert Trainer(CONFIG, faces, [recognizer], tmp_path / "further", start_from=bundle, resume=True).step == 4
    with pytest.raises(InputError, match="other started_from"):
        Trainer(CONFIG, faces, [recognizer], tmp_path / "further", resume=True)

    # Of another number of eigenfaces, the restorer is taken, and the eigenfaces are fitted.
    more = Trainer(CONFIG.replace(k=14), faces, [recognizer], tmp_path / "more", start_from=bundle)
    ours, theirs = more.network.state_dict(), weights_from_bundle(bundle, from_uint8(faces.pixels[:8]))
    assert more.eigenspace.k == 14
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith("restorer."))


def test_what_cannot_be_taken_apart_is_refused(faces, recognizer, tmp_path):
    _, bundle = trained(CONFIG, faces, recognizer, tmp_path, weights="int8")
    with pytest.raises(InputError, match=r"bundle\.immune cannot be trained on: its analyzer does not hold"):
        weights_from_bundle(Bundle.load(bundle.path), from_uint8(faces.pixels[:4]))


def test_an_antibody_of_another_analyzer_begins_as_the_average_one(faces, recognizer, tmp_path):
    network, bundle = trained(CONFIG, faces, recognizer, tmp_path)
    wider = CONFIG.replace(model_options={**CONFIG.model_options, "dim": 24})
    with torch.no_grad():
        wanted = network(from_uint8(faces.pixels)).mean(0).clamp(0.0067, 0.9933)
    for name, start in (("from the bundle", bundle), ("from the run", tmp_path / "bundle.run")):
        other = Trainer(wider, faces, [recognizer], tmp_path / name, start_from=start).network.generator.linear
        assert other.weight.shape == (12, 24)
        torch.testing.assert_close(torch.sigmoid(other.bias), wanted, rtol=0, atol=0.02)
    # The same analyzer takes weight and bias as they are.
    same = Trainer(CONFIG, faces, [recognizer], tmp_path / "same", start_from=bundle).network.generator.linear
    torch.testing.assert_close(same.bias, network.generator.linear.bias, rtol=0, atol=0.05)
