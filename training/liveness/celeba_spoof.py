"""CelebA-Spoof as it is unpacked: Data/, metas/, a label list and a box for every picture.

Format: ``metas/intra_test/train_label.json`` maps ``Data/train/ID/live/NAME.jpg`` (or ``spoof``) to a list: CelebA's 40
attributes, the spoof type (0 live to 10), the illumination (0 live to 4), in files of 44 numbers the environment, and
at the end live (0) or spoof (1). ``NAME_BB.txt`` beside a picture holds the face's box, x y w h and a score, in units
of 1/224 of the picture's width and height. Depth and reflection maps are not part of the set.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.models.liveness import MAP_SIDE, check_side
from immunecam.models.liveness_loss import LIVE, SPOOF, LivenessLabels
from immunecam.training.liveness.faces import LivenessSet
from immunecam.training.spoof.labels import ILLUMINATIONS, SPOOF_TYPES

__all__ = ["BOX_SIDES", "CELEBA_ATTRIBUTES", "load_celeba_spoof"]

# fmt: off
CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
    "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
    "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
    "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
    "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
    "Wearing_Necklace", "Wearing_Necktie", "Young",
)
# fmt: on

_ATTRIBUTES = len(CELEBA_ATTRIBUTES)
_TYPE, _ILLUMINATION = _ATTRIBUTES, _ATTRIBUTES + 1
_BOX_SIDE = 224

BOX_SIDES = 1.3
"""Side of the square that is cut out, in longer sides of the face's box: borders and bezels tell."""


@dataclass(frozen=True)
class _Row:
    name: str
    attributes: tuple[int, ...]
    spoof_type: int
    illumination: int
    live: int


def load_celeba_spoof(
    root: str | Path,
    part: str = "train",
    *,
    side: int = 112,
    limit: int | None = None,
    seed: int = 0,
    maps: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LivenessSet:
    """Read CelebA-Spoof, or a balanced draw of it, cropped to its boxes.

    Parameters
    ----------
    root : path
        The folder that holds ``Data`` and ``metas``.
    part : str
        "train" or "test", of the intra-dataset protocol.
    side : int
        Of the crops.
    limit : int, optional
        As many faces at most, half of them live where there are enough. A face of 112 px takes 38 kB of memory, so
        all of the 494,405 training pictures do not fit everywhere.
    seed : int
        Of the draw.
    maps : path, optional
        A folder with ``Data/.../NAME_depth.png`` for live faces and ``NAME_reflection.png`` for spoofs, which others
        compute (AENet: by PRNet, and by a network that separates reflections). Without it there are neither of these
        tasks.
    progress : callable, optional
        Called with (done, total).

    Returns
    -------
    LivenessSet

    Raises
    ------
    InputError
        If a file is missing, damaged, or labelled otherwise.
    """
    root = Path(root)
    try:
        check_side(side)
    except ValueError as error:
        raise InputError(str(error)) from None
    rows = _drawn(_read_labels(root, part), limit, seed)
    pixels = np.empty((len(rows), 3, side, side), np.uint8)
    depth = np.zeros((len(rows), 1, MAP_SIDE, MAP_SIDE), np.float32)
    reflection = np.zeros((len(rows), 3, MAP_SIDE, MAP_SIDE), np.float32)
    for number, row in enumerate(rows):
        picture = _read_picture(root / row.name)
        pixels[number] = _cropped(picture, _read_box(root / row.name), side).transpose(2, 0, 1)
        if maps is not None and row.live == LIVE:
            depth[number] = _read_map(Path(maps), row.name, "depth")[..., :1].transpose(2, 0, 1)
        elif maps is not None:
            reflection[number] = _read_map(Path(maps), row.name, "reflection").transpose(2, 0, 1)
        if progress is not None:
            progress(number + 1, len(rows))
    labels = LivenessLabels(
        torch.tensor([row.live for row in rows]),
        torch.tensor([row.attributes for row in rows], dtype=torch.float32),
        torch.tensor([row.spoof_type for row in rows]),
        torch.tensor([row.illumination for row in rows]),
        None if maps is None else torch.from_numpy(depth),
        None if maps is None else torch.from_numpy(reflection),
    )
    return LivenessSet(
        torch.from_numpy(pixels), labels, CELEBA_ATTRIBUTES, SPOOF_TYPES, ILLUMINATIONS, f"CelebA-Spoof {part}"
    )


def _read_labels(root: Path, part: str) -> list[_Row]:
    file = root / "metas" / "intra_test" / f"{part}_label.json"
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"the labels {str(file)!r} cannot be read ({error}): give the folder of CelebA-Spoof that holds metas/"
        ) from None
    if not isinstance(content, dict) or not content:
        raise InputError(f"the labels {str(file)!r} name no pictures: a list of 43 or 44 numbers by path is wanted")
    return [_row(file, name, content[name]) for name in sorted(content)]


