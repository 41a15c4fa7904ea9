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
import resource, torch
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
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 3e9
