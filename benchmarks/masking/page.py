"""The page on masked faces: how well they are recognised, what each attacker sees, and what none of it proves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["markdown"]

_LIMITS = """\
## What this is not

- **No proof.** Mixing in the manner of InstaHide has been broken (Carlini et al., IEEE S&P 2021), with less than an
  attacker of a device has. A mask and mixes make seeing harder; they are no encryption. Keep templates and masked faces
  encrypted as well; the gate does.
- **A fixed key is broken by one known pair.** Everything about a mask is affine. Who knows how faces are masked, and
  has one face with its masked form, solves for all that the key does, exactly; a test does it. Who does not know how
  they are masked needs more: the table has what he sees by 200 known pairs.
- **Orders of each enrolment's own are no hiding place.** "Orders unknown" is an attacker who does not look for them.
  One who does knows what each channel is like in other people's faces, puts most of the picture back, and verifies most
  people: `evaluate` tries that, too, as "orders sought". `masking train --permutation enrolment` trains for such
  orders, from nothing, and `evaluate` compares every pair in its own; no recogniser of them is on this page.
- **They stay off the device.** A gate keeps templates and no masked face, and a recogniser of any order is trained to
  give the same template in each: its store would hide nothing more. Undone before the recogniser an order would do
  nothing at all; not undone, every person enrolled would cost `identify` a pass of the recogniser. So `masking export`
  refuses such a run.
- **No template is shown to be safer.** Faces come back from templates of masked faces, too, and the people judged are
  too few to tell a difference to plain ones.
- **The recogniser undoes the mask.** Its first layer was fitted to do so. Whoever has the bundle's recogniser needs no
  key to see masked faces. Keep the bundle where the key is.
- **Patents.** A patent application covers related work. Have freedom to operate checked before you sell it.
- **Two papers without their text.** PPFR-FD and the adaptive hybrid masking strategy (arXiv 2403.10558) were not at
  hand, nor was code. What is known of them and what is reconstructed is said in the modules' docstrings; no
  reproduction is claimed. Published figures of recovery networks that know the mask are of other faces and other
  networks: PPFR-FD SSIM .713, PSNR 15.66, verified 83.7 %; PartialFace .591, 13.70, 65.4 %; MinusFace .50, 10.98.
