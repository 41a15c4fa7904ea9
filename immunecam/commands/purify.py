"""``immunecam purify``: frames in, frames with purified faces out."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from immunecam.commands.options import (
    BundleState,
    Colour,
    Json,
    Liveness,
    LivenessView,
    LivenessViewed,
    Mutation,
    Provider,
    TrustedKey,
    log_to_stderr,
    trust_of,
)
from immunecam.errors import InputError, UsageError
from immunecam.runtime.frame_interrupt import FrameInterrupt

if TYPE_CHECKING:
    from immunecam.runtime.faces import ColourMode, FaceFinder
    from immunecam.runtime.frames import Frame, FrameSource
    from immunecam.runtime.liveness import LivenessDetector, LivenessResult
    from immunecam.runtime.purifier import FrameResult, Purifier
    from immunecam.runtime.shared_analysis import SharedAnalysis

__all__ = ["purify"]

_STAGES = ("find", "align", "analyze", "mutate", "project", "restore", "engine", "card", "paste")


_NEWEST = 20_000
"""Measurements that are kept of each kind: a camera has no end, and what is told of it must not fill the memory."""


def _newest() -> deque[float]:
    return deque(maxlen=_NEWEST)


@dataclass
class _Tally:
    frames: int = 0
    faces: int = 0
    stages_s: dict[str, deque[float]] = field(default_factory=dict)  # a frame each
    per_face_s: deque[float] = field(default_factory=_newest)  # align to paste, of frames with faces
    ages_s: deque[float] = field(default_factory=_newest)  # from a live frame's arrival until it was written
    alive: int = 0
    not_alive: int = 0
    scores: deque[float] = field(default_factory=_newest)  # of liveness, a face each
    judged: list[tuple[str, LivenessResult]] | None = None  # of pictures, by the frame's name
    liveness_s: deque[float] = field(default_factory=_newest)  # a face each
    began: float = field(default_factory=time.perf_counter)

    def add(self, timings_ms: dict[str, float], faces: int) -> None:
        self.frames += 1
        self.faces += faces
        for stage, value in timings_ms.items():
            self.stages_s.setdefault(stage, _newest()).append(value / 1000)
        if faces:
            purifying = sum(value for stage, value in timings_ms.items() if stage != "find")
            self.per_face_s.append(purifying / 1000 / faces)

    def judge(self, frame: str, found: list[LivenessResult], seconds: float) -> None:
        alive = sum(one.live for one in found)
        self.alive, self.not_alive = self.alive + alive, self.not_alive + len(found) - alive
        self.scores.extend(one.score for one in found)
        self.liveness_s.extend([seconds / len(found)] * len(found))
        if self.judged is not None:
            self.judged += [(frame, one) for one in found]


@dataclass(frozen=True)
class _Judge:
    """Asks a liveness network of the faces of a purified frame, and marks them."""

    detector: LivenessDetector
    view: str

    def marked(self, frame: Frame, result: FrameResult, tally: _Tally) -> NDArray[np.uint8]:
        from immunecam.runtime.faces.liveness_mark import mark_liveness

        if not result.faces:
            return result.frame
        began = time.perf_counter()
        found = self.detector.judge(result.frame if self.view == "purified" else frame.image, result.faces)
        tally.judge(frame.name, found, time.perf_counter() - began)
        return mark_liveness(result.frame, result.faces, found)


@dataclass
class _Work:
    """What is done to every frame of a source."""

    purifier: Purifier
    finder: FaceFinder | None
    shared: SharedAnalysis | None
    judge: _Judge | None
    colour: ColourMode

    def done(self, frame: Frame, tally: _Tally) -> NDArray[np.uint8]:
        """The frame with its faces purified, and marked if they are judged."""
        result = self.purifier.purify_frame(frame.image, self.finder, colour=self.colour, shared=self.shared)
        tally.add(result.timings_ms, len(result.faces))
        return result.frame if self.judge is None else self.judge.marked(frame, result, tally)


class _Output:
    """Work on frames that are done, in order and beside the next one: a slow disk or encoder holds up two at most."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="output")
        self._waiting: deque[Future[None]] = deque()

    def put(self, work: Callable[[], None]) -> None:
        """Have it done; raises what earlier work raised."""
        while len(self._waiting) >= 2:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(work))

    def __enter__(self) -> _Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._thread:  # all is done when this ends
            if error is None:
                while self._waiting:
                    self._waiting.popleft().result()


