"""Reports that were measured one after the other, as one: more recognisers, more bundles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from immunecam.errors import InputError

__all__ = ["check_joinable", "joined"]

_SAME = {
    "schema": "schema",
    "protocol": "protocol",
    "pairs": "number of pairs",
    "pairs_sha256": "pairs",
    "threshold_pairs": "pairs of the thresholds",
}
# What a row, a curve or a check is known by: the newer one of two takes the older one's place.
_ROW = ("recognizer", "defence", "threat", "source")
_CURVE = ("recognizer", "defence", "threat")
_CLEAN = ("recognizer", "defence")
_CHECK = ("name",)
_BY_NAME = ("thresholds", "bundle_files", "trained_on", "providers", "milliseconds")


def check_joinable(earlier: Mapping[str, Any], now: Mapping[str, Any], name: str) -> None:
    """That an evaluation measures the same thing as an earlier report; of `now`, what is known before it is measured.

    Parameters
    ----------
    earlier, now : mapping
        Reports of `immunecam evaluate`.
    name : str
        Of the earlier report's file, for the error.

    Raises
    ------
    InputError
        If another protocol or other pairs were judged, or a recogniser or bundle of the same name was another.
    """
    for key, what in _SAME.items():
        if key in now and earlier.get(key) != now[key]:
            raise InputError(
                f"{name!r} is of another {what} than this evaluation: give the options and faces that it was made with"
            )
    for key, what in (("thresholds", "recogniser"), ("bundle_files", "bundle")):
        for of, value in now.get(key, {}).items():
            if earlier.get(key, {}).get(of, value) != value:
                raise InputError(
                    f"{name!r} has another {what} {of!r} than this evaluation: give one of both a new name"
                )


def joined(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The newer report, with what only the earlier one has.

    Rows of one recogniser, defence, threat and source stand or go together. ``earlier`` in the result lists, for every
    report that was taken in, when, where and with what it was measured.
    """
    whole = dict(now)
    whole["rows"] = _kept(earlier["rows"], now["rows"], _ROW)
    whole["roc"] = _kept(earlier["roc"], now["roc"], _CURVE)
    whole["sanity"] = _kept(earlier["sanity"], now["sanity"], _CHECK)
    cameras = [earlier["other_cameras"], now["other_cameras"]]
    whole["other_cameras"] = {
        title: _kept(*(found.get(title, []) for found in cameras), _CLEAN)
        for title in dict.fromkeys([*cameras[0], *cameras[1]])
    }
    for key in _BY_NAME:
        whole[key] = {**earlier[key], **now[key]}
    trained = [earlier["trained_with"], now["trained_with"]]
    whole["trained_with"] = {
        bundle: sorted({*trained[0].get(bundle, []), *trained[1].get(bundle, [])})
        for bundle in dict.fromkeys([*trained[0], *trained[1]])
    }
    whole["bundles"] = list(dict.fromkeys([*earlier["bundles"], *now["bundles"]]))
    whole["adaptive_pairs"] = max(earlier["adaptive_pairs"], now["adaptive_pairs"])
    about = {key: earlier[key] for key in ("created", "machine", "versions", "device") if key in earlier}
    recognizers = list(dict.fromkeys(row["recognizer"] for row in earlier["rows"]))
    whole["earlier"] = [
        *earlier.get("earlier", []),
        {**about, "recognizers": recognizers, "bundles": earlier["bundles"]},
    ]
    return whole


def _kept(earlier: list[dict[str, Any]], now: list[dict[str, Any]], known_by: tuple[str, ...]) -> list[dict[str, Any]]:
    # In the older ones' place, so that rows stay in the order in which readers know them.
    groups = {**_grouped(earlier, known_by), **_grouped(now, known_by)}
    return [item for group in groups.values() for item in group]


def _grouped(items: list[dict[str, Any]], known_by: tuple[str, ...]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for item in items:
        groups.setdefault(tuple(item.get(key) for key in known_by), []).append(item)
    return groups
