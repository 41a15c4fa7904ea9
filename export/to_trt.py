"""From a bundle's ONNX graphs to TensorRT plans for this machine: ``python export/to_trt.py NAME.immune``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from immunecam.errors import BackendMissingError, ImmuneCamError
from immunecam.export.build_options import HARDWARE, BuildOptions, batch_from_text
from immunecam.export.card_graph import card_graph, compiled_roles, compiled_source
from immunecam.export.graph_check import GraphCheck, check_graph
from immunecam.export.plan_build import build_plan, require_polygraphy
from immunecam.export.plan_parity import OUTPUTS, Reference, run_graph
from immunecam.export.plan_tables import print_check, print_plan
from immunecam.export.plan_trial import ExportedPlan, try_plans
from immunecam.export.quantisation import is_quantised
from immunecam.export.real_faces import real_faces
from immunecam.export.timing_cache import timing_cache_path
from immunecam.kernels.cuda import open_device
from immunecam.runtime.bundle import Bundle, read_bundle
from immunecam.runtime.engines.plans import PlanMachine
from immunecam.runtime.engines.tensorrt_library import import_tensorrt
from immunecam.runtime.plan_record import PLAN_PRECISIONS, PlanKey
from immunecam.runtime.plan_writer import NewPlan, check_storable, store_plans
from immunecam.runtime.report import write_report
from immunecam.runtime.trust import PrivateKey, Trust, TrustedKeys, passphrase_from

__all__ = ["check_bundle", "export_plans", "main", "run", "write_check", "write_plans"]


def export_plans(
    path: str | Path,
    options: BuildOptions | None = None,
    *,
    faces: str | Path | None = None,
    console: Console | None = None,
    sign: PrivateKey | None = None,
    drop_signature: bool = False,
    trust: TrustedKeys | None = None,
) -> tuple[Bundle, tuple[ExportedPlan, ...]]:
    """Compile a bundle's graphs for this machine, compare them with ONNX Runtime, and store them in the bundle.

    Parameters
    ----------
    path : path
        The bundle, which gets the plans beside what it has.
    options : BuildOptions, optional
        None takes the defaults.
    faces : path, optional
        Real faces for the comparison (and the ranges of int8), see `export.real_faces`; None takes the installed clip.
    console : Console, optional
        For progress bars; None takes stderr.
    sign : PrivateKey, optional
        Sign the bundle anew, plans included; a signed bundle needs one, because plans change what was signed.
    drop_signature : bool
        Let the signature go instead.
    trust : path, sequence of paths or Trust, optional
        As for :meth:`Bundle.load`.

    Raises
    ------
    UsageError
        If the bundle is an archive, its signature would be lost unasked, or nothing here would load it afterwards.
    BackendMissingError
        If TensorRT, Polygraphy, the driver or a card is missing.
    InputError
        If a graph cannot be converted or compiled, or differs too much. Nothing is stored then.
    """
    options = options or BuildOptions()
    policy = Trust.in_force(trust)
    bundle = read_bundle(path, policy)
    check_storable(bundle, sign=sign, drop_signature=drop_signature, trust=policy)
    trt, device, machine = _machine()
    options.hardware_level(trt)  # said now, not after the slow work
    reference = Reference(bundle, real_faces(faces))
    precisions = _precisions(bundle, options)
    graphs = {role: card_graph(bundle, role, precisions[role], reference.feeds[role]) for role in precisions}
    on_cpu = {
        role: reference.compare(
            role, precisions[role], run_graph(graph, OUTPUTS[role]), f"The {role} converted to {precisions[role]}"
        )
        for role, graph in graphs.items()
    }
    console = Console(stderr=True) if console is None else console
    timings = timing_cache_path(machine, options.timing_cache)
    plans: list[NewPlan] = []
    for role, graph in graphs.items():
        inputs = {name: array.shape[1:] for name, array in reference.feeds[role].items()}
        data = build_plan(graph, inputs, options, name=f"the {role}", timings=timings, console=console)
        plans.append((role, _key(bundle, role, options, machine), data, {}))
    exported = try_plans(bundle, plans, reference, on_cpu, device)
    measured = {made.report.role: made.plan_parity.to_dict() for made in exported}
    final = [(role, key, data, measured[role]) for role, key, data, _ in plans]
    stored = store_plans(bundle, final, sign=sign, drop_signature=drop_signature, trust=policy)
    return stored, exported


def check_bundle(
    path: str | Path,
    options: BuildOptions | None = None,
    *,
    faces: str | Path | None = None,
    trust: TrustedKeys | None = None,
) -> dict[str, GraphCheck]:
    """What can be said of a bundle's graphs without TensorRT, by role; ``faces`` give int8 its ranges.

    Raises
    ------
    InputError
        If the bundle or a graph cannot be read or converted.
    """
    options = options or BuildOptions()
    bundle = Bundle.load(path, trust=trust)
    feeds = Reference(bundle, real_faces(faces)).feeds if options.precision == "int8" else {}
    graphs = {
        role: card_graph(bundle, role, precision, feeds.get(role))
        for role, precision in _precisions(bundle, options).items()
    }
    return {
        role: check_graph(graph, options.batch[2], f"The {role} of {bundle.path}") for role, graph in graphs.items()
    }


def _precisions(bundle: Bundle, options: BuildOptions) -> dict[str, str]:
    """What each graph is compiled in: int8 if it is in int8 already, else what was asked for."""
    return {
        role: "int8" if is_quantised(compiled_source(bundle, role)) else options.of(role)
        for role in compiled_roles(bundle)
    }


def _machine() -> tuple[Any, Any, PlanMachine]:
    try:
        trt = import_tensorrt()
        device = open_device()
        require_polygraphy()
        return trt, device, PlanMachine.here(trt, device)
    except BackendMissingError as error:
        reason = str(error).rstrip(".").replace(", or use --provider cpu", "")
        raise BackendMissingError(f"{reason}; --check looks at the graphs without it.") from None


def _key(bundle: Bundle, role: str, options: BuildOptions, machine: PlanMachine) -> PlanKey:
    return PlanKey(
        onnx_sha256=str(bundle.manifest.compiled_sha256(role)),
        tensorrt=machine.tensorrt,
        gpu=machine.gpu,
        compute_capability=machine.compute_capability,
        driver=machine.driver,
        precision=_precisions(bundle, options)[role],
        batch=options.batch,
        flags=options.flags,
    )


def write_plans(path: str | Path, bundle: Bundle, exported: Sequence[ExportedPlan]) -> None:
    """A report of what was compiled, as JSON."""
    rows = [
        {"graph": made.report.role, "precision": made.report.precision, **asdict(layer)}
        for made in exported
        for layer in made.report.layers
    ]
    plans = [
        {
            "role": made.report.role,
            "precision": made.report.precision,
            "plan_bytes": made.report.plan_bytes,
            "tensors": list(made.report.tensors),
            "converted_graph_on_cpu": made.graph_parity.to_dict(),
            "plan_on_card": made.plan_parity.to_dict(),
        }
        for made in exported
    ]
    keys = [plan.to_dict() for plan in bundle.manifest.all_plans]
    write_report(path, "immunecam.export-tensorrt/1", rows, bundle_sha256=bundle.sha256, plans=plans, stored=keys)


def write_check(
    path: str | Path,
    bundle: str | Path,
    checks: Mapping[str, GraphCheck],
    *,
    trust: TrustedKeys | None = None,
) -> None:
    """A report of what can be said without TensorRT, as JSON."""
    rows = [{"graph": role, **asdict(row)} for role, check in checks.items() for row in check.operators]
    graphs = {role: asdict(check) | {"unsupported": list(check.unsupported)} for role, check in checks.items()}
    for graph in graphs.values():
        del graph["operators"]  # they are the rows
    sha256 = Bundle.load(bundle, trust=trust).sha256
    write_report(path, "immunecam.export-tensorrt-check/1", rows, bundle_sha256=sha256, graphs=graphs)


def run(
    bundle: str | Path,
    options: BuildOptions,
    *,
    faces: str | Path | None = None,
    check: bool = False,
    report: str | Path | None = None,
    sign: PrivateKey | None = None,
    drop_signature: bool = False,
    trust: TrustedKeys | None = None,
) -> None:
    """What the command does: compile and store, or with ``check`` only look; tables, and a JSON report if wanted."""
    console = Console()
    if check:
        checks = check_bundle(bundle, options, faces=faces, trust=trust)
        for role, found in checks.items():
            int8 = any(row.operator == "QuantizeLinear" for row in found.operators)
            print_check(console, role, "int8" if int8 else options.of(role), found)
        if report is not None:
            write_check(report, bundle, checks, trust=trust)
        return
    stored, exported = export_plans(bundle, options, faces=faces, sign=sign, drop_signature=drop_signature, trust=trust)
    for made in exported:
        print_plan(console, made.report, made.graph_parity, made.plan_parity)
    if report is not None:
        write_plans(report, stored, exported)
    by = "" if sign is None else f", signed by {sign.public.id}"
    done = f"stored in {bundle} (manifest sha256 {stored.sha256[:12]}{by})"
    console.print(done, highlight=False, markup=False, soft_wrap=True)


def main(arguments: list[str] | None = None) -> int:
    """Command line of this file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="to_trt.py", description="Compile a bundle's graphs for this machine.")
    parser.add_argument("bundle", type=Path, help="bundle, NAME.immune, which gets the plans")
    parser.add_argument("--precision", choices=PLAN_PRECISIONS, default="fp16", help="what the graphs compute in")
    parser.add_argument("--batch", default="1,8,32", help="faces of a call: MIN,OPT,MAX")
    parser.add_argument("--faces", type=Path, help="real faces to compare on: picture, folder or clip")
    parser.add_argument("--hardware-compatible", choices=HARDWARE, help="let other cards run the plan")
    parser.add_argument("--version-compatible", action="store_true", help="let later TensorRT run the plan")
    parser.add_argument("--workspace", type=int, metavar="MIB", help="most scratch memory of a tactic")
    parser.add_argument("--optimization-level", type=int, metavar="0..5", help="how long to look for faster tactics")
    parser.add_argument("--timing-cache", type=Path, help="in place of the user's own")
    parser.add_argument("--check", action="store_true", help="only look at the graphs, without TensorRT")
    parser.add_argument("--json", type=Path, metavar="REPORT", help="write a report as JSON")
    parser.add_argument("--sign", type=Path, metavar="PRIVATE.pem", help="sign the bundle anew with this key")
    parser.add_argument("--passphrase-file", type=Path, help="of that key; or IMMUNECAM_PASSPHRASE")
    parser.add_argument("--drop-signature", action="store_true", help="let the bundle's signature go")
    parser.add_argument("--trust", type=Path, action="append", metavar="PUBLIC.pem", help="demand a signature by it")
    given = parser.parse_args(arguments)
    try:
        options = BuildOptions(
            precision=given.precision,
            batch=batch_from_text(given.batch),
            optimization_level=given.optimization_level,
            workspace_mib=given.workspace,
            hardware_compatible=given.hardware_compatible,
            version_compatible=given.version_compatible,
            timing_cache=given.timing_cache,
        )
        key = None
        if given.sign is not None:
            key = PrivateKey.load(given.sign, passphrase=passphrase_from(given.passphrase_file))
        run(
            given.bundle,
            options,
            faces=given.faces,
            check=given.check,
            report=given.json,
            sign=key,
            drop_signature=given.drop_signature,
            trust=given.trust,
        )
    except ImmuneCamError as error:
        print(f"to_trt.py: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("to_trt.py: interrupted; nothing was stored", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
