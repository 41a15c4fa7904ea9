"""The site builds without a warning, opens without a network, and no link of it leads nowhere."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer
from documents import ROOT

import immunecam
from immunecam.cli import app


class _Page(HTMLParser):
    """What a page loads, where it leads, and what can be led to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.names: set[str] = set()
        self.formulas = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        self.formulas += tag == "svg" and given.get("class") == "formula"
        if tag == "a" and "href" in given:
            self.leads.append(given["href"])
        self.loads += [given[name] for name in ("src", "data", "poster") if name in given]
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload", "preconnect"):
            self.loads.append(given["href"])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Page]:
    return {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_nothing_is_fetched_from_anywhere(site, pages):
    assert not [(path.name, load) for path, page in pages.items() for load in page.loads if urlsplit(load).scheme]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)'\"]*", styles)


def test_every_link_within_the_site_leads_somewhere(pages):
    wrong = []
    for path, page in pages.items():
        for lead in [*page.leads, *page.loads]:
            parts = urlsplit(lead)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            names = pages[target].names if target in pages else {""}
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in names):
                wrong.append((path.name, lead))
    assert not wrong


def test_formulas_are_drawn(site, pages):
    page = pages[site / "how-it-works.html"]
    assert page.formulas > 40
    assert not [load for load in page.loads if "mathjax" in load.lower()]
    text = (site / "how-it-works.html").read_text(encoding="utf-8")
    assert "\\frac" in text  # in the label of a picture,
    assert not re.findall(r">[^<]*\\frac", text)  # and nowhere as text


def test_public_names_and_commands_are_in_it(site):
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    objects = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}
    for name in set(immunecam.__all__) - {"__version__"}:
        value = getattr(immunecam, name)
        # The page tells the name under the module that defines it, or the package that offers it.
        assert {f"{value.__module__}.{name}", f"{value.__module__.rpartition('.')[0]}.{name}"} & objects, name
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "docs").rglob("*.md"))
    linked = {shown or whole for whole, shown in re.findall(r"\{py:\w+\}`([\w.]+)?(?:[^`<]*<([\w.]+)>)?`", text)}
    assert len(linked) > 10
    assert linked <= objects
    described = re.findall(r"^```\{command\} (.*)$", text, re.MULTILINE)
    assert sorted(described) == sorted(_paths(typer.main.get_command(app)))


def _paths(command, before=()):
    if not hasattr(command, "commands"):
        return [" ".join(before)]
    return [path for name, inner in command.commands.items() for path in _paths(inner, (*before, name))]


def test_references_of_docstrings_lead_somewhere():
    """Sphinx is silent about a role whose target it does not find."""
    wrong = []
    for folder in ("immunecam", "kernels", "models", "runtime", "training"):
        for file in (ROOT / folder).rglob("*.py"):
            for name in re.findall(r":(?:func|class|data|mod):`(immunecam\.[\w.]+)`", file.read_text(encoding="utf-8")):
                module, _, member = name.rpartition(".")
                try:
                    importlib.import_module(name)
                except ImportError:
                    if not hasattr(importlib.import_module(module), member):
                        wrong.append((file.name, name))
    assert not wrong


def test_wrong_pages_break_the_build(tmp_path):
    pytest.importorskip("sphinx", reason="needs what builds the site (pip install 'immunecam[docs]')")
    wrong = {
        "nowhere.md": "[there](nowhere.md)",
        "no-such-heading": "[there](#no-such-heading)",
        "none.png": "![picture](none.png)",
        "unheardof": "$$ \\unheardof{x} $$",
        "purfy": "```{command} purfy\n```",
    }
    for number, text in enumerate(wrong.values()):
        (tmp_path / f"page{number}.md").write_text(f"---\norphan: true\n---\n# A\n\n{text}\n")
    (tmp_path / "index.md").write_text("# A\n")
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'docs' / 'extensions')!r})\n"
        "extensions = ['myst_parser', 'formulas', 'command_line']\n"
        "myst_enable_extensions = ['dollarmath']\nmyst_heading_anchors = 3\n"
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(tmp_path), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    for number, said in enumerate(wrong):
        assert re.search(rf"page{number}\.md.*(WARNING|ERROR).*{re.escape(said)}", done.stderr), done.stderr
