"""The bank is made once, whole or piece by piece, and training draws the attacked twin of a clean face from it."""

from __future__ import annotations

import json

import pytest
import torch

from immunecam.errors import InputError
from immunecam.models import Eigenspace, build_model
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.training import attack_bank
from immunecam.training.attack_bank import AttackBank, AttackedFaces, BankConfig
from immunecam.training.config import Phase, TrainConfig, preset
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.objective import Objective
from immunecam.training.recognizer import Recognizer
from immunecam.training.resampling import zoomed
from immunecam.training.trainer import Trainer

CONFIG = BankConfig(attacks=("FGSM", "PGD-10"), epsilon=(4.0, 6.0), rounds=2)


@pytest.fixture(scope="module")
def bank_faces(faces: FaceSet) -> FaceSet:
    return FaceSet(faces.pixels[:36], faces.names[:36])


def test_a_bank(bank_faces, recognizer: Recognizer, tmp_path):
    seen = []
    bank = AttackBank.make(CONFIG, bank_faces, [recognizer], tmp_path, progress=lambda *at: seen.append(at))
    assert len(bank) == 72
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert bank.face[:36].sort().values.tolist() == bank.face[36:].sort().values.tolist() == [*range(36)]
    # Neighbours in a sorted set are the same person, and nobody needs to become himself.
    assert (bank.face.diff() == 1).float().mean() < 0.2
    assert bank.change.dtype == torch.int8
    assert bank.recognizer.tolist() == [0] * 72
    assert bank.mirrored.tolist() == [False] * 32 + [True] * 32 + [False] * 8
    drawn = bank.draw(60, 0, bank_faces, (1.0, 1.0))
    assert drawn.zoom.tolist() == [1.0] * 60
    assert 4 / 127.5 <= float((drawn.attacked - drawn.clean).abs().max()) <= 6.01 / 127.5
    weaker = bank.draw(60, 0, bank_faces, (0.5, 0.5))
    assert 2 / 127.5 <= float((weaker.attacked - weaker.clean).abs().max()) <= 3.01 / 127.5
    known = {tuple(face.flatten()[:200].tolist()) for face in from_uint8(bank_faces.pixels)}
    turned = [tuple(face.flatten()[:200].tolist()) not in known for face in drawn.clean]
    assert 0 < sum(turned) < 60
    assert all(tuple(face.flip(1).flatten()[:200].tolist()) in known for face in drawn.clean[torch.tensor(turned)])
    assert 4 <= int(bank.change.abs().max()) <= 6
    # Impersonators come nearer to whom they want to be, the others are to be themselves and go away from it.
    with torch.no_grad():
        target, before, after = (recognizer(x) for x in (drawn.target, drawn.clean, drawn.attacked))
    nearer = ((after - before) * target).sum(1) > 0
    assert 10 < int(drawn.impersonates.sum()) < 50
    assert (nearer == drawn.impersonates).float().mean() > 0.85  # one step may overshoot
    clean = from_uint8(bank_faces.pixels[bank.face[:32]])
    attacked = (clean + bank.change[:32].float() / 127.5).clamp(-1, 1)
    with torch.no_grad():
        moved = (recognizer(attacked) * recognizer(clean)).sum(1)
    assert (moved < 1 - 1e-5).all()
    again = AttackBank.make(CONFIG, bank_faces, [recognizer], tmp_path)
    assert torch.equal(again.change, bank.change)


def test_only_what_is_missing_is_made(bank_faces, recognizer, tmp_path, monkeypatch):
    bank = AttackBank.make(CONFIG, bank_faces, [recognizer], tmp_path)
    (tmp_path / "000000.safetensors").unlink()
    cut = tmp_path / "000002.safetensors"
    cut.write_bytes(cut.read_bytes()[:40])
    made, genuine = [], attack_bank._attack

    def count(config, pixels, recognizers, number):
        made.append(number)
        return genuine(config, pixels, recognizers, number)

    monkeypatch.setattr(attack_bank, "_attack", count)
    again = AttackBank.make(CONFIG, bank_faces, [recognizer], tmp_path)
    assert made == [0, 2]
    assert torch.equal(again.change, bank.change)
    with pytest.raises(InputError, match="other faces"):
        AttackBank.make(BankConfig(rounds=1), bank_faces, [recognizer], tmp_path)


