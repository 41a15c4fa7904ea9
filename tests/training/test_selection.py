"""Selection among coefficients is selection among pixels."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from torch.distributions import Bernoulli

from immunecam.models import Eigenspace
from immunecam.training import selection


@pytest.fixture
def case():
    torch.manual_seed(0)
    d, k, b = 144, 5, 3
    basis = torch.linalg.qr(torch.randn(d, k, dtype=torch.float64))[0].T
    space = Eigenspace(torch.randn(d, dtype=torch.float64), basis, torch.ones(k, dtype=torch.float64))
    clean = torch.randn(b, 12, 12, dtype=torch.float64)
    attacked = clean + 0.3 * torch.randn_like(clean)
    return space, clean, attacked, torch.randn(b, k, dtype=torch.float64)


def test_clone_pixel_loss_is_the_distance_in_pixels(case):
    space, clean, attacked, logits = case
    bits = torch.bernoulli(torch.sigmoid(logits).unsqueeze(1).expand(-1, 4, -1))
    observed, target = space.coefficients(attacked), space.coefficients(clean)
    losses = selection.clone_pixel_loss(bits, observed, target, space.outside(clean, target))
    for s in range(4):
        wanted = (space.purify(attacked, bits[:, s]) - clean).flatten(1).square().sum(1)
        torch.testing.assert_close(losses[:, s], wanted)


def every_antibody(k: int, batch: int) -> torch.Tensor:
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=k)), dtype=torch.float64)
    return bits.unsqueeze(0).expand(batch, -1, -1)


def test_expected_pixel_loss_is_the_mean_over_all_antibodies(case):
    space, clean, attacked, logits = case
    observed, target = space.coefficients(attacked), space.coefficients(clean)
    outside = space.outside(clean, target)
    bits = every_antibody(5, 3)
    weight = selection.log_likelihood(bits, logits).exp()
    torch.testing.assert_close(weight.sum(1), torch.ones(3, dtype=torch.float64))
    wanted = (weight * selection.clone_pixel_loss(bits, observed, target, outside)).sum(1)
    found = selection.expected_pixel_loss(torch.sigmoid(logits), observed, target, outside)
    torch.testing.assert_close(found, wanted)


def test_log_likelihood(case):
    logits = case[3]
    bits = every_antibody(5, 3)
    wanted = Bernoulli(logits=logits.unsqueeze(1)).log_prob(bits).sum(2)
    torch.testing.assert_close(selection.log_likelihood(bits, logits), wanted)
    # Far from zero the probability itself is 0 or 1 in floating point, and its logarithm is not to be had from it.
    assert torch.isfinite(selection.log_likelihood(torch.ones(1, 1, 1), torch.tensor([[-200.0]]))).all()


def test_reinforce_has_the_gradient_of_the_expected_loss():
    """With clones drawn often enough, the estimate comes to the exact gradient."""
    torch.manual_seed(0)
    logits = torch.tensor([[0.3, -0.8, 1.1]], dtype=torch.float64, requires_grad=True)
    cost = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (exact,) = torch.autograd.grad((torch.sigmoid(logits) * cost).sum(), logits)
    bits = selection.clone(torch.sigmoid(logits), 200_000)
    (found,) = torch.autograd.grad(selection.reinforce(bits, logits, bits @ cost), logits)
    torch.testing.assert_close(found, exact, atol=5e-3, rtol=0)


def test_clones_follow_their_probability():
    torch.manual_seed(0)
    p = torch.tensor([[0.0, 0.25, 0.9, 1.0]])
    bits = selection.clone(p, 20_000)
    assert bits.shape == (1, 20_000, 4)
    torch.testing.assert_close(bits.mean(1), p, atol=0.02, rtol=0)


def test_clone_identity_loss_in_chunks(case):
    space, clean, attacked, logits = case

    def embed(faces: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(faces.flatten(1)[:, ::7], dim=1)

    bits = torch.bernoulli(torch.sigmoid(logits).unsqueeze(1).expand(-1, 5, -1))
    own = embed(clean)
    found = selection.clone_identity_loss(bits, space.coefficients(attacked), space, embed, own, chunk=4)
    for s in range(5):
        purified = space.purify(attacked, bits[:, s]).clamp(-1, 1)
        torch.testing.assert_close(found[:, s], 1 - (embed(purified) * own).sum(1))


def test_a_step_of_the_paper_stays_under_3_gb():
    """AIS, S = 25, batch 8, K = 1500, with a recogniser: peak memory of the whole process."""
    code = """
import re, torch
from pathlib import Path
from immunecam.models import Eigenspace, ais
from immunecam.training.config import Phase, preset
from immunecam.training.objective import Objective
from immunecam.training.recognizer import Recognizer
torch.set_num_threads(1)
torch.manual_seed(0)
basis = torch.randn(1500, 12544) / 112  # nearly orthonormal rows are enough to measure memory
space = Eigenspace(torch.zeros(12544), basis, torch.ones(1500))
recognizer = Recognizer(torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 2), torch.nn.AvgPool2d(11), torch.nn.Flatten()))
config = preset("ais", "paper").replace(batch=8)
network = ais(1500)
objective = Objective(config, space, [recognizer])
faces = torch.rand(8, 112, 112) * 2 - 1
values = objective.selection(network, network, faces, Phase("a", 1, adversarial=1.0), 0)
values.loss.backward()
assert config.clones == 25
# Not getrusage, whose peak is that of the process that started this one, too.
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3e9


