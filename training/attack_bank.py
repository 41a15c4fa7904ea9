"""Attacked faces made before training, strong ones, that every step can draw from.

An attacker who does not know the defence makes the same faces whatever the defence has learnt so far. So they are made
once, with as many gradient steps as one likes, and used often; only attackers who go through the purifier must be met
at every step.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.training.attacks import ATTACKS, Goal
from immunecam.training.faces import FaceSet, from_uint8
from immunecam.training.recognizer import Recognizer
from immunecam.training.resampling import zoomed
from immunecam.training.seeds import seed_of

__all__ = ["AttackBank", "AttackedFaces", "BankConfig"]

_CHUNK = 32


@dataclass(frozen=True)
class BankConfig:
    """What a bank holds.

    Attributes
    ----------
    attacks : tuple of str
        L-infinity and L2 attacks of `attacks.ATTACKS`, drawn for every 32 faces.
    epsilon : tuple of float
        Smallest and largest budget in grey levels, drawn for every 32 faces; an L2 attack gets the same share of its
        budget in the table as an L-infinity one of its 8 grey levels there.
    rounds : int
        Attacked copies of every face.
    zoom : tuple of float
        Smallest and largest size at which the recogniser sees half of the faces, as a fraction of their own. The
        texture of a perturbation follows the grid of the recogniser's convolutions, and one that was never met has
        another.
    seed : int
        Of everything random.
    """

    attacks: tuple[str, ...] = ("PGD-10", "MI-FGSM-10", "FGSM")
    epsilon: tuple[float, float] = (2.0, 10.0)
    rounds: int = 1
    zoom: tuple[float, float] = (1.0, 1.0)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.attacks:
            if name not in ATTACKS or ATTACKS[name].attack.norm not in ("linf", "l2"):
                raise ValueError(f"a bank's attacks must be L-infinity or L2 attacks of the table, got {name!r}")
        if not self.attacks or self.rounds < 1 or not 0 < self.epsilon[0] <= self.epsilon[1] <= 127:
            raise ValueError(f"a bank needs attacks, rounds and two rising budgets up to 127, got {self}")
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"a bank's zoom must be two rising numbers above 0, got {self.zoom}")


@dataclass(frozen=True)
class AttackedFaces:
    """N faces of a bank, as a step uses them.

    Attributes
    ----------
    clean, attacked : Tensor
        (N, 112, 112) in [-1, 1].
    zoom : Tensor
        (N,), size at which the attacked recogniser sees them.
    target : Tensor
        (N, 112, 112), whom an impersonator wants to be; one who dodges is his own.
    impersonates : Tensor
        (N,) bool.
    """

    clean: Tensor
    attacked: Tensor
    zoom: Tensor
    target: Tensor
    impersonates: Tensor

    def to(self, device: torch.device) -> AttackedFaces:
        """The same on another device."""
        return AttackedFaces(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True)
class AttackBank:
    """Attacked copies of the faces of a set.

    Attributes
    ----------
    change : Tensor
        (M, 112, 112) int8, what was added to the 8-bit face.
    face : Tensor
        (M,) int64, number of the face.
    recognizer : Tensor
        (M,) int64, number of the recogniser that it was made against. Another one hardly minds.
    mirrored : Tensor
        (M,) bool, whether it was made for the mirrored face: a perturbation that is mirrored afterwards loses most of
        its effect (measured: 1 - cos falls from 0.65 to 0.43).
    zoom : Tensor
        (M,) float32, size at which the recogniser saw it (`zoomed`); seen at another, a perturbation does little.
    target : Tensor
        (M,) int64, number of the face that an impersonator wants to be, mirrored the other way round; of one who
        dodges, its own number.
    """

    change: Tensor
    face: Tensor
    recognizer: Tensor
    mirrored: Tensor
    zoom: Tensor
    target: Tensor

    def __len__(self) -> int:
        return len(self.face)

    def draw(self, count: int, recognizer: int, faces: FaceSet, strength: tuple[float, float]) -> AttackedFaces:
        """Faces attacked against a recogniser, at random, changes scaled by a draw of `strength`, at most by 1."""
        rows = torch.nonzero(self.recognizer == recognizer).flatten()
        rows = rows[torch.randint(len(rows), (count,))]
        clean, target = (from_uint8(faces.pixels[numbers[rows]]) for numbers in (self.face, self.target))
        mirrored = self.mirrored[rows]
        clean[mirrored], target[~mirrored] = clean[mirrored].flip(2), target[~mirrored].flip(2)
        change = self.change[rows].float() / 127.5
        change *= torch.empty(count, 1, 1).uniform_(*strength).clamp_max(1)
        attacked = (clean + change).clamp(-1, 1)
        return AttackedFaces(clean, attacked, self.zoom[rows], target, self.target[rows] != self.face[rows])

    @classmethod
    def make(
        cls,
        config: BankConfig,
        faces: FaceSet,
        recognizers: Sequence[Recognizer],
        folder: str | Path,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> AttackBank:
        """The bank of these faces, read from the folder as far as it is there, and made where it is not.

        Every 32 faces are a file of their own, so an interruption costs one of them; half of the 32 dodge, half want to
        be another of them, the recognisers take turns, and so do faces as they are and mirrored, at their size and
        zoomed. The faces are shuffled first: in a set that is sorted by name, the neighbour is most often the same
        person.

        Raises
        ------
        InputError
            If the folder holds the bank of other faces, recognisers or settings.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        key = json.dumps(
            {
                "format": 4,
                "config": asdict(config),
                "faces": faces.sha256,
                "recognizers": [recognizer.sha256 for recognizer in recognizers],
            },
            indent=1,
        )
        note = folder / "bank.json"
        if not note.exists():
            with written_whole(note) as unfinished:
                unfinished.write_text(key)
        if note.read_text() != key:
            raise InputError(
                f"{str(folder)!r} holds the bank of other faces, recognisers or settings: name another by --bank"
            )
        order = torch.cat([_shuffled(len(faces), config.seed, turn) for turn in range(config.rounds)])
        if len(order) <= _CHUNK * (len(recognizers) - 1):
            raise InputError(
                f"a bank of {len(order)} attacked faces is too small for {len(recognizers)} recognisers, which take "
                f"turns every {_CHUNK} faces: give more faces or rounds"
            )
        starts = range(0, len(order), _CHUNK)
        change, face, against, mirrored, zoom, target = [], [], [], [], [], []
        for number, start in enumerate(starts):
            rows = order[start : start + _CHUNK]
            file = folder / f"{number:06d}.safetensors"
            found = _read(file, len(rows))
            if found is None:
                found = _attack(config, faces.pixels[rows], recognizers, number)
                with written_whole(file) as unfinished:
                    save_file({"change": found}, unfinished)
            change.append(found)
            face.append(rows)
            against.append(torch.full_like(rows, number % len(recognizers)))
            mirrored.append(torch.full(rows.shape, _mirrors(number, len(recognizers))))
            zoom.append(torch.full(rows.shape, _zoom(config, number, len(recognizers))))
            target.append(torch.where(torch.arange(len(rows)) % 2 == 1, rows.roll(1), rows))
            if progress is not None:
                progress(number + 1, len(starts))
        return cls(*map(torch.cat, (change, face, against, mirrored, zoom, target)))