@pytest.mark.parametrize("wrong", [{"attacks": ("patch",)}, {"attacks": ()}, {"rounds": 0}, {"epsilon": (5.0, 2.0)}])
def test_wrong_settings(wrong):
    with pytest.raises(ValueError, match="bank"):
        BankConfig(**wrong)
    with pytest.raises(ValueError, match="has none"):
        TrainConfig(phases=(Phase("x", steps=1, bank=0.5),))


def test_training_from_a_bank(bank_faces, recognizer, tmp_path):
    config = TrainConfig(
        k=8,
        model_options={"width": 8, "dim": 16, "restorer": {"widths": [8], "depths": [1]}},
        phases=(Phase("restore", steps=3, clean=1.0, bank=0.5),),
        batch=8,
        clones=1,
        estimator="straight-through",
        optimizer="adam",
        augment=True,
        bank=CONFIG,
    )
    trainer = Trainer(config, bank_faces, [recognizer], tmp_path / "run", bank=tmp_path / "bank")
    torch.manual_seed(0)
    faces, drawn = trainer._batch(config.phases[0])
    assert drawn is not None
    assert len(faces) == 8
    attacked = drawn.attacked
    assert len(attacked) == 4
    assert torch.equal(drawn.clean, faces[:4])
    # Twins: mirrored and lit alike, so they differ by the perturbation only.
    off = (attacked - faces[:4]).abs().amax((1, 2)) * 127.5
    assert (off > 0.3).all()
    assert (off < 6 * 1.2 + 1).all()
    trainer.run()
    assert trainer.step == 3


def test_half_of_the_faces_are_attacked_as_a_zooming_recogniser_sees_them(bank_faces, recognizer, tmp_path):
    plain = BankConfig(attacks=("PGD-10",), epsilon=(8.0, 8.0), rounds=4)
    zooming = BankConfig(attacks=("PGD-10",), epsilon=(8.0, 8.0), rounds=4, zoom=(0.7, 0.7))
    banks = [AttackBank.make(c, bank_faces, [recognizer], tmp_path / str(n)) for n, c in enumerate((plain, zooming))]
    same = [torch.equal(*(bank.change[start : start + 32] for bank in banks)) for start in range(0, 128, 32)]
    assert same == [True, True, False, False]
    # It is an attack on the recogniser that sees smaller faces.
    faces = from_uint8(bank_faces.pixels)
    rows = torch.arange(96, 128)
    clean = faces[banks[1].face[rows]].flip(2)  # the fourth 32 are mirrored
    sizes = banks[1].zoom[rows]
    torch.testing.assert_close(sizes, torch.full((32,), 0.7))
    with torch.no_grad():
        own = recognizer(zoomed(clean, sizes))
        cosines = [
            (recognizer(zoomed((clean + bank.change[rows].float() / 127.5).clamp(-1, 1), sizes)) * own).sum(1).mean()
            for bank in banks
        ]
    assert cosines[1] < cosines[0] - 0.05
    with pytest.raises(ValueError, match="zoom must be two rising numbers"):
        BankConfig(zoom=(1.5, 0.7))


def _step(bank_faces, recognizer, drawn, base="face", **changes):
    config = preset("edge", "full").replace(
        k=4, model_options={"restorer": {"widths": [4], "depths": [1], "base": base}}, cross_recognizer=0.0, **changes
    )
    faces = from_uint8(bank_faces.pixels[:6])
    objective = Objective(config, Eigenspace.fit([faces], 4), [recognizer])
    torch.manual_seed(0)
    network = build_model("edge", 4, config.model_options).eval()
    return objective.selection(network, network, faces, config.phases[0], 0, drawn)


def _noisy(bank_faces, zoom: float, target=None) -> AttackedFaces:
    torch.manual_seed(0)
    clean = from_uint8(bank_faces.pixels[:4])
    attacked = (clean + 0.1 * torch.randn(4, 112, 112)).clamp(-1, 1)
    impersonates = torch.tensor([target is not None, False, False, False])
    return AttackedFaces(clean, attacked, torch.full((4,), zoom), clean if target is None else target, impersonates)


