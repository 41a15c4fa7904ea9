"""The gate: who is enrolled, who stands before the camera, and what is written down about it."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import NotLiveError, UsageError
from immunecam.runtime.faces import FaceFinder, FollowingFinder, face_finder
from immunecam.runtime.gate.audit_log import AuditLog, Retention
from immunecam.runtime.gate.change_record import recorded
from immunecam.runtime.gate.decision import Decider, Decision
from immunecam.runtime.gate.embedder import Embedder, FaceEmbedder
from immunecam.runtime.gate.enrolment import Enrolment, Portraits
from immunecam.runtime.gate.event import GateEvent
from immunecam.runtime.gate.images import ImageArchive
from immunecam.runtime.gate.keys import GateKey
from immunecam.runtime.gate.matcher import Match
from immunecam.runtime.gate.observer import FaceObserver
from immunecam.runtime.gate.operating_point import OperatingPoint
from immunecam.runtime.gate.person_name import check_name
from immunecam.runtime.gate.quality import ENROLMENT, PROBE, QualityLimits
from immunecam.runtime.gate.recognizer import RecognizerSpec
from immunecam.runtime.gate.store import TemplateStore
from immunecam.runtime.gate.track import FaceTracker, Sighting, Track
from immunecam.runtime.masking import MaskedEmbedder
from immunecam.runtime.report import versions

if TYPE_CHECKING:
    from immunecam.runtime.liveness import LivenessDetector
    from immunecam.runtime.purifier import Purifier

__all__ = ["AccessGate"]

_REMEMBERED = 16  # faces of a track among which good ones are looked for, the newest

_log = logging.getLogger(__name__)


class AccessGate:
    """Enrols, verifies (1:1), identifies (1:N) and forgets people. Made by :meth:`open`; for one thread.

    A decision rests on the faces of one track that are good enough, see :class:`Decider`. Every decision is in the
    audit trail before it is given.
    """

    def __init__(
        self,
        store: TemplateStore,
        observer: FaceObserver,
        audit: AuditLog,
        key: GateKey,
        *,
        threshold: float | None = None,
        min_frames: int = 3,
        limits: QualityLimits = PROBE,
        images: ImageArchive | None = None,
    ) -> None:
        """Put a gate together from its parts; :meth:`open` is the usual way.

        Parameters
        ----------
        store, observer, audit, key
            All of one gate: the store's setting is the observer's, and its anchor the trail's.
        threshold, min_frames, limits
            As for :meth:`open`.
        images : ImageArchive, optional
            Gets the aligned face of every decision; None keeps none.
        """
        if min_frames < 1:
            raise UsageError(f"min_frames is {min_frames}, but a decision needs 1 face or more")
        if threshold is not None and not -1 <= threshold <= 1:
            raise UsageError(f"the threshold is {threshold!r}, but a cosine is from -1 to 1")
        self.store, self.observer, self.audit, self.min_frames = store, observer, audit, min_frames
        self._decider = Decider(store, observer, min_frames, limits)
        self._threshold, self._images = threshold, images
        purifier = observer.purifier
        spec, liveness = observer.embedder.spec, observer.liveness
        self._models: dict[str, Any] = {
            "bundle_sha256": purifier.bundle.sha256 if purifier else None,
            "mutation": purifier.mutation if purifier else None,
            # The seed itself would tell every antibody to come.
            "seed_commitment": purifier.seed_commitment(key.derive("seed commitment")) if purifier else None,
            "models": {
                "recognizer": spec.name,
                "recognizer_sha256": spec.sha256,
                "bundle": purifier.bundle.name if purifier else None,
                "provider": purifier.provider if purifier else None,
                "finder": type(observer.finder).__name__,
                **({} if liveness is None else {**liveness.about, "liveness_view": observer.liveness_view}),
                **{name: version for name, version in versions().items() if name in ("immunecam", "onnxruntime")},
            },
        }
        if store.restored is not None:
            self.audit.append("restored", {"reason": store.restored, "generation": store.generation})

    @classmethod
    def open(
        cls,
        store: str | os.PathLike[str],
        key: GateKey,
        recognizer: RecognizerSpec | FaceEmbedder | str | os.PathLike[str],
        *,
        purify: bool = True,
        purifier: Purifier | None = None,
        finder: FaceFinder | None = None,
        liveness: LivenessDetector | None = None,
        liveness_view: str = "camera",
        create: bool = False,
        threshold: float | None = None,
        min_frames: int = 3,
        limits: QualityLimits = PROBE,
        audit: str | os.PathLike[str] | None = None,
        retention: Retention | None = None,
        save_images: bool = False,
        threads: int | None = None,
    ) -> AccessGate:
        """Open a gate.

        Parameters
        ----------
        store : path
            Of the template store.
        key : GateKey
        recognizer : RecognizerSpec or path of its TOML, or FaceEmbedder
            A :class:`~immunecam.runtime.masking.MaskedEmbedder` recognises faces masked: after purification, before
            anything is compared or stored.
        purify : bool
            Whether faces are purified, of gallery and probe alike. A store belongs to one of both.
        purifier : Purifier, optional
            None loads the bundled model; it is closed with the gate.
        finder : FaceFinder, optional
            None takes the bundled one.
        liveness : LivenessDetector, optional
            Judges whether a face is live; one that is not is never granted, but told as "suspected-attack". None asks
            nobody. It is no certified presentation attack detection. It is closed with the gate.
        liveness_view : str
            What it is shown: "camera", faces as they came, or "purified".
        create : bool
            Make the store if there is none.
        threshold : float, optional
            In place of the calibrated one that the store holds.
        min_frames : int
            Good faces of a track that a decision needs; where fewer frames are given, as many as those.
        limits : QualityLimits
            Of probes.
        audit : path, optional
            Folder of the audit trail; None takes `STORE.audit`.
        retention : Retention, optional
            Of the trail, and by the same limits of pictures.
        save_images : bool
            Keep the aligned faces of decisions, encrypted, in the trail's folder.
        threads : int, optional
            Of ONNX Runtime.

        Raises
        ------
        InputError
            If the store, the key, the recogniser or the trail cannot be used.
        UsageError
            If an argument is out of its range.
        BackendMissingError
            If cryptography is not installed.
        """
        from immunecam.runtime.purifier import Purifier

        if purifier is not None and not purify:
            raise UsageError("a purifier was given, but purify is False: leave one of both out")
        if isinstance(recognizer, (str, os.PathLike)):
            recognizer = RecognizerSpec.load(recognizer)
        if save_images and isinstance(recognizer, MaskedEmbedder):
            raise UsageError(
                "faces are recognised masked so that no visible one is stored, but pictures of decisions were to be "
                "kept: leave one of both out"
            )
        if purify and purifier is None:
            purifier = Purifier.load(threads=threads)
        embedder: FaceEmbedder
        embedder = Embedder(recognizer, threads=threads) if isinstance(recognizer, RecognizerSpec) else recognizer
        observer = FaceObserver(
            embedder, finder or face_finder(), purifier, liveness=liveness, liveness_view=liveness_view
        )
        with ExitStack() as held:
            opened = held.enter_context(TemplateStore.open(store, key, observer.setting, create=create))
            folder = Path(f"{os.fspath(store)}.audit") if audit is None else Path(audit)
            images = ImageArchive(folder / "images", key, retention) if save_images else None
            trail = held.enter_context(AuditLog(folder, anchor=opened.anchors, retention=retention))
            gate = cls(
                opened,
                observer,
                trail,
                key,
                threshold=threshold,
                min_frames=min_frames,
                limits=limits,
                images=images,
            )
            held.pop_all()
            return gate

    def close(self) -> None:
        """Give store and trail back; whatever the disk says to one of them, the others are given back, too."""
        with ExitStack() as held:
            if self.observer.purifier is not None:
                held.callback(self.observer.purifier.close)
            if self.observer.liveness is not None:
                held.callback(self.observer.liveness.close)
            held.callback(self.observer.embedder.close)
            held.callback(self.store.close)
            held.callback(self.audit.close)

    def __enter__(self) -> AccessGate:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def given_threshold(self) -> float | None:
        """The threshold that was given in place of the calibrated one."""
        return self._threshold

    def threshold(self) -> float:
        """The score from which a probe is accepted.

        Raises
        ------
        UsageError
            If none was given and the store was not calibrated.
        """
        if self._threshold is not None:
            return self._threshold
        point = self.store.operating_point()
        if point is None:
            raise UsageError(
                "the gate has no threshold: find one by `immunecam gate calibrate`, or give one (--threshold)"
            )
        return point.threshold

    def expected_false_positives(self) -> float | None:
        """How likely a stranger is taken for one of all who are enrolled, by the calibrated false match rate.

        ``1 - (1 - FMR)^N``; None where the threshold was not calibrated. A rate that is fit for 1:1 can be hopeless for
        1:N: calibrate with ``--people N`` for the latter.
        """
        point = self.store.operating_point()
        if self._threshold is not None or point is None or point.fmr_target is None:
            return None
        return float(-np.expm1(len(self.store) * np.log1p(-point.fmr_target)))

    def enrol(
        self,
        person: str,
        frames: Iterable[tuple[str, NDArray[np.uint8]]],
        *,
        replace: bool = False,
        max_templates: int = 5,
        limits: QualityLimits = ENROLMENT,
        allow_not_live: bool = False,
    ) -> Enrolment:
        """Make templates of a person's pictures.

        Parameters
        ----------
        person : str
            1 to 256 printable characters.
        frames : iterable of (str, ndarray of uint8, shape (H, W, 3))
            Name and BGR picture; each must show exactly one face.
        replace : bool
            Forget the templates that the person has; else those are added to.
        max_templates : int
            Of many good pictures the best of as many stretches of the sequence are taken.
        limits : QualityLimits
        allow_not_live : bool
            Take pictures that the gate's liveness network takes for pictures of a picture, such as photos from a file;
            the trail says so.

        Raises
        ------
        NotLiveError
            If the gate has a liveness network and the pictures are not live to it; the trail keeps that.
        InputError
            If no picture is good enough, with the reasons, or the disk fails; nothing is changed then.
        """
        check_name(person)
        try:
            chosen = Portraits.choose(
                person,
                frames,
                self.observer,
                count=max_templates,
                limits=limits,
                point=self.store.operating_point(),
                allow_not_live=allow_not_live,
            )
        except NotLiveError as error:
            self.audit.append(
                "enrolment-refused",
                {"person": person, "reason": str(error), **self._liveness(error.scores), **self._models},
            )
            raise
        resembles = self._resembles(person, chosen.embeddings)
        added = len(chosen.embeddings)
        about = {"person": person, "templates": added, "refused": len(chosen.refused), "replace": replace}
        about |= self._liveness(chosen.liveness) | ({"allow_not_live": True} if allow_not_live else {})
        with recorded(self.audit, self.store, "enrolment", {**about, **self._models}) as more:
            total = self.store.enrol(person, chosen.embeddings, qualities=chosen.qualities, replace=replace)
            more["total"] = total
        return Enrolment(person, added, total, chosen.refused, resembles)

    def _liveness(self, scores: Sequence[float]) -> dict[str, float]:
        """What the trail says of pictures to enrol: their median, and what is wanted."""
        detector = self.observer.liveness
        if detector is None or not scores:
            return {}
        return {"liveness": float(np.median(scores)), "liveness_threshold": detector.threshold}

    def delete(self, person: str) -> None:
        """Forget a person; the audit trail keeps that, and earlier decisions.

        Raises
        ------
        InputError
            If nobody of that name is enrolled, or the disk fails.
        """
        with recorded(self.audit, self.store, "deletion", {"person": person}):
            self.store.delete(person)

    def verify(self, person: str, frames: Iterable[NDArray[np.uint8]]) -> GateEvent:
        """1:1: whether the face of these frames is that of `person`.

        Parameters
        ----------
        person : str
        frames : iterable of ndarray of uint8, shape (H, W, 3)
            BGR, following each other. The track that is seen most, then the largest, is judged.

        Raises
        ------
        InputError
            If nobody of that name is enrolled, a frame cannot be used, or the record cannot be written.
        UsageError
            If the gate has no threshold.
        """
        self.store.gallery().of(person)
        return self._decide(frames, person)

    def identify(self, frames: Iterable[NDArray[np.uint8]]) -> GateEvent:
        """1:N: who of all enrolled people is on these frames; as :meth:`verify`."""
        return self._decide(frames, None)

    def watch(
        self,
        frames: Iterable[NDArray[np.uint8]],
        *,
        person: str | None = None,
        patience: int = 25,
        again: int = 75,
    ) -> Iterator[GateEvent]:
        """Decisions over a stream without end, one for each face that stays.

        Faces are followed between searches, see :class:`immunecam.runtime.faces.FollowingFinder`.

        Parameters
        ----------
        frames : iterable of ndarray of uint8, shape (H, W, 3)
            BGR, one after the other.
        person : str, optional
            Compare 1:1 with this person; None identifies.
        patience : int
            Frames after which a face that has not been good often enough is told as "low-quality".
        again : int
            Frames after which a face that stays is decided anew.

        Yields
        ------
        GateEvent
            A stream that ends without any face gives one of "no-face".
        """
        tracker = self._tracker()
        # In this thread, so that the same frames give the same decisions.
        finder = FollowingFinder(self.observer.finder, background=False)
        decided: dict[int, int] = {}
        count = seen = 0
        for frame in frames:
            count += 1
            sightings = self.observer.sightings(frame, finder)
            seen += len(sightings)
            ended = tracker.update(sightings)
            for track in ended:
                if track.number not in decided:
                    yield self._judge(track.sightings, track.frames, person, track.missed)
                decided.pop(track.number, None)
            for track in tracker.tracks:
                last = decided.get(track.number)
                if track.missed or (last is not None and count - last < again):
                    continue
                if self._decider.enough(track.sightings) or track.frames >= patience:
                    decided[track.number] = count
                    yield self._judge(track.sightings, track.frames, person)
                    track.sightings = track.sightings[-1:]
        for track in tracker.tracks:
            if track.number not in decided:
                yield self._judge(track.sightings, track.frames, person, track.missed)
        if not seen:
            yield self._judge([], count, person)

    def _tracker(self) -> FaceTracker:
        return FaceTracker(max_sightings=max(_REMEMBERED, self.min_frames))

    def preview(self, sightings: Sequence[Sighting], frames: int) -> GateEvent:
        """What the gate would say of a track's faces, 1:N, for whoever sets it up.

        Nothing is written down, so it is no decision, and no door may open by it. Without a threshold faces are
        compared all the same; nobody is granted then.

        Parameters
        ----------
        sightings : sequence of Sighting
            All of them are purified: give as many as decide.
        frames : int
            In which the face was seen.
        """
        try:
            threshold = self.threshold()
        except UsageError:
            decision = self._decider.decide(sightings, frames, None, missed=0, threshold=math.inf)
            return dataclasses.replace(decision.event, threshold=None)
        return self._decider.decide(sightings, frames, None, missed=0, threshold=threshold).event

    def _decide(self, frames: Iterable[NDArray[np.uint8]], person: str | None) -> GateEvent:
        tracker, tracks, count = self._tracker(), list[Track](), 0
        for frame in frames:
            count += 1
            tracks += tracker.update(self.observer.sightings(frame))
        if not count:
            raise UsageError("there is no frame to decide on: give one or more")
        tracks += tracker.tracks
        chosen = max(tracks, key=lambda track: (track.frames, track.area), default=None)
        return self._judge([] if chosen is None else chosen.sightings, count, person)

    def _judge(self, sightings: Sequence[Sighting], frames: int, claimed: str | None, missed: int = 0) -> GateEvent:
        """Decide on a track's faces, and write it down."""
        decision = self._decider.decide(sightings, frames, claimed, missed=missed, threshold=self.threshold())
        return self._record(decision)

    def _record(self, decision: Decision) -> GateEvent:
        event, people = decision.event, len(self.store.gallery())
        content = {**event.to_dict(), **self._models, "first_image": decision.first_image, "people": people}
        if self._images is not None and decision.sightings:
            content["images"] = [self._images.add(seen.crop) for seen in decision.sightings[-3:]]
        link = self.audit.append("decision", content)
        return GateEvent(**{**vars(event), "seq": link.seq})

    def _resembles(self, person: str, embeddings: NDArray[np.float32]) -> Match | None:
        """Somebody else whom the gate would take these faces for, where it has a threshold."""
        point, gallery = self.store.operating_point(), self.store.gallery()
        threshold = self._threshold if self._threshold is not None else point.threshold if point is not None else None
        if threshold is None or not len(gallery):
            return None
        others = [match for match in gallery.identify(embeddings.mean(0), count=2) if match.person != person]
        return others[0] if others and others[0].score >= threshold else None

    def calibrated(self, point: OperatingPoint, about: dict[str, Any]) -> None:
        """Keep an operating point, and write down that it was changed, and by what."""
        with recorded(self.audit, self.store, "calibration", {"threshold": point.threshold, **about}):
            self.store.set_operating_point(point)