def _shuffled(count: int, seed: int, turn: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed_of(f"{seed}/order/{turn}"))
    return torch.randperm(count, generator=generator)


def _read(file: Path, count: int) -> Tensor | None:
    try:
        with safe_open(file, "pt") as stored:
            change: Tensor = stored.get_tensor("change")
    except (OSError, SafetensorError):
        return None  # not there, or cut: made again
    return change if change.shape == (count, 112, 112) and change.dtype == torch.int8 else None


def _mirrors(number: int, recognizers: int) -> bool:
    return number // recognizers % 2 == 1


def _zoom(config: BankConfig, number: int, recognizers: int) -> float:
    if number // recognizers % 4 < 2:
        return 1.0
    generator = torch.Generator().manual_seed(seed_of(f"{config.seed}/zoom/{number}"))
    return float(torch.empty(()).uniform_(*config.zoom, generator=generator))


def _attack(config: BankConfig, pixels: Tensor, recognizers: Sequence[Recognizer], number: int) -> Tensor:
    torch.manual_seed(seed_of(f"{config.seed}/{number}"))
    recognizer = recognizers[number % len(recognizers)]
    device = next((t.device for t in (*recognizer.parameters(), *recognizer.buffers())), torch.device("cpu"))
    listed = ATTACKS[config.attacks[int(torch.randint(len(config.attacks), ()))]]
    low, high = config.epsilon
    budget = listed.epsilon / 8 * (low + (high - low) * float(torch.rand(())))
    clean = from_uint8(pixels).to(device)
    if _mirrors(number, len(recognizers)):
        clean = clean.flip(2)
    zoom = torch.tensor(_zoom(config, number, len(recognizers)))

    def embed(x: Tensor) -> Tensor:
        return recognizer(x if zoom == 1 else zoomed(x, zoom.expand(len(x))))

    with torch.no_grad():
        # Away from the mirrored picture: at the face's own embedding the gradient vanishes, and one step goes nowhere.
        own = embed(clean.flip(2))
    attacked = clean.clone()
    for impersonate in (False, True):
        part = torch.arange(int(impersonate), len(clean), 2, device=device)
        reference = own.roll(1, 0)[part] if impersonate else own[part]
        attacked[part] = listed.attack(Goal(embed, reference, impersonate), clean[part], budget)
    return ((attacked - clean) * 127.5).round().clamp(-127, 127).to("cpu", torch.int8)
