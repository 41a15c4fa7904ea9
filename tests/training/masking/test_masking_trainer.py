"""A run of masked training is seeded, resumable, learns, and belongs to its key and its channels."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from immunecam.errors import InputError, UsageError
from immunecam.mask_key import MaskKey
from immunecam.models.mask_spec import MaskSpec
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.masking import MaskFile, MaskingConfig, MaskingTrainer, People, TeacherEmbeddings, load_trained
from immunecam.training.masking.mixer import Mixer, collapse_of
from immunecam.training.masking.people import without

FILES = [
    "checkpoint.safetensors",
    "config.json",
    "curves.csv",
    "curves.png",
    "curves.svg",
    "mask.safetensors",
    "strategy.json",
]


def test_from_faces_to_a_recogniser_that_needs_its_key(faces, teacher, key, tiny, tmp_path):
    trainer = MaskingTrainer(tiny, faces, teacher, key, tmp_path / "a.run", held_out=["p9"])
    trainer.run(log_every=1)
    trainer.write_choices()
    run = tmp_path / "a.run"
    assert sorted(path.name for path in run.iterdir()) == FILES
    rows = list(csv.DictReader((run / "curves.csv").open()))
    assert [row["step"] for row in rows] == list("1234")
    for row in rows:
        assert sum(float(row[f"k{k}"]) for k in range(2, 7)) == pytest.approx(1)
        assert float(row["entropy"]) > 0
        assert 0 < float(row["distilled"]) < 2
    recognizer, about = load_trained(run, key)
    assert about["held_out"] == ["p9"]
    assert recognizer.mask.spec.channels == 10
    assert 0 not in recognizer.mask.spec.frequencies[0]
    embeddings = recognizer(from_uint8(faces.pixels[:3]))
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(3))
    slow = load_file(run / "checkpoint.safetensors")
    assert torch.equal(recognizer.network.leave[0].weight, slow["slow.leave.0.weight"])

    other = MaskKey(bytes(range(1, 33)))
    with pytest.raises(InputError, match=r"a.run' was made with another masking key"):
        load_trained(run, other)
    with pytest.raises(InputError, match=r"a.run' was made with another masking key"):
        MaskingTrainer(tiny, faces, teacher, other, run, held_out=["p9"], resume=True)
    with pytest.raises(UsageError, match=r"a.run' sees masked faces: give the key of its mask, --key-file FILE"):
        load_trained(run)

    own = MaskFile.load(run / "mask.safetensors")
    frequencies = [f for f in range(1, 64) if f not in own.spec.frequencies[0]][:10]
    MaskFile(MaskSpec.of(frequencies, 28), own.mean, own.std, own.key_check).save(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"a.run' was trained with another set of channels .* than this mask of 10"):
        load_trained(run, key, mask=tmp_path / "other.safetensors")
    shutil.copy(tmp_path / "other.safetensors", run / "mask.safetensors")
    with pytest.raises(InputError, match=r"use the mask.safetensors of its run"):
        MaskingTrainer(tiny, faces, teacher, key, run, held_out=["p9"], resume=True)


def test_an_interrupted_run_ends_as_a_whole_one(faces, teacher, key, tiny, tmp_path):
    MaskingTrainer(tiny, faces, teacher, key, tmp_path / "whole").run(log_every=1)

    def stop(step, values):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MaskingTrainer(tiny, faces, teacher, key, tmp_path / "cut").run(on_step=stop, log_every=1)
    resumed = MaskingTrainer(tiny, faces, teacher, key, tmp_path / "cut", resume=True)
    assert resumed.step == 2
    resumed.run(log_every=1)
    whole, cut = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert {"strategist.0.exp_avg", "mixer.scale.mean", "objective.head.weight"} <= whole.keys()
    with pytest.raises(InputError, match="already holds a run: go on with --resume"):
        MaskingTrainer(tiny, faces, teacher, key, tmp_path / "cut")
    with pytest.raises(InputError, match="holds a run with other config"):
        MaskingTrainer(tiny.replace(batch=9), faces, teacher, key, tmp_path / "cut", resume=True)


def test_it_learns_what_the_teacher_sees(faces, teacher, key, tiny, tmp_path):
    few = FaceSet(faces.pixels[:6], faces.names[:6])
    config = tiny.replace(
        mixing="none", arcface=0.0, steps=50, positions=14, augment=False, lr=1e-2, frequencies=(1, 8)
    )
    seen = TeacherEmbeddings(teacher.plain[:6], teacher.mirrored[:6], teacher.about)
    found: list[float] = []
    MaskingTrainer(config, few, seen, key, tmp_path).run(on_step=lambda _, values: found.append(values["distilled"]))
    assert sum(found[-5:]) / 5 < 0.75 * found[0]


def test_a_recogniser_of_any_order_sees_the_same_in_each(faces, key, tiny, tmp_path):
    """Why orders by enrolment would hide nothing in a gate's store, as docs/masking.md says."""
    few = FaceSet(faces.pixels[:6], faces.names[:6])
    seen = torch.nn.functional.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    config = tiny.replace(mixing="none", arcface=0.0, steps=60, batch=16, positions=14, augment=False, lr=1e-2)
    config = config.replace(frequencies=(1, 8), permutation="enrolment", ema_decay=0.9)
    MaskingTrainer(config, few, TeacherEmbeddings(seen, seen, {"teacher": "drawn"}), key, tmp_path).run()
    recognizer, _ = load_trained(tmp_path, key)
    pixels = from_uint8(few.pixels)
    one, other = (recognizer(pixels, torch.tensor([order] * 6)) for order in ((0, 1), (1, 0)))
    assert not torch.allclose(recognizer.mask(pixels), recognizer.mask(pixels, torch.tensor([(1, 0)] * 6)), atol=0.1)
    cosines = one @ other.T
    assert float(cosines.diagonal().mean()) > 0.8
    assert float(cosines[~torch.eye(6, dtype=torch.bool)].mean()) < 0.4  # not because all faces look alike


