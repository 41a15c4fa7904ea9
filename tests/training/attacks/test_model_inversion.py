"""Searches through a generator find what the recogniser takes for the template, and GANs train, stop and go on."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from immunecam.errors import InputError
from immunecam.models.face_generator import NOISE, FaceCritic, FaceGenerator
from immunecam.training.attacks.gan_trainer import GanConfig, GanTrainer
from immunecam.training.attacks.model_inversion import black_box_search, latents_of, white_box_search
from immunecam.training.faces import FaceSet

SIZE = 8


@pytest.fixture(scope="module")
def generator() -> FaceGenerator:
    torch.manual_seed(0)
    return FaceGenerator(SIZE, 1).eval().requires_grad_(False)


def recognize(faces: torch.Tensor) -> torch.Tensor:
    """What a face is like in coarse cells, less their mean."""
    cells = torch.nn.functional.adaptive_avg_pool2d(faces.unsqueeze(1), 4).flatten(1)
    return torch.nn.functional.normalize(cells - cells.mean(1, keepdim=True), dim=1)


@pytest.fixture
def starts() -> torch.Tensor:
    known = torch.nn.functional.normalize(torch.randn(5, SIZE, generator=torch.Generator().manual_seed(1)), dim=1)
    found = latents_of(known, 12, torch.Generator().manual_seed(2))
    assert found.shape == (12, NOISE + SIZE)
    assert torch.allclose(found[:, NOISE:].norm(dim=1), torch.ones(12))
    return found


@pytest.fixture
def template(generator: FaceGenerator) -> torch.Tensor:
    latent = torch.randn(1, NOISE + SIZE, generator=torch.Generator().manual_seed(3))
    latent[:, NOISE:] = torch.nn.functional.normalize(latent[:, NOISE:], dim=1)
    return recognize(generator(latent)[:, 0])


def test_a_gradient_finds_it(generator, template, starts):
    before = recognize(generator(starts)[:, 0]) @ template[0]
    found = white_box_search(generator, recognize, template, starts[:2], steps=40, lr=0.1)
    after = float(recognize(generator(found)[:, 0])[0] @ template[0])
    assert after > float(before[:2].max()) + 0.1
    assert torch.allclose(found[:, NOISE:].norm(dim=1), torch.ones(1), atol=1e-5)


def test_scores_alone_find_it_more_slowly(generator, template, starts):
    asked = []

    def score(faces: torch.Tensor) -> torch.Tensor:
        asked.append(len(faces))
        return recognize(faces) @ template[0]

    before = float(score(generator(starts)[:, 0]).max())
    asked.clear()
    draws = torch.Generator().manual_seed(0)
    found, shown = black_box_search(generator, score, starts, queries=400, population=12, draws=draws)
    assert shown == sum(asked) <= 400
    assert float(score(generator(found[None])[:, 0])) > before + 0.05


def test_each_template_gets_its_own_best_start(generator, starts):
    wanted = recognize(generator(starts[[3, 5]])[:, 0])
    found = white_box_search(generator, recognize, wanted, starts, steps=1, lr=1e-9)
    assert torch.allclose(found, starts[[3, 5]], atol=1e-4)


def test_a_gan_goes_on_where_it_stopped(faces: FaceSet, tmp_path):
    embeddings = torch.nn.functional.normalize(torch.randn(len(faces), SIZE), dim=1)
    config = GanConfig(width=1, steps=4, batch=2)

    def trainer(name: str, **more):
        return GanTrainer(config, faces, embeddings, "r", tmp_path / name, **more)

    trainer("whole").run(log_every=1)

    def stop(step, values):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer("cut").run(on_step=stop, log_every=1)
    resumed = trainer("cut", resume=True)
    assert resumed.step == 2
    resumed.run(log_every=1)
    whole, cut = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    with pytest.raises(InputError, match="holds a run with other"):
        GanTrainer(config, faces, embeddings, "another", tmp_path / "cut", resume=True)


def test_shapes(generator):
    made = generator(torch.randn(3, generator.latent))
    assert made.shape == (3, 1, 112, 112)
    assert float(made.abs().max()) <= 1
    assert FaceCritic(SIZE, 2)(made, torch.randn(3, SIZE)).shape == (3,)


@pytest.mark.parametrize(("changes", "said"), [({"steps": 0}, "steps"), ({"lr": 0.0}, "lr must be finite")])
def test_what_must_raise(changes, said):
    with pytest.raises(ValueError, match=said):
        GanConfig(**changes)
