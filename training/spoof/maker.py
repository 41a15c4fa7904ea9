"""One synthetic face at a time, live or spoofed: the same again from the same seed, number and pictures."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.training.seeds import seed_of
from immunecam.training.spoof.attributes import dressed, measured
from immunecam.training.spoof.backdrop import backdrop, fingers, glare
from immunecam.training.spoof.camera import capture
from immunecam.training.spoof.colouring import coloured
from immunecam.training.spoof.cutting import cut_out
from immunecam.training.spoof.face_shape import FacePose, pose_of
from immunecam.training.spoof.labels import ATTRIBUTES, KINDS, SPOOF_TYPES
from immunecam.training.spoof.light import Picture, blob, displayed, illuminate, linear
from immunecam.training.spoof.paper import draw_printer, fibres, folds, printed
from immunecam.training.spoof.pictures import FacePictures
from immunecam.training.spoof.screen import bands, shown
from immunecam.training.spoof.sheet import Sheet, hold, sample

__all__ = ["BELOW_EYES", "EYES", "LivenessFace", "SpoofMaker"]

EYES = (0.25, 0.33)
"""Least and largest distance between the eyes, in sides of the picture."""

BELOW_EYES = 0.45
"""How far the middle of the picture is below the eyes, in distances between them."""

_FINE = 2  # the scene is composed at twice the picture's side
_MAP = 14
_LIVE = 0.4  # of the faces

# Half the width of a sheet or screen and its height to its width, in distances between the eyes of the pictured face.
_SIZES = {
    "photo": ((1.35, 1.9), (1.25, 1.5)),
    "A4": ((1.5, 2.4), (1.35, 1.45)),
    "poster": ((2.2, 5.0), (1.2, 1.5)),
    "phone": ((1.3, 1.7), (1.6, 2.1)),
    "pad": ((1.6, 2.3), (1.2, 1.4)),
    "PC": ((2.4, 4.0), (0.6, 0.7)),
}


@dataclass(frozen=True, eq=False)
class LivenessFace:
    """A synthetic face with its labels.

    Attributes
    ----------
    pixels : ndarray
        (side, side, 3) uint8 RGB.
    spoof : bool
    attributes : ndarray
        (A,) bool, of `ATTRIBUTES`; none of a spoof.
    spoof_type, illumination : int
        Places in `SPOOF_TYPES` and `ILLUMINATIONS`; 0 of a live face.
    depth : ndarray
        (14, 14) float32 in [0, 1]; a spoof's is zero.
    reflection : ndarray
        (14, 14, 3) float32 in [0, 1]: the light that paper or screen mirrors, as levels; a live face's is zero.
    name : str
        Of the picture that it was made of.
    """

    pixels: NDArray[np.uint8]
    spoof: bool
    attributes: NDArray[np.bool_]
    spoof_type: int
    illumination: int
    depth: NDArray[np.float32]
    reflection: NDArray[np.float32]
    name: str


@dataclass(frozen=True, eq=False)
class _Source:
    """A picture in linear light, with the face in it."""

    light: Picture
    pose: FacePose
    mouth: float  # its width in distances between the eyes

    def dressed(self, rng: np.random.Generator) -> _Source:
        """The same face with what it was drawn to wear."""
        return dataclasses.replace(self, light=dressed(rng, self.light, self.pose)[0])

    def seen(self, sheet: Sheet) -> Picture:
        """The picture as it lies on a sheet, upright and as large as the sheet's unit says."""
        return sample(self.light, sheet.u, sheet.v, self.pose.shift, self.pose.scale)