@pytest.mark.parametrize("mixing", ["none", "fixed", "uniform"])
def test_the_ways_to_compare_with(faces, teacher, key, tiny, tmp_path, mixing):
    config = tiny.replace(mixing=mixing, k=3, steps=1, frequencies=(1, 8), permutation="enrolment")
    trainer = MaskingTrainer(config, faces, teacher, key, tmp_path)
    trainer.run(log_every=1)
    assert trainer.write_choices() is None
    told = json.loads((tmp_path / "strategy.json").read_text())
    expected = {"none": 0, "fixed": 1}.get(mixing)
    assert expected is None or told["last_mixes"]["k3"] == expected
    assert not any(name.startswith("mixer.strategy") for name in load_file(trainer.checkpoint))


def test_the_same_network_on_plain_faces_needs_no_key(faces, teacher, tiny, tmp_path):
    MaskingTrainer(tiny.replace(masked=False, mixing="none", steps=1), faces, teacher, None, tmp_path).run()
    recognizer, _ = load_trained(tmp_path)
    assert recognizer.mask is None
    assert tuple(recognizer(from_uint8(faces.pixels[:2])).shape) == (2, teacher.size)


def test_colour_faces(faces, key, tiny, tmp_path):
    tinted = torch.stack([faces.pixels, faces.pixels // 2, 255 - faces.pixels], 1)
    colour = FaceSet(tinted, faces.names)
    config = tiny.replace(colours="ycbcr", distilled=0.0, steps=1, size=16)
    MaskingTrainer(config, colour, None, key, tmp_path).run()
    recognizer, _ = load_trained(tmp_path, key)
    assert recognizer.mask.spec.channels == 30
    assert tuple(recognizer(from_uint8(tinted[:2])).shape) == (2, 16)
    with pytest.raises(InputError, match="were read as grey: read colours"):
        MaskingTrainer(config, faces, None, key, tmp_path / "grey")


def test_a_mask_of_another_run_has_its_channels_of_every_colour(faces, key, tiny, tmp_path):
    tinted = FaceSet(torch.stack([faces.pixels, faces.pixels // 2, 255 - faces.pixels], 1), faces.names)
    config = tiny.replace(colours="ycbcr", distilled=0.0, steps=1, size=16)
    trainer = MaskingTrainer(config, tinted, None, key, tmp_path / "a.run")
    trainer.run()
    own = MaskFile.load(trainer.mask_file)
    other = dataclasses.replace(own, spec=MaskSpec(((1, 2), (3, 9), (8, 16)), config.positions, "ycbcr"))
    second = MaskingTrainer(config, tinted, None, key, tmp_path / "b.run", mask=other)
    second.run()
    assert MaskFile.load(second.mask_file).identity == other.identity != own.identity
    recognizer, _ = load_trained(tmp_path / "b.run", key)
    assert recognizer.mask.spec.frequencies == ((1, 2), (3, 9), (8, 16))
    with pytest.raises(InputError, match="holds a run with other mask"):
        MaskingTrainer(config, tinted, None, key, tmp_path / "b.run", resume=True)
    with pytest.raises(UsageError, match="of ycbcr at 28 positions, but the settings are of grey at 28"):
        MaskingTrainer(tiny.replace(distilled=0.0), faces, None, key, tmp_path / "c.run", mask=own)


@pytest.mark.parametrize(("mixing", "counts"), [("none", {1}), ("fixed", {3}), ("uniform", {2, 3, 4, 5, 6})])
def test_mixes(mixing, counts, tiny):
    torch.manual_seed(0)
    mix = Mixer(tiny.replace(mixing=mixing, k=3, batch=64), 4).draw(torch.randn(64, 4, 7, 7))
    assert set(mix.counts.tolist()) == counts
    assert torch.equal(mix.partners[:, 0], torch.arange(64))
    assert all(len(set(row)) == len(row) for row in mix.partners.tolist())
    assert torch.equal((mix.shares > 0).sum(1), mix.counts)
    assert max(counts) == 1 or float(mix.shares.max()) <= 0.65 + 1e-6


def test_only_a_part_is_mixed_and_only_that_part_teaches_the_strategy(tiny):
    torch.manual_seed(0)
    mixer = Mixer(tiny.replace(mixed=0.25, batch=64, entropy=0.0), 4)
    mix = mixer.draw(torch.randn(64, 4, 7, 7))
    assert int((mix.counts > 1).sum()) == 16
    before = [weight.clone() for weight in mixer.strategy.parameters()]
    losses = torch.zeros(64)
    losses[mix.counts == 1] = 1e6  # nothing to the strategy
    mixer.learn(mix, losses)
    assert float(mixer.scale.mean) == 0
    # All mixes had the same reward, so there was nothing to learn.
    assert all(torch.equal(a, b) for a, b in zip(before, mixer.strategy.parameters(), strict=True))


def test_a_collapse_is_told():
    assert collapse_of({"k2": 0.3, "k3": 0.7}) is None
    assert collapse_of({"k2": 0.02, "k6": 0.98}).startswith("the strategy has collapsed: 98% of the last mixes have 6")


def test_who_is_who(faces):
    people = People.of(faces)
    assert people.count == 8
    assert people.labels[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    alone = People.of(FaceSet(faces.pixels[:4], ("a/1.png", "b/1.png", "a/2.png", "loose.png")))
    assert alone.labels.tolist() == [0, -1, 0, -1]
    with pytest.raises(InputError, match="4 faces show 1 people more than once, but ArcFace needs at least 2"):
        alone.check()
    assert len(without(faces, {"p0", "p1"})) == 30
    with pytest.raises(InputError, match="of 40 faces none is left without the 8 people held out"):
        without(faces, {f"p{n}" for n in range(8)})


def test_a_teacher_is_asked_once(faces, recognizer, tmp_path):
    file = tmp_path / "teacher.safetensors"
    made = TeacherEmbeddings.of(recognizer, faces, file)
    with torch.no_grad():
        mirrored = recognizer(from_uint8(faces.pixels[:2]).flip(2))
    both = made.at(torch.tensor([0, 1]), torch.tensor([True, False]))
    assert torch.allclose(both, torch.stack([mirrored[0], made.plain[1]]), atol=1e-6)
    calls: list[int] = []
    kept = TeacherEmbeddings.of(recognizer, faces, file, progress=lambda done, total: calls.append(done))
    assert not calls
    assert torch.equal(kept.mirrored, made.mirrored)
    fewer = FaceSet(faces.pixels[:5], faces.names[:5])
    assert len(TeacherEmbeddings.of(recognizer, fewer, file).plain) == 5  # of other faces: made anew
    with pytest.raises(InputError, match="does not exist: make it first"):
        TeacherEmbeddings.of(recognizer, fewer, tmp_path / "no" / "teacher.safetensors")
    with pytest.raises(InputError, match="5 faces have the teacher's embeddings of 40"):
        made.check(fewer)


def test_settings(tmp_path, tiny):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": tiny.replace(frequencies=(3, 1)).to_dict(), "faces": {}}))
    assert MaskingConfig.load(file) == tiny.replace(frequencies=(1, 3))
    file.write_text('{"mixing": "fixed", "k": 4}')
    assert MaskingConfig.load(file).most_mixed == 4
    for text, said in (
        ("[]", "wanted one object"),
        ('{"colour": "grey"}', "unknown setting 'colour'"),
        ('{"steps": "many"}', "steps must be a whole number"),
        ('{"lr": "fast"}', "a value of another kind"),
        ("{", "cannot be used"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            MaskingConfig.load(file)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 4}, "mixes of up to 6 faces cannot be made of batches of 4: raise batch, or lower k"),
        ({"batch": 4, "mixing": "fixed", "k": 5}, "mixes of up to 5 faces"),
        ({"k": 7}, "k is 7, but must be one of 2, 3, 4, 5, 6"),
        ({"mixing": "some"}, "mixing is 'some', but must be one of none, fixed, uniform, adaptive"),
        ({"positions": 100}, "positions is 100"),
        ({"keep": 64}, "keep must be below 64, for the mean is dropped"),
        ({"frequencies": (0, 1)}, "different ones of 1 to 63"),
        ({"arcface": 0.0, "distilled": 0.0}, "nothing to learn from"),
        ({"mixed": 0.0}, r"mixed must be in \(0, 1\]"),
        ({"batch": 6.5}, "batch must be a whole number of at least 2, got 6.5"),
        ({"size": 0}, "size must be a whole number of at least 1"),
        ({"width": 5.0}, r"width must be in \(0, 4\], got 5.0"),
        ({"lr": float("nan")}, "lr must be finite and above 0"),
        ({"entropy": -1.0}, "entropy must be finite and 0 or more"),
    ],
)
def test_settings_that_must_raise(changes, said):
    with pytest.raises(ValueError, match=said):
        MaskingConfig(**changes)


def test_what_must_raise(faces, teacher, key, tiny, tmp_path):
    with pytest.raises(UsageError, match="give --teacher FILE"):
        MaskingTrainer(tiny, faces, None, key, tmp_path)
    with pytest.raises(UsageError, match="a mask needs its key"):
        MaskingTrainer(tiny, faces, teacher, None, tmp_path)
    with pytest.raises(UsageError, match="embeddings of 5 numbers cannot be distilled from a teacher's of 16"):
        MaskingTrainer(tiny.replace(size=5), faces, teacher, key, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        MaskingTrainer(tiny, faces, teacher, key, tmp_path / "file")
    one = FaceSet(faces.pixels[:2], ("a/1.png", "a/2.png"))
    with pytest.raises(InputError, match="show 1 people more than once"):
        MaskingTrainer(tiny.replace(distilled=0.0), one, None, key, tmp_path)
    with pytest.raises(InputError, match="is no run of masked training"):
        load_trained(tmp_path / "nothing", key)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is no mask"):
        MaskFile.load(tmp_path / "bad.safetensors")
