"""``immunecam masking export``: a trained recogniser of masked faces, and its mask, into a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from immunecam.commands.gate_options import KeyFile, mask_key
from immunecam.commands.masking_material import check_lfw
from immunecam.commands.options import Json, PassphraseFile, SigningKey, signing_key
from immunecam.commands.outputs import check_outputs
from immunecam.commands.requirements import require_training
from immunecam.errors import InputError

__all__ = ["export"]

_FACES = 64  # that the graphs are compared on


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `immunecam masking train`.")],
    into: Annotated[Path, typer.Option(metavar="BUNDLE", help="Bundle's folder, NAME.immune, that gets the part.")],
    faces: Annotated[
        Path,
        typer.Option(help="Folder or zip of aligned 112x112 faces, on which the graphs are compared with PyTorch."),
    ],
    data: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="As of `masking evaluate`: measure recognition, and write it into the manifest."),
    ] = None,
    fold: Annotated[int, typer.Option(help="Fold of the pairs that are judged.")] = 8,
    key_file: KeyFile = None,
    sign: SigningKey = None,
    passphrase_file: PassphraseFile = None,
    json_report: Json = None,
) -> None:
    """Export mask and recogniser to ONNX, compare them with PyTorch, and put them into a bundle. The key stays out."""
    require_training()
    from immunecam.benchmarks.masking.recognition import check_measurable, measure
    from immunecam.export.masking_graphs import masking_graphs
    from immunecam.runtime.bundle_masking import put_masking
    from immunecam.runtime.bundle_parts import check_takes_part
    from immunecam.runtime.masking_record import MaskingRecord
    from immunecam.runtime.report import write_report
    from immunecam.training.faces import FaceSet, from_uint8
    from immunecam.training.masking.trained import load_trained

    check_outputs(json_report)
    private = signing_key(sign, passphrase_file)
    check_takes_part(into, sign=private)
    key = mask_key(key_file)
    recognizer, about = load_trained(run, key)
    if about["config"]["permutation"] == "enrolment":
        raise InputError(
            f"the recogniser {str(run)!r} was trained for an order of each enrolment's own, which would hide nothing "
            "in a gate's store: train one with --permutation fixed"
        )
    if data is not None:  # now, not after the export
        check_lfw(data, fold)
        check_measurable([run], key, data)
    some = FaceSet.load(faces)
    pixels = some.pixels[:: max(1, len(some) // _FACES)][:_FACES]
    with Console(stderr=True).status("exporting") as status:
        exported = masking_graphs(
            recognizer, from_uint8(pixels).numpy(), tell=lambda what: status.update(f"masked recogniser: {what}")
        )
        quality: dict[str, Any] = {}
        if data is not None:
            status.update("masked recogniser: measuring")
            (quality,) = measure([run], key, data, fold)
            quality["fold"] = fold
    mask = recognizer.mask
    assert mask is not None  # masking_graphs refuses one without
    record = MaskingRecord(
        graphs={},
        frequencies=mask.spec.frequencies[0],
        positions=mask.spec.positions,
        size=recognizer.network.size,
        key_check=key.check_value,
        provenance={name: about.get(name) for name in ("config", "faces", "teacher", "start")},
        quality=quality,
        parity=exported.parity,
    )
    bundle = put_masking(into, exported.graphs, record, key, sign=private)
    kept = bundle.manifest.masking
    assert kept is not None
    if json_report is not None:
        write_report(
            json_report, "immunecam.masking-export/1", [kept.to_dict()], bundle_sha256=bundle.sha256, run=run.name
        )
    size = sum(map(len, exported.graphs.values()))
    Console().print(
        f"{into} has a mask now: {kept.channels} frequencies at {kept.positions} positions, and its recogniser, {size} "
        f"bytes; ONNX and PyTorch differ by {exported.parity['max_one_minus_cosine']:.1g} in a cosine; keep the key, "
        "which is not in it",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
