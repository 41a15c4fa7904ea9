"""``immunecam gate calibrate``: from a false match rate to a threshold, with purification and without."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console

from immunecam.commands.gate_options import GateOptions
from immunecam.commands.options import Json, log_to_stderr
from immunecam.commands.outputs import check_outputs
from immunecam.commands.progress import counter
from immunecam.commands.shared_options import with_shared_options
from immunecam.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from immunecam.runtime.gate.calibration import Calibration
    from immunecam.runtime.gate.calibration_faces import CalibrationFaces
    from immunecam.runtime.gate.evidence import Evidence

__all__ = ["calibrate"]

_BATCH = 32


@with_shared_options
def calibrate(
    gate: GateOptions,
    data: Annotated[Path, typer.Option(help="Folder with a folder of pictures for each person.")],
    fmr: Annotated[float, typer.Option(help="False match rate to keep, such as 1e-4.")],
    pairs: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="CSV with left, right (paths below the folder) and same; else all pairs are compared."),
    ] = None,
    people: Annotated[
        int, typer.Option(min=1, help="For 1:N: people to be enrolled, over whom the rate is divided.")
    ] = 1,
    false_alarm: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.5,
            help="Share of these clean faces beyond whose quantile, with a margin, an attack is suspected; 0: never.",
        ),
    ] = 0.01,
    aligned: Annotated[bool, typer.Option("--aligned", help="Pictures are aligned 112x112 faces already.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Report only; keep nothing in the store.")] = False,
    json_report: Json = None,
) -> None:
    """Find the threshold for a false match rate, on faces of your own, and keep it in the store.

    With purification the same is found without it, to show what it changes; the store keeps that of its setting.
    """
    import numpy as np

    from immunecam.runtime.gate.calibration_faces import CalibrationFaces, read_pairs
    from immunecam.runtime.gate.operating_point import OperatingPoint
    from immunecam.runtime.report import write_report

    log_to_stderr(False)
    if not 0 < fmr < 0.5:
        raise UsageError(f"--fmr is {fmr!r}, but a rate to calibrate to must be above 0 and below 0.5")
    check_outputs(json_report)
    table = None if pairs is None else read_pairs(pairs)
    only = None if table is None else {name for left, right, _ in table for name in (left, right)}
    console = Console()
    with gate.open(create=True) as opened:
        observer = opened.observer
        with counter() as progress:
            task = progress.add_task("reading", total=None)
            faces = CalibrationFaces.load(
                data,
                observer,
                aligned=aligned,
                only=only,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
            progress.update(task, description="comparing", completed=0, total=len(faces.names))
            plain, purified = list["NDArray[np.float32]"](), list["NDArray[np.float32]"]()
            evidence: list[Evidence] = []
            for start in range(0, len(faces.names), _BATCH):
                crops = faces.crops[start : start + _BATCH]
                plain.append(observer.embedder.embed(crops))
                if observer.purifier is not None:
                    observed = observer.observe(crops, _grey(crops))
                    purified.append(observed.embeddings)
                    evidence += observed.evidence
                progress.update(task, completed=start + len(crops))
        settings = {"none": np.concatenate(plain)}
        if purified:
            settings["purified"] = np.concatenate(purified)
        found = {name: _calibrated(e, faces, table, fmr / people) for name, e in settings.items()}
        limits, why = _limits(evidence, false_alarm)
        for name, one in found.items():
            _tell(console, name, one)
        console.print(why, highlight=False, soft_wrap=True)
        if faces.skipped:
            console.print(f"{len(faces.skipped)} pictures were left out: no face, or too poor", highlight=False)
        own = found["purified" if observer.purifier is not None else "none"]
        if json_report is not None:
            rows = [{"purification": name, **one.to_dict()} for name, one in found.items()]
            write_report(
                json_report,
                "immunecam.gate.calibration/1",
                rows,
                bundle_sha256=observer.purifier.bundle.sha256 if observer.purifier is not None else None,
                recognizer=opened.store.setting.recognizer_name,
                recognizer_identity=opened.store.setting.recognizer,
                purification=opened.store.setting.purification_name,
                people_enrolled=people,
                faces=len(faces.names),
                people=int(faces.people.max()) + 1,
                skipped=len(faces.skipped),
                evidence={"false_alarm_target": false_alarm, **limits},
            )
        own.check_supported()
        if not dry_run:
            setting = opened.store.setting
            identities = (setting.recognizer, setting.purification)
            point = OperatingPoint(own.threshold, *identities, own.target, own.fmr_high, **limits, rates=own.rates)
            opened.calibrated(point, {"fmr_target": own.target, "fmr_high": own.fmr_high, "fnmr": own.fnmr, **limits})
            console.print(f"the store {gate.store} keeps the threshold {own.threshold:.4f}", highlight=False)


def _calibrated(
    embeddings: NDArray[np.float32], faces: CalibrationFaces, table: list[tuple[str, str, bool]] | None, target: float
) -> Calibration:
    import numpy as np

    from immunecam.runtime.gate.calibration import calibrate_identities, calibrate_pairs

    if table is None:
        return calibrate_identities(embeddings, faces.people, target)
    number = {name: index for index, name in enumerate(faces.names)}
    rows = [row for row in table if row[0] in number and row[1] in number]
    left, right = ([number[row[side]] for row in rows] for side in (0, 1))  # type: ignore[index]
    same = np.array([row[2] for row in rows], bool)
    if not same.any() or same.all():
        raise InputError(f"{len(rows)} pairs are left, but some of one person and of different people are wanted")
    return calibrate_pairs((embeddings[left] * embeddings[right]).sum(1).astype(np.float64), same, target)


def _limits(evidence: list[Evidence], false_alarm: float) -> tuple[dict[str, float | None], str]:
    """Half of the false alarms for each sign; none where the faces are too few to place a quantile."""
    from immunecam.runtime.gate.evidence import MARGIN, evidence_limits

    nothing: dict[str, float | None] = {"residual_limit": None, "cosine_limit": None}
    if not evidence or not false_alarm:
        return (
            nothing,
            "no face will be suspected of an attack: there is no evidence without purification, or none is wanted",
        )
    found = evidence_limits(evidence, false_alarm)
    if found is None:
        return nothing, (
            f"no face will be suspected of an attack: for a false alarm of {false_alarm:g}, {len(evidence)} faces are "
            f"too few, {6 / false_alarm:.0f} are needed"
        )
    residual, cosine = found
    return (
        {"residual_limit": residual, "cosine_limit": cosine},
        f"suspected of an attack: residual energy above {residual:.4f}, or cosine before and after below {cosine:.3f} "
        f"({MARGIN:g} times as far as {false_alarm:g} of {len(evidence)} clean faces)",
    )


def _tell(console: Console, name: str, one: Any) -> None:
    title = {"none": "without purification", "purified": "with purification"}[name]
    console.print(
        f"{title}: threshold {one.threshold:.4f} ({one.threshold_low:.4f} to {one.threshold_high:.4f}) for a false "
        f"match rate of {one.target:g}, measured {one.fmr:.2g} ({one.fmr_low:.2g} to {one.fmr_high:.2g}), false "
        f"non-match rate {one.fnmr:.2%} ({one.fnmr_low:.2%} to {one.fnmr_high:.2%}); {one.comparisons:,} comparisons "
        f"of different people, {one.independent:,} of them independent",
        highlight=False,
        soft_wrap=True,
    )


def _grey(crops: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2
    import numpy as np

    return np.stack([np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY), np.uint8) for crop in crops])
