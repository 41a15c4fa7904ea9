"""Plots and pages: the same bytes every time, whole in one file, and nothing in them that runs."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib to draw (pip install 'immunecam[plots]')")

from immunecam.reports.html import html_page, write_html
from immunecam.reports.plot import Plot
from immunecam.reports.style import COLOURS, HATCHES, MARKERS, house_style, new_figure

MARKDOWN = """\
# Faces <of> 2

Said before.

![left out](faces/budgets.png)

## A table

| name | value |
|---|---|
| <script>alert(1)</script> | 1 |

<details><summary>All of it</summary>

More.

</details>
"""


def plot(name: str = "line", *, bars: bool = False) -> Plot:
    with house_style():
        figure, axes = new_figure(4, 3, 1, 2)
        axes[0][0].plot([1, 2], [3, 4], color=COLOURS[0], marker=MARKERS[0], label="a & b")
        if bars:
            axes[0][1].barh([0], [1], hatch=HATCHES[1])
        axes[0][0].set_xlabel("time, s")
        figure.legend(loc="outside upper left")
    return Plot(name, "How <long>", "Further left is faster.", figure)


class Checked(HTMLParser):
    """Tags that are open at the end, every id, and whatever is fetched from elsewhere."""

    EMPTY = ("meta", "br", "img", "hr")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.used: list[str] = []
        self.names: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        if tag not in self.EMPTY:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "xlink:href", "data", "srcset"):
                self.used.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_files_are_the_same_bytes_every_time(tmp_path):
    """Drawn by two processes, whose hashes of strings differ, and whatever the user's matplotlib is set to."""
    code = (
        "import sys; sys.path.insert(0, {folder!r}); from pathlib import Path; import matplotlib as m;"
        "m.rcParams.update({{'font.size': {size}, 'svg.fonttype': {kind!r}}}); from test_reports import plot;"
        "print([f.name for f in plot(bars=True).write(Path({out!r}))]); print(m.rcParams['font.size'])"
    )
    found = []
    for number, (size, kind) in enumerate(((7.0, "path"), (22.0, "none"))):
        out = tmp_path / str(number)
        out.mkdir()
        given = code.format(folder=str(__file__).rpartition("/")[0], size=size, kind=kind, out=str(out))
        done = subprocess.run([sys.executable, "-c", given], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["['line.png', 'line.svg']", str(size)]
        found.append([(out / name).read_bytes() for name in ("line.png", "line.svg")])
    assert found[0] == found[1]
    png, svg = found[0]
    assert png.startswith(b"\x89PNG")
    assert b"a &amp; b</text>" in svg  # words, not outlines of letters
    assert b"<dc:date" not in svg
    assert b"atplotlib v" not in png + svg


def test_a_page_is_whole_in_one_file(tmp_path):
    write_html(tmp_path / "page.html", MARKDOWN, [plot("one"), plot("two", bars=True)])
    page = (tmp_path / "page.html").read_text()
    found = Checked(page)
    assert found.open == []
    assert "script" not in found.names
    assert len(found.ids) == len(set(found.ids))
    # Every reference is to an id of this page.
    assert found.used
    assert {use.removeprefix("#") for use in found.used} <= set(found.ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(found.ids)
    assert "budgets.png" not in page
    assert "default-src 'none'" in page
    assert not list(tmp_path.glob(".*partial"))


def test_a_page_reads_in_the_order_of_its_importance():
    page = html_page(MARKDOWN, [plot()])
    order = ["<h1>Faces", "Said before", "How &lt;long&gt;", "<svg", "Further left", "<h2>A table", "All of it"]
    places = [page.index(part) for part in order]
    assert places == sorted(places)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<details><summary>All of it</summary>" in page
    assert "<title>Faces &lt;of&gt; 2 - ImmuneCam</title>" in page


def test_a_plot_takes_the_inks_of_the_page():
    """Otherwise its words would be dark on a dark screen."""
    page = html_page(MARKDOWN, [plot()])
    drawn = page[page.index("<svg") : page.index("</svg>")]
    assert "fill: var(--ink)" in drawn
    assert not re.search("#1b2430|#ffffff", drawn)
    assert 'aria-labelledby="line-title line-said"' in drawn


def test_colours_differ_in_brightness_or_for_every_kind_of_eye():
    """By Machado, Oliveira and Fernandes (2009), severity 1: no two series become one colour."""
    import numpy as np

    kinds = {
        "all": np.eye(3),
        "no red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "no green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "no blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }
    sent = np.array([[int(colour[n : n + 2], 16) for n in (1, 3, 5)] for colour in COLOURS]) / 255
    linear = np.where(sent <= 0.04045, sent / 12.92, ((sent + 0.055) / 1.055) ** 2.4)
    for kind, matrix in kinds.items():
        seen = _lab(np.clip(linear @ np.array(matrix).T, 0, 1))
        distance = np.linalg.norm(seen[:, None] - seen[None], axis=2) + 1e3 * np.eye(len(COLOURS))
        assert distance.min() > 10, (kind, distance.round())


def _lab(linear):
    """CIE L*a*b* (D65) of linear sRGB."""
    import numpy as np

    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    x, y, z = (xyz / (0.95047, 1.0, 1.08883)).T
    f = [np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116) for v in (x, y, z)]
    return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])], axis=1)