def test_the_mask_among_coefficients_is_the_mask_on_the_basis(case):
    """The published form, V * m for every clone, is the same number: it is just never needed."""
    space, clean, attacked, logits = case
    bits = torch.bernoulli(torch.sigmoid(logits).unsqueeze(1).expand(-1, 6, -1))
    masked = bits.unsqueeze(3) * space.basis  # (B, S, K, D), the size that must not be formed for real faces
    centred = attacked.flatten(1) - space.mean
    coefficients = torch.einsum("bskd,bd->bsk", masked, centred)
    purified = space.mean + torch.einsum("bskd,bsk->bsd", masked, coefficients)
    wanted = (purified - clean.flatten(1).unsqueeze(1)).square().sum(2)
    observed, target = space.coefficients(attacked), space.coefficients(clean)
    found = selection.clone_pixel_loss(bits, observed, target, space.outside(clean, target))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("clones", "share"), [(1, 1.0), (2, 0.5), (3, 2 / 3)])
def test_reinforce_in_expectation_over_every_draw(clones, share):
    """Exactly, over all tuples of clones: (S - 1) / S of the true gradient, since a clone is in its own baseline."""
    torch.manual_seed(2)
    k = 3
    logits = torch.randn(1, k, dtype=torch.float64, requires_grad=True)
    antibodies = every_antibody(k, 1)[0]
    cost = torch.randn(len(antibodies), dtype=torch.float64)  # any loss at all, not only a linear one
    probability = selection.log_likelihood(antibodies[None], logits)[0].exp()
    (exact,) = torch.autograd.grad((probability * cost).sum(), logits, retain_graph=True)
    expected = torch.zeros_like(exact)
    for draw in itertools.product(range(len(antibodies)), repeat=clones):
        chosen = list(draw)
        surrogate = selection.reinforce(antibodies[chosen][None], logits, cost[chosen][None])
        (gradient,) = torch.autograd.grad(surrogate, logits)
        expected += probability[chosen].prod().detach() * gradient
    torch.testing.assert_close(expected, share * exact)


def test_reinforce_does_not_notice_what_all_clones_share():
    torch.manual_seed(0)
    logits = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    bits = selection.clone(torch.sigmoid(logits), 5)
    loss = torch.randn(3, 5, dtype=torch.float64)
    gradients = [
        torch.autograd.grad(selection.reinforce(bits, logits, value), logits)[0]
        for value in (loss, loss + torch.tensor([[7.0], [-3.0], [100.0]]))
    ]
    torch.testing.assert_close(*gradients)


def test_the_straight_through_terms_agree_with_reinforce_on_average(case):
    """Pixel and sparsity terms: the exact expectation has the gradient that sampling comes to."""
    space, clean, attacked, logits = case
    logits = logits[:, :5].clone().requires_grad_(True)
    observed, target = space.coefficients(attacked), space.coefficients(clean)
    outside = space.outside(clean, target)
    p = torch.sigmoid(logits)
    exact = selection.expected_pixel_loss(p, observed, target, outside) + 0.3 * p.sum(1)
    (wanted,) = torch.autograd.grad(exact.sum(), logits)
    bits = every_antibody(5, 3)
    loss = selection.clone_pixel_loss(bits, observed, target, outside) + 0.3 * bits.sum(2)
    likelihood = selection.log_likelihood(bits, logits)
    (found,) = torch.autograd.grad((likelihood.exp().detach() * loss * likelihood).sum(), logits)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("chunk", [1, 7, 15, 1000])
def test_identity_loss_does_not_depend_on_the_chunk(case, chunk):
    space, clean, attacked, logits = case

    def embed(faces: torch.Tensor) -> torch.Tensor:
        assert len(faces) <= chunk
        return torch.nn.functional.normalize(faces.flatten(1)[:, ::7], dim=1)

    bits = torch.bernoulli(torch.sigmoid(logits).unsqueeze(1).expand(-1, 5, -1))
    own = torch.nn.functional.normalize(clean.flatten(1)[:, ::7], dim=1)
    observed = space.coefficients(attacked)
    found = selection.clone_identity_loss(bits, observed, space, embed, own, chunk=chunk)
    for b, s in itertools.product(range(3), range(5)):
        purified = space.purify(attacked[b : b + 1], bits[b : b + 1, s]).clamp(-1, 1)
        one = torch.nn.functional.normalize(purified.flatten(1)[:, ::7], dim=1)
        torch.testing.assert_close(found[b, s], 1 - (one[0] * own[b]).sum())
    assert not found.requires_grad
