"""The report as a page: tables, and what they mean in plain words. Every figure comes from the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown_table", "page", "picked", "side_by_side"]

_Row = Mapping[str, Any]

# Columns of the side-by-side table: title, threat, attack (a beginning), budget. The weakest of several rows counts.
_COLUMNS = (
    ("clean", "clean", "", "0"),
    ("transfer PGD 8/255", "transfer", "PGD-40", "8/255"),
    ("transfer MI-FGSM 8/255", "transfer", "MI-FGSM", "8/255"),
    ("transfer DI-FGSM 8/255", "transfer", "DI-FGSM", "8/255"),
    ("transfer TI-FGSM 8/255", "transfer", "TI-FGSM", "8/255"),
    ("grey-box PGD 4/255", "grey-box", "PGD-40", "4/255"),
    ("grey-box PGD 8/255", "grey-box", "PGD-40", "8/255"),
    ("grey-box MI-FGSM 8/255", "grey-box", "MI-FGSM", "8/255"),
    ("grey-box DI-FGSM 8/255", "grey-box", "DI-FGSM", "8/255"),
    ("grey-box TI-FGSM 8/255", "grey-box", "TI-FGSM", "8/255"),
    ("grey-box APGD 8/255", "grey-box", "APGD", "8/255"),
    ("resampled PGD 8/255", "resampled", "PGD-40", "8/255"),
    ("resampled MI-FGSM 8/255", "resampled", "MI-FGSM", "8/255"),
    ("L2-PGD", "grey-box", "L2-PGD", "L2 1.5"),
    ("CW-L2", "grey-box", "CW-L2", "L2 1.5"),
    ("patch 10 %", "grey-box", "patch", "10 %"),
    ("adaptive 4/255", "adaptive", "", "4/255"),
    ("adaptive 8/255", "adaptive", "", "8/255"),
    ("adaptive L2-PGD", "adaptive", "expected L2", "L2 1.5"),
    ("adaptive patch 10 %", "adaptive", "expected patch", "10 %"),
    ("grey-box, 10 tries 8/255", "resubmission", "PGD-40", "8/255"),
    ("adaptive, 10 tries 8/255", "resubmission", "strongest", "8/255"),
)

# Columns of the protocol that are not named as their threat.
_THREATS = {"grey_box": "grey-box", "adaptive_others": "adaptive"}

# What an operating point is described by: threat, attack (a beginning), budget.
_POINTS = (("clean", "", "0"), ("grey-box", "PGD-40", "8/255"), ("adaptive", "", "8/255"))

_DECISIONS = ("same_accepted_percent", "different_rejected_percent")

_REFERENCES = """\
| published purifier | false accepts: adaptive, 7.65/255 | grey-box APGD | genuine rejects | time a face |
|---|---|---|---|---|
| IWMF-Diff | 77.4 % | 6.6 % | 3.2 % | 3.8 s |
| IWMF | 80.4 % | 9.2 % | 6.4 % | 0.36 s |
| DiffPure | 99.4 % | 17.4 % | 5.0 % | 3.4 s |

These are their authors' figures on other recognisers and pairs; read them as a scale, not as a contest."""

_SANITY = (
    "The table is refused if one of these fails. Where an attacker must not be weaker than another, both are compared "
    "on the same pairs, and the check fails if the difference is below zero with 99.9 % confidence (in brackets: that "
    "interval, in points), or by more than 10 points."
)

_LIMITS = """\
- **Physical presentation attacks** (a printed face, a mask, make-up, a patch worn on the skin) are not perturbations of
  a picture, and purification does not answer them.
- **Whoever may try often** gets the best of several antibodies; the resubmission column counts any success in ten.
  Limit the number of tries.
- Figures are of one public data set of faces, aligned to 112 x 112 and grey, in digital form; a camera in between,
  other faces or another recogniser give others. Measure yours with `immunecam evaluate`."""