"""


def markdown(report: Mapping[str, Any]) -> str:
    """The page, from the JSON report alone."""
    parts = [
        "# Masked faces",
        "",
        "<!-- Written by `immunecam masking evaluate --docs`; change benchmarks/masking/page.py in its place. -->",
        "",
        _INTRODUCTION,
        _USE,
        "## Recognition",
        "",
        f"{_counts(report['rows'], 'pairs')} pairs of LFW's fold {report['fold']}, at a threshold from people held",
        _RECOGNISED,
        *_table(
            (
                "run",
                "sees",
                "purified by",
                "mixing",
                "steps",
                "accuracy, %",
                "95 % interval",
                "same accepted, %",
                "different rejected, %",
            ),
            (
                (
                    row["run"],
                    f"{row['channels']} channels at {row['positions']}, by {row['chosen_by']}"
                    if row["masked"]
                    else "plain faces",
                    row["purified_by"] or "nothing",
                    f"{row['mixing']}, {row['mixed_percent']:.0f} %" if row["mixed_percent"] else row["mixing"],
                    f"{row['steps']:,}",
                    f"{row['accuracy_percent']:.1f}",
                    f"{row['accuracy_low_percent']:.1f} to {row['accuracy_high_percent']:.1f}",
                    f"{row['same_accepted_percent']:.1f}",
                    f"{row['different_rejected_percent']:.1f}",
                )
                for row in report["rows"]
            ),
        ),
    ]
    if report.get("recovery"):
        parts += [
            "",
            "## What is seen of a masked face",
            "",
            _SEEN,
            *(
                f"- **{name}**: {what}"
                for name, what in _ATTACKS.items()
                if any(name in row["seen"] for row in report["recovery"])
            ),
            "",
            _judged(report["recovery"]),
            *_scores(report["recovery"], ("run", "attack"), lambda row: (row["run"], row["seen"])),
        ]
    if report.get("inversion"):
        parts += [
            "",
            "## Faces from templates",
            "",
            _INVERTED,
            _judged(report["inversion"]),
            *_scores(
                report["inversion"],
                ("run", "box", "cosine to template"),
                lambda row: (row["run"], row["box"], f"{row['template_cosine']:.3f}"),
            ),
        ]
    if report.get("mixing"):
        parts += [
            "",
            "## Mixes compared",
            "",
            _MIXES,
            f"Steps of each: {_counts(report['mixing'], 'steps')}. {_judged(report['mixing'])}",
            *_scores(
                report["mixing"],
                ("mixing", "accuracy, %", "of 2, 3, 4, 5, 6, %", "attack"),
                lambda row: (
                    row["way"],
                    f"{row['accuracy_percent']:.1f}",
                    ", ".join(f"{row[f'k{k}_percent']:.0f}" for k in range(2, 7)),
                    row["attack"],
                ),
            ),
            *(f"\n{sentence[0].upper()}{sentence[1:]}." for sentence in _collapses(report["mixing"])),
            *_gain(report["mixing"], report.get("recovery", [])),
        ]
    if report.get("speed"):
        parts += [
            "",
            "## Time on a device",
            "",
            _TIMES,
            *_table(
                ("bundle", "what", "faces at once", "threads", "ms", "worst process, ms"),
                (
                    (
                        row["bundle"],
                        row["what"],
                        str(row["batch"]),
                        str(row["threads"]),
                        f"{row['wall_p50_ms']:.2f}",
                        f"{row['wall_p50_ms_worst_launch']:.2f}",
                    )
                    for row in report["speed"]
                ),
            ),
        ]
    return "\n".join([*parts, "", _LIMITS])


_INTRODUCTION = """\
A masked face is some frequencies of a face, in an order that a key gives. A recogniser can be trained on such faces, so
that a gate never stores a visible one, nor compares with one. This page is about how well that works and what somebody
sees all the same. In short: recognition loses little; who has the recogniser, the key, or one face with its masked form
sees masked faces; that others cannot is not shown. All figures are of LFW. People who are judged were in none of our
trainings; on whom the recogniser was trained that ours start from is not known.
"""

_SEEN = """\
Less is more private, but of privacy, which is 0.4 (1 - SSIM) + 0.6 (1 - verified). "Verified" is how often an
independent recogniser takes the recovered face and the very picture that was masked for the same person, "identified"
how often that picture is the nearest among all. Of 100 people, shares that differ by less than about 14 points may be
equal.
"""

_ATTACKS = {
    "guess": "the mean of other people's faces, which needs no masked face. What does no better sees nothing, so "
    "nothing seen is a privacy of about 0.8, not 1.",
    "linear": "a pixel is an affine function of the channels around it, solved from 200 faces of others with their "
    "masked forms.",
    "network": "a U-Net, trained on all faces of the training folds.",
    "orders unknown": "each face in an order of its own, and no try to find it.",
    "orders sought": "channels are first put where 2,000 faces of others, masked in one order, say that they belong.",
    "of 3": "each masked face is mixed with two others; many of one face are averaged first.",
    "mixed as trained": "mixed as the training mixed the faces that it mixed.",
}
"""What a row's name says, by a part of it."""

_INVERTED = """\
The attacker has a stolen template, and a conditional GAN trained on other people. In the white box he has the
recogniser and follows its gradient; in the black box he is told scores. The cosine is that of what he found to the
template: near 1, the recogniser is fooled, whether or not anybody is to be seen. So a gradient may fool it more and
show less; who has the white box has the scores as well, so of a run the row counts that verifies more. With 20 people
one is 5 points, and shares that differ by less than about 30 may be equal.
"""

_RECOGNISED = """\
out of the training. A gate purifies faces before it masks them: that is the row with a bundle.
Channels are chosen by gates, which learn, or named by the settings. Beside the way of mixing stands how much of a batch
is mixed.
"""

_TIMES = """\
Milliseconds of one face on a CPU, of several at once its share: the median over processes of their medians, and the
worst process. To purify, mask and recognise is what a gate does to a face. The goal is 8 ms for masking and
recognising. `immunecam bundle quantize` makes a bundle's int8 form.
"""

_MIXES = """\
The same recogniser trained without mixes and with them, for as many steps each. The histogram is of how many faces the
last mixes had; what is seen is of mixes as in the training, not of the faces of a batch that were left alone. Linear
recovery has 300 known pairs here. Ways whose accuracies differ by less than a point, or whose verified shares differ by
less than about 14, may be equal.
"""

