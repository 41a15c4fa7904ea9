"""How long it takes to find a face among all who are enrolled.

``python -m immunecam.benchmarks.identification --json benchmarks/results/identification.json``

Random unit embeddings; what a person looks like does not change what a comparison takes. Without finding, purifying and
embedding the face, which do not depend on how many are enrolled. On a machine that has other work, the time of the
processor (`cpu_`, one thread) says more than the clock's.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from immunecam.runtime.gate.matcher import TemplateMatrix
from immunecam.runtime.report import percentiles_ms, write_report

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument("--templates", type=int, default=3, help="of each")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    rows = []
    for size in (128, 256, 512):
        rng = np.random.default_rng(0)
        templates = rng.standard_normal((given.people * given.templates, size), dtype=np.float32)
        templates /= np.linalg.norm(templates, axis=1, keepdims=True)
        own = np.split(templates, given.people)
        gallery = TemplateMatrix(((f"p{number}", part) for number, part in enumerate(own)), size)
        times, worked = [], []
        for _ in range(given.repeats):
            who = int(rng.integers(given.people))
            began, cpu = time.perf_counter(), time.thread_time()
            (found,) = gallery.identify(own[who][0])
            times.append(time.perf_counter() - began)
            worked.append(time.thread_time() - cpu)
            if found.person != f"p{who}":
                raise RuntimeError(f"p{who} was taken for {found.person}")
        about = {"people": given.people, "templates": len(templates), "embedding": size, "repeats": given.repeats}
        cpu_times = {f"cpu_{name}": value for name, value in percentiles_ms(worked).items()}
        rows.append({**about, **percentiles_ms(times), "best_ms": round(1000 * min(times), 4), **cpu_times})
        print(rows[-1])
    if given.json:
        write_report(given.json, "immunecam.identification/1", rows, bundle_sha256=None)


if __name__ == "__main__":
    main()
