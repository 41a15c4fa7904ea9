"""Links of the documents that are read where they lie, on the forge and in an editor."""

from __future__ import annotations

import re

import pytest
from documents import ROOT


def headings(text: str) -> set[str]:
    """Names that headings can be linked to by."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_lead_somewhere(name):
    file = ROOT / name
    for link in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, heading = link.partition("#")
        target = (file.parent / path) if path else file
        assert target.exists(), link
        assert not heading or heading in headings(target.read_text(encoding="utf-8")), link
