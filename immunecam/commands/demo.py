"""``immunecam demo --attack``: people, two attackers, and what the gate says before and after purification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from immunecam.commands.options import BundleState, Json, Provider, TrustedKey, trust_of
from immunecam.commands.outputs import check_outputs
from immunecam.commands.progress import one_bar
from immunecam.commands.requirements import require_device, require_training
from immunecam.errors import InputError, UsageError
from immunecam.reports.style import require_plots

if TYPE_CHECKING:
    from immunecam.benchmarks.demonstration.people import People
    from immunecam.benchmarks.demonstration.trial import Judge

__all__ = ["demo"]

_SCHEMA = "immunecam.demo/1"
_DATA = Path("../shared/data")  # as for the tests
_THRESHOLD_PAIRS = 200


def demo(
    attack: Annotated[
        bool, typer.Option("--attack", help="Attack a recogniser, and show what purification does to the attack.")
    ] = False,
    recognizer: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="TorchScript .pt or .onnx recogniser to attack."),
    ] = None,
    faces: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FOLDER", help="A folder of pictures, or one picture, for each person."),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            envvar="IMMUNECAM_DATA",
            help="Folder as for evaluate, whose people are shown without --faces. Default: ../shared/data if it is "
            "there, else the people of the installed clip, who do not exist.",
        ),
    ] = None,
    bundle: Annotated[Optional[Path], typer.Option(help="Bundle; default: the installed one.")] = None,  # noqa: UP045
    provider: Annotated[Provider, typer.Option(help="Backend of the purifier.")] = Provider.auto,
    epsilon: Annotated[float, typer.Option(help="Largest change of a pixel, in grey levels of 255.")] = 8.0,
    threshold: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Cosine from which the recogniser accepts. Default: of best accuracy on clean pairs."),
    ] = None,
    people: Annotated[int, typer.Option(min=2, max=64, help="Of the faces, the first so many.")] = 4,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="For attack.png and attack.mp4; made if missing.")
    ] = Path("attack-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="PyTorch device of the attacks; auto takes a CUDA card if any.")] = "auto",
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    json_report: Json = None,
) -> None:
    """Show dodging and impersonation of a recogniser, before and after purification, as a sheet and a clip."""
    if not attack:
        raise UsageError("there is one demonstration: give --attack (a clip is purified by immunecam purify)")
    if recognizer is None:
        raise UsageError("an attack needs a recogniser: give --recognizer FILE (.pt or .onnx)")
    if not 0 < epsilon <= 255:
        raise UsageError(f"the budget is {epsilon:g} grey levels, but it must be above 0 and at most 255")
    if threshold is not None and not -1 < threshold < 1:
        raise UsageError(f"the threshold is {threshold:g}, but a cosine to decide by lies between -1 and 1")
    check_outputs(json_report)
    if out.exists() and not out.is_dir():
        raise UsageError(f"the output {str(out)!r} is a file, but sheet and clip go into a folder: name one")
    require_training()
    require_plots("sheet and clip")
    device = require_device(device)
    import torch

    from immunecam.benchmarks.demonstration.clip import write_clip
    from immunecam.benchmarks.demonstration.sheet import write_sheet
    from immunecam.benchmarks.demonstration.trial import Judge, counted, run_trials
    from immunecam.runtime.purifier import Purifier
    from immunecam.runtime.report import write_report
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.recognizer import Recognizer

    keep_freed_memory()
    torch.manual_seed(seed)
    if data is None and (_DATA / "lfw").is_dir():
        data = _DATA
    console = Console(markup=False)
    with (
        one_bar("faces", transient=True) as tell,
        Purifier.load(bundle, provider=provider.value, seed=seed, trust=trust_of(trust, bundle_state)) as purifier,
    ):
        who = _people(faces, data, people)
        tell("recogniser", 0, None)
        judge = Judge(Recognizer.load(recognizer, device=device), purifier, threshold or 0.0, device)
        origin = "as given"
        if threshold is None:
            tell("threshold", 0, None)
            judge, origin = _with_threshold(judge, who, data if faces is None else None)
        trials = run_trials(who, judge, epsilon, tell)
        about = (
            f"{who.origin}; recogniser {judge.recognizer.name}, threshold {judge.threshold:.3f} ({origin}); "
            f"bundle {purifier.bundle.name} ({purifier.mutation})"
        )
        sheet, clip = out / "attack.png", out / "attack.mp4"
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_sheet(trials, epsilon, about, sheet)
        except OSError as error:
            raise InputError(f"the folder {str(out)!r} cannot be written ({error.strerror}): name another") from None
        write_clip(trials, judge, epsilon, clip, tell)
    if json_report is not None:
        write_report(
            json_report,
            _SCHEMA,
            [row for trial in trials for row in trial.rows()],
            bundle_sha256=purifier.bundle.sha256,
            provider=purifier.provider,
            mutation=purifier.mutation,
            recognizer={"name": judge.recognizer.name, "sha256": judge.recognizer.sha256},
            faces=who.origin,
            people=len(who),
            threshold=judge.threshold,
            threshold_origin=origin,
            epsilon_grey_levels=epsilon,
            seed=seed,
            device=device,
        )
    for line in (about, *counted(trials)):
        console.print(line, highlight=False, soft_wrap=True)
    written = [str(file) for file in (sheet, clip, json_report) if file is not None]
    console.print(f"wrote {', '.join(written)}", highlight=False, soft_wrap=True)


def _people(faces: Path | None, data: Path | None, count: int) -> People:
    from immunecam.benchmarks.demonstration.people import People

    if faces is not None:
        return People.from_folder(faces, count)
    return People.from_clip() if data is None else People.from_data(data, count)


def _with_threshold(judge: Judge, people: People, data: Path | None) -> tuple[Judge, str]:
    """The judge with a threshold of clean faces, and of which: known pairs of the data, else those that are shown."""
    import dataclasses

    from immunecam.benchmarks.demonstration.trial import margin_threshold

    if data is None:
        found = margin_threshold(judge, people)
        return dataclasses.replace(judge, threshold=found), "of these faces alone, too few for a door"
    from immunecam.benchmarks import robustness
    from immunecam.benchmarks.evaluation import metrics
    from immunecam.benchmarks.evaluation.pairs import load_pairs

    training, _ = robustness.load_faces(data)
    known = load_pairs(data / "lfw" / "pairs.csv", training, robustness.TRAINING_FOLDS)
    each = min(_THRESHOLD_PAIRS // 2, int(known.same.sum()), int((~known.same).sum()))
    known = known.first(2 * each)
    cosines = judge.cosines(known.left, known.right).astype(float)
    best = round(metrics.best_threshold(cosines, known.same), 4)
    return dataclasses.replace(judge, threshold=best), f"best accuracy on {2 * each} clean pairs of other people"
