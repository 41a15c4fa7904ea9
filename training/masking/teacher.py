"""What a frozen recogniser sees in the plain faces: the embeddings that a masked one is to give."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.models.frequency import luminance
from immunecam.training.faces import FaceSet
from immunecam.training.recognizer import Recognizer

__all__ = ["TeacherEmbeddings"]

_BATCH = 64


@dataclass(frozen=True, eq=False)
class TeacherEmbeddings:
    """Of a set of faces, as they are and mirrored. They are computed once, for the teacher is as dear as the student.

    Attributes
    ----------
    plain, mirrored : Tensor
        (N, E) of unit length.
    about : dict
        "teacher", its name and hash, and "faces", the hash of their pixels.
    """

    plain: Tensor
    mirrored: Tensor
    about: dict[str, str]

    @property
    def size(self) -> int:
        """Of an embedding."""
        return int(self.plain.shape[1])

    @classmethod
    def of(
        cls,
        teacher: Recognizer,
        faces: FaceSet,
        kept: str | Path | None = None,
        *,
        device: str = "cpu",
        progress: Callable[[int, int], None] | None = None,
    ) -> TeacherEmbeddings:
        """Those of a file if it holds them, else computed, and written there.

        Parameters
        ----------
        teacher : Recognizer
        faces : FaceSet
        kept : path, optional
            A .safetensors file; replaced if it is of other faces or another teacher, or damaged.
        device : str
        progress : callable, optional
            Called with (done, total).

        Raises
        ------
        InputError
            If there is no folder for the file.
        """
        if kept is not None and not Path(kept).parent.is_dir():
            raise InputError(f"the folder of the embeddings {str(kept)!r} does not exist: make it first")
        about = {
            "teacher": f"{teacher.name} {teacher.sha256}",
            "faces": faces.sha256,
        }
        if kept is not None and (found := _read(Path(kept), about)) is not None:
            return cls(*found, about)
        teacher = teacher.to(device)
        parts: list[Tensor] = []
        with torch.no_grad():
            for number, batch in enumerate(faces.batches(_BATCH)):
                grey = luminance(batch)[:, 0].to(device)
                parts.append(torch.stack([teacher(grey), teacher(grey.flip(2))]).cpu())
                if progress is not None:
                    progress(min((number + 1) * _BATCH, len(faces)), len(faces))
        plain, mirrored = torch.cat(parts, 1)
        if kept is not None:
            with written_whole(Path(kept)) as partial:
                tensors = {"plain": plain.contiguous(), "mirrored": mirrored.contiguous()}
                save_file(tensors, partial, metadata={"about": json.dumps(about)})
        return cls(plain, mirrored, about)

    def at(self, chosen: Tensor, flipped: Tensor) -> Tensor:
        """(M, E) for some faces, of which some are mirrored."""
        return torch.where(flipped.unsqueeze(1), self.mirrored[chosen], self.plain[chosen])

    def check(self, faces: FaceSet) -> None:
        """Refuse embeddings of another number of faces.

        Raises
        ------
        InputError
        """
        if len(self.plain) != len(faces):
            raise InputError(f"{len(faces)} faces have the teacher's embeddings of {len(self.plain)}: make them anew")


def _read(file: Path, about: dict[str, str]) -> tuple[Tensor, Tensor] | None:
    try:
        with safe_open(file, "pt") as opened:
            if json.loads((opened.metadata() or {})["about"]) != about:
                return None
            return opened.get_tensor("plain"), opened.get_tensor("mirrored")
    except (OSError, SafetensorError, ValueError, KeyError):
        return None
