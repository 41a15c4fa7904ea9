"""Options that several commands share, written down once: as the fields of a dataclass."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

__all__ = ["with_shared_options"]


def with_shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose parameters of a dataclass type are filled from options, one for each field.

    The fields are annotated as the parameters of a command are. The command's own options come first in its help,
    then those of the dataclasses, in the order of its parameters.
    """
    hints = get_type_hints(command, include_extras=True)
    kind, own, shared = inspect.Parameter.KEYWORD_ONLY, list[inspect.Parameter](), list[inspect.Parameter]()
    groups: dict[str, tuple[type, list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            fields = _parameters(hints[name])
            groups[name] = hints[name], [field.name for field in fields]
            shared += fields
        else:
            own.append(parameter.replace(kind=kind, annotation=hints[name]))

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        made = {
            name: group(**{field: given.pop(field) for field in fields}) for name, (group, fields) in groups.items()
        }
        return command(**made, **given)

    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return run


def _parameters(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    missing, none = dataclasses.MISSING, inspect.Parameter.empty
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=none if field.default is missing else field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(group)
    ]
