"""The directive ``command``: usage, help and options of a command, read from the command line itself."""

from __future__ import annotations

from typing import Any

import typer
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from immunecam.cli import app as command_line

__all__ = ["command_of", "setup"]


def command_of(path: str) -> Any:
    """The click command of words such as "gate enrol".

    Raises
    ------
    KeyError
        If there is none.
    """
    command: Any = typer.main.get_command(command_line)
    for word in path.split():
        command = command.commands[word]
    return command


class _Command(Directive):
    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        path = self.arguments[0]
        try:
            command = command_of(path)
        except KeyError:
            raise self.error(f"there is no command 'immunecam {path}'") from None
        context = command.make_context(f"immunecam {path}", [], resilient_parsing=True)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        listed = nodes.option_list()
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                listed += _option(parameter, context)
        parts: list[nodes.Node] = [nodes.paragraph(text=" ".join((command.help or "").split()))]
        parts.append(nodes.literal_block(usage, usage, language="text"))
        return [*parts, listed] if len(listed) else parts


def _option(option: Any, context: Any) -> nodes.option_list_item:
    group = nodes.option_group()
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    for name in [*option.opts, *option.secondary_opts]:
        group += nodes.option("", nodes.option_string(text=name + value))
    said = " ".join((option.help or "").split())
    if option.required:
        said += " Needed."
    elif not option.is_flag and option.default not in (None, ()) and not callable(option.default):
        said += f" Default: {getattr(option.default, 'value', option.default)}."
    if option.envvar:
        said += f" Or the environment variable {option.envvar}."
    return nodes.option_list_item("", group, nodes.description("", nodes.paragraph(text=said)))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("command", _Command)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
