"""Every command in the documents is one that is there, with options that it takes; none is run."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from documents import ROOT, Said, shell_commands, spans

from immunecam.cli import app

OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
ROOT_COMMAND: Any = typer.main.get_command(app)
# Of programs that are not ours.
FOREIGN = {"--nproc-per-node"}
# Newer typer carries its own copy of click and older uses the installed one.
USAGE_ERROR = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")


@pytest.fixture(autouse=True)
def nothing_exported(monkeypatch):
    """Variables of this machine would stand in for options that a line lacks."""
    for name in ("STORE", "RECOGNIZER", "KEY_FILE"):
        monkeypatch.delenv(f"IMMUNECAM_GATE_{name}", raising=False)


def ours(said: Said) -> list[str] | None:
    """The words behind ``immunecam``, or behind ``... -m immunecam``; None if it is another program's line."""
    words = shlex.split(said.text)
    if words[0] != "immunecam" and "immunecam" not in words[1:2] and "-m" not in words:
        return None
    if "immunecam" in words and (words[0] == "immunecam" or words[words.index("immunecam") - 1] == "-m"):
        return words[words.index("immunecam") + 1 :]
    return None


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words that are left."""
    command, rest = ROOT_COMMAND, list(words)
    while hasattr(command, "commands"):
        assert rest, f"{command.name} needs the name of a command"
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    return command, rest


def options_of(command: Any) -> set[str]:
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def all_commands(command: Any = ROOT_COMMAND) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from all_commands(inner)


LINES = [said for said in shell_commands() if ours(said) is not None]
SPANS = [said for said in spans() if said.text.startswith("immunecam ")]


def take(said: Said) -> None:
    """Parse a command line as the program would."""
    command, rest = command_of(ours(said) or [])
    command.make_context(command.name, rest)


@pytest.mark.parametrize("said", LINES, ids=str)
def test_line_is_taken(said, monkeypatch):
    for name, value in said.environment.items():
        monkeypatch.setenv(name, value)
    take(said)


@pytest.mark.parametrize(
    "line",
    [
        "immunecam purify",
        "immunecam purfy in.jpg",
        "immunecam purify in.jpg --colour blue",
        "immunecam gate enrol ann 0",
        "immunecam serve --prot 8600",
    ],
)
def test_wrong_line_is_noticed(line):
    with pytest.raises((AssertionError, USAGE_ERROR)):
        take(Said(ROOT / "README.md", line))


@pytest.mark.parametrize("said", SPANS, ids=str)
def test_command_in_a_sentence_exists(said):
    words = said.text.replace("[", " ").replace("]", " ").split()[1:]
    if words[0] in ("COMMAND", "...") or words[0].startswith("-"):
        command_and_rest = [(ROOT_COMMAND, words)]
    else:
        command_and_rest, names = [], []
        command = ROOT_COMMAND
        while hasattr(command, "commands") and words:
            names = words.pop(0).split("|")
            assert set(names) <= set(command.commands), f"no {names} in {sorted(command.commands)}"
            command_and_rest = [(command.commands[name], words) for name in names]
            command = command.commands[names[0]]
    for command, rest in command_and_rest:
        assert set(OPTION.findall(" ".join(rest))) <= options_of(command)


def test_every_option_that_is_named_exists():
    known = {name for command in all_commands() for name in options_of(command)} | FOREIGN
    for folder in ("benchmarks", "examples", "export", "kernels", "training"):
        for file in (ROOT / folder).rglob("*.py"):
            known |= set(re.findall(r"\"(--[a-z][\w-]*)\"", file.read_text(encoding="utf-8")))
    unknown = {
        str(said)
        for said in spans()
        if said.text.startswith("--")
        for name in OPTION.findall(said.text.split(" ")[0])
        if name not in known
    }
    assert not unknown


def test_modules_scripts_and_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    seen = 0
    for said in [*shell_commands(), *spans()]:
        if module := re.search(r"python3? -m (immunecam\.[\w.]+)(.*)", said.text):
            spec = importlib.util.find_spec(module.group(1))
            assert spec is not None, said
            source = (ROOT / module.group(1).replace("immunecam.", "", 1).replace(".", "/")).with_suffix(".py")
            named = re.findall(r"--[a-z][\w-]*", module.group(2))
            text = source.read_text(encoding="utf-8") if source.is_file() else ""
            assert all(f'"{name}"' in text for name in named), said
        elif script := re.match(r"python3? ([\w/]+\.py)\b", said.text):
            assert (ROOT / script.group(1)).is_file(), said
        elif target := re.fullmatch(r"make ([a-z]+)", said.text):
            assert target.group(1) in targets, said
        else:
            continue
        seen += 1
    assert seen > 10