def purify(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="Picture, folder, video, camera number, or rtsp/http URL."),
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(
            "-o",
            "--out",
            help="Picture, folder or video to write; with several sources, their names are added.",
        ),
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Bundle, NAME.immune; default: the bundled one.")] = None,
    provider: Annotated[Provider, typer.Option(help="Backend.")] = Provider.auto,
    mutation: Annotated[Mutation, typer.Option(help="How probabilities become an antibody.")] = Mutation.sample,
    seed: Annotated[int | None, typer.Option(help="Fixed seed, for audit; default: secret, from the system.")] = None,
    finder: Annotated[Optional[Path], typer.Option(help="YuNet file; default: the bundled finder.")] = None,  # noqa: UP045
    colour: Annotated[Colour, typer.Option(help="Keep the chroma, or make faces grey as published.")] = Colour.keep,
    follow: Annotated[
        Optional[bool],  # noqa: UP045
        typer.Option(
            help="Search for faces now and then, and follow them in between; --no-follow searches every frame. "
            "Default: follow on cameras and streams."
        ),
    ] = None,
    share_analysis: Annotated[
        bool,
        typer.Option(
            "--share-analysis", help="Analyse a followed face anew when it has changed only: less work (CPU)."
        ),
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Play videos at their own rate, as cameras: late frames are dropped.")
    ] = False,
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="Write before and after in one frame.")] = False,
    liveness: Liveness = False,
    liveness_view: LivenessViewed = LivenessView.camera,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Stop after this many frames.")] = None,  # noqa: UP045
    threads: Annotated[Optional[int], typer.Option(min=1, help="Threads of the backend.")] = None,  # noqa: UP045
    trust: TrustedKey = None,
    bundle_state: BundleState = None,
    json_report: Json = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say what was chosen, and why.")] = False,
) -> None:
    """Purify the faces of a picture, folder, video, camera or stream."""
    from immunecam.runtime.faces import FollowingFinder
    from immunecam.runtime.frames import FrameSource, LiveSource
    from immunecam.runtime.liveness import LivenessDetector
    from immunecam.runtime.part_network import part_provider
    from immunecam.runtime.purifier import Purifier
    from immunecam.runtime.report import percentiles_ms, write_report
    from immunecam.runtime.shared_analysis import SharedAnalysis

    log_to_stderr(verbose)
    console = Console(markup=False)
    targets = _targets(sources, out)
    from immunecam.runtime.faces import face_finder

    searching = face_finder(finder)
    purifier = Purifier.load(
        bundle,
        provider=provider.value,
        mutation=mutation.value,
        seed=seed,
        threads=threads,
        finder=searching,
        trust=trust_of(trust, bundle_state),
    )
    judge = None
    if liveness:
        on = part_provider(provider.value)
        judge = _Judge(LivenessDetector(purifier.bundle, threads=threads, provider=on), liveness_view.value)
    rows: list[dict[str, Any]] = []
    with purifier:
        for text, target in zip(sources, targets, strict=True):
            with FrameSource.open(text, live=live) as source, contextlib.ExitStack() as held:
                following = None
                if source.live if follow is None else follow:
                    # A file's frames wait, so its search need not run beside them, and the same faces come out again.
                    following = held.enter_context(FollowingFinder(searching, background=source.live))
                shared = None
                if share_analysis:
                    if following is None:
                        raise UsageError(
                            "--share-analysis is for faces that are followed: add --follow, or give a stream"
                        )
                    shared = SharedAnalysis()
                work = _Work(purifier, following, shared, judge, cast("ColourMode", colour.value))
                tally = _one(work, source, target, side_by_side, limit, console)
                status = source.status.to_dict() if isinstance(source, LiveSource) else None
            seconds = time.perf_counter() - tally.began
            row: dict[str, Any] = {
                "source": source.name,
                "out": str(target) if target else None,
                "frames": tally.frames,
                "faces": tally.faces,
                "seconds": round(seconds, 3),
                "frames_per_s": round(tally.frames / seconds, 3),
                **{f"face_{name}": value for name, value in percentiles_ms(tally.per_face_s).items()},
            }
            if following is not None:
                row["searches"] = following.searches
            if shared is not None:
                row["shared"] = shared.shared
            row |= {f"age_{name}": value for name, value in percentiles_ms(tally.ages_s).items()}
            for stage in _STAGES:
                row |= {f"{stage}_{name}": v for name, v in percentiles_ms(tally.stages_s.get(stage, ())).items()}
            if judge is not None:
                row["liveness"] = _liveness(judge, tally)
            if status is not None:
                row["live"] = status
            rows.append(row)
            per_face = f"{row['face_p50_ms']:.1f} ms per face" if tally.faces else "no face found"
            where = f", wrote {target}" if target else ""
            said = "" if judge is None else f", {tally.not_alive} of them not live"
            age = f", {row['age_p95_ms']:.0f} ms old when done (p95)" if tally.ages_s else ""
            console.print(
                f"{tally.frames} frames, {tally.faces} faces{said}, {per_face} "
                f"({purifier.provider}), {row['frames_per_s']:.1f} frames/s{age}{where}",
                highlight=False,
                soft_wrap=True,
            )
    if json_report is not None:
        write_report(
            json_report,
            "immunecam.purify/1",
            rows,
            bundle_sha256=purifier.bundle.sha256,
            provider=purifier.provider,
            mutation=purifier.mutation,
            seed=purifier.fixed_seed if purifier.fixed_seed is not None else "secret",
        )


