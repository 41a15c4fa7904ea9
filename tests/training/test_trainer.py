"""A run is seeded, resumable and leaves everything that an export needs."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

from immunecam.errors import InputError
from immunecam.models import Eigenspace, build_model
from immunecam.training.config import PRESETS, Attack, Phase, TrainConfig, preset
from immunecam.training.ema import ExponentialMovingAverage
from immunecam.training.faces import FaceSet, from_uint8, to_uint8
from immunecam.training.objective import Objective
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
    assert trainer.steps == trainer.step == 6
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == [
        *("checkpoint.safetensors", "config.json", "curves.csv", "curves.png", "curves.svg"),
        *("eigenspace.safetensors", "report.html", "sample.safetensors"),
    ]
    page = (tmp_path / "report.html").read_text()
    for wanted in ("<svg", "1 - cosine to the clean face", "6 steps on", "attack.epsilon", "small"):
        assert wanted in page
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert rows[-1]["phase"] == "adversarial"
    assert all(0 <= float(row["sparsity"]) <= 16 for row in rows)
    assert json.loads((tmp_path / "config.json").read_text())["recognizers"][0]["name"] == "small"


@pytest.mark.parametrize("estimator", ["straight-through", "reinforce"])
def test_an_interrupted_run_ends_as_a_whole_one(faces, recognizer, tmp_path, estimator):
    config = TINY.replace(estimator=estimator, optimizer="sgd" if estimator == "reinforce" else "adam")
    Trainer(config, faces, [recognizer], tmp_path / "whole").run(log_every=1)

    def stop(step, values):
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


def test_ctrl_c_in_the_middle_of_a_step(faces, recognizer, tmp_path):
    """A real signal, while a step has moved batch statistics and memory but not the weights."""
    config = TINY.replace(model_options={"width": 8, "dim": 16, "memory_slots": 4})
    Trainer(config, faces, [recognizer], tmp_path / "whole").run()
    calls = 0

    def press(module, inputs):
        nonlocal calls
        calls += 1
        if calls == 5:
            os.kill(os.getpid(), signal.SIGINT)

    hook = recognizer.network.register_forward_pre_hook(press)
    trainer = Trainer(config, faces, [recognizer], tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    hook.remove()
    assert 0 < trainer.step < 6
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = Trainer(config, faces, [recognizer], tmp_path / "cut", resume=True)
    assert resumed.step == trainer.step
    resumed.run()
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert "network.memory.slots" in whole
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_step_that_fails_is_not_in_the_checkpoint(faces, recognizer, tmp_path):
    """An error in mid-step leaves the last whole checkpoint, from which the run ends as if nothing had happened."""
    Trainer(TINY, faces, [recognizer], tmp_path / "whole").run()
    trainer = Trainer(TINY, faces, [recognizer], tmp_path / "cut")

    def fail(module, inputs):
        if trainer.step == 4:
            raise RuntimeError("out of memory")

    hook = recognizer.network.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run(checkpoint_every=3)
    hook.remove()
    resumed = Trainer(TINY, faces, [recognizer], tmp_path / "cut", resume=True)
    assert resumed.step == 3
    resumed.run()
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


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


def test_two_do_not_train_in_one_folder_at_once(faces, recognizer, tmp_path):
    refused = []

    def start_another(step, values):
        if step == 2:
            for config in (TINY, TINY.replace(lr=0.5)):
                with pytest.raises(InputError, match="another process is training in"):
                    Trainer(config, faces, [recognizer], tmp_path, resume=True)
            refused.append(step)

    Trainer(TINY, faces, [recognizer], tmp_path).run(on_step=start_another, log_every=1)
    assert json.loads((tmp_path / "config.json").read_text())["config"]["lr"] == TINY.lr
    assert refused == [2]
    assert len((tmp_path / "curves.csv").read_text().splitlines()) == 7
    Trainer(TINY, faces, [recognizer], tmp_path, resume=True).run()  # the lock has gone with its holder


def test_weights_of_another_run_are_taken_where_they_fit(faces, recognizer, tmp_path):
    options = {**TINY.model_options, "restorer": {"widths": [8], "depths": [1]}}
    config = TINY.replace(model_options=options)
    Trainer(config, faces, [recognizer], tmp_path / "first").run()
    first = weights(tmp_path / "first")
    other = config.replace(k=TINY.k - 1, seed=7)
    trainer = Trainer(other, faces, [recognizer], tmp_path / "second", start_from=tmp_path / "first")
    taken = trainer.network.state_dict()
    generator = "generator.linear.weight"  # has another shape
    assert all(torch.equal(taken[n], first[f"slow.{n}"]) for n in taken if not n.startswith("generator."))
    assert taken[generator].shape != first[f"slow.{generator}"].shape
    assert torch.equal(trainer.slow.network.state_dict()["analyzer.stem.0.weight"], taken["analyzer.stem.0.weight"])
    trainer.run()
    note = json.loads((tmp_path / "second" / "config.json").read_text())
    checkpoint = (tmp_path / "first" / "checkpoint.safetensors").read_bytes()
    assert note["started_from"]["checkpoint"] == hashlib.sha256(checkpoint).hexdigest()
    assert note["started_from"]["recognizers"] == note["recognizers"]
    # Of as many eigenfaces, the antibody's bits go on to mean the same ones, whatever the seed.
    theirs = load_file(tmp_path / "first" / "eigenspace.safetensors")["basis"]
    again = Trainer(config.replace(seed=7), faces, [recognizer], tmp_path / "again", start_from=tmp_path / "first")
    assert torch.equal(again.eigenspace.basis, theirs)
    assert not torch.equal(trainer.eigenspace.basis, theirs[:-1])
    with pytest.raises(InputError, match="other started_from"):
        Trainer(other, faces, [recognizer], tmp_path / "second", resume=True)
    with pytest.raises(InputError, match="no run to start from"):
        Trainer(config, faces, [recognizer], tmp_path / "third", start_from=tmp_path / "nowhere")
    save_file({"basis": theirs}, tmp_path / "first" / "eigenspace.safetensors")
    with pytest.raises(InputError, match=r"first' to start from has damaged eigenfaces"):
        Trainer(config, faces, [recognizer], tmp_path / "third", start_from=tmp_path / "first")


def test_noise_teaches_to_drop_what_is_mostly_noise(faces, tmp_path):
    """With strong noise and no identity term, trailing eigenfaces of no energy must become improbable.

    The last 8 of the 16 are directions that no face has anything of; the first 8 stay.
    """
    config = TINY.replace(
        phases=(Phase("warm-up", steps=40),),
        identity_weight=0.0,
        sparsity_weight=0.0,  # which would drop them without any noise
        noise_level=0.4,
        pixel_weight=1.0,
        lr=1e-2,
        augment=False,
    )
    fitted = Eigenspace.fit(faces.batches(500), 39)  # all that forty faces span
    torch.manual_seed(0)
    rest = torch.linalg.qr(torch.cat([fitted.basis, fitted.mean[None], torch.randn(8, 12544)]).T)[0].T[-8:]
    space = Eigenspace(
        fitted.mean, torch.cat([fitted.basis[:8], rest]), torch.cat([fitted.variance[:8], torch.zeros(8)])
    )
    clean = next(faces.batches(16))
    assert space.coefficients(clean)[:, 8:].abs().max() < 1e-3
    trainer = Trainer(config, faces, [], tmp_path, eigenspace=space)

    def probability() -> torch.Tensor:
        with torch.no_grad():
            return torch.sigmoid(trainer.network.eval().logits(clean)).mean(0)

    before = probability()
    trainer.run()
    after = probability()
    assert float(before[8:].mean()) > 0.5
    assert float(after[8:].mean()) < 0.25
    assert float(after[:8].mean()) > 0.9


@pytest.mark.parametrize("estimator", ["reinforce", "straight-through"])
def test_pin_trains_its_autoencoder_then_freezes_it(faces, tmp_path, estimator):
    config = preset("pin", "paper").replace(
        k=8, batch=2, clones=3, estimator=estimator, phases=(Phase("autoencoder", steps=2), Phase("selection", steps=2))
    )
    trainer = Trainer(config, faces, [], tmp_path)
    seen = []

    def watch(step, values):
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
    assert Trainer(config, faces, [recognizer], tmp_path).steps == 10


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
    full = preset("edge", "full").replace(model_options={})
    for change, reason in (
        ({"estimator": "reinforce"}, "target_weight"),
        ({"identity_weight": 0.0}, "identity_weight"),
        ({"estimator": "reinforce", "target_weight": 0.0}, "zoom"),
    ):
        with pytest.raises(ValueError, match=reason):
            full.replace(**change)


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


def test_the_attacker_is_aimed_at_a_slow_copy_that_follows_every_step(faces, recognizer, tmp_path):
    attack = Attack(steps=(1, 1), through=1.0, gradient="expected")
    config = TINY.replace(phases=(Phase("adversarial", steps=3, adversarial=1.0),), ema_decay=0.5, attack=attack)
    trainer = Trainer(config, faces, [recognizer], tmp_path)
    wanted = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    aimed_at = []
    trainer.slow.network.register_forward_hook(lambda *call: aimed_at.append(trainer.step))

    def follow(step, values):
        for name, value in trainer.network.state_dict().items():
            wanted[name] = 0.5 * wanted[name] + 0.5 * value if value.is_floating_point() else value.clone()

    first = {name: value.clone() for name, value in wanted.items()}
    trainer.run(on_step=follow)
    assert aimed_at == [0, 1, 2]
    found = weights(tmp_path)
    for name, value in wanted.items():
        torch.testing.assert_close(found[f"slow.{name}"], value, msg=name)
    moved = "generator.linear.weight"
    assert not torch.allclose(found[f"slow.{moved}"], first[moved])
    assert not torch.allclose(found[f"slow.{moved}"], found[f"network.{moved}"])


def test_as_many_steps_are_resampled_as_asked_for(faces, tmp_path):
    """Their faces are the same ones, off the grid of their pixels."""
    batches = {}
    for share in (0.0, 0.5, 1.0):
        config = TINY.replace(resampled=share, augment=False, identity_weight=0.0, phases=(Phase("warm-up", steps=1),))
        trainer = Trainer(config, faces, [], tmp_path / str(share))
        batches[share] = []
        for seed in range(12):
            torch.manual_seed(seed)
            batches[share].append(trainer._batch(config.phases[0])[0])
    changed = {
        share: [not torch.equal(a, b) for a, b in zip(batches[0.0], found, strict=True)]
        for share, found in batches.items()
    }
    assert sum(changed[0.0]) == 0
    assert 2 < sum(changed[0.5]) < 10
    assert sum(changed[1.0]) == 12
    known = from_uint8(faces.pixels).flatten(1)
    for plain, resampled in zip(batches[0.0], batches[1.0], strict=True):
        assert all((known == face).all(1).any() for face in plain.flatten(1))
        assert torch.cosine_similarity(plain.flatten(1), resampled.flatten(1)).min() > 0.8


def test_resuming_a_finished_run_changes_nothing(faces, recognizer, tmp_path):
    Trainer(TINY, faces, [recognizer], tmp_path).run()
    before = weights(tmp_path)
    Trainer(TINY, faces, [recognizer], tmp_path, resume=True).run()
    after = weights(tmp_path)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_two_runs_of_one_seed_are_one_run(faces, recognizer, tmp_path):
    config = TINY.replace(phases=(Phase("warm-up", steps=2),))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.rand(7)  # whatever happened before
        Trainer(config.replace(seed=seed), faces, [recognizer], tmp_path / name).run()
    a, b, c = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["network.generator.linear.weight"], c["network.generator.linear.weight"])


def test_damaged_run_folders_are_one_sentence(faces, recognizer, tmp_path):
    config = TINY.replace(phases=(Phase("warm-up", steps=1),))
    Trainer(config, faces, [recognizer], tmp_path).run()

    def refused(words):
        with pytest.raises(InputError, match=words) as caught:
            Trainer(config, faces, [recognizer], tmp_path, resume=True)
        assert "\n" not in str(caught.value)

    kept = {name: (tmp_path / name).read_bytes() for name in ("config.json", "eigenspace.safetensors")}
    checkpoint = weights(tmp_path)
    save_file(
        {"network.x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors", metadata={"step": "1", "seconds": "0"}
    )
    refused("damaged")
    save_file(checkpoint, tmp_path / "checkpoint.safetensors")  # whose metadata is gone
    refused("damaged")
    (tmp_path / "eigenspace.safetensors").write_bytes(kept["eigenspace.safetensors"][:99])
    refused("eigenfaces")
    (tmp_path / "config.json").write_text("[]")
    refused("other config")
    (tmp_path / "config.json").write_text("{")
    refused("missing or damaged")
    (tmp_path / "config.json").unlink()
    refused("missing or damaged")


def test_another_data_set_or_recogniser_is_another_run(faces, recognizer, tmp_path):
    config = TINY.replace(phases=(Phase("warm-up", steps=1),))
    Trainer(config, faces, [recognizer], tmp_path).run()
    fewer = FaceSet(faces.pixels[:30], faces.names[:30])
    with pytest.raises(InputError, match="other faces"):
        Trainer(config, fewer, [recognizer], tmp_path, resume=True)
    with pytest.raises(InputError, match="other recognizers"):
        Trainer(config, faces, [recognizer, recognizer], tmp_path, resume=True)


def test_a_loss_that_is_no_number_stops_the_run(faces, tmp_path):
    config = TINY.replace(identity_weight=0.0, phases=(Phase("warm-up", steps=3),), pixel_weight=float("nan"))
    with pytest.raises(InputError, match="loss became nan at step 0: lower the learning rate"):
        Trainer(config, faces, [], tmp_path).run()
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_schedules(faces, tmp_path):
    rates = {}
    for schedule in ("constant", "cosine", "halve"):
        config = TINY.replace(identity_weight=0.0, schedule=schedule, lr=1.0, phases=(Phase("a", steps=20),))
        trainer = Trainer(config, faces, [], tmp_path / schedule)
        rates[schedule] = []
        for trainer.step in range(20):
            rates[schedule].append(trainer._lr())
    assert set(rates["constant"]) == {1.0}
    assert rates["halve"] == [0.5 ** (n // 2) for n in range(20)]
    config = TINY.replace(
        identity_weight=0.0, schedule="halve", lr=1.0, phases=(Phase("a", steps=10), Phase("b", steps=20))
    )
    trainer = Trainer(config, faces, [], tmp_path / "two phases")
    found = []
    for trainer.step in range(30):
        found.append(trainer._lr())
    assert found == [0.5**n for n in range(10)] + [0.5 ** (n // 2) for n in range(20)]  # each phase from the full rate
    assert rates["cosine"] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * n / 20) for n in range(20)], abs=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "l2"])
def test_noise_has_the_level_that_was_asked_for(kind):
    space = Eigenspace(torch.zeros(12544), torch.eye(12544)[:16], torch.ones(16))
    config = TINY.replace(noise=kind, noise_level=0.04, identity_weight=0.0, phases=())
    objective = Objective(config, space)
    torch.manual_seed(0)
    faces = torch.full((20, 112, 112), 0.5)
    change = objective.noisy(faces) - faces
    if kind == "gaussian":
        assert float(change.std()) == pytest.approx(0.04, rel=0.01)
    else:
        assert float(change.norm() / faces.norm()) == pytest.approx(0.04, rel=1e-3)
    with pytest.raises(ValueError, match="asks for 17"):
        Objective(config.replace(k=17), space)


def test_corrupted_faces_are_8_bit_and_some_stay_clean(faces, recognizer):
    space = Eigenspace(torch.zeros(12544), torch.eye(12544)[:16], torch.ones(16))
    objective = Objective(TINY, space, [recognizer])
    clean = next(faces.batches(8))
    with torch.no_grad():
        own = recognizer(clean)
    slow = build_model("edge", 16, TINY.model_options).eval()
    for adversarial in (0.0, 1.0):
        torch.manual_seed(0)
        phase = Phase("a", 1, adversarial=adversarial, clean=0.25)
        found, untouched, _ = objective._corrupt(slow, clean, own, recognizer, phase)
        assert untouched == 2
        torch.testing.assert_close(found[:2], clean[:2])
        assert all(not torch.equal(a, b) for a, b in zip(found[2:], clean[2:], strict=True))
        torch.testing.assert_close(from_uint8(to_uint8(found)), found)
        if adversarial:  # within the 5.1 grey levels of the paper's one step, rounded
            assert (found - clean).abs().max() * 127.5 <= 5.1 + 0.5
    assert not any(p.grad is not None for p in slow.parameters())


def test_the_slow_copy_holds_still_while_it_is_attacked():
    """In evaluation mode a forward pass moves neither batch statistics nor the memory (defect 4)."""
    torch.manual_seed(0)
    network = build_model("edge", 4, {"width": 8, "dim": 6, "memory_slots": 3}).train()
    slow = ExponentialMovingAverage(network, 0.9)
    before = {name: value.clone() for name, value in slow.network.state_dict().items()}
    slow.network(torch.rand(3, 112, 112))
    assert all(torch.equal(before[name], value) for name, value in slow.network.state_dict().items())
    network(torch.rand(3, 112, 112))
    slow.update(network)
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            wanted = 0.9 * before[name] + 0.1 * value
            torch.testing.assert_close(slow.network.state_dict()[name], wanted, msg=name)
        else:
            assert torch.equal(slow.network.state_dict()[name], value), name
    assert not any(p.requires_grad for p in slow.network.parameters())
    assert network.training


def test_training_for_int8_rounds_the_trained_network_only(faces, recognizer, tmp_path):
    config = TINY.replace(quantisation_aware=True)
    trainer = Trainer(config, faces, [recognizer], tmp_path / "int8")
    Trainer(TINY, faces, [recognizer], tmp_path / "plain").run()
    trainer.run()
    assert json.loads((tmp_path / "int8" / "config.json").read_text())["config"]["quantisation_aware"]
    rounded, plain = weights(tmp_path / "int8"), weights(tmp_path / "plain")
    assert rounded.keys() == plain.keys()
    assert any(not torch.equal(rounded[name], plain[name]) for name in plain)
    some = faces.batches(4).__iter__().__next__()
    slow = trainer.slow.network
    assert not slow.training
    assert torch.equal(slow.logits(some), slow.train(False).logits(some))
