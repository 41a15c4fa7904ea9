"""Where a step of liveness training goes, and what layout, precision, kept memory and threads change.

``python -m immunecam.benchmarks.liveness_training --json benchmarks/results/liveness_training.json``

Every launch is a process of its own with so many threads, whose allocator keeps freed memory or not; within it the
forms of every backbone's step take turns (see `benchmarks.in_turn`), so that ratios hold on a busy machine, too. Faces
are noise: a step's time does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from immunecam.benchmarks.in_turn import in_turn
from immunecam.benchmarks.launches import launched
from immunecam.models.liveness_loss import LivenessLabels, liveness_loss
from immunecam.models.liveness_trunks import TRUNKS
from immunecam.runtime.report import write_report
from immunecam.training.allocator import keep_freed_memory
from immunecam.training.liveness import LivenessConfig, LivenessSet, LivenessTrainer
from immunecam.training.spoof.labels import ATTRIBUTES, ILLUMINATIONS, SPOOF_TYPES

__all__ = ["FORMS", "main", "noise_set", "step_forms"]

SCHEMA = "immunecam.liveness-training/1"
BUDGET_MINUTES = 60.0
"""Of a whole run with the default settings; one core is enough for it."""

FORMS = ("planes, fp32", "channels last, fp32", "channels last, bf16")
"""What `immunecam liveness train` was, is, and is with --precision bf16."""

_LAYOUTS = (torch.contiguous_format, torch.channels_last, torch.channels_last)


def noise_set(count: int = 64, side: int = 112) -> LivenessSet:
    """Faces of noise with labels for every task."""
    torch.manual_seed(0)
    pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
    live = torch.arange(count) % 2
    attributes = torch.rand(count, len(ATTRIBUTES)).round()
    maps = [torch.rand(count, channels, 14, 14) for channels in (1, 3)]
    labels = LivenessLabels(live, attributes, live.clone(), live.clone(), *maps)
    return LivenessSet(pixels, labels, ATTRIBUTES, SPOOF_TYPES, ILLUMINATIONS, "synthetic: noise")


def step_forms(backbone: str, faces: LivenessSet, folder: Path, batch: int) -> dict[str, Callable[[], object]]:
    """A step in every form, and "batch", what drawing and augmenting its faces is of it."""
    found: dict[str, Callable[[], object]] = {}
    for form, layout in zip(FORMS, _LAYOUTS, strict=True):
        config = LivenessConfig(backbone=backbone, batch=batch, precision=form.split()[-1])
        trainer = LivenessTrainer(config, faces, folder / f"{backbone} {form}")
        trainer.network.to(memory_format=layout)

        def step(trainer: LivenessTrainer = trainer, layout: torch.memory_format = layout) -> None:
            pictures, labels = trainer._batch()
            pictures = pictures.contiguous(memory_format=layout)
            with torch.autocast("cpu", torch.bfloat16, enabled=trainer.config.precision == "bf16"):
                outputs = trainer.network(pictures)
            loss, _ = liveness_loss({head: output.float() for head, output in outputs.items()}, labels)
            trainer.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 5.0)
            trainer.optimizer.step()
            trainer.slow.update(trainer.network)

        found[form] = step
        found["batch"] = trainer._batch
    return found


def _launch(backbones: list[str], batch: int, repeats: int, threads: int, kept: bool) -> dict[str, Any]:
    torch.set_num_threads(threads)
    if kept:
        keep_freed_memory()
    faces = noise_set()
    with tempfile.TemporaryDirectory() as folder:
        return {name: in_turn(step_forms(name, faces, Path(folder), batch), repeats=repeats) for name in backbones}


def _compared(form: str, threads: int, cpu_ms: float, before_ms: float) -> dict[str, Any]:
    """What a step is of the old form's; and by one thread, which has no more time than a clock, what a run takes."""
    if form == "batch":
        return {}
    found: dict[str, Any] = {"of_before": round(cpu_ms / before_ms, 3)}
    if threads == 1:
        minutes = LivenessConfig().steps * cpu_ms / 60000
        found |= {"default_run_minutes": round(minutes, 1), "within_budget": minutes < BUDGET_MINUTES}
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", nargs="+", default=list(TRUNKS))
    parser.add_argument("--batch", type=int, default=LivenessConfig().batch)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # a launch: prints its times
    given = parser.parse_args(arguments)
    if given.one:
        print(json.dumps(_launch(given.backbone, given.batch, given.repeats, given.threads[0], given.kept)))
        return
    rows: list[dict[str, Any]] = []
    for threads in given.threads:
        for kept in (False, True):
            settings = ["--batch", str(given.batch), "--repeats", str(given.repeats), "--threads", str(threads)]
            settings += ["--backbone", *given.backbone, *(["--kept"] if kept else [])]
            (launch,) = launched("liveness_training", settings)
            for backbone, forms in launch.items():
                before = forms[FORMS[0]]
                for form, times in forms.items():
                    row = {"backbone": backbone, "form": form, "threads": threads, "memory_kept": kept, **times}
                    row |= _compared(form, threads, times["cpu_p50_ms"], before["cpu_p50_ms"])
                    print(row, flush=True)
                    rows.append(row)
    if given.json:
        about = {"batch": given.batch, "steps": LivenessConfig().steps, "budget_minutes": BUDGET_MINUTES}
        write_report(given.json, SCHEMA, rows, bundle_sha256=None, repeats=given.repeats, **about)


if __name__ == "__main__":
    main()
