"""A figure with what a reader needs beside it, as files that are the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from immunecam.files import written_whole
from immunecam.reports.style import house_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Plot"]

# Neither a date nor a version of matplotlib: what did not change is not written anew.
_METADATA: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure of a report.

    Attributes
    ----------
    name : str
        Letters, digits and "-", another for every plot of a report; its files are called so.
    title : str
        One line.
    said : str
        How to read it, in a sentence or two; also for those who cannot see it.
    figure : Figure
        Drawn in the house style.
    """

    name: str
    title: str
    said: str
    figure: Figure

    def write(self, folder: Path, kinds: Sequence[str] = ("png", "svg")) -> list[Path]:
        """Write it, as PNG and as SVG, into a folder that is there, each whole or not at all; the files.

        Raises
        ------
        OSError
            If one cannot be written.
        """
        files = []
        for kind in kinds:
            file = folder / f"{self.name}.{kind}"
            with written_whole(file) as partial:
                partial.write_bytes(self._rendered(kind))
            files.append(file)
        return files

    def svg(self) -> str:
        """The SVG element alone, without what stands before it in a file."""
        text = self._rendered("svg").decode()
        return text[text.index("<svg") :]

    def _rendered(self, kind: str) -> bytes:
        stream = io.BytesIO()
        with house_style():
            self.figure.savefig(stream, dpi=130, format=kind, metadata=_METADATA[kind])
        return stream.getvalue()
