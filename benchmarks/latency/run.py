"""Runs a plan: processes side by side that measure in turn, and rows of what came out."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.latency.energy import EnergyMeter, open_meter
from immunecam.benchmarks.latency.installed import installed_bytes
from immunecam.benchmarks.latency.live import live_row
from immunecam.benchmarks.latency.percentiles import told_percentiles
from immunecam.benchmarks.latency.plan import LatencyPlan
from immunecam.benchmarks.latency.ratio import CONFIDENCE, paired_ratio
from immunecam.benchmarks.latency.worker_process import Block, WorkerProcess
from immunecam.errors import BackendMissingError, InputError, UsageError
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.faces import align, face_finder
from immunecam.runtime.frames import FrameSource
from immunecam.runtime.trust import Trust

__all__ = ["OF_A_SOURCE", "OURS", "SCHEMA", "STAGES", "Tell", "measure", "require_paper"]

SCHEMA = "immunecam.bench/1"

STAGES = (
    "decode", "find", "align", "analyze", "mutate", "project", "restore", "engine", "card", "mask", "recognise",
    "paste", "total",
)  # fmt: skip
"""In a frame's order. "engine" is one graph that does everything after the drawing of random numbers, "card" a card
that does everything after finding."""

Tell = Callable[[str, int, int], None]
"""(what is done, how much of it, of how much)"""

OURS = ("faces", "stages", "masked", "frames", "followed")
"""Forms of a bundle; the others are what it is measured beside."""

OF_A_SOURCE = ("frames", "followed")
"""Those whose time depends on the pictures."""

_BATCHED = ("faces", "stages", "masked", "paper")
_MOST_FACES = 32
_MOST_FRAMES = 100


@dataclass
class _Series:
    """What one form at one batch gave, launch by launch."""

    about: dict[str, Any]
    batch: int | None
    cold_starts_s: list[float] = field(default_factory=list)
    stages_ms: dict[str, list[float]] = field(default_factory=dict)
    totals_ms: list[list[float]] = field(default_factory=list)  # a list for each launch
    faces: int = 0
    peak_memory_mib: float | None = None
    joules: float = 0.0

    def begin(self, cold_start_s: float, warm: Block) -> None:
        self.cold_starts_s.append(cold_start_s)
        self.totals_ms.append([])
        if warm.peak_memory_mib is not None:
            self.peak_memory_mib = max(self.peak_memory_mib or 0.0, warm.peak_memory_mib)

    def add(self, block: Block, joules: float) -> None:
        for name, values in block.stages_ms.items():
            self.stages_ms.setdefault(name, []).extend(values)
        self.totals_ms[-1] += block.stages_ms["total"]
        self.faces += block.faces
        self.joules += joules

    def medians_ms(self) -> list[float]:
        return [statistics.median(values) for values in self.totals_ms]

    def row(self, *, metered: bool) -> dict[str, Any]:
        total = self.stages_ms["total"]
        row = {**self.about, "batch": self.batch, "launches": len(self.totals_ms), "repeats": len(total)}
        for stage in STAGES:
            row |= told_percentiles(stage, self.stages_ms.get(stage, []))
        row |= {
            "faces_per_s": round(1000 * self.faces / sum(total), 2) if self.faces else None,
            "peak_memory_mib": None if self.peak_memory_mib is None else round(self.peak_memory_mib, 1),
            "cold_start_p50_s": round(statistics.median(self.cold_starts_s), 4),
            "cold_start_most_s": round(max(self.cold_starts_s), 4),
            "joules_per_face": round(self.joules / self.faces, 5) if metered and self.faces else None,
            "launch_medians_ms": [round(value, 5) for value in self.medians_ms()],
        }
        if self.batch and "mask" in self.stages_ms:  # what has a budget, see `masked_work`
            own = statistics.median(map(sum, zip(self.stages_ms["mask"], self.stages_ms["recognise"], strict=True)))
            row["mask_and_recognise_ms_per_face"] = round(own / self.batch, 4)
        return row


def require_paper() -> None:
    """Raise a BackendMissingError unless the published form can be measured."""
    if importlib.util.find_spec("torch") is None:
        raise BackendMissingError(
            "the paper's form needs PyTorch, which is not installed: pip install 'immunecam[train]', or leave it out"
        )


def measure(plan: LatencyPlan, tell: Tell = lambda what, done, total: None) -> dict[str, Any]:
    """Run the plan.

    Parameters
    ----------
    plan : LatencyPlan
    tell : callable
        Hears of progress.

    Returns
    -------
    dict
        The entries of a report: "rows", "live" (see :func:`live_row`), and how they were measured. A row is a form
        ("faces": aligned faces as shipped; "stages": the same networks one after another; "masked": faces purified,
        masked and recognised masked, of a bundle that has such a part; "frames": a source's frames;
        "followed": the same with faces followed; "paper": the published form; "reference": fixed NumPy work) with a
        bundle, or the one "beside" which it ran, provider, number of threads and batch; times are of a call, in
        milliseconds.

    Raises
    ------
    UsageError
        If two bundles have one name, or two providers are one.
    InputError
        If a bundle or the source cannot be used, or no face is found in it.
    BackendMissingError
        If a provider that was asked for, or PyTorch for the paper's form, is missing.
    """
    if plan.paper:
        require_paper()
    trust = Trust.in_force(plan.keys, state=plan.state)
    bundles = [Bundle.load(path, trust=trust) for path in plan.bundles]
    names = [bundle.name for bundle in bundles]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two bundles are called {name!r}, and a row tells them by their names: rename one")
    meter, energy = open_meter()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as held:
        if meter is not None:
            held.callback(meter.close)
        faces = Path(scratch) / "faces.npy"
        np.save(faces, _aligned_faces(plan.source))
        groups = list(itertools.product(bundles, plan.threads))
        for number, (bundle, threads) in enumerate(groups):
            done = number * plan.launches
            group = _Group(plan, bundle, threads, faces, meter)
            for launch in range(plan.launches):
                where = f"{bundle.name}, {threads} thread{'s' * (threads > 1)}, launch {launch + 1}"
                tell(where, done + launch, len(groups) * plan.launches)
                group.launch(launch)
            rows += group.rows()
        live = []
        cameras = itertools.product(groups, dict.fromkeys(plan.providers)) if plan.live_s else ()
        for (bundle, threads), provider in cameras:
            tell(f"{bundle.name}, live", len(groups) * plan.launches, len(groups) * plan.launches)
            specification = _specification(plan, bundle, threads, faces, "live", provider)
            live.append(live_row(specification, bundle.name, plan.live_s))
    tell("done", len(groups) * plan.launches, len(groups) * plan.launches)
    sizes = installed_bytes()
    return {
        "rows": rows,
        "live": [row for row in live if row is not None],
        "launches": plan.launches,
        "rounds": plan.rounds,
        "block_s": plan.block_s,
        "warm_up_s": plan.warm_s,
        "pinned_to_cores": None if plan.pin is None else list(plan.pin),
        "source": plan.source.name,
        "energy": energy,
        "paper": "AIS as published, random weights, eager PyTorch" if plan.paper else "not measured",
        "cold_start": "from the start of a process to its first purified face, files in the system's cache",
        "confidence": CONFIDENCE,
        "installed_mib": {name: round(size / 2**20, 2) for name, size in sizes.items()},
        "installed_total_mib": round(sum(sizes.values()) / 2**20, 1),
    }


class _Group:
    """A bundle at a number of threads: processes for all its forms, and for what it is compared with."""

    def __init__(self, plan: LatencyPlan, bundle: Bundle, threads: int, faces: Path, meter: EnergyMeter | None) -> None:
        self._plan, self._bundle, self._threads, self._faces, self._meter = plan, bundle, threads, faces, meter
        self._series: dict[tuple[str, str, int], _Series] = {}

    def launch(self, number: int) -> None:
        """Start every process, one after the other, and let them measure in turn."""
        plan = self._plan
        with contextlib.ExitStack() as held:
            tasks: list[tuple[WorkerProcess, _Series, int]] = []
            for form, provider, worker in self._started(held):
                # Smaller batches first: a process's peak memory is that of the largest until then.
                for batch in sorted(set(plan.batches)) if form in _BATCHED else [1]:
                    series = self._of(form, provider, batch, worker)
                    series.begin(worker.cold_start_s, worker.measure(batch, plan.warm_s))
                    tasks.append((worker, series, batch))
            order = random.Random(number)
            for _ in range(plan.rounds):
                order.shuffle(tasks)
                for worker, series, batch in tasks:
                    before = self._joules()
                    block = worker.measure(batch, plan.block_s)
                    series.add(block, self._joules() - before)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each series, with how many times the paper's form and the reference work take."""
        rows = []
        for (form, _, batch), series in self._series.items():
            row = series.row(metered=self._meter is not None)
            if form != "reference":
                row["times_reference"] = self._times(series, self._series["reference", "", 1])
            paper = self._series.get(("paper", "", batch))
            if form in ("faces", "stages") and paper is not None:
                row["times_faster_than_paper"] = self._times(paper, series)
            rows.append(row)
        return rows

    @staticmethod
    def _times(above: _Series, below: _Series) -> list[float]:
        """Ratio of times, low and high end of its interval; alone where there are too few launches for one."""
        sides = above.medians_ms(), below.medians_ms()
        found = paired_ratio(*sides)
        if found is not None:
            return found.to_list()
        return [round(statistics.median(a / b for a, b in zip(*sides, strict=True)), 4)]

    def _started(self, held: contextlib.ExitStack) -> Iterator[tuple[str, str, WorkerProcess]]:
        """Form, provider and process, each started when the one before has done its warm-up."""

        def start(form: str, provider: str = "") -> tuple[str, str, WorkerProcess]:
            told = _specification(self._plan, self._bundle, self._threads, self._faces, form, provider)
            return form, provider, held.enter_context(WorkerProcess(told))

        asked: dict[str, str] = {}  # by the provider that was taken
        for provider in dict.fromkeys(self._plan.providers):
            shipped = start("faces", provider)
            taken = shipped[2].about["provider"]
            if taken in asked:
                raise UsageError(
                    f"the providers {asked[taken]} and {provider} are both {taken} here, and a row tells them by what "
                    "they are: give one of them"
                )
            asked[taken] = provider
            yield shipped
            # On a card the stages have no times of their own on the host; and there must be a graph to take apart.
            if taken == "cpu" and self._bundle.graph("purifier") is not None:
                yield start("stages", provider)
            if self._bundle.manifest.masking is not None:
                yield start("masked", provider)
            yield start("frames", provider)
            yield start("followed", provider)
        if self._plan.paper:
            yield start("paper")
        yield start("reference")

    def _of(self, form: str, provider: str, batch: int, worker: WorkerProcess) -> _Series:
        key = form, provider, batch
        if key not in self._series:
            ours = form in OURS
            about = {
                "form": form,
                "bundle": self._bundle.name if ours else None,
                "beside": None if ours else self._bundle.name,
                "bundle_sha256": self._bundle.sha256 if ours else None,
                "precision": dict(self._bundle.manifest.precision) if ours else None,
                **worker.about,
                "threads": self._threads,
            }
            self._series[key] = _Series(about, batch if form in _BATCHED else None)
        return self._series[key]

    def _joules(self) -> float:
        return 0.0 if self._meter is None else self._meter.joules()


def _specification(
    plan: LatencyPlan, bundle: Bundle, threads: int, faces: Path, form: str, provider: str
) -> dict[str, Any]:
    """What a measuring process is told."""
    return {
        "form": form,
        "bundle": str(bundle.path.resolve()),
        "provider": provider,
        "threads": threads,
        "faces": str(faces),
        "source": str(plan.source.resolve()),
        "pin": None if plan.pin is None else list(plan.pin),
        "keys": None if plan.keys is None else [str(path) for path in plan.keys],
        "state": None if plan.state is None else str(plan.state),
    }


def _aligned_faces(source: Path) -> NDArray[np.float32]:
    """Up to 32 faces of the source's first frames, (N, 112, 112) in [-1, 1]."""
    finder = face_finder()
    found: list[NDArray[np.float32]] = []
    with FrameSource.open(source) as frames:
        for frame in itertools.islice(frames, _MOST_FRAMES):
            found += list(align(frame.image, finder.find(frame.image)).grey)
            if len(found) >= _MOST_FACES:
                break
    if not found:
        raise InputError(
            f"no face is found in the first {_MOST_FRAMES} frames of {str(source)!r}: give a source that shows one"
        )
    return np.stack(found[:_MOST_FACES])