def _row(file: Path, name: str, values: object) -> _Row:
    numbers = values if isinstance(values, list) else []
    whole = all(isinstance(value, int) for value in numbers)
    if len(numbers) not in (_ATTRIBUTES + 3, _ATTRIBUTES + 4) or not whole:
        raise InputError(f"{name!r} in {str(file)!r} has {len(numbers)} labels: 43 or 44 whole numbers are wanted")
    kind, light, live = numbers[_TYPE], numbers[_ILLUMINATION], numbers[-1]
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InputError(f"{name!r} in {str(file)!r} is no path inside the set: correct it")
    folder = path.parent.name
    if not (0 <= kind < len(SPOOF_TYPES) and 0 <= light < len(ILLUMINATIONS) and live in (LIVE, SPOOF)):
        raise InputError(
            f"{name!r} in {str(file)!r} has spoof type {kind}, illumination {light} and live/spoof {live}: "
            f"0 to {len(SPOOF_TYPES) - 1}, 0 to {len(ILLUMINATIONS) - 1} and 0 or 1 are wanted"
        )
    if folder not in ("live", "spoof") or (folder == "spoof") != (live == SPOOF) or (kind == 0) != (live == LIVE):
        raise InputError(
            f"{name!r} in {str(file)!r} is labelled {live} with spoof type {kind}: 0 and 0 are wanted in a folder "
            "live, 1 and a type above 0 in a folder spoof"
        )
    # CelebA itself writes -1 for an attribute that is not there.
    return _Row(name, tuple(int(value > 0) for value in numbers[:_ATTRIBUTES]), kind, light, live)


def _drawn(rows: list[_Row], limit: int | None, seed: int) -> list[_Row]:
    """At most `limit` rows, half of them live where there are enough, in the order of their names."""
    if limit is None or limit >= len(rows):
        return rows
    if limit < 2:
        raise InputError(f"{limit} faces of CelebA-Spoof were asked for: ask for 2 or more")
    draw = random.Random(seed)
    classes = [[row for row in rows if row.live == value] for value in (LIVE, SPOOF)]
    few, many = sorted(classes, key=len)
    share = min(limit // 2, len(few))
    chosen = draw.sample(few, share) + draw.sample(many, min(limit - share, len(many)))
    return sorted(chosen, key=lambda row: row.name)


def _read_picture(file: Path) -> NDArray[np.uint8]:
    try:
        found = cv2.imdecode(np.frombuffer(file.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error) as error:
        raise InputError(f"the picture {str(file)!r} cannot be read ({error}): unpack the set again") from None
    if found is None:
        raise InputError(f"the picture {str(file)!r} is not a readable picture: unpack the set again")
    pixels: NDArray[np.uint8] = found[..., ::-1]
    return pixels


def _read_box(picture: Path) -> tuple[float, float, float, float]:
    """x, y, width and height in fractions of the picture."""
    file = picture.with_name(f"{picture.stem}_BB.txt")
    try:
        x, y, width, height = (float(value) / _BOX_SIDE for value in file.read_text().split()[:4])
    except (OSError, ValueError) as error:
        raise InputError(f"the box {str(file)!r} cannot be read ({error}): x, y, width, height are wanted") from None
    if not (width > 0 and height > 0 and max(abs(x), abs(y), width, height) < 4):
        raise InputError(f"the box {str(file)!r} has no area inside its picture: leave that picture out of the labels")
    return x, y, width, height


def _cropped(picture: NDArray[np.uint8], box: tuple[float, float, float, float], side: int) -> NDArray[np.uint8]:
    """The box and a margin as a square; what is outside the picture is black."""
    high, wide = picture.shape[:2]
    x, y, width, height = box[0] * wide, box[1] * high, box[2] * wide, box[3] * high
    half = max(width, height) * BOX_SIDES / 2
    scale = side / (2 * half)
    matrix = np.array([[scale, 0, side / 2 - scale * (x + width / 2)], [0, scale, side / 2 - scale * (y + height / 2)]])
    if scale < 1:  # bilinear sampling alone would alias
        picture = cv2.GaussianBlur(picture, (0, 0), 0.4 / scale)
    crop: NDArray[np.uint8] = cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR)
    return crop


def _read_map(folder: Path, name: str, kind: str) -> NDArray[np.float32]:
    """(14, 14, 3) in [0, 1]."""
    file = (folder / name).with_name(f"{Path(name).stem}_{kind}.png")
    found = cv2.imread(str(file), cv2.IMREAD_COLOR) if file.is_file() else None
    if found is None:
        raise InputError(f"the {kind} map {str(file)!r} is missing or no picture: add it, or leave the maps out")
    small = cv2.resize(found[..., ::-1], (MAP_SIDE, MAP_SIDE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255
