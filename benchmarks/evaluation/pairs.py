"""Verification pairs of a fold, as pictures."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.training.faces import FaceSet

__all__ = ["Pairs", "drawn_pairs", "load_pairs", "read_table"]


@dataclass(frozen=True)
class Pairs:
    """Faces to compare.

    Attributes
    ----------
    left, right : ndarray of uint8
        (N, 112, 112); the left one is the probe, which an attacker changes, the right one is enrolled.
    same : ndarray of bool
        (N,) whether both are one person.
    """

    left: NDArray[np.uint8]
    right: NDArray[np.uint8]
    same: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.same)

    def first(self, count: int) -> Pairs:
        """The first `count` pairs, half same and half different, in the table's order.

        Raises
        ------
        UsageError
            If there are not as many, or the number is odd.
        """
        chosen = self.first_rows(count)
        if count % 2 or len(chosen) != count:
            raise UsageError(
                f"{count} pairs were asked for, half of them same, of {int(self.same.sum())} same and "
                f"{int((~self.same).sum())} different ones: ask for an even number that is there"
            )
        return Pairs(self.left[chosen], self.right[chosen], self.same[chosen])

    def first_rows(self, count: int) -> NDArray[np.intp]:
        """Which pairs `first` takes."""
        each = count // 2
        return np.sort(np.concatenate([np.flatnonzero(self.same)[:each], np.flatnonzero(~self.same)[:each]]))


def read_table(path: Path, folds: range) -> list[tuple[str, str, bool]]:
    """Names and same-or-not of every pair of these folds.

    Raises
    ------
    InputError
        If the table is missing or is not one of fold, left, right and same.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                (row["left"], row["right"], {"1": True, "0": False}[row["same"]])
                for row in csv.DictReader(file)
                if int(row["fold"]) in folds
            ]
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(
            f"{str(path)!r} is no table of pairs ({type(error).__name__}: {error}): "
            "wanted a CSV file with the columns fold, left, right, same (1 or 0)"
        ) from None


def load_pairs(table: Path, faces: FaceSet, folds: range) -> Pairs:
    """The pairs of these folds whose faces are both in the set, same ones first.

    Raises
    ------
    InputError
        If there is none of either kind.
    """
    number = {name: index for index, name in enumerate(faces.names)}
    rows = [row for row in read_table(table, folds) if row[0] in number and row[1] in number]
    rows.sort(key=lambda row: not row[2])
    same = np.array([row[2] for row in rows], dtype=bool)
    if not same.any() or same.all():
        raise InputError(
            f"{str(table)!r} has {int(same.sum())} same and {int((~same).sum())} different pairs of folds "
            f"{folds.start} to {folds.stop - 1} whose faces are there: wanted some of both"
        )
    pixels = faces.pixels.numpy()
    return Pairs(
        pixels[[number[row[0]] for row in rows]],
        pixels[[number[row[1]] for row in rows]],
        same,
    )


def drawn_pairs(faces: FaceSet, count: int, seed: int = 0) -> Pairs:
    """`count` pairs, half of them same, drawn at random from faces that lie in a folder for each person.

    Raises
    ------
    InputError
        If there are not two people, or nobody has two pictures.
    """
    people: dict[str, list[int]] = {}
    for number, name in enumerate(faces.names):
        people.setdefault(name.rpartition("/")[0], []).append(number)
    several = [rows for rows in people.values() if len(rows) > 1]
    if not several or len(people) < 2:
        raise InputError(
            f"faces to draw pairs from show {len(people)} people, {len(several)} of them more than once: wanted a "
            "folder for each of two people or more, and two pictures in one of them"
        )
    rng = np.random.default_rng(seed)
    same = [rng.choice(several[rng.integers(len(several))], 2, replace=False) for _ in range(count // 2)]
    everybody = list(people.values())
    different = []
    for _ in range(count - count // 2):
        one, other = rng.choice(len(everybody), 2, replace=False)
        different.append([rng.choice(everybody[one]), rng.choice(everybody[other])])
    rows = np.array([*same, *different])
    pixels = faces.pixels.numpy()
    return Pairs(pixels[rows[:, 0]], pixels[rows[:, 1]], np.arange(count) < count // 2)