_USE = """\
## Use

```sh
immunecam gate keygen door.key
immunecam masking train --data train_112.zip --pairs pairs.csv --teacher r1.pt --start-from r1.onnx \\
  --key-file door.key -o masked.run
immunecam masking export masked.run --into mine.immune --faces train_112.zip --key-file door.key
immunecam mask photo.jpg -o kept.png --bundle mine.immune --key-file door.key
immunecam gate enrol ann ann/ --store door.gate --key-file door.key --bundle mine.immune --masked
immunecam gate calibrate --data pictures/ --fmr 1e-3 --store door.gate --key-file door.key --bundle mine.immune --masked
immunecam gate identify photo.jpg --store door.gate --key-file door.key --bundle mine.immune --masked
immunecam serve --store door.gate --key-file door.key --bundle mine.immune --masked
immunecam bench --bundle mine.immune
```

Faces are purified, then masked, then recognised. `calibrate` finds the threshold that a decision needs, and keeps it in
the store; a small rate needs many people. `--start-from` takes over a MobileFaceNet's weights behind a layer that was
fitted to undo the mask, so that the recogniser works before it is trained; `--config` and the other options are told by
`immunecam masking train --help`. `bench` measures masking and recognising as stages, and needs no key. Mask and
recogniser run on ONNX Runtime's CPU provider, or on TensorRT plans, which `immunecam export mine.immune --target
tensorrt` makes beside the purifier's, where `--provider tensorrt` is asked for; no such plan has run on a card yet,
only on [stand-ins](exporting.md#what-has-run-where). A bundle that is written over another keeps that one's mask and
recogniser unless it brings its own; `immunecam export --drop-masking` leaves them behind. The report on this page is
made by

```sh
immunecam masking compare --data data --recognizer r2.pt --teacher r1.pt --start-from r1.onnx --work mixes \\
  --key-file door.key --json mixing.json
python -m immunecam.benchmarks.masking_speed mine.immune mine-int8.immune --key-file door.key \\
  --json speed.json
immunecam masking evaluate masked.run plain.run --data data --key-file door.key --bundle mine.immune \\
  --recognizer r2.pt --own r3.pt --work work --mixing mixing.json --speed speed.json \\
  --json masking.json --docs masking.md --pictures pictures
```
"""


def _scores(
    rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...], first: Callable[[Mapping[str, Any]], tuple[str, ...]]
) -> list[str]:
    named = (*columns, "SSIM", "PSNR, dB", "cosine", "verified, %", "identified, %", "privacy")
    return _table(
        named,
        (
            (
                *first(row),
                f"{row['ssim']:.3f}",
                f"{row['psnr_db']:.1f}",
                f"{row['cosine']:.3f}",
                f"{row['verified_percent']:.1f}",
                f"{row['identified_percent']:.1f}",
                f"{row['privacy']:.3f}",
            )
            for row in rows
        ),
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _counts(rows: Iterable[Mapping[str, Any]], name: str) -> str:
    """The values that rows have of a count, nearly always one."""
    return ", ".join(f"{count:,}" for count in sorted({row[name] for row in rows}))


def _judged(rows: Sequence[Mapping[str, Any]]) -> str:
    return f"People judged: {_counts(rows, 'people')}, by {', '.join(sorted({row['judge'] for row in rows}))}.\n"


def _gain(rows: Sequence[Mapping[str, Any]], recovery: Sequence[Mapping[str, Any]]) -> list[str]:
    """What adaptive mixes hide beside frequencies alone and beside other mixes, and when they hide nothing.

    Each way counts by the attack that verifies most people.
    """
    most: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["way"] not in most or row["verified_percent"] > most[row["way"]]["verified_percent"]:
            most[row["way"]] = row
    before, after = most.pop("none", None), most.pop("adaptive", None)
    if before is None or after is None:
        return []
    others = ""
    if most:
        best = min(most.values(), key=lambda row: row["verified_percent"])
        others = (
            f" Of the other ways {best['way']} hides most: SSIM {best['ssim']:.3f}, verified "
            f"{best['verified_percent']:.0f} %, recognition {best['accuracy_percent']:.1f} %."
        )
    many = [row for row in recovery if row["encodings"] > 1]
    repeated = max(many, key=lambda row: (row["encodings"], row["verified_percent"]), default=None)
    again = ""
    if repeated is not None:
        again = (
            f" It is worth little where a face leaves in many mixes: {repeated['encodings']} of {repeated['mixes_of']} "
            f"verify {repeated['verified_percent']:.0f} %."
        )
    alone = 100 - after["mixed_percent"]
    if alone:
        again += (
            f" It is nothing to the {alone:.0f} % of a batch that were left alone here: they are seen as without mixes."
        )
    return [
        f"\nAdaptive mixes beside frequencies alone, each by the attack that verifies most people: SSIM "
        f"{before['ssim']:.3f} -> {after['ssim']:.3f}, verified {before['verified_percent']:.0f} -> "
        f"{after['verified_percent']:.0f} %, recognition {before['accuracy_percent']:.1f} -> "
        f"{after['accuracy_percent']:.1f} %.{others} **That is worth something to faces that leave for a training "
        f"elsewhere.{again} A device mixes nothing**: what it masks to recognise is seen as the lines without mixes "
        "say."
    ]


def _collapses(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["collapse"] for row in rows if row["collapse"]))