def page(report: Mapping[str, Any]) -> str:
    """Markdown of a report of `immunecam evaluate`."""
    rows, protocol = report["rows"], report["protocol"]
    recognizers = list(dict.fromkeys(row["recognizer"] for row in rows))
    defences = list(dict.fromkeys(row["defence"] for row in rows))
    trained = {name: set(names) for name, names in report["trained_with"].items()}
    parts = ["# Robustness", "", _summary(report), ""]
    parts += ["## Every threat model side by side", "", _reading(report), ""]
    for name in recognizers:
        table = markdown_table(*side_by_side(rows, name, defences))
        parts += [f"### {name}", "", *_role(name, trained), *_met(report), "", *table, ""]
    parts += ["## What purification costs clean faces", "", *_clean(report, recognizers, defences), ""]
    if report["other_cameras"]:
        parts += ["## Other cameras", "", *_other_cameras(report), ""]
    parts += ["## Operating points", "", *_operating_points(report, recognizers), ""]
    parts += ["## One antibody or several", "", *_several(report, recognizers), ""]
    parts += ["## What the defence does not stop", "", _who_knows(report), _LIMITS, ""]
    parts += ["## References to beat", "", _REFERENCES, ""]
    parts += ["## What was attacked, and how", "", *_how(protocol), ""]
    parts += ["## Attacks in detail", "", *_details(rows), ""]
    parts += ["## Sanity block", "", _SANITY, "", *_checks(report["sanity"]), ""]
    return "\n".join(parts)


def _summary(report: Mapping[str, Any]) -> str:
    protocol, machine = report["protocol"], report["machine"]
    quick = (
        " **This is the quick form**: fewer pairs, budgets, attacks, steps, starts and antibodies than the protocol "
        "asks for, so only a hint."
        if protocol["name"] == "quick"
        else ""
    )
    parts = "".join(
        f" Taken over from an earlier report ({one['machine']['cores']} cores, {one['machine']['processor']}, attacks "
        f"on {one['device']}): {', '.join(one['bundles'])} with {', '.join(one['recognizers'])}."
        for one in report.get("earlier", ())
    )
    return (
        f"Generated by `immunecam evaluate` from measured figures ({report['pairs']} pairs of LFW fold "
        f"{protocol['fold']}, adaptive attacks on {report['adaptive_pairs']}; {machine['cores']} cores, "
        f"{machine['processor']}, attacks on {report['device']}; seed {protocol['seed']}).{quick}{parts} "
        "Nothing is fitted on this fold, but it is the development fold: settings were chosen by figures of it, so "
        "expect a little less of other people."
    )


def _reading(report: Mapping[str, Any]) -> str:
    return (
        "Each cell reads *same pairs accepted / different pairs rejected*, in per cent, both sides purified, at the "
        "threshold of best accuracy of the unpurified recogniser on clean training pairs, which is never moved. The "
        "first number falls under dodging, the second under impersonation. Where several attacks fit a column, the "
        "most successful one of each goal counts: bundles are attacked adaptively in several ways, each face by the "
        "one that does best, and the classical filters in one. Thresholds are of "
        f"{report['threshold_pairs']['same']} same and {report['threshold_pairs']['different']} different pairs: "
        "cosine "
        + ", ".join(f"{values['best_accuracy']:.3f} for {name}" for name, values in report["thresholds"].items())
        + "."
    )


def _role(name: str, trained: Mapping[str, set[str]]) -> list[str]:
    known = [bundle for bundle, names in trained.items() if name in names]
    unknown = [bundle for bundle, names in trained.items() if name not in names]
    said = []
    if known:
        said.append(f"Used in the training of: {', '.join(known)}.")
    if unknown:
        said.append(f"Never seen in the training of: {', '.join(unknown)}.")
    return [" ".join(said)]


def _met(report: Mapping[str, Any]) -> list[str]:
    """What the attacks of a table have in common with those of training."""
    met = [f"{bundle}: {said}" for bundle, said in report.get("trained_on", {}).items() if said]
    return ["", f"Attacks met in the last run of training ({'; '.join(met)})."] if met else []


def picked(rows: Sequence[_Row], recognizer: str, defence: str, threat: str, attack: str, budget: str) -> list[_Row]:
    """The rows of a cell, both sides purified; of several attacks through a defence the strongest for each face.

    `attack` is the beginning of a name.
    """
    found = [
        row
        for row in rows
        if row["recognizer"] == recognizer
        and row["defence"] == defence
        and row["threat"] == threat
        and row["budget"] == budget
        and row["attack"].startswith(attack if threat != "clean" else "")
        and row["purified"] == "both"
    ]
    strongest = [row for row in found if row["attack"].startswith("strongest")]
    return strongest or found


