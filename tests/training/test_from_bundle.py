"""A bundle gives its network back, normalisation and all, and can be trained on."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from immunecam.errors import InputError
from immunecam.export.to_onnx import export_bundle
from immunecam.models import Eigenspace, build_model
from immunecam.runtime.bundle import Bundle
from immunecam.training.config import Phase, TrainConfig
from immunecam.training.deployed import purification_from_bundle
from immunecam.training.faces import from_uint8
from immunecam.training.from_bundle import eigenspace_from_bundle, weights_from_bundle
from immunecam.training.origin import recognizers_met
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


ALONE = CONFIG.replace(
    model_options={"width": 12, "dim": 24},
    phases=(Phase("learn", steps=40),),
    pixel_weight=0.0,
    sparsity_weight=0.0,
    identity_weight=0.0,
)


def test_a_network_learns_the_antibodies_of_a_teacher(faces, recognizer, tmp_path):
    _, teacher = trained(CONFIG, faces, recognizer, tmp_path)
    taught = purification_from_bundle(teacher).analyze(from_uint8(faces.pixels))
    apart = {}
    for weight in (0.0, 4.0):
        folder = tmp_path / f"by {weight}"
        known = {"teacher": teacher} if weight else {"eigenspace": eigenspace_from_bundle(teacher)}
        student = Trainer(ALONE.replace(distillation_weight=weight), faces, [], folder, **known)
        # The bits mean what the teacher's mean.
        torch.testing.assert_close(student.eigenspace.basis, eigenspace_from_bundle(teacher).basis)
        student.run(log_every=10)
        with torch.no_grad():
            apart[weight] = float((student.network.eval()(from_uint8(faces.pixels)) - taught).abs().mean())
    assert apart[4.0] < 0.5 * apart[0.0]

    rows = list(csv.DictReader((folder / "curves.csv").open()))
    assert 0 <= float(rows[-1]["distillation"]) < 0.5 * float(rows[0]["distillation"])
    assert "Distance to the teacher" in (folder / "report.html").read_text()
    # Who meets the teacher meets its recognisers, and a run goes on with the same one only.
    met = json.loads((tmp_path / "bundle.run" / "config.json").read_text())["recognizers"]
    assert json.loads((folder / "config.json").read_text())["teacher"] == {"bundle": teacher.sha256, "recognizers": met}
    export_bundle(folder, tmp_path / "student.immune")
    assert recognizers_met(Bundle.load(tmp_path / "student.immune").manifest.provenance) == met
    again = ALONE.replace(distillation_weight=4.0)
    assert Trainer(again, faces, [], folder, teacher=teacher, resume=True).step == 40
    with pytest.raises(InputError, match="other teacher"):
        Trainer(again, faces, [], folder, teacher=Bundle.load(tmp_path / "student.immune"), resume=True)


def test_a_teacher_of_other_eigenfaces_is_refused(faces, recognizer, tmp_path):
    _, teacher = trained(CONFIG, faces, recognizer, tmp_path)
    learning = ALONE.replace(distillation_weight=1.0)
    with pytest.raises(InputError, match=r"bundle\.immune' has 12 eigenfaces and this network 8: train with --k 12"):
        Trainer(learning.replace(k=8), faces, [], tmp_path / "fewer", teacher=teacher)
    own = eigenspace_from_bundle(teacher)
    mixed = Eigenspace(own.mean, own.basis.roll(1, 0), own.variance)
    with pytest.raises(InputError, match=r"bundle\.immune' has other eigenfaces \(the \d+th agrees to 0\.\d\d\)"):
        Trainer(learning, faces, [], tmp_path / "mixed", teacher=teacher, eigenspace=mixed)
    for config, given in ((ALONE, teacher), (learning, None)):
        with pytest.raises(ValueError, match="a teacher goes with a distillation_weight above 0"):
            Trainer(config, faces, [], tmp_path / "half", teacher=given)
