"""How much a selection step among coefficients saves against the published form.

``python -m immunecam.benchmarks.selection --json benchmarks/results/selection.json``

Both forms give the pixel loss of S antibodies of B faces; the naive one masks the basis for every clone of a face
(``V * m``, S x D x K numbers at once), as the public code does. Each runs in a process of its own, so that its peak
memory is its own; the losses are compared. Identity terms are left out: they cost both the same.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from immunecam.models import Eigenspace
from immunecam.runtime.report import write_report
from immunecam.training import selection

__all__ = ["main"]


def _inputs(batch: int, clones: int, k: int) -> tuple[Eigenspace, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    d = 12544
    basis = torch.linalg.qr(torch.randn(d, k))[0].T.contiguous()
    space = Eigenspace(torch.zeros(d), basis, torch.ones(k))
    clean = torch.rand(batch, 112, 112) * 2 - 1
    attacked = (clean + 0.06 * torch.randn_like(clean).sign()).clamp(-1, 1)
    return space, clean, attacked, torch.bernoulli(torch.full((batch, clones, k), 0.5))


@torch.no_grad()
def _coefficients(space: Eigenspace, clean: torch.Tensor, attacked: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    observed, target = space.coefficients(attacked), space.coefficients(clean)
    return selection.clone_pixel_loss(bits, observed, target, space.outside(clean, target))


@torch.no_grad()
def _naive(space: Eigenspace, clean: torch.Tensor, attacked: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    v = space.basis.T
    losses = []
    for face, target, antibody in zip(attacked.flatten(1), clean.flatten(1), bits, strict=True):
        masked = v.unsqueeze(0) * antibody.unsqueeze(1)  # (S, D, K)
        purified = space.mean + torch.einsum("sdk,sk->sd", masked, torch.einsum("sdk,d->sk", masked, face - space.mean))
        losses.append((purified - target).square().sum(1))
    return torch.stack(losses)


def _measure(name: str, batch: int, clones: int, k: int, repeats: int, threads: int, queue: Any) -> None:
    torch.set_num_threads(threads)
    inputs = _inputs(batch, clones, k)
    form = {"coefficients": _coefficients, "naive": _naive}[name]
    # Making the inputs took more memory than holding them; the high-water mark starts anew here (Linux).
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_kib("VmRSS")
    losses = form(*inputs)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        form(*inputs)
        times.append(time.perf_counter() - began)
    queue.put((statistics.median(times), (_memory_kib("VmHWM") - before) / 1024, losses.numpy()))


def _memory_kib(name: str) -> int:
    """VmRSS (now) or VmHWM (highest) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}")


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--clones", type=int, default=25)
    parser.add_argument("--k", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    rows, losses = [], {}
    for name, repeats in (("coefficients", 20), ("naive", 3)):
        queue = context.Queue()
        size = (given.batch, given.clones, given.k)
        process = context.Process(target=_measure, args=(name, *size, repeats, given.threads, queue))
        process.start()
        median, mib, losses[name] = queue.get()
        process.join()
        rows.append(
            {"form": name, "step_p50_ms": 1000 * median, "peak_memory_above_inputs_mib": mib, "repeats": repeats}
        )
    difference = float(abs(losses["coefficients"] / losses["naive"] - 1).max())
    faster = rows[1]["step_p50_ms"] / rows[0]["step_p50_ms"]
    smaller = rows[1]["peak_memory_above_inputs_mib"] / rows[0]["peak_memory_above_inputs_mib"]
    print(json.dumps(rows, indent=1))
    print(f"{faster:.0f} times faster, {smaller:.0f} times smaller, largest relative difference {difference:.1e}")
    if given.json:
        write_report(
            given.json,
            "immunecam.selection/1",
            rows,
            bundle_sha256=None,
            batch=given.batch,
            clones=given.clones,
            k=given.k,
            threads=given.threads,
            times_faster=faster,
            times_smaller=smaller,
            largest_relative_difference=difference,
        )


if __name__ == "__main__":
    main()
