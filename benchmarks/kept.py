"""What took time is found once: JSON files that know what they are of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from immunecam.files import written_whole

__all__ = ["kept"]


def kept(file: Path, of: Any, make: Callable[[], Any]) -> Any:
    """What a file holds, if it is of the same; else what `make` gives, which is written there.

    Parameters
    ----------
    file : Path
        Its folder is made if missing; a damaged one is replaced.
    of : object
        Everything that the result depends on, as JSON takes it.
    make : callable
        Gives something that JSON takes.
    """
    of = json.loads(json.dumps(of))  # as it comes back from the file
    if file.is_file():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged file is found anew
            found = json.loads(file.read_text())
            if found["of"] == of:
                return found["what"]
    made = json.loads(json.dumps(make()))
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as partial:
        partial.write_text(json.dumps({"of": of, "what": made}))
    return made
