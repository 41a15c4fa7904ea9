"""What TensorRT's inspector tells of a plan, in one form for the JSON of versions 10 and 11."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["LayerRow", "PlanReport", "report_from_inspector"]

_BYTES = {"float": 4, "half": 2, "bfloat16": 2, "int8": 1, "fp8": 1, "int32": 4, "int64": 8, "bool": 1, "uint8": 1}


@dataclass(frozen=True)
class LayerRow:
    """A layer of a plan.

    Attributes
    ----------
    name, kind : str
        "" where the plan was built without such details.
    precision : str
        Type and format of its first output, in TensorRT's words.
    tactic : str
        The implementation that was chosen.
    weights_bytes : int
        0 where it has none, or does not tell.
    """

    name: str
    kind: str = ""
    precision: str = ""
    tactic: str = ""
    weights_bytes: int = 0


@dataclass(frozen=True)
class PlanReport:
    """A plan.

    Attributes
    ----------
    role, precision : str
        The graph, and what it was converted to.
    plan_bytes : int
        Size of the plan.
    tensors : tuple of str
        Inputs and outputs.
    layers : tuple of LayerRow
    """

    role: str
    precision: str
    plan_bytes: int
    tensors: tuple[str, ...]
    layers: tuple[LayerRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a report."""
        return asdict(self)


def report_from_inspector(told: Mapping[str, Any], *, role: str, precision: str, plan_bytes: int) -> PlanReport:
    """Read the inspector's JSON.

    Parameters
    ----------
    told : Mapping
        Of :meth:`immunecam.runtime.engines.TensorRTEngine.inspect`. Up to version 10 inputs and outputs are
        ``Bindings``, a list of names, and a tensor's type is part of ``Format/Datatype``; from 11 on they are objects
        in ``I/O Tensors``, and ``DataType`` stands beside ``Format``. Layers are mere names in a plan that was built
        without details.
    role, precision, plan_bytes
        Of the report.
    """
    named = told.get("Bindings", told.get("I/O Tensors", []))
    tensors = tuple(str(entry.get("Name", "?")) if isinstance(entry, Mapping) else str(entry) for entry in named)
    return PlanReport(role, precision, plan_bytes, tensors, tuple(_layer(layer) for layer in told.get("Layers", [])))


def _layer(layer: Any) -> LayerRow:
    if not isinstance(layer, Mapping):
        return LayerRow(str(layer))
    weights = [value for key, value in layer.items() if key in ("Weights", "Bias") and isinstance(value, Mapping)]
    return LayerRow(
        name=str(layer.get("Name", "?")),
        kind=str(layer.get("ParameterType") or layer.get("LayerType") or ""),
        precision=_precision(layer),
        tactic=str(layer.get("TacticName") or layer.get("TacticValue") or ""),
        weights_bytes=sum(_size(entry) for entry in weights),
    )


def _precision(layer: Mapping[str, Any]) -> str:
    outputs = [entry for entry in layer.get("Outputs", []) if isinstance(entry, Mapping)]
    if not outputs:
        return ""
    first = outputs[0]
    if "Format/Datatype" in first:
        return str(first["Format/Datatype"])
    parts = [str(first[key]) for key in ("DataType", "Datatype", "Format") if key in first]
    return ", ".join(parts)


def _size(weights: Mapping[str, Any]) -> int:
    count = weights.get("Count", 0)
    return int(count) * _BYTES.get(str(weights.get("Type", "")).lower(), 0) if isinstance(count, int) else 0
