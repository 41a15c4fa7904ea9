"""Reports of plans and of graphs as tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from immunecam.export.graph_check import GraphCheck
from immunecam.export.plan_parity import PlanParity
from immunecam.export.plan_report import PlanReport
from immunecam.export.tensorrt_operators import SINCE_SOME

__all__ = ["print_check", "print_plan"]

_SUPPORT = {
    "yes": "yes",
    "later": f"[yellow]documented for TensorRT {SINCE_SOME}, perhaps not earlier[/]",
    "no": "[red]no[/]",
}


def print_plan(console: Console, report: PlanReport, on_cpu: PlanParity, on_card: PlanParity) -> None:
    """Layers of a plan, and how far it is from ONNX Runtime."""
    title = f"{report.role}: {report.precision}, {len(report.layers)} layers, {_size(report.plan_bytes)}"
    table = Table(title=title)
    for heading in ("layer", "kind", "output", "tactic"):
        table.add_column(heading, overflow="fold")
    table.add_column("weights", justify="right")
    for layer in report.layers:
        weights = _size(layer.weights_bytes) if layer.weights_bytes else ""
        # TensorRT's names have brackets, which are markup to rich.
        table.add_row(*map(escape, (layer.name, layer.kind, layer.precision, layer.tactic)), weights)
    console.print(table)
    for label, parity in (("converted graph on the CPU", on_cpu), ("plan on the card", on_card)):
        console.print(
            f"{label}, against the bundle's graph, {parity.faces} real faces: at most {parity.largest:.2g}, on average "
            f"{parity.mean:.2g} ({parity.unit})",
            highlight=False,
            soft_wrap=True,
        )


def print_check(console: Console, role: str, precision: str, check: GraphCheck) -> None:
    """Operators of a graph with their types, its inputs and outputs, and the memory that an engine will want."""
    table = Table(title=f"{role}: {precision}, up to {check.batch} faces")
    for heading in ("operator", "computes in"):
        table.add_column(heading)
    table.add_column("count", justify="right")
    table.add_column("TensorRT's parser")
    for row in check.operators:
        table.add_row(escape(row.operator), row.types, str(row.count), _SUPPORT[row.support])
    console.print(table)
    for side, rows in (("in", check.inputs), ("out", check.outputs)):
        for tensor in rows:
            line = f"{side:4}{tensor.name}: {tensor.dtype} {list(tensor.shape)}"
            console.print(line, highlight=False, markup=False)
    total = check.weights_bytes + check.activations_bytes
    console.print(
        f"memory of an engine, estimated: weights {_size(check.weights_bytes)} + values between operators "
        f"{_size(check.activations_bytes)} = {_size(total)}, without TensorRT's own and scratch memory",
        highlight=False,
        soft_wrap=True,
    )
    for label, names in (("outside of the parser", check.unsupported), ("shape not inferred", check.unknown_shapes)):
        if names:
            console.print(f"[red]{label}:[/] {escape(', '.join(names))}", highlight=False, soft_wrap=True)


def _size(count: int) -> str:
    return f"{count / 2**20:.2f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
