"""Python in the documents compiles, imports what is there, and calls it with arguments that it takes."""

from __future__ import annotations

import ast
import importlib
import inspect
from typing import Any

import pytest
from documents import ROOT, Said, blocks

SNIPPETS = blocks("python")


def look(said: Said) -> None:
    """Resolve every import, every attribute of what was imported, and the keywords of calls of these."""
    tree = ast.parse(said.text, str(said.file))
    known: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                module = importlib.import_module(name.name)
                known[name.asname or name.name.partition(".")[0]] = (
                    module if name.asname else importlib.import_module(name.name.partition(".")[0])
                )
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            known |= {name.asname or name.name: getattr(module, name.name) for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            resolve(node, known)
        elif isinstance(node, ast.Call):
            check_call(node, resolve(node.func, known), said)


def resolve(node: ast.expr, known: dict[str, Any]) -> Any:
    """What an expression stands for, if that can be told without running it; else None."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        of = resolve(node.value, known)
        return None if of is None else getattr(of, node.attr)
    return None


def check_call(node: ast.Call, called: Any, said: Said) -> None:
    if not str(getattr(called, "__module__", None)).startswith("immunecam"):
        return
    parameters = inspect.signature(called).parameters.values()
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        # `FrameSource.open` hands these on to the live source.
        from immunecam.runtime.frames.live import LiveSource

        parameters = [*parameters, *inspect.signature(LiveSource).parameters.values()]
    names = {one.name for one in parameters}
    assert {word.arg for word in node.keywords if word.arg} <= names, said


@pytest.mark.parametrize("said", SNIPPETS, ids=str)
def test_snippet(said):
    look(said)


def test_there_are_some():
    assert {said.file.name for said in SNIPPETS} >= {"README.md", "quickstart.md", "embedding.md", "operations.md"}


@pytest.mark.parametrize(
    "text",
    [
        "import immunecam.purify",
        "from immunecam import Purifyer",
        "from immunecam import Purifier\nPurifier.laod()",
        "from immunecam import Purifier\nPurifier.load(thread=2)",
        "from immunecam import FrameSource\nFrameSource.open('0', giveup_s=1)",
        "purifier = ",
    ],
)
def test_wrong_snippet_is_noticed(text):
    with pytest.raises((ImportError, AttributeError, AssertionError, SyntaxError)):
        look(Said(ROOT / "README.md", text))