@dataclass(frozen=True, eq=False)
class SpoofMaker:
    """Makes live and spoofed faces of face pictures.

    Attributes
    ----------
    pictures : FacePictures
    side : int
        Of what is made, at least 64.
    seed : int
        Face `number` depends on this, the number, and the pictures alone.
    """

    pictures: FacePictures
    side: int = 112
    seed: int = 0

    def __post_init__(self) -> None:
        if self.side < 64:
            raise ValueError(f"liveness pictures are {self.side} px wide, but they must be 64 or more: use 112")

    def make(self, number: int, kind: str | None = None) -> LivenessFace:
        """Face `number`, of a kind of `KINDS` or "live"; default: drawn, two fifths live.

        Raises
        ------
        ValueError
            For another kind.
        """
        rng = np.random.default_rng(seed_of(f"spoof/{self.seed}/{number}"))
        drawn = "live" if rng.uniform() < _LIVE else str(rng.choice(list(KINDS)))
        kind = drawn if kind is None else kind
        if kind != "live" and kind not in KINDS:
            raise ValueError(f"kind must be live, {', '.join(KINDS)}, got {kind!r}")
        chosen = int(rng.integers(len(self.pictures)))
        source, name = self._source(rng, chosen), self.pictures.names[chosen]
        side = _FINE * self.side
        pixels = rng.uniform(*EYES) * side
        centre = np.array([0.5, 0.5]) * side + rng.normal(0, 0.02, 2) * side - [0, BELOW_EYES * pixels]
        light_kind = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.2, 0.2, 0.2]))
        # Who is pictured on a spoof wears the same, or what is worn would tell that a face is live.
        wardrobe = np.random.default_rng(seed_of(f"spoof/{self.seed}/{number}/worn"))
        if kind == "live":
            return self._live(rng, wardrobe, source, name, pixels, centre, light_kind)
        source = source.dressed(wardrobe)
        type_name = str(rng.choice(KINDS[kind]))
        make = {"print": self._print, "poster": self._print, "replay": self._replay, "mask": self._mask}[kind]
        light, mirrored, exposure, noise = make(rng, source, type_name, pixels, centre, light_kind)
        # What is mirrored is exposed like the rest, and shows most where it is bright.
        reflection = displayed(cv2.resize(mirrored * exposure, (_MAP, _MAP), interpolation=cv2.INTER_AREA))
        return LivenessFace(
            capture(rng, light, self.side, exposure=exposure, noise=noise),
            True,
            np.zeros(len(ATTRIBUTES), bool),
            SPOOF_TYPES.index(type_name),
            light_kind,
            np.zeros((_MAP, _MAP), np.float32),
            reflection,
            name,
        )

    def _source(self, rng: np.random.Generator, number: int) -> _Source:
        """A picture in colour, mirrored half of the time."""
        pixels, grey = self.pictures.decode(number)
        points = self.pictures.points[number]
        if rng.uniform() < 0.5:
            pixels = pixels[:, ::-1]
            points = points[[1, 0, 2, 4, 3]] * [-1, 1] + [len(pixels) - 1, 0]
        pose = pose_of(points)
        light = linear(pixels)
        mouth = np.linalg.norm(points[4] - points[3]) / max(1e-6, float(np.linalg.norm(points[1] - points[0])))
        return _Source(coloured(rng, light, pose) if grey else light, pose, float(mouth))

    def _live(
        self,
        rng: np.random.Generator,
        wardrobe: np.random.Generator,
        source: _Source,
        name: str,
        pixels: float,
        centre: NDArray[np.floating],
        kind: int,
    ) -> LivenessFace:
        side = _FINE * self.side
        light, pose = _framed(rng, source, side, pixels, centre)
        light, worn = dressed(wardrobe, light, pose)
        lit = illuminate(rng, kind, side)
        body = _body(pose, side)
        scene = light * (lit.behind + body * (lit.front - lit.behind))
        scene = scene + lit.veil * lit.behind
        return LivenessFace(
            capture(rng, scene, self.side, exposure=lit.exposure, noise=lit.noise),
            False,
            measured(pose, source.mouth) | worn,
            0,
            0,
            pose.depth(side, _MAP),
            np.zeros((_MAP, _MAP, 3), np.float32),
            name,
        )

    def _print(
        self,
        rng: np.random.Generator,
        source: _Source,
        kind: str,
        pixels: float,
        centre: NDArray[np.floating],
        light_kind: int,
    ) -> tuple[Picture, Picture, float, float]:
        side, poster = _FINE * self.side, kind == "poster"
        sheet = hold(rng, side, pixels=pixels, centre=centre, tilt=9 if poster else 11, bend=0.08 if poster else 0.35)
        frame = _frame(rng, kind)
        printer = draw_printer(rng, pixels, coarse=poster)
        light = printed(source.seen(sheet), sheet, printer)
        border = rng.uniform(0.06, 0.3) if rng.uniform() < (0.3 if poster else 0.75) else 0.0
        inner = sheet.rectangle(frame[0] + border, frame[1] + border, frame[2] - border, frame[3] - border)[..., None]
        white = np.array(printer.white, np.float32)
        light = white + inner * (light - white)
        light = light * fibres(rng, sheet, 0.01 if kind == "photo" else rng.uniform(0.015, 0.05))
        if kind != "photo":
            light = light * folds(rng, sheet, int(rng.integers(1, 5)) if poster else int(rng.integers(0, 3)))
        lit = illuminate(rng, light_kind, side)
        gloss = {"photo": 0.25, "A4": 0.06, "poster": 0.18}[kind]
        mirrored = glare(rng, sheet, gloss) * lit.front
        paper = sheet.rectangle(*frame)[..., None]
        wall = backdrop(rng, side, None if poster else self._blurred(rng)) * lit.behind
        # A sheet before something throws a shadow on it.
        shadow = 1 - 0.5 * cv2.GaussianBlur(np.roll(paper, tuple(rng.integers(-6, 7, 2)), (0, 1)), (0, 0), 4)[..., None]
        scene = wall * shadow + paper * (light * lit.front * sheet.facing[..., None] + mirrored - wall * shadow)
        if not poster:
            scene, thumb = fingers(rng, scene, sheet, frame, lit.front)
            mirrored = mirrored * (1 - thumb)
        return scene + lit.veil * lit.behind, mirrored * paper, lit.exposure, lit.noise

    def _replay(
        self,
        rng: np.random.Generator,
        source: _Source,
        kind: str,
        pixels: float,
        centre: NDArray[np.floating],
        light_kind: int,
    ) -> tuple[Picture, Picture, float, float]:
        side = _FINE * self.side
        sheet = hold(rng, side, pixels=pixels, centre=centre, tilt=8)
        frame, rim = _frame(rng, kind), rng.uniform(0.05, 0.2)
        lit = illuminate(rng, light_kind, side)
        emitted = shown(rng, source.seen(sheet), sheet)
        if rng.uniform() < 0.6:
            emitted = emitted * bands(rng, side)
        # A screen is seen from its side darker, and lights itself: the room adds only what its glass mirrors.
        emitted = emitted * np.square(sheet.facing)[..., None]
        mirrored = glare(rng, sheet, 0.22) * lit.front
        glass = sheet.rectangle(*frame)[..., None]
        rounded = rim if kind == "phone" else 0.3 * rim
        case = sheet.rectangle(frame[0] - rim, frame[1] - rim, frame[2] + rim, frame[3] + rim, rounded)[..., None]
        plastic = np.float32(rng.uniform(0.01, 0.05) if rng.uniform() < 0.75 else rng.uniform(0.5, 0.8))
        wall = backdrop(rng, side, self._blurred(rng)) * lit.behind
        scene = wall + case * (plastic * lit.front - wall)
        scene = scene + glass * (emitted - scene) + case * mirrored
        if kind != "PC":
            scene, thumb = fingers(rng, scene, sheet, (frame[0] - rim, frame[1], frame[2] + rim, frame[3]), lit.front)
            mirrored = mirrored * (1 - thumb)
        # The camera exposes for what is brightest in its middle, which in the dark is the screen.
        exposure = min(lit.exposure, 1.6)
        return scene + lit.veil * lit.behind, mirrored * case, exposure, lit.noise

    def _mask(
        self,
        rng: np.random.Generator,
        source: _Source,
        kind: str,
        pixels: float,
        centre: NDArray[np.floating],
        light_kind: int,
    ) -> tuple[Picture, Picture, float, float]:
        side = _FINE * self.side
        wearer = self._source(rng, int(rng.integers(len(self.pictures)))).dressed(rng)
        below, pose = _framed(rng, wearer, side, pixels, centre)
        sheet = hold(rng, side, pixels=pixels * rng.uniform(0.95, 1.1), centre=centre, tilt=7, bend=0.5)
        region = "face" if kind == "face mask" else str(rng.choice(["eyes", "nose and mouth"]))
        scissors = int(rng.integers(1 << 31))
        left = cut_out(np.random.default_rng(scissors), sheet, region)[..., None]
        rim = cut_out(np.random.default_rng(scissors), sheet, region, 0.025)[..., None]
        printer = draw_printer(rng, pixels)
        light = printed(source.seen(sheet), sheet, printer) * fibres(rng, sheet, rng.uniform(0.01, 0.04))
        white = np.array(printer.white, np.float32)
        light = (white + left * (light - white)) * folds(rng, sheet, int(rng.integers(0, 2)))
        lit = illuminate(rng, light_kind, side)
        body = _body(pose, side)
        front = lit.behind + body * (lit.front - lit.behind)
        away = tuple(int(value) for value in rng.integers(-5, 6, 2))
        shadow = 1 - rng.uniform(0.3, 0.7) * cv2.GaussianBlur(np.roll(rim, away, (0, 1)), (0, 0), 3)[..., None]
        scene = below * front * shadow
        mirrored = glare(rng, sheet, 0.08) * lit.front
        scene = scene + rim * (light * lit.front * sheet.facing[..., None] + mirrored - scene)
        return scene + lit.veil * lit.behind, mirrored * rim, lit.exposure, lit.noise

    def _blurred(self, rng: np.random.Generator) -> Picture:
        """Some other picture, as what is far behind."""
        pixels, grey = self.pictures.decode(int(rng.integers(len(self.pictures))))
        small = cv2.resize(linear(pixels), (24, 24), interpolation=cv2.INTER_AREA)
        return small if not grey else small * rng.uniform(0.7, 1.3, 3).astype(np.float32)


