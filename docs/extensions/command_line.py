"""The directive ``command``: what ``--help`` says of a command, read from the command line while the site is built."""

from __future__ import annotations

from typing import Any

import typer
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from immunecam.cli import app as command_line

__all__ = ["help_of", "setup"]


def help_of(path: str) -> str:
    """The help of a command as plain text.

    Parameters
    ----------
    path : str
        Its words, such as "gate enrol".

    Raises
    ------
    KeyError
        If there is none.
    """
    command: Any = typer.main.get_command(command_line)
    for word in path.split():
        command = command.commands[word]
    command.rich_markup_mode = None  # no boxes, no colours
    context = command.make_context(f"immunecam {path}", [], resilient_parsing=True, terminal_width=100)
    return str(context.get_help())


class _Command(Directive):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        try:
            text = help_of(self.arguments[0])
        except KeyError:
            raise self.error(f"there is no command 'immunecam {self.arguments[0]}'") from None
        return [nodes.literal_block(text, text, language="text")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command", _Command)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
