"""The purifier: an engine, the mutation and projection kernels, and a seed."""

from __future__ import annotations

import hashlib
import hmac
import logging
import operator
import os
import secrets
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.kernels import (
    MutationMode,
    check_mutation_mode,
    check_probabilities,
    dequantize_faces,
    mutate,
    project,
    quantize_faces,
    uniforms,
)
from immunecam.runtime.backend import open_backend
from immunecam.runtime.bundle import Bundle, check_signer, default_bundle
from immunecam.runtime.card import CardArray, CardFrames, CardPurifier, lies_on_card
from immunecam.runtime.engines import Engine, WholePurifier
from immunecam.runtime.face_batch import checked_faces, face_batch
from immunecam.runtime.results import FrameResult, PurifiedFaces, Stopwatch
from immunecam.runtime.trust import Trust, TrustedKeys

if TYPE_CHECKING:
    from immunecam.runtime.faces import ColourMode, FaceFinder
    from immunecam.runtime.shared_analysis import SharedAnalysis

__all__ = ["MAX_BATCH", "FrameResult", "PurifiedFaces", "Purifier"]

# 32 at once took 109 MiB more than 8 with the bundled model, and the same time of the processor for a face
# (ONNX Runtime, 2 cores): a batch's maps leave the cache long before its weights are read too often.
MAX_BATCH = 8
"""Faces that go through the engine at once; more are split."""

_log = logging.getLogger(__name__)


