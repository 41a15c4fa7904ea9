"""The project's goals for a card, each held against what a report says was measured.

Times are goals for an NVIDIA H200 only; fractions and quotients are for every card.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Goal", "goals"]

_Row = Mapping[str, Any]

_K = 1500  # eigenfaces that the goals of the kernels are of
_FRACTION, _ONE_FACE_US = 0.7, 10.0
_TIMES_CUBLAS, _MANY = 3.0, 128
_WHOLE_US, _TIMES_PAPER = 150.0, 50.0


@dataclass(frozen=True)
class Goal:
    """One goal and how it stands.

    Attributes
    ----------
    wanted : str
        What is to be reached.
    found : str
        What was measured, or why there is nothing to compare.
    missed_by : str
        What is lacking; empty if nothing is.
    met : bool, optional
        None where it was not measured.
    """

    wanted: str
    found: str
    missed_by: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        """One line, which begins with PASS, FAIL or NOT MEASURED."""
        said = "NOT MEASURED" if self.met is None else "PASS" if self.met else "FAIL"
        return f"{said}: {self.wanted}: {self.found}{f'; missed by {self.missed_by}' if self.missed_by else ''}."


def goals(report: Mapping[str, Any]) -> list[Goal]:
    """Every goal of a report, in the order of the tables.

    Parameters
    ----------
    report : mapping
        Of `benchmarks/gpu.py`: what its parts have found, as far as they have. Times of what was not checked, or of a
        form of the projection that is wrong somewhere, do not count.
    """
    timed = any("H200" in row["card"]["name"] for row in report["build"])
    checked = {(row["form"], row["basis"], row["batch"], row["k"]) for row in report["checks"]}
    wrong = {row["form"] for row in report["checks"] if row["failures"]}
    kernels = [
        row
        for row in report["kernels"]
        if row["kernel"] != "copy"
        and row["form"] not in wrong
        and (row["form"], row["basis"], row["batch"], row["k"]) in checked
    ]
    return [
        _one_face(kernels, timed),
        _many_faces(kernels, report["forms"]),
        *_whole([*report["purifications"], *_by_backends(report["runtime"])], timed),
    ]


def _one_face(kernels: list[_Row], timed: bool) -> Goal:
    wanted = (
        f"mutation and projection of one face, K = {_K}, float16, half of the rows active, at "
        f"{100 * _FRACTION:.0f} % of copy bandwidth{f' or in under {_ONE_FACE_US:g} us' if timed else ''}"
    )
    best = _fastest(kernels, 1)
    if best is None:
        return Goal(wanted, "no such row of a form that is right")
    took, fraction = best["p50_us"], best["fraction_of_copy"]
    found = f"{100 * fraction:.1f} %, {took:.2f} us ({best['form']}, cold)"
    if fraction >= _FRACTION or (timed and took < _ONE_FACE_US):
        return Goal(wanted, found, met=True)
    lacks = f"{100 * (_FRACTION - fraction):.1f} % of copy bandwidth"
    return Goal(wanted, found, f"{lacks} and {took - _ONE_FACE_US:.2f} us" if timed else lacks, met=False)


def _many_faces(kernels: list[_Row], forms: list[_Row]) -> Goal:
    wanted = f"the same of {_MANY} faces at least {_TIMES_CUBLAS:g} times as fast as cuBLAS"
    best = _fastest(kernels, _MANY)
    theirs = [
        row["p50_us"]
        for row in forms
        if (row["form"], row["basis"], row["batch"], row["k"]) == ("cuBLAS in a graph", "float16", _MANY, _K)
        and "p50_us" in row
    ]
    if best is None or not theirs:
        return Goal(wanted, f"no such row of {'a form that is right' if best is None else 'cuBLAS'}")
    found = f"{best['p50_us']:.1f} us ({best['form']}, cold) against {theirs[0]:.1f} us"
    return _times(wanted, found, theirs[0] / best["p50_us"], _TIMES_CUBLAS)


def _whole(rows: list[_Row], timed: bool) -> Iterator[Goal]:
    fast = f"whole purification of one face in under {_WHOLE_US:g} us with a graph"
    faster = f"whole purification of one face with a graph at least {_TIMES_PAPER:g} times as fast as the paper's form"
    wanted = (fast, faster) if timed else (faster,)
    one = [row for row in rows if row["batch"] == 1 and "p50_us" in row]
    bundles = list(dict.fromkeys(row["bundle"] for row in rows))
    if not bundles:
        yield from (Goal(words, "no such row") for words in wanted)
    for bundle in bundles:
        graphs = [row for row in one if (row["bundle"], row["form"]) == (bundle, "graph")]
        paper = [row["p50_us"] for row in one if (row["bundle"], row["form"]) == (bundle, "paper, eager")]
        if not graphs:
            yield from (Goal(f"{bundle}: {words}", "no such row of a graph") for words in wanted)
            continue
        best = min(graphs, key=lambda row: row["p50_us"])
        by = best["provider"] if "provider" in best else f"PyTorch, {best['networks']}"
        took, found = best["p50_us"], f"{best['p50_us']:.1f} us (networks by {by})"
        if timed:
            met = took < _WHOLE_US
            yield Goal(f"{bundle}: {fast}", found, "" if met else f"{took - _WHOLE_US:.1f} us", met)
        if paper:
            yield _times(f"{bundle}: {faster}", f"{found} against {paper[0]:.1f} us", paper[0] / took, _TIMES_PAPER)
        else:
            yield Goal(f"{bundle}: {faster}", "no such row of the paper's form")


def _by_backends(rows: list[_Row]) -> Iterator[_Row]:
    """The same work by the runtime with TensorRT or ONNX Runtime, by the host's clock, which has the waiting, too."""
    for row in rows:
        if row.get("path") == "networks and kernels" and row["graph"]:
            yield {**row, "form": "graph"}


def _fastest(kernels: list[_Row], batch: int) -> _Row | None:
    """Mutation and projection by the fastest form, with no help from the cache."""
    wanted = ("mutate + project", "float16", batch, _K, "cold")
    found = [row for row in kernels if (row["kernel"], row["basis"], row["batch"], row["k"], row["cache"]) == wanted]
    return min(found, key=lambda row: row["p50_us"], default=None)


def _times(wanted: str, found: str, quotient: float, least: float) -> Goal:
    """How many times as fast something is, and is to be."""
    met = quotient >= least
    return Goal(wanted, f"{quotient:.2f} times, {found}", "" if met else f"{least - quotient:.2f} times", met)