def _frame(rng: np.random.Generator, kind: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom edge of a sheet or screen, about a face that is not quite in its middle."""
    (least, most), shape = _SIZES[kind]
    half = rng.uniform(least, most)
    high = half * rng.uniform(*shape)
    x, y = rng.normal(0, 0.15), 0.45 + rng.normal(0, 0.2)
    return x - half, y - high, x + half, y + high


def _body(pose: FacePose, side: int) -> Picture:
    """(side, side, 1): 1 where head and shoulders of a face in this pose are, 0 behind them."""
    head, chest = pose.project(np.array([[0.0, 0.25, 0.0], [0.0, 3.4, 0.0]]))
    return np.maximum(
        blob(side, head, (1.25 * pose.scale, 1.7 * pose.scale), 0, 0.12),
        blob(side, chest, (2.6 * pose.scale, 1.7 * pose.scale), 0, 0.15),
    )[..., None]


def _framed(
    rng: np.random.Generator, source: _Source, side: int, pixels: float, centre: NDArray[np.floating]
) -> tuple[Picture, FacePose]:
    """The picture turned a little, and so large that its face is as wanted; and the face's new pose."""
    ratio, angle = pixels / source.pose.scale, math.radians(rng.normal(0, 4))
    turn = ratio * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = np.concatenate([turn, (centre - turn @ source.pose.shift)[:, None]], 1)
    light = cv2.warpAffine(
        source.light, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    spin = np.eye(3)
    spin[:2, :2] = turn / ratio
    return light, FacePose(pixels, spin @ source.pose.rotation, np.asarray(centre, float))
