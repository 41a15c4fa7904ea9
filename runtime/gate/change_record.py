"""No change of a template store without a record of it, whatever comes between the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from immunecam.errors import ImmuneCamError
from immunecam.runtime.gate.audit_log import AuditLog
from immunecam.runtime.gate.store import TemplateStore

__all__ = ["recorded"]


@contextmanager
def recorded(audit: AuditLog, store: TemplateStore, kind: str, content: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Write down that a change begins, and after the block that it is done, or failed.

    A process that is killed in the block, or finds the disk full after it, leaves the first record: the store may have
    been changed so, and its generation tells whether it was.

    Parameters
    ----------
    audit : AuditLog
    store : TemplateStore
    kind : str
        "enrolment", "deletion" or "calibration".
    content : mapping
        What is known before.

    Yields
    ------
    dict
        For what is known only afterwards.

    Raises
    ------
    InputError
        If the first record cannot be written; the block does not run then.
    """
    audit.append(f"{kind}-begun", {**content, "generation": store.generation})
    more: dict[str, Any] = {}
    try:
        yield more
    except ImmuneCamError as error:
        with suppress(ImmuneCamError):
            audit.append(f"{kind}-failed", {**content, "reason": str(error), "generation": store.generation})
        raise
    audit.append(kind, {**content, **more, "generation": store.generation})