@pytest.mark.parametrize("zoom", [1.0, 0.6])
def test_identity_is_judged_at_the_size_that_was_attacked(bank_faces, recognizer, zoom):
    drawn = _noisy(bank_faces, zoom)
    found = float(_step(bank_faces, recognizer, drawn).identity)
    with torch.no_grad():
        # An untrained restorer leaves the face as it came; two of the six are clean.
        seen, own = (recognizer(zoomed(x, drawn.zoom)) for x in (drawn.attacked, drawn.clean))
    assert found == pytest.approx(float(1 - (seen * own).sum(1).mean()) * 4 / 6, rel=1e-3)


def test_untouched_faces_count_by_their_weight(bank_faces, recognizer):
    for drawn in (None, _noisy(bank_faces, 1.0)):  # six untouched faces, and two behind four attacked ones
        once, twice, thrice = (
            _step(bank_faces, recognizer, drawn, base="projected", clean_weight=w) for w in (1.0, 2.0, 3.0)
        )
        untouched = (twice.loss - once.loss).item() / preset("edge", "full").identity_weight
        assert (thrice.loss - twice.loss).item() == pytest.approx((twice.loss - once.loss).item(), rel=1e-3)
        assert once.identity == thrice.identity
        if drawn is None:
            assert untouched == pytest.approx(once.identity, rel=1e-3)
        else:
            assert 0 < untouched < once.identity


def test_what_an_impersonation_leaves_is_weighted(bank_faces, recognizer):
    """An untrained restorer leaves the whole attack, so the loss grows by what it has gained on its target."""
    clean = from_uint8(bank_faces.pixels[:4])
    torch.manual_seed(0)
    attacked = (clean + 0.1 * torch.randn(4, 112, 112)).clamp(-1, 1)
    for target, gains in ((attacked, True), (clean, False)):
        drawn = _noisy(bank_faces, 1.0, target)
        without, weighted = (_step(bank_faces, recognizer, drawn, target_weight=w).loss.item() for w in (0.0, 100.0))
        with torch.no_grad():
            wanted = recognizer(target[:1])
            gain = float(((recognizer(attacked[:1]) - recognizer(clean[:1])) * wanted).sum())
        assert (gain > 0) == gains
        assert weighted - without == pytest.approx(100 * max(gain, 0.0), abs=2e-3)


def test_the_shipped_bundle_was_trained_by_the_preset():
    """Apart from the number of steps and their rate, for its last run went on from others."""
    config = Bundle.load(default_bundle()).manifest.provenance["config"]
    wanted = json.loads(json.dumps(preset("edge", "full").to_dict()))
    for told in (config, wanted):
        assert told["phases"].pop()["bank"] == 0.75
        assert told.pop("lr") <= 2e-3
    # It may be older than options, whose defaults it had.
    defaults = json.loads(json.dumps(TrainConfig().to_dict()))
    assert {**{name: defaults[name] for name in wanted}, **config} == wanted


def test_full_presets_fit_their_bundles():
    for kind in ("edge", "ais"):
        config = preset(kind, "full")
        assert config.bank is not None
        assert config.needs_recognizer
        assert config.to_dict()["bank"]["attacks"][0] == "PGD-10"
        assert config.resampled > 0
        network = build_model(kind, config.k, config.model_options)
        assert network.restorer is not None
        # Of the budget of a bundle (15 and 28 MB), one byte a weight and one a pixel of the basis.
        size = sum(p.numel() for p in network.parameters()) + 112 * 112 * config.k
        assert size < {"edge": 15e6, "ais": 28e6}[kind]


def test_the_robust_recipe_goes_on_from_the_full_one_and_meets_attacks_through_itself():
    config, full = preset("edge", "robust"), preset("edge", "full")
    assert (config.k, config.model_options) == (full.k, full.model_options)
    assert config.attack.through == 1
    assert config.attack.steps[0] > 2  # fewer teach it to hide its gradient
    assert config.phases[-1].adversarial == 1
    with pytest.raises(ValueError, match="no preset 'robust' for 'ais'"):
        preset("ais", "robust")
