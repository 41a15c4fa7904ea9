"""``immunecam bundle quantize``: a bundle that computes in int8, from a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from immunecam.commands.options import BundleState, Json, TrustedKey, trust_of
from immunecam.commands.outputs import check_outputs
from immunecam.commands.requirements import require_training
from immunecam.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from immunecam.export.quantised_bundle import Figure, Judge, QuantisationCost, QuantisedNetwork
    from immunecam.runtime.bundle import Bundle
    from immunecam.training.faces import FaceSet

__all__ = ["quantize"]

_FEWEST_FACES = 8


def quantize(
    bundle: Annotated[Path, typer.Argument(metavar="IN", help="Bundle to start from; it is not changed.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Bundle to write, NAME.immune.")],
    faces: Annotated[
        Path, typer.Option(metavar="FOLDER_OR_ZIP", help="Training faces, 112x112, a folder for each person.")
    ],
    recognizer: Annotated[
        Optional[list[Path]],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="Recogniser whose figures must not fall; may be given several times."),
    ] = None,
    calibration: Annotated[int, typer.Option(help="Faces that ranges are taken from, and as many to measure on.")] = 64,
    pairs: Annotated[int, typer.Option(help="Pairs to verify, half of them same.")] = 1000,
    most_p: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            min=0,
            help="Mean change of a probability; layers stay in float32 until it holds. Default: 0.001, or none where "
            "the networks were trained for int8 and --recognizer decides.",
        ),
    ] = None,
    most_grey_levels: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(min=0, help="Root mean square change of a restored pixel, likewise. Default: 1, or none."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle that is there.")] = False,
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    json_report: Json = None,
) -> None:
    """Let the networks compute in int8, layer by layer as far as they bear it; refused if recognition loses by it."""
    require_training()
    from immunecam.export.quantised_bundle import quantize_bundle
    from immunecam.runtime.bundle import read_bundle
    from immunecam.runtime.report import write_report
    from immunecam.training.faces import FaceSet

    if calibration < _FEWEST_FACES or pairs < 2:
        raise UsageError(
            f"--calibration is {calibration} and --pairs {pairs}: give {_FEWEST_FACES} faces and 2 pairs or more"
        )
    check_outputs(json_report)
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {str(out.parent)!r} to write {out.name} into: make it")
    source = read_bundle(bundle, trust_of(trust, bundle_state), remember=False)
    given = FaceSet.load(faces)
    if len(given) < 2 * _FEWEST_FACES:
        raise UsageError(f"{faces} has {len(given)} faces, but {2 * _FEWEST_FACES} are the fewest to quantise by")
    ranges, trial = _drawn(given, min(calibration, len(given) // 2))
    console = Console(stderr=True)
    with console.status("reading") as status:
        tell = _teller(status)
        judge = _judge(given, pairs, recognizer, tell) if recognizer else None
        made, networks, cost = quantize_bundle(
            source,
            out,
            ranges,
            trial,
            judge=judge,
            limits=_limits(most_p, most_grey_levels),
            overwrite=overwrite,
            tell=tell,
        )
    if json_report is not None:
        record = made.manifest.provenance["quantisation"]
        more = {"bundle_sha256": made.sha256, "pairs": pairs, "quantisation": record}
        write_report(json_report, "immunecam.bundle-quantize/1", record["cost"]["figures"], **more)
    _show(Console(markup=False), out, made, networks, cost)


def _limits(most_p: float | None, most_grey_levels: float | None) -> dict[str, float | None] | None:
    """Both, if one was given; else the default, which depends on the bundle."""
    from immunecam.export.quantised_bundle import LIMITS

    given = {"analyzer": most_p, "restorer": most_grey_levels}
    if set(given.values()) == {None}:
        return None
    return {role: LIMITS[role] if limit is None else limit for role, limit in given.items()}


def _drawn(faces: FaceSet, count: int) -> tuple[Any, Any]:
    """Float faces to calibrate and to measure on, none in both."""
    import numpy as np

    from immunecam.training.faces import from_uint8

    chosen = np.random.default_rng(0).permutation(len(faces))[: 2 * count]
    pixels = from_uint8(faces.pixels[chosen]).numpy()
    return pixels[:count], pixels[count:]


def _judge(faces: FaceSet, count: int, recognizers: Sequence[Path], tell: Callable[[str], None]) -> Judge:
    from immunecam.benchmarks.evaluation.pairs import drawn_pairs
    from immunecam.benchmarks.quantisation_cost import recognition_figures
    from immunecam.export.quantised_bundle import Figure
    from immunecam.training.recognizer import Recognizer

    pairs, loaded = drawn_pairs(faces, count), [Recognizer.load(path) for path in recognizers]

    def judge(before: Bundle, after: Bundle) -> list[Figure]:
        return [
            Figure(f"{row['recognizer']}, {row['threat']}, {row['pairs']} pairs", *row["percent"])
            for row in recognition_figures([before, after], pairs, loaded, tell=tell)
        ]

    return judge


def _teller(status: Any) -> Callable[[str], None]:
    return lambda what: status.update(what)


def _show(
    console: Console, out: Path, made: Bundle, networks: dict[str, QuantisedNetwork] | Any, cost: QuantisationCost
) -> None:
    for role, network in networks.items():
        kept = [str(layer) for layer in network.layers if not layer.quantised]
        allowed = "" if network.limit is None else f" of {network.limit:g}"
        console.print(
            f"{role}: {len(network.layers) - len(kept)} of {len(network.layers)} layers in int8, change "
            f"{network.error:.2g}{allowed}; in float32: {', '.join(kept) or 'none'}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    console.print(
        f"purified faces change by {cost.rms_grey_levels:.2f} grey levels (root mean square), "
        f"p by {cost.mean_abs_p:.1g} on average, {cost.bits_flipped:.2g} bits of an antibody",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    _figures(console, cost.figures)
    console.print(f"wrote {out} (manifest sha256 {made.sha256[:12]})", highlight=False, soft_wrap=True)


def _figures(console: Console, figures: Sequence[Figure]) -> None:
    if not figures:
        console.print("recognition was not measured: give --recognizer", highlight=False)
        return
    table = Table("figure", title="recognition, %", title_justify="left")
    for heading in ("before", "after", "cost"):
        table.add_column(heading, justify="right")
    for figure in figures:
        table.add_row(figure.name, f"{figure.before:.2f}", f"{figure.after:.2f}", f"{figure.cost:+.2f}")
    console.print(table)
