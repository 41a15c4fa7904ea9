"""``immunecam liveness export``: a trained liveness network into a bundle."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from immunecam.commands.liveness_set import CelebaLimit, read_liveness_set
from immunecam.commands.options import Json, PassphraseFile, SigningKey, signing_key
from immunecam.commands.outputs import check_outputs
from immunecam.commands.requirements import require_training
from immunecam.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["export"]

_FEWEST = 16  # faces of each class


class LivenessPrecision(str, Enum):
    """What the network computes in."""

    int8 = "int8"
    fp32 = "fp32"


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `immunecam liveness train`.")],
    into: Annotated[Path, typer.Option(metavar="BUNDLE", help="Bundle's folder, NAME.immune, that gets the network.")],
    data: Annotated[
        Path,
        typer.Option(
            help="A set of `make`, of people the network has not seen, or CelebA-Spoof's folder: its test part is "
            "taken, every second face chooses ranges and threshold, the others are measured on."
        ),
    ],
    limit: CelebaLimit = 10000,
    precision: Annotated[
        LivenessPrecision, typer.Option(help="What the network computes in; refused if int8 costs too much.")
    ] = LivenessPrecision.int8,
    calibration: Annotated[int, typer.Option(min=8, help="Faces that the ranges of int8 are taken from.")] = 64,
    most_change: Annotated[
        float, typer.Option(min=0, help="Mean change of a score by int8; layers stay in float32 until it holds.")
    ] = 0.01,
    most_points: Annotated[
        float, typer.Option(min=0, help="Right decisions that int8 may cost, in percentage points.")
    ] = 0.5,
    sign: SigningKey = None,
    passphrase_file: PassphraseFile = None,
    json_report: Json = None,
) -> None:
    """Export a liveness network to ONNX, compare it with PyTorch, and put it into a bundle with its threshold."""
    require_training()
    import torch

    from immunecam.export.liveness_graph import liveness_graph
    from immunecam.models.liveness_loss import LIVE
    from immunecam.runtime.bundle_liveness import put_liveness
    from immunecam.runtime.bundle_parts import check_takes_part
    from immunecam.runtime.liveness_record import LivenessCrop, LivenessRecord
    from immunecam.runtime.report import write_report
    from immunecam.training.faces import from_uint8
    from immunecam.training.liveness.errors import equal_error_threshold, live_scores, presentation_errors
    from immunecam.training.liveness.trained import check_fits, crop_of, load_trained

    check_outputs(json_report)
    key = signing_key(sign, passphrase_file)
    check_takes_part(into, sign=key)
    network, about = load_trained(run)
    faces = read_liveness_set(data, "test", side=network.side, limit=limit)
    check_fits(run, network, about, faces)
    faces.check(())
    choosing, judging = faces.halves()
    few = min(int((part.labels.live == value).sum()) for part in (choosing, judging) for value in (0, 1))
    if few < _FEWEST:
        raise InputError(
            f"the set {str(data)!r} has {few} faces of a class in one of its halves, but {_FEWEST} are the fewest to "
            "choose a threshold by: make a larger one"
        )
    threshold = equal_error_threshold(live_scores(network, choosing), choosing)
    ranges = _balanced(choosing.labels.live)[:calibration]
    trial = from_uint8(judging.pixels).numpy()
    console = Console(stderr=True)
    with console.status("exporting") as status:
        graph = liveness_graph(
            network,
            precision=precision.value,
            calibration=from_uint8(choosing.pixels[ranges]).numpy(),
            trial=trial,
            live=(judging.labels.live == LIVE).numpy(),
            threshold=threshold,
            limit=most_change,
            most_points=most_points,
            tell=lambda what: status.update(f"liveness network: {what}"),
        )
    errors = presentation_errors(torch.from_numpy(graph.scores(trial)), judging, threshold)
    record = LivenessRecord(
        file="",
        side=network.side,
        crop=LivenessCrop(**crop_of(about)),
        threshold=threshold,
        precision=precision.value,
        synthetic=faces.synthetic,
        provenance={"backbone": network.backbone, "tasks": list(network.tasks), "set": about["faces"]["origin"],
                    "config": about["config"], "faces": about["faces"]["counts"]},
        quality={"set": faces.origin, "faces": judging.counts(), **errors.to_dict(synthetic=faces.synthetic)},
        parity=graph.parity,
    )  # fmt: skip
    bundle = put_liveness(into, graph.data, record, sign=key)
    kept = bundle.manifest.liveness
    assert kept is not None
    if json_report is not None:
        write_report(
            json_report, "immunecam.liveness-export/1", [kept.to_dict()], bundle_sha256=bundle.sha256, run=str(run)
        )
    word = "synthetic spoofs" if faces.synthetic else faces.origin
    Console().print(
        f"{into} has a liveness network now: {network.backbone} in {precision.value}, {len(graph.data)} bytes, a face "
        f"passes from {threshold:.3f} on; on {len(judging)} faces of {word}: BPCER {errors.bpcer:.1%}, worst APCER "
        f"{max(errors.apcer.values()):.1%}, ACER {errors.acer:.1%}; no certified presentation attack detection",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _balanced(live: Tensor) -> Tensor:
    """Numbers of all faces, a live one and a spoof in turn as long as there are both."""
    import torch

    first, second = (torch.nonzero(live == value).flatten() for value in (0, 1))
    least = min(len(first), len(second))
    turns = torch.stack([first[:least], second[:least]], 1).flatten()
    return torch.cat([turns, first[least:], second[least:]])
