"""The restorer starts as no restorer, and the whole purification has the gradients it claims."""

from __future__ import annotations

import pytest
import torch

from immunecam.models import Eigenspace, Purification, Restorer, build_model, model_options

K = 12


@pytest.fixture
def space() -> Eigenspace:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12544, K))[0].T.contiguous()
    return Eigenspace(0.1 * torch.randn(12544), basis, torch.ones(K))


def faces(n: int = 3) -> torch.Tensor:
    return torch.rand(n, 112, 112, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8


@pytest.mark.parametrize("widths", [(8,), (8, 12), (8, 12, 16)])
def test_an_untrained_restorer_returns_the_projected_face(widths):
    restorer = Restorer(widths, [1] * len(widths))
    projected = faces().flip(2)
    assert torch.equal(restorer(faces(), projected), projected)
    loss = (restorer(faces(), projected) - faces()).square().sum()
    loss.backward()
    assert restorer.leave[1].weight.grad.abs().sum() > 0


def test_the_other_base():
    assert torch.equal(Restorer((8,), (1,), base="face")(faces(), faces().flip(2)), faces())
    with pytest.raises(ValueError, match="base must be"):
        Restorer((8,), (1,), base="noise")


def test_nothing_but_the_subspace_gets_through():
    restorer = Restorer((8,), (1,), sees="projected")
    with torch.no_grad():
        restorer.leave[1].weight.normal_()
    assert torch.equal(restorer(faces(), faces()), restorer(-faces(), faces()))
    for option in ({"base": "face"}, {"sees_noise": True}):
        with pytest.raises(ValueError, match="sees the 'projected' face only"):
            Restorer((8,), (1,), sees="projected", **option)


def test_it_sees_both_faces():
    restorer = Restorer((8,), (1,))
    with torch.no_grad():
        restorer.leave[1].weight.normal_()
    a, b = faces(), faces().flip(1)
    out = restorer(a, b)
    assert not torch.allclose(out, restorer(b, b))
    assert not torch.allclose(out - b, restorer(a, a) - a)


def test_it_sees_the_noise_level_of_the_face_not_of_the_projection():
    restorer = Restorer((8,), (1,), sees_noise=True)
    with torch.no_grad():
        restorer.leave[1].weight.normal_()
        restorer.enter.weight.zero_()
        restorer.enter.weight[:, 8].fill_(1.0)
        smooth = torch.zeros(3, 112, 112)
        found = [restorer(x, y) - y for x, y in ((smooth, faces()), (faces(), smooth), (smooth, smooth))]
    assert torch.allclose(found[0], found[2])
    assert not torch.allclose(found[1], found[2])


def test_separable_convolutions_take_a_fraction_of_the_weights():
    whole, separable = (Restorer((16, 24), (2, 2), separable=one) for one in (False, True))
    blocks = [sum(p.numel() for part in (r.down, r.up) for p in part.parameters()) for r in (whole, separable)]
    assert 5 * blocks[1] < blocks[0]
    faces, projected = torch.rand(2, 3, 112, 112)
    assert torch.equal(separable(faces, projected), projected)
    separable.leave[1].weight.data.normal_()
    torch.nn.init.normal_(separable.down[0][0].body[-1].weight)
    changed = separable(faces, projected) - separable(faces.roll(8, 2), projected.roll(8, 2)).roll(-8, 2)
    assert changed[:, 24:-24, 24:-24].abs().max() < 1e-4  # a convolution all the same


def test_wrong_widths():
    with pytest.raises(ValueError, match="as many depths as widths"):
        Restorer((8, 16), (1,))


def test_restorer_is_an_option_of_every_kind():
    network = build_model("edge", K, {"width": 8, "dim": 16, "restorer": {"widths": [8], "depths": [1]}})
    assert any(name.startswith("restorer.") for name in network.state_dict())
    assert build_model("edge", K, {"width": 8, "dim": 16}).restorer is None
    assert model_options("ais")["restorer"] is None
    with pytest.raises(ValueError, match="no such option"):
        build_model("edge", K, {"restorer": {"height": 3}})


def test_antibodies(space):
    logits = torch.randn(64, K, requires_grad=True)
    purification = Purification(space, lambda x: torch.sigmoid(logits[: len(x)]))
    p = torch.sigmoid(logits)
    torch.manual_seed(0)
    bits = purification.antibody(p, "straight-through")
    assert set(bits.detach().round(decimals=4).unique().tolist()) <= {0.0, 1.0}
    torch.manual_seed(0)
    assert torch.allclose(purification.antibody(p, "projection"), bits)
    assert not purification.antibody(p, "projection").requires_grad
    assert torch.equal(purification.antibody(p, "expected"), p)
    assert torch.equal(purification.antibody(p, "threshold").detach().round(), (p > 0.5).float())
    for name in ("straight-through", "threshold"):
        (gradient,) = torch.autograd.grad(purification.antibody(p, name).sum(), logits, retain_graph=True)
        assert torch.allclose(gradient, p * (1 - p))
    with pytest.raises(ValueError, match="gradient must be one of"):
        purification.antibody(p, "none")


def test_purification_is_the_equation(space):
    purification = Purification(space, lambda x: torch.full((len(x), K), 0.5))
    antibody = (torch.rand(3, K) > 0.5).float()
    flat = faces().flatten(1).double() - space.mean.double()
    wanted = space.mean.double() + (antibody.double() * (flat @ space.basis.double().T)) @ space.basis.double()
    found = purification.apply_antibody(faces(), antibody)
    assert torch.allclose(found.flatten(1).double(), wanted.clamp(-1, 1), atol=1e-5)
    restored = Purification(space, purification.analyze, lambda x, y: 3 * y)
    assert torch.allclose(restored.apply_antibody(faces(), antibody), (3 * found).clamp(-1, 1))
    torch.manual_seed(0)
    first = purification(faces())
    assert not torch.equal(first, purification(faces()))
