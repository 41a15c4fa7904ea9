"""Plans run on the card before they are stored, from a copy of the bundle, as a device would run them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import ImmuneCamError, InputError
from immunecam.export.plan_parity import PlanParity, Reference
from immunecam.export.plan_report import PlanReport, report_from_inspector
from immunecam.export.quantisation import Feeds
from immunecam.kernels.cuda.staging import Staging
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.bundle_manifest import MANIFEST
from immunecam.runtime.engines import TensorRTEngine
from immunecam.runtime.plan_writer import NewPlan, store_plans

__all__ = ["ExportedPlan", "try_plans"]


@dataclass(frozen=True)
class ExportedPlan:
    """A plan that may be stored: what its inspector tells, and how far it is from the bundle's graph.

    Attributes
    ----------
    report : PlanReport
    graph_parity : PlanParity
        Of the converted graph, by ONNX Runtime on the CPU.
    plan_parity : PlanParity
        Of the plan on the card, in the batch size that differs most.
    """

    report: PlanReport
    graph_parity: PlanParity
    plan_parity: PlanParity


def try_plans(
    bundle: Bundle, plans: Sequence[NewPlan], reference: Reference, on_cpu: Mapping[str, PlanParity], device: Any
) -> tuple[ExportedPlan, ...]:
    """Run every plan in its smallest, usual and largest batch.

    Parameters
    ----------
    bundle : Bundle
        Without the plans.
    plans : sequence of NewPlan
    reference : Reference
        Faces, and what is right.
    on_cpu : Mapping of PlanParity
        Of the converted graphs, by role.
    device : cuda.core.Device

    Raises
    ------
    InputError
        If a plan differs by more than `export.plan_parity.LIMITS`, or the card has not the memory.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / bundle.path.name
        copy.mkdir()
        # What was verified is what is tried, not what lies in the folder by now.
        for name, data in {**bundle.files, MANIFEST: bundle.manifest_bytes}.items():
            (copy / name).write_bytes(data)
        stored = store_plans(read_bundle(copy, None), plans)
        engine = TensorRTEngine.from_bundle(stored, device=device, roles=[role for role, _, _, _ in plans])
        try:
            exported = []
            for role, key, data, _ in plans:
                found = [
                    reference.compare(
                        role,
                        key.precision,
                        _on_card(engine, device, role, size),
                        f"The {key.precision} plan of the {role}, {size} faces at once,",
                    )
                    for size in sorted(set(key.batch))
                ]
                told = engine.inspect(role)
                report = report_from_inspector(told, role=role, precision=key.precision, plan_bytes=len(data))
                exported.append(ExportedPlan(report, on_cpu[role], max(found, key=lambda parity: parity.largest)))
            return tuple(exported)
        finally:
            engine.close()


def _on_card(engine: TensorRTEngine, device: Any, role: str, size: int) -> Callable[[Feeds], NDArray[np.float32]]:
    """A plan as a function of its inputs, in batches of one size; the last is filled with the first faces again."""
    ((output, shape),) = engine.tensors(role)[1].items()

    def run(feeds: Feeds) -> NDArray[np.float32]:
        count = len(next(iter(feeds.values())))
        stream, rooms = device.create_stream(), list[Any]()

        def room(values: int) -> tuple[Staging, Any]:
            pinned = Staging(4 * size * values)
            rooms.append(pinned)
            rooms.append(device.memory_resource.allocate(4 * size * values, stream=stream))
            return pinned, rooms[-1]

        try:
            inputs = {name: room(array[0].size) for name, array in feeds.items()}
            back, result = room(math.prod(shape))
            addresses = {name: int(buffer.handle) for name, (_, buffer) in inputs.items()}
            addresses[output] = int(result.handle)
            outputs = []
            for start in range(0, count, size):
                indices = np.arange(start, start + size) % count
                for name, (pinned, buffer) in inputs.items():
                    pinned.put(feeds[name][indices], buffer, stream=stream)
                engine.run_on(role, size, addresses, stream=stream)
                outputs.append(back.get(result, stream=stream).view(np.float32).reshape(size, *shape))
            return np.concatenate(outputs)[:count]
        except ImmuneCamError:
            raise
        except Exception as error:  # CUDAError of an allocation or a copy
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"The plan of the {role} cannot be tried with {size} faces ({reason}): close another "
                "user of the card, or build it for fewer faces (--batch)."
            ) from None
        finally:
            stream.sync()
            for held in rooms:
                held.close()
            stream.close()

    return run
