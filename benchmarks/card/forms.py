"""The same mutation and projection as others would write it, in PyTorch, and their times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from immunecam.benchmarks.card.torch_timing import time_calls

__all__ = ["FORMS", "Form", "copy_bandwidth", "cublas", "form_times", "paper"]

Form = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(faces (N, D), p (N, K), mean (D), rows (K, D)) to projected faces (N, D)."""

FORMS = ("cuBLAS in a graph", "cuBLAS", "paper, eager", "torch.compile")
"""What the kernels are compared with; the one that needs a compiler comes last."""

_SETS = 6  # bases of 38 MB in half precision, so that a graph finds none of them in the L2 cache


def paper(faces: Tensor, p: Tensor, mean: Tensor, rows: Tensor) -> Tensor:
    """The published form: every face has its own masked copy of the whole basis, in eager PyTorch."""
    found = torch.empty_like(faces)
    for n in range(len(faces)):
        masked = rows * torch.bernoulli(p[n])[:, None].to(rows.dtype)
        found[n] = mean + masked.T @ (masked @ (faces[n] - mean).to(rows.dtype))
    return found


def cublas(faces: Tensor, p: Tensor, mean: Tensor, rows: Tensor) -> Tensor:
    """Two matrix products over all rows, with the antibody applied to the coefficients between them."""
    coefficients = (faces - mean).to(rows.dtype) @ rows.T
    return mean + ((coefficients * torch.bernoulli(p).to(rows.dtype)) @ rows).to(faces.dtype)


def copy_bandwidth(size: int = 2 << 30) -> float:
    """Bytes a second of a device-to-device copy of random data, read and written counted."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    timing = time_calls(partial(target.copy_, source), together=4, repeats=20)
    return 2 * size / (1e-6 * timing.p50)


def form_times(
    k: int = 1500, d: int = 12544, *, batches: Sequence[int] = (1, 8, 32, 128), repeats: int = 20
) -> Iterator[dict[str, Any]]:
    """Mutation and projection in every form, half precision where the kernels have it.

    "cuBLAS in a graph" is timed as the kernels are: many in one graph, bases rotated through more than the L2 cache
    has. The others are called from Python one after another, and their launches count.
    """
    basis = torch.nn.functional.normalize(torch.randn(k, d, device="cuda"), dim=1)
    mean = torch.rand(d, device="cuda") - 0.5
    half = [basis.half() for _ in range(_SETS)]
    compiled = torch.compile(cublas, dynamic=False)
    for name in FORMS:
        for n in batches:
            faces, p = 2 * torch.rand(n, d, device="cuda") - 1, torch.full((n, k), 0.5, device="cuda")
            row = {"form": name, "batch": n, "k": k, "basis": "float32" if name == "paper, eager" else "float16"}
            try:
                with torch.no_grad():
                    if name == "cuBLAS in a graph":
                        calls = [partial(cublas, faces, p, mean, rows) for rows in half]
                        timing = time_calls(_captured(calls * 4), repeats=repeats, pieces=4 * _SETS)
                    else:
                        form: Form = {"cuBLAS": cublas, "paper, eager": paper, "torch.compile": compiled}[name]
                        rows = basis if form is paper else half[0]
                        together = 1 if form is paper else 20
                        timing = time_calls(partial(form, faces, p, mean, rows), together=together, repeats=repeats)
            except Exception as error:  # a form that this version cannot compile leaves the others their time
                yield row | {"error": " ".join(str(error).split())[:300]}
                continue
            yield row | timing.to_dict()


def _captured(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        calls[0]()
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    return graph.replay