def _one(
    work: _Work, source: FrameSource, target: Path | None, side_by_side: bool, limit: int | None, console: Console
) -> _Tally:
    from immunecam.runtime.frames import FrameSink, LiveSource

    tally, changed = _Tally(judged=[] if source.kind in ("picture", "folder") else None), None
    size = source.height, source.width
    total = source.frame_count if limit is None else min(limit, source.frame_count or limit)
    sink = (
        FrameSink.open(target, source, width=2 * source.width if side_by_side else None)
        if target is not None
        else contextlib.nullcontext()
    )
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[faces]} faces"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with sink as writer, progress, _Output() as output, FrameInterrupt() as interrupt:
        task = progress.add_task(Path(source.name).name, total=total, faces=0)

        def finish(frame: Frame, purified: NDArray[np.uint8]) -> None:
            if writer is not None:
                writer.write(np.hstack([frame.image, purified]) if side_by_side else purified, frame.name)
            if isinstance(source, LiveSource):
                tally.ages_s.append(source.age_s(frame))

        try:
            for frame in source:
                if source.live and writer is not None and frame.image.shape[:2] != size:
                    changed = "{}x{}".format(*frame.image.shape[1::-1])  # a file has one size: what it holds is kept
                    break
                with interrupt.frame():
                    output.put(partial(finish, frame, work.done(frame, tally)))
                    progress.update(task, advance=1, faces=tally.faces)
                if limit is not None and tally.frames >= limit:
                    break
        except KeyboardInterrupt:
            if not source.live:
                raise
            # A camera has no end of its own: Ctrl-C is how its recording is finished, and it is kept.
    if changed is not None:
        raise InputError(
            f"the {source.kind} {source.name} changed its size from {size[1]}x{size[0]} to {changed} after "
            f"{tally.frames} frames, which are kept in {str(target)!r}: start again to write the new size"
        )
    return tally


def _liveness(judge: _Judge, tally: _Tally) -> dict[str, Any]:
    """What was judged, for the report; face by face where the frames are pictures."""
    from immunecam.runtime.report import percentiles_ms

    row: dict[str, Any] = {
        "view": judge.view,
        "threshold": round(judge.detector.threshold, 6),
        "synthetic": judge.detector.record.synthetic,
        "live": tally.alive,
        "not_live": tally.not_alive,
        "score_median": round(float(np.median(tally.scores)), 6) if tally.scores else None,
        **{f"face_{name}": value for name, value in percentiles_ms(tally.liveness_s).items()},
    }
    if tally.judged is not None:
        row["faces"] = [
            {"frame": name, "score": round(found.score, 6), "live": found.live} for name, found in tally.judged
        ]
    return row


def _targets(sources: list[str], out: Path | None) -> list[Path | None]:
    """Where each source goes; several sources share no file, so their names are added to the one given."""
    if out is None:
        return [None] * len(sources)
    if len(sources) == 1:
        return [out]
    stems = [Path(source).stem for source in sources]
    if len(set(stems)) < len(stems):
        raise UsageError(
            f"two sources are called {next(s for s in stems if stems.count(s) > 1)!r}: purify them one by one"
        )
    if out.is_dir():
        return [out / Path(source).name for source in sources]
    return [out.with_name(f"{out.stem}-{stem}{out.suffix}") for stem in stems]
