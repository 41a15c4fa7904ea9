"""``immunecam masking evaluate``: the report on masked recognition, as tables, JSON, a page and pictures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.table import Table

from immunecam.commands.gate_options import KeyFile, mask_key
from immunecam.commands.masking_material import check_lfw
from immunecam.commands.options import BundleState, Json, TrustedKey, trust_of
from immunecam.commands.outputs import check_outputs, make_folder
from immunecam.commands.progress import bars, named_bars
from immunecam.commands.requirements import require_training
from immunecam.errors import InputError, UsageError

__all__ = ["evaluate"]


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of `immunecam masking train`.")],
    data: Annotated[Path, typer.Option(help="Folder with lfw/train_112.zip, lfw/dev_112.zip and lfw/pairs.csv.")],
    key_file: KeyFile = None,
    fold: Annotated[int, typer.Option(help="Fold of the pairs that are judged.")] = 8,
    bundle: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(
            help="Bundle that purifies faces before they are masked, as a gate does: recognition behind it, too."
        ),
    ] = None,
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    recognizer: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Recogniser of plain faces that judges what attackers see; not the teacher. None: no attacks."
        ),
    ] = None,
    own: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The attacker's own recogniser, for inversion by a GAN. None: no inversion."),
    ] = None,
    work: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder that keeps what takes time; run again, it goes on where it was."),
    ] = None,
    people: Annotated[int, typer.Option(min=2, help="That recoveries are judged on, a picture of each.")] = 100,
    network_steps: Annotated[
        int, typer.Option(min=0, help="Batches of the network that recovers faces; 0 leaves it out.")
    ] = 1500,
    gan_steps: Annotated[int, typer.Option(min=1, help="Batches of the generator's training.")] = 3000,
    inverted: Annotated[int, typer.Option(min=2, help="People whose templates are inverted.")] = 20,
    search_steps: Annotated[int, typer.Option(min=1, help="Steps of a white-box search.")] = 100,
    queries: Annotated[int, typer.Option(min=40, help="Faces that a black-box search shows at most.")] = 2000,
    mixing: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSON report of `masking compare`, to be part of this one."),
    ] = None,
    speed: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSON report of `python -m immunecam.benchmarks.masking_speed`, likewise."),
    ] = None,
    docs: Annotated[Optional[Path], typer.Option(metavar="PAGE", help="Write the page, as Markdown.")] = None,  # noqa: UP045
    pictures: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for sheets of originals above what was seen; they show real people."),
    ] = None,
    json_report: Json = None,
) -> None:
    """Measure recognition on LFW's pairs, at a threshold from people that the run held out, and what attackers see."""
    require_training()
    from immunecam.benchmarks.masking.evaluation import SCHEMA
    from immunecam.benchmarks.masking.evaluation import evaluate as evaluated
    from immunecam.benchmarks.masking.mixing import SCHEMA as MIXING
    from immunecam.benchmarks.masking.page import markdown
    from immunecam.benchmarks.masking_speed import SCHEMA as SPEED
    from immunecam.files import written_whole
    from immunecam.runtime.bundle import Bundle
    from immunecam.runtime.report import read_report, write_report
    from immunecam.training.allocator import keep_freed_memory
    from immunecam.training.attacks.gan_trainer import GanConfig
    from immunecam.training.attacks.recovery_trainer import RecoveryConfig
    from immunecam.training.masking.trained import is_masked
    from immunecam.training.recognizer import Recognizer

    for option, given in (("own", own), ("pictures", pictures)):
        if given is not None and recognizer is None:
            raise UsageError(
                f"--{option} is for attacks, which an independent recogniser judges: give --recognizer, too"
            )
    check_outputs(json_report, docs)
    check_lfw(data, fold)
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise UsageError(f"two runs are called {max(names, key=names.count)!r}: rename one, for reports go by names")
    key = mask_key(key_file) if any(is_masked(run) for run in runs) else None
    compared = [] if mixing is None else read_report(mixing, MIXING, "immunecam masking compare").get("rows", [])
    timed = [] if speed is None else read_report(speed, SPEED, "immunecam.benchmarks.masking_speed").get("rows", [])
    for folder in (work, pictures):
        if folder is not None:
            make_folder(folder)
    loaded = None if bundle is None else Bundle.load(bundle, trust=trust_of(trust, bundle_state))
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as passing, bars() as progress:
        found = evaluated(
            runs,
            key,
            data,
            work or Path(passing),
            fold=fold,
            bundle=loaded,
            judge=None if recognizer is None else Recognizer.load(recognizer),
            own=None if own is None else Recognizer.load(own),
            people=people,
            recovery=RecoveryConfig(steps=network_steps) if network_steps else None,
            gan=GanConfig(steps=gan_steps),
            inverted=inverted,
            search_steps=search_steps,
            queries=queries,
            pictures=pictures,
            tell=named_bars(progress),
        )
    _print(found)
    parts = {"recovery": found["recovery"], "inversion": found["inversion"], "mixing": compared, "speed": timed}
    report = {"rows": found["recognition"], "fold": fold, **parts}
    if json_report is not None:
        write_report(
            json_report, SCHEMA, found["recognition"], bundle_sha256=loaded and loaded.sha256, fold=fold, **parts
        )
    if docs is not None:
        try:
            with written_whole(docs) as partial:
                partial.write_text(markdown(report))
        except OSError as error:
            raise InputError(f"the page {str(docs)!r} cannot be written ({error.strerror}): name another") from None


def _print(found: dict[str, list[dict[str, Any]]]) -> None:
    console = Console()
    table = Table(
        "run", "channels", "purified", "mixing", "threshold", "accuracy, % (95 %)", "accepted, %", "rejected, %"
    )
    for row in found["recognition"]:
        sees = f"{row['channels']} at {row['positions']}" if row["masked"] else "plain"
        table.add_row(
            row["run"],
            sees,
            row["purified_by"] or "",
            row["mixing"],
            f"{row['threshold_cosine']:.3f}",
            f"{row['accuracy_percent']:.1f} ({row['accuracy_low_percent']:.1f} to {row['accuracy_high_percent']:.1f})",
            f"{row['same_accepted_percent']:.1f}",
            f"{row['different_rejected_percent']:.1f}",
        )
    console.print(table)
    for kind, first in (("recovery", "seen"), ("inversion", "box")):
        if not found[kind]:
            continue
        table = Table("run", kind, "SSIM", "PSNR, dB", "verified, %", "identified, %", "privacy")
        for row in found[kind]:
            scores = (f"{row['ssim']:.3f}", f"{row['psnr_db']:.1f}", f"{row['verified_percent']:.1f}")
            table.add_row(row["run"], row[first], *scores, f"{row['identified_percent']:.1f}", f"{row['privacy']:.3f}")
        console.print(table)