class Purifier:
    """Removes adversarial perturbations from faces. Safe to call from several threads.

    Made by :meth:`load`. Every face gets the next of a running 64-bit number, which selects its random
    numbers: two calls never share them, whatever the threads.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine | CardPurifier,
        *,
        mutation: str = "sample",
        seed: int | None = None,
        finder: FaceFinder | None = None,
    ) -> None:
        """Put a purifier together from its parts; :meth:`load` is the usual way.

        Parameters
        ----------
        bundle : Bundle
            Gives the subspace.
        engine : Engine or CardPurifier
            Made from the same bundle; used whole if it is a :class:`WholePurifier`. A card purifier has the same
            mutation, and is closed with this.
        mutation, seed, finder
            As for :meth:`load`.
        """
        self._bundle = bundle
        self._card = engine if isinstance(engine, CardPurifier) else None
        self._cpu = None if isinstance(engine, CardPurifier) else engine
        self._provider = engine.provider
        self._mutation = check_mutation_mode(mutation)
        if self._card is not None and self._card.mutation != self._mutation:
            raise UsageError(f"mutation is {mutation!r}, but the card purifier was made for {self._card.mutation!r}.")
        if engine.k != bundle.k:
            raise InputError(f"The engine has K = {engine.k}, but the bundle {bundle.path} has K = {bundle.k}.")
        self._fixed_seed = None if seed is None else _check_number(seed, "seed")
        self._seed = secrets.randbits(64) if self._fixed_seed is None else self._fixed_seed
        self._next_image = 0
        self._numbering = threading.Lock()
        self._finder = finder
        self._finder_lock = threading.Lock()
        self._card_frames: CardFrames | None = None
        if self._mutation != "sample":
            _log.info("Mutation %s: no random numbers are used.", self._mutation)
        elif self._fixed_seed is None:
            # The value stays out of the log: who knows it can predict every antibody.
            _log.info("Mutation sample: the seed was drawn from the operating system.")
        else:
            _log.info("Mutation sample: the seed is fixed to %d, for audit and tests only.", self._fixed_seed)

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        provider: str = "auto",
        mutation: str = "sample",
        seed: int | None = None,
        threads: int | None = None,
        finder: FaceFinder | None = None,
        trust: TrustedKeys | None = None,
    ) -> Purifier:
        """Purifier for a bundle.

        Parameters
        ----------
        bundle : path or Bundle, optional
            None takes the bundle installed with the package.
        provider : {"auto", "cpu", "cuda", "tensorrt"}
            Backend; a named one that is missing is an error, never replaced. On "cuda" and "tensorrt" faces stay on
            the card from their upload on: networks by ONNX Runtime's CUDA provider or TensorRT, the rest by our
            kernels. "auto" says in the log what it took and why.
        mutation : {"sample", "threshold", "expected"}
            How probabilities become an antibody, see :func:`immunecam.kernels.mutate`.
        seed : int, optional
            0 to 2**64 - 1, for audit and tests. None draws one from the operating system.
        threads : int, optional
            Threads an operator may use; None leaves it to the backend.
        finder : FaceFinder, optional
            Finds the faces of :meth:`purify_frame`. None takes the bundled one, opened at the first frame.
        trust : path, sequence of paths or Trust, optional
            Public keys, one of which must have signed the bundle, the one installed with the package too. None takes
            those of the environment variable ``IMMUNECAM_TRUST``; if that is not set either, no signature is demanded.

        Raises
        ------
        InputError
            If the bundle cannot be used, or a signature is demanded and it is not signed by a trusted key.
        UsageError
            If an argument is out of its range.
        BackendMissingError
            If the provider asked for is not on this machine.
        """
        check_mutation_mode(mutation)
        if not isinstance(bundle, Bundle):
            bundle = Bundle.load(default_bundle() if bundle is None else bundle, trust=trust)
        else:
            check_signer(bundle, Trust.in_force(trust))
        backend = open_backend(bundle, provider, mutation=mutation, threads=threads)
        return cls(bundle, backend, mutation=mutation, seed=seed, finder=finder)

    def with_mutation(self, mutation: str) -> Purifier:
        """Another purifier on the same engine, with a mutation mode, a seed and numbers of its own.

        Raises
        ------
        UsageError
            If the mode is unknown, or this one is on a card, whose graph is built for one mode.
        """
        if self._cpu is None:
            raise UsageError(
                f"The purifier on {self.provider} was built for the mutation {self.mutation!r}: load another one."
            )
        return Purifier(self._bundle, self._cpu, mutation=mutation, finder=self._finder)

    @property
    def bundle(self) -> Bundle:
        """The bundle in use."""
        return self._bundle

    @property
    def provider(self) -> str:
        """The backend in use: "cpu", "cuda" or "tensorrt"."""
        return self._provider

    @property
    def mutation(self) -> MutationMode:
        """The mutation mode."""
        return self._mutation

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        return self._bundle.k

    @property
    def fixed_seed(self) -> int | None:
        """The seed if it was given; None if it was drawn, for then it is nobody's business."""
        return self._fixed_seed

    @property
    def next_image(self) -> int:
        """Running number that the next face will get."""
        with self._numbering:
            return self._next_image

    def close(self) -> None:
        """Give back what is held on a card, after which it cannot be used; on a CPU, nothing has to be."""
        if self._card is not None:
            self._card.close()

    def __enter__(self) -> Purifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def purify(self, faces: NDArray[Any]) -> NDArray[np.uint8]: ...

    @overload
    def purify(self, faces: Any) -> NDArray[np.uint8] | CardArray: ...

    def purify(self, faces: Any) -> NDArray[np.uint8] | CardArray:
        """Purified faces.

        Parameters
        ----------
        faces : ndarray, or array on a card, of float32 or uint8, shape (N, 112, 112) or (112, 112)
            Aligned grey faces: float32 in [-1, 1], or uint8 pixels. Any N; more than 8 are split. A purifier on a
            card also takes arrays on it that offer DLPack or ``__cuda_array_interface__``, as those of PyTorch, CuPy
            and PyCUDA do, and one face as OpenCV's ``cv2.cuda.GpuMat``.

        Returns
        -------
        ndarray of uint8, same shape
            Of an array on a card, a :class:`CardArray` there, finished.

        Raises
        ------
        InputError
            If the shape or dtype is wrong, or a value is NaN, infinite or outside [-1, 1].
        """
        if lies_on_card(faces):
            if self._card is None:
                raise InputError(
                    f"The faces lie on a CUDA card, but the purifier runs on {self.provider}: copy them to the host, "
                    "or load it with provider='cuda'."
                )
            return self._card.purify_on_card(faces, seed=self._seed, first_image=self._numbers)
        single = isinstance(faces, np.ndarray) and faces.ndim == 2
        purified = self.purify_batch(faces).purified
        return purified[0] if single else purified

    def purify_batch(
        self,
        faces: NDArray[Any],
        *,
        first_image: int | None = None,
        probabilities: NDArray[np.float32] | None = None,
    ) -> PurifiedFaces:
        """Purified faces with their probabilities, numbers and timings.

        Parameters
        ----------
        faces : ndarray
            As for :meth:`purify`.
        first_image : int, optional
            Number of the first face, to repeat an earlier call; None takes the next unused numbers.
        probabilities : ndarray of float32, shape (N, K), optional
            Those that are known already, such as :class:`immunecam.runtime.shared_analysis.SharedAnalysis` keeps them;
            a row of NaN is of a face to be analysed. The CPU only.

        Returns
        -------
        PurifiedFaces
            ``timings_ms`` has "mutate" and "engine" where one graph does it all (there "mutate" is the
            drawing of random numbers), "card" on a card, else "analyze", "mutate", "project" and, with a restorer,
            "restore".

        Raises
        ------
        InputError, UsageError
            As :meth:`purify`; or if ``first_image`` is out of its range, or ``probabilities`` are given to a card.
        """
        batch = checked_faces(faces)
        if probabilities is not None:
            if self._card is not None:
                raise UsageError("probabilities that are known already can be given on the CPU only: load with 'cpu'.")
            if probabilities.shape != (len(batch), self.k):
                raise InputError(f"probabilities are {probabilities.shape}, wanted {(len(batch), self.k)}.")
        first = self._numbers(len(batch)) if first_image is None else _check_number(first_image, "first_image")
        if first + len(batch) > 2**64:
            raise UsageError(f"first_image is {first}, which leaves too few numbers for {len(batch)} faces.")
        timings: dict[str, float] = {}
        if self._card is not None:
            watch = Stopwatch(timings)
            results = self._card.purify(batch, seed=self._seed, first_image=first)
            watch.lap("card")
            return PurifiedFaces(*results, first, timings)
        batch = face_batch(batch)
        purified = np.empty(batch.shape, np.uint8)
        p = np.empty((len(batch), self.k), np.float32)
        for start in range(0, len(batch), MAX_BATCH):
            part = slice(start, min(start + MAX_BATCH, len(batch)))
            images = np.array(range(first + part.start, first + part.stop), dtype=np.uint64)
            known = None if probabilities is None else probabilities[part]
            purified[part], p[part] = self._run(batch[part], images, known, timings)
        return PurifiedFaces(purified, p, first, timings)

    def antibodies(self, batch: PurifiedFaces) -> NDArray[np.float32]:
        """What the mutation made of the probabilities of an earlier batch: 0 or 1, or weights in the mode ``expected``.

        Random numbers are a function of seed and face number, so nothing has to be kept for it.

        Parameters
        ----------
        batch : PurifiedFaces
            Of this purifier.

        Returns
        -------
        ndarray of float32, shape (N, K)
        """
        images = np.array(range(batch.first_image, batch.first_image + len(batch.probabilities)), dtype=np.uint64)
        return mutate(batch.probabilities, mode=self._mutation, seed=self._seed, images=images).astype(np.float32)

    def seed_commitment(self, key: bytes) -> str:
        """A name of the seed that tells nothing about it: HMAC-SHA256 with a secret key, 64 hex digits.

        Records of decisions carry it. Whoever has the key and a seed can check that it is the seed; a plain hash would
        let anybody try all 64-bit seeds.

        Parameters
        ----------
        key : bytes
            At least 16.
        """
        if len(key) < 16:
            raise UsageError(f"the key of a seed's commitment has {len(key)} bytes, but it must have 16 or more.")
        return hmac.new(key, b"immunecam seed" + self._seed.to_bytes(8, "big"), hashlib.sha256).hexdigest()

    def purify_frame(
        self,
        frame: NDArray[np.uint8],
        finder: FaceFinder | None = None,
        *,
        paste: bool = True,
        colour: ColourMode = "keep",
        shared: SharedAnalysis | None = None,
    ) -> FrameResult:
        """Find, align and purify the faces of a frame, and put them back.

        Parameters
        ----------
        frame : ndarray of uint8, shape (H, W, 3)
            BGR. It is not changed; without a face it is returned as it is, the same array.
        finder : FaceFinder, optional
            In place of the purifier's own, for this frame.
        paste : bool
            False leaves the frame alone, where only the purified crops are wanted.
        colour : {"keep", "grey"}
            See :func:`immunecam.runtime.faces.paste`.
        shared : SharedAnalysis, optional
            Of this stream, whose followed faces are then not analysed in every frame. The CPU only.

        Raises
        ------
        InputError
            If the frame's shape or dtype is wrong.
        UsageError
            If the colour mode is unknown, or an analysis is to be shared on a card.
        """
        if shared is not None and self._card is not None:
            raise UsageError("an analysis can be shared on the CPU only: load with provider='cpu'.")
        # Here, because OpenCV is not needed for purifying crops, and its import is not free.
        from immunecam.runtime import faces as face_tools

        timings: dict[str, float] = {}
        finder = self._own_finder() if finder is None else finder
        watch = Stopwatch(timings)
        found = finder.find(frame)
        watch.lap("find")
        if found and self._card is not None:
            done = self._frames_on(self._card).purify(
                frame, found, seed=self._seed, first_image=self._numbers, paste=paste, colour=colour
            )
            watch.lap("card")
            return FrameResult(
                done.frame, found, done.crops, done.purified, done.probabilities, done.first_image, timings
            )
        aligned = face_tools.align(frame, found)
        watch.lap("align")
        known = None if shared is None else shared.known(found, aligned.grey, self.k)
        batch = self.purify_batch(aligned.grey, probabilities=known)
        if shared is not None and known is not None:
            shared.learn(found, aligned.grey, known, batch.probabilities)
        timings.update(batch.timings_ms)
        if found and paste:
            watch = Stopwatch(timings)
            frame = face_tools.paste(frame, batch.purified, aligned.matrices, colour=colour)
            watch.lap("paste")
        return FrameResult(frame, found, aligned.crops, batch.purified, batch.probabilities, batch.first_image, timings)

    def analyze(self, faces: NDArray[Any]) -> NDArray[np.float32]:
        """Activation probability of each eigenface, float32 (N, K); ``faces`` as for :meth:`purify`."""
        if self._card is not None:
            return self._card.purify(checked_faces(faces), seed=self._seed, first_image=0)[1]
        assert self._cpu is not None
        batch = face_batch(faces)
        p = np.empty((len(batch), self.k), np.float32)
        for start in range(0, len(batch), MAX_BATCH):
            p[start : start + MAX_BATCH] = self._cpu.analyze(batch[start : start + MAX_BATCH])
        check_probabilities(p)
        return p

    def _run(
        self,
        faces: NDArray[np.float32],
        images: NDArray[np.uint64],
        known: NDArray[np.float32] | None,
        timings: dict[str, float],
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """One batch of 1 to 8 faces; its milliseconds are added to ``timings``."""
        watch = Stopwatch(timings)
        assert self._cpu is not None
        if known is None and isinstance(self._cpu, WholePurifier):
            u = self._uniforms(images)
            watch.lap("mutate")
            purified, p = self._cpu.purify(faces, u, self._mutation == "expected")
            check_probabilities(p)
            watch.lap("engine")
            return purified, p
        if known is None:
            p = self._cpu.analyze(faces)
        else:
            p, unknown = known.copy(), np.isnan(known).any(1)
            if unknown.any():
                p[unknown] = self._cpu.analyze(faces[unknown])
        watch.lap("analyze")
        antibody = mutate(p, mode=self._mutation, seed=self._seed, images=images)
        watch.lap("mutate")
        purified = project(faces, antibody, self._bundle.subspace)
        watch.lap("project")
        if self._bundle.graph("restorer") is not None:
            purified = quantize_faces(self._cpu.restore(faces, dequantize_faces(purified)))
            watch.lap("restore")
        return purified, p

    def _frames_on(self, card: CardPurifier) -> CardFrames:
        with self._finder_lock:
            if self._card_frames is None:
                self._card_frames = CardFrames(card)
            return self._card_frames

    def _uniforms(self, images: NDArray[np.uint64]) -> NDArray[np.float32]:
        """What the whole-purifier graph compares with p: ``0.5 < p`` is the mode ``threshold``."""
        if self._mutation == "sample":
            return uniforms(self._seed, images, 1, self.k)[:, 0]
        return np.full((len(images), self.k), 0.5, np.float32)

    def _own_finder(self) -> FaceFinder:
        with self._finder_lock:
            if self._finder is None:
                from immunecam.runtime.faces import face_finder

                self._finder = face_finder()
            return self._finder

    def _numbers(self, count: int) -> int:
        with self._numbering:
            first = self._next_image
            self._next_image += count
        return first


def _check_number(value: int, name: str) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} is a {type(value).__name__}, but it must be an integer.") from None
    if not 0 <= number < 2**64:
        raise UsageError(f"{name} is {number}, but it must be from 0 to 2**64 - 1.")
    return number