def _cell(found: Sequence[_Row]) -> str:
    if not found:
        return ""
    lowest = (min(row[name] for row in found) for name in ("same_accepted_percent", "different_rejected_percent"))
    return " / ".join(f"{value:.1f}".removesuffix(".0") for value in lowest)


def side_by_side(rows: Sequence[_Row], recognizer: str, defences: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Head and lines of the table of one recogniser: a line for each defence, a column for each threat model met."""
    table = [[_cell(picked(rows, recognizer, name, *column[1:])) for column in _COLUMNS] for name in defences]
    kept = [n for n in range(len(_COLUMNS)) if any(line[n] for line in table)]
    return (
        ["defence", *(_COLUMNS[n][0] for n in kept)],
        [[name, *(line[n] for n in kept)] for name, line in zip(defences, table, strict=True)],
    )


def _clean(report: Mapping[str, Any], recognizers: Sequence[str], defences: Sequence[str]) -> list[str]:
    lines = []
    for recognizer in recognizers:
        for defence in defences:
            clean = [
                row
                for row in report["rows"]
                if (row["recognizer"], row["defence"], row["threat"]) == (recognizer, defence, "clean")
            ]
            probe = [_accuracy(row) for row in clean if row["purified"] == "probe"]
            for row in clean:
                if row["purified"] != "both":
                    continue
                drop, tar_drop = _drop(row, "drop"), _drop(row, "tar_drop")
                tar = f"{row['tar_at_fmr_percent']:.1f} ({row['tar_low_percent']:.1f} to {row['tar_high_percent']:.1f})"
                time = f"{report['milliseconds'].get(defence, 0):.2f}"
                lines.append([recognizer, defence, _accuracy(row), drop, tar, tar_drop, *probe, time])
    head = ["recogniser", "defence", "accuracy, % (95 %)", "drop, points (95 %)", "TAR at FMR 1e-3, % (95 %)"]
    table = markdown_table([*head, "drop, points (95 %)", "accuracy, probe side only, %", "ms a face"], lines)
    said = "Milliseconds are of this machine: bundles as the runtime runs them, eigenfaces by plain PyTorch."
    return [*table, "", said]


def _drop(row: _Row, name: str) -> str:
    """Points that were lost, with their interval; empty for what is compared with."""
    if f"{name}_points" not in row:
        return ""
    return f"{row[f'{name}_points']:.1f} ({row[f'{name}_low_points']:.1f} to {row[f'{name}_high_points']:.1f})"


def _other_cameras(report: Mapping[str, Any]) -> list[str]:
    """Clean faces of sets that nothing was fitted on."""
    lines = []
    for title, rows in report["other_cameras"].items():
        for row in rows:
            if row["purified"] != "both":
                continue
            drop = f"{row['drop_points']:.1f}" if "drop_points" in row else ""
            tar_drop = f"{row['tar_drop_points']:.1f}" if "tar_drop_points" in row else ""
            tar = f"{row['tar_at_fmr_percent']:.1f}"
            lines.append([title, row["recognizer"], row["defence"], _accuracy(row), drop, tar, tar_drop])
    said = (
        f"Clean pairs drawn from each set ({report['protocol']['other_faces']}), at the thresholds of LFW: what "
        "purification costs faces from cameras and lighting that neither training nor thresholds knew."
    )
    head = [
        "faces",
        "recogniser",
        "defence",
        "accuracy, % (95 %)",
        "drop, points",
        "TAR at FMR 1e-3, %",
        "drop, points",
    ]
    return [said, "", *markdown_table(head, lines)]


def _operating_points(report: Mapping[str, Any], recognizers: Sequence[str]) -> list[str]:
    """For every bundle's modes: the mean of clean, grey-box and adaptive accuracy, trained and unseen ones apart."""
    lines, points = [], {}
    for defence in report["bundles"]:
        known = set(report["trained_with"][defence.rpartition(" (")[0]])
        for title, group in (
            ("used in training", [name for name in recognizers if name in known]),
            ("never seen", [name for name in recognizers if name not in known]),
        ):
            if not group:
                continue
            line = []
            for threat, attack, budget in _POINTS:
                found = [
                    sum(min(row[key] for row in rows) for key in _DECISIONS) / 2
                    for name in group
                    if (rows := picked(report["rows"], name, defence, threat, attack, budget))
                ]
                line.append(f"{sum(found) / len(found):.1f}" if found else "")
            lines.append([defence, title, *line])
            # The last group is the one to go by: recognisers never seen, where there are any.
            points[defence] = line
    if not points:
        return ["No bundle was measured."]
    # Only what was measured of all: a bundle gains nothing by an attack that it was spared.
    columns = [number for number in range(len(_POINTS)) if all(line[number] for line in points.values())]
    if len(points) == 1:
        advice = "One was measured here, so there is nothing to choose between."
    elif not columns:
        advice = "No column was measured of all of them, so none is recommended."
    else:
        best = max(points, key=lambda name: sum(float(points[name][number]) for number in columns))
        summed = " + ".join(_POINTS[number][0] for number in columns)
        advice = (
            f"By what was measured of all ({summed}), on recognisers never seen where there are any, `{best}` is the "
            "recommended one."
        )
    head = ["bundle (mutation)", "recognisers", "clean accuracy, %", "grey-box PGD-40 8/255, %", "adaptive 8/255, %"]
    return [*markdown_table(head, lines), "", advice]


def _several(report: Mapping[str, Any], recognizers: Sequence[str]) -> list[str]:
    """Ways of using several antibodies of one face, beside a single one."""
    ways = list(dict.fromkeys(row["purified"] for row in report["rows"] if " of " in row["purified"]))
    if not ways:
        return ["No bundle here draws antibodies."]
    lines: list[list[str]] = []
    gains: dict[str, list[float]] = {way: [] for way in ways}
    for defence in report["bundles"]:
        for threat, attack, budget in _POINTS:
            for name in recognizers:
                found = {
                    way: [
                        row
                        for row in report["rows"]
                        if (row["recognizer"], row["defence"], row["threat"], row["budget"], row["purified"])
                        == (name, defence, threat, budget, way)
                        and row["attack"].startswith(attack if threat != "clean" else "")
                        and not row["attack"].startswith("strongest")
                    ]
                    for way in ("both", *ways)
                }
                if any(found[way] for way in ways):
                    cells = [_cell(rows) for rows in found.values()]
                    lines.append([defence, name, f"{threat} {attack} {budget}".replace("  ", " "), *cells])
                lowest = {way: min(r["accuracy_percent"] for r in rows) for way, rows in found.items() if rows}
                for way in lowest.keys() & gains.keys():
                    gains[way].append(lowest[way] - lowest["both"])
    said = (
        "Each face purified by several antibodies: accepted where more than half of them are (as a gate may vote over "
        "the frames of a track), the mean of the purified faces, or the embedding that is most like the others. It "
        "costs as many purifications; adaptive attackers here aim at one antibody, not at the combination. Accuracy "
        "against one antibody, on average over these lines: "
        + ", ".join(f"{way} {sum(gain) / len(gain):+.1f} points" for way, gain in gains.items() if gain)
        + ". The runtime draws one."
    )
    return [said, "", *markdown_table(["bundle", "recogniser", "attack", "one", *ways], lines)]


def _details(rows: Sequence[_Row]) -> list[str]:
    lines = [
        [
            row["recognizer"],
            row["threat"] + (f" from {row['source']}" if row["source"] else ""),
            row["attack"],
            row["budget"],
            row["defence"],
            row["purified"],
            f"{row['pairs']} x {row['draws']}",
            _success(row, "same_accepted"),
            _success(row, "different_rejected"),
            f"{100 - row['different_rejected_at_fmr_percent']:.1f}",
            _accuracy(row),
        ]
        for row in rows
        if row["threat"] != "clean"
    ]
    head = ["recogniser", "threat", "attack", "budget", "defence", "purified", "pairs x draws", "dodging, % (95 %)",
            "impersonation, % (95 %)", "impersonation at FMR 1e-3, %", "accuracy, % (95 %)"]  # fmt: skip
    return [
        "<details><summary>All rows: success of the attacker by goal</summary>",
        "",
        *markdown_table(head, lines),
        "",
        "</details>",
    ]


def _who_knows(report: Mapping[str, Any]) -> str:
    """The first limit, with what was measured of it."""
    said = "- **An attacker who knows the defence and computes gradients through it gets through.**"
    for defence in report["bundles"]:
        worst: dict[float, list[float]] = {}
        for row in report["rows"]:
            if (row["defence"], row["threat"], row["purified"]) == (defence, "adaptive", "both"):
                level, _, unit = row["budget"].partition("/")
                if unit == "255" and row["attack"].startswith("strongest"):
                    worst.setdefault(float(level), []).append(100 - row["different_rejected_percent"])
        if worst:
            rates = ", ".join(f"{_range(worst[x])} % at {x:g}/255" for x in sorted(worst))
            said += f"\n  `{defence}`: impersonation succeeds in {rates}, by recogniser."
        else:
            said += f"\n  `{defence}` was not attacked so here."
    return said


def _range(rates: Sequence[float]) -> str:
    low, high = f"{min(rates):.0f}", f"{max(rates):.0f}"
    return low if low == high else f"{low} to {high}"


def _checks(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many hold, and each folded away."""
    said = {True: "holds", False: "FAILS", None: "not measured"}
    counted = {"hold": True, "FAIL": False, "not measured": None}
    counts = {word: sum(check["holds"] is value for check in checks) for word, value in counted.items()}
    told = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
    lines = [f"- {said[check['holds']]}: {check['name']}: {check['figures']}" for check in checks]
    return [f"<details><summary>All {len(checks)} checks: {told}</summary>", "", *lines, "", "</details>"]


def _how(protocol: Mapping[str, Any]) -> list[str]:
    lines = []
    listed = [protocol.get("adaptive", ()), protocol.get("adaptive_without_draws", ())]
    columns = {name: protocol.get(name, ()) for name in ("grey_box", "resampled", "transfer", "adaptive_others")}
    columns["adaptive"] = [*listed[0], *(item for item in listed[1] if item not in listed[0])]
    for column, items in columns.items():
        for item in items:
            settings = ", ".join(f"{name} {value}" for name, value in item["settings"].items() if value is not None)
            settings += f", on what {item['after']} leaves" if "after" in item else ""
            lines.append([_THREATS.get(column, column), item["attack"], item["budget"], settings])
    levels = ", ".join(f"{level:g}" for level in protocol["adaptive_levels"])
    filters = " and ".join(f"{level:g}/255" for level in protocol["baseline_levels"]) or "no budget in this form"
    said = (
        f"Adaptive: gradients through the purifier with the expected antibody (PGD, {protocol['adaptive_steps']} "
        f"steps, {protocol['adaptive_restarts']} starts, at {levels} of 255); for the faces that this leaves, with "
        f"drawn ones (straight-through, mean of {protocol['adaptive_draws']} antibodies a step, from where an attack "
        f"on the expected one ends, at {', '.join(f'{x:g}' for x in protocol['eot_levels'])}); "
        + (
            f"Square with {protocol['square_queries']} queries for the faces that gradients leave, at "
            f"{', '.join(f'{x:g}' for x in protocol['square_levels'])}; "
            if protocol["square_levels"]
            else ""
        )
        + "the best of them for each face, chosen in other draws than it is judged by, is the adaptive figure. The "
        "enrolled face that they aim at is purified, too, so they are judged with both sides purified only, and it is "
        "purified anew whenever it is compared. Bundles that draw no antibody are attacked by APGD in place of drawn "
        f"ones. Classical filters are attacked by PGD at {filters}, those without a gradient with the identity's "
        f"(BPDA). Every defence in question must fall to PGD at {protocol['unbounded_level']:g}/255 (sanity block). "
        "Resampled: a grey-box attack's faces are put into "
        "a frame, enlarged or shrunk, turned by up to 20 degrees, and aligned back, as every face of a camera is. A "
        "sampling defence is judged by the mean of "
        f"{protocol['judge_draws']} draws. Attacked faces are 8-bit before any defence sees them."
    )
    return [*markdown_table(["threat", "attack", "budget", "settings"], lines), "", said]


def _success(row: _Row, side: str) -> str:
    """How often the attacker of one goal succeeds, which is what is missing there."""
    low, high = row[f"{side}_95_percent"]
    return f"{100 - row[f'{side}_percent']:.1f} ({100 - high:.1f} to {100 - low:.1f})"


def _accuracy(row: _Row) -> str:
    low, high = row["accuracy_low_percent"], row["accuracy_high_percent"]
    return f"{row['accuracy_percent']:.1f} ({low:.1f} to {high:.1f})"


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(line) + " |" for line in lines),
    ]
