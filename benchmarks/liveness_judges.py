"""Outside live/spoof classifiers as judges of the synthetic spoofs, and of photos of real ones.

``python -m immunecam.benchmarks.liveness_judges --judge J.onnx --data TEST.safetensors --live-photo L.jpg
--spoof-photo S.jpg --json benchmarks/results/liveness_judges.json``

A judge that was trained on recorded spoofs and tells the synthetic ones from live faces says that they share
something with recorded ones; one that does not, says nothing for them. Judges are ONNX files from 128x128 RGB in
[0, 1] to logits whose first class is "live". Of photos they are shown a square of 1.5 boxes of the face; synthetic
faces are about as far away, and are shown whole.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation import metrics
from immunecam.benchmarks.liveness.figures import rate
from immunecam.errors import InputError
from immunecam.runtime.engines.onnxruntime_session import open_model
from immunecam.runtime.faces import face_finder
from immunecam.runtime.faces.liveness_crop import liveness_crops
from immunecam.runtime.liveness_record import LivenessCrop
from immunecam.runtime.report import write_report
from immunecam.training.liveness import LivenessSet
from immunecam.training.liveness.errors import species_of

__all__ = ["Judge", "judge_photos", "judge_set", "main"]

SCHEMA = "immunecam.liveness-judges/1"

_SIDE = 128
_CROP = LivenessCrop("box", 1.5)


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier in a session of ONNX Runtime.

    Attributes
    ----------
    name : str
        Of its file.
    sha256 : str
    session : object
    """

    name: str
    sha256: str
    session: Any

    @classmethod
    def load(cls, path: Path) -> Judge:
        """Open a file.

        Raises
        ------
        InputError
            If it cannot be read or run, or takes other pictures.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"the judge {str(path)!r} cannot be read ({error.strerror}): give an ONNX file") from None
        name = f"the judge {str(path)!r}"
        session = open_model(data, "CPUExecutionProvider", 1, name=name, remedy="give one that this version can run")
        inputs, outputs = session.get_inputs(), session.get_outputs()
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        if shape[1:] != [3, _SIDE, _SIDE] or not outputs:
            raise InputError(f"{name} takes {shape}, but a judge takes ['N', 3, {_SIDE}, {_SIDE}]: give another")
        return cls(path.name, hashlib.sha256(data).hexdigest(), session)

    def scores(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N,) probability of "live" for pictures (N, side, side, 3) uint8 RGB of any side."""
        name, scores = self.session.get_inputs()[0].name, np.empty(len(pictures), np.float32)
        for number, picture in enumerate(pictures):  # one by one: some graphs take no other number
            how = cv2.INTER_AREA if len(picture) > _SIDE else cv2.INTER_LINEAR
            resized = np.asarray(cv2.resize(picture, (_SIDE, _SIDE), interpolation=how), np.float32)
            (logits, *_) = self.session.run(None, {name: resized.transpose(2, 0, 1)[None] / np.float32(255)})
            powers = np.exp(logits[0] - logits[0].max())
            scores[number] = powers[0] / powers.sum()
        return scores


def judge_set(judge: Judge, faces: LivenessSet) -> list[dict[str, Any]]:
    """A row for live faces and each species of spoof: how often the judge calls them live, at a probability of a half.

    Spoofs also get the area under the ROC of live faces against them: 0.5 says that the judge cannot tell them.
    """
    faces.check(())
    scores = judge.scores(np.ascontiguousarray(faces.pixels.numpy().transpose(0, 2, 3, 1)))
    species = species_of(faces)
    live, rows = scores[species == "live"], []
    names = ["live", *sorted({str(name) for name in species} - {"live"})]
    for name in [*names, "all spoofs"]:
        own = scores[species != "live"] if name == "all spoofs" else scores[species == name]
        row: dict[str, Any] = {"judge": judge.name, "shown": name, "synthetic": faces.synthetic}
        row |= {f"live_{key}" if key != "faces" else key: value
                for key, value in rate(int((own >= 0.5).sum()), len(own)).items()}  # fmt: skip
        row["score_median"] = round(float(np.median(own)), 4)
        row["area_under_roc"] = None if name == "live" else round(_area(live, own), 4)
        rows.append(row)
    return rows


def _area(live: NDArray[np.float32], spoof: NDArray[np.float32]) -> float:
    """How often a live face scores higher than a spoof."""
    scores = np.concatenate([live, spoof]).astype(np.float64)
    same = np.arange(len(scores)) < len(live)
    false, hits = metrics.roc(scores, same)
    return float(np.sum(np.diff(false) * (hits[1:] + hits[:-1]) / 2))


def judge_photos(judge: Judge, photos: Sequence[tuple[Path, bool]]) -> list[dict[str, Any]]:
    """A row for each photo, its largest face cut out; `photos` are files and whether they show a live face.

    Raises
    ------
    InputError
        If a file is no picture.
    """
    finder, rows = face_finder(), []
    for path, is_live in photos:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
        if picture is None:
            raise InputError(f"the photo {str(path)!r} is not a readable picture: give a JPEG or PNG")
        frame = np.asarray(picture, np.uint8)
        found = sorted(finder.find(frame), key=lambda face: -float(face.box[2]))[:1]
        row: dict[str, Any] = {"judge": judge.name, "shown": f"photo {path.name}", "synthetic": False}
        row |= {"faces": len(found), "is_live": is_live, "score": None, "right": None}
        if found:
            crops = liveness_crops(frame, found, _CROP, _SIDE)[..., ::-1]
            score = float(judge.scores(np.ascontiguousarray(crops))[0])
            row |= {"score": round(score, 4), "right": (score >= 0.5) == is_live}
        rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Judge and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--judge", type=Path, action="append", required=True, help="ONNX file; may be given several times"
    )
    parser.add_argument("--data", type=Path, required=True, help="set of `immunecam liveness make`")
    parser.add_argument("--live-photo", type=Path, action="append", default=[])
    parser.add_argument("--spoof-photo", type=Path, action="append", default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    faces = LivenessSet.load(given.data)
    photos = [*((path, True) for path in given.live_photo), *((path, False) for path in given.spoof_photo)]
    judges = [Judge.load(path) for path in given.judge]
    rows = []
    for judge in judges:
        for row in [*judge_set(judge, faces), *judge_photos(judge, photos)]:
            print(row, flush=True)
            rows.append(row)
    if given.json:
        write_report(
            given.json,
            SCHEMA,
            rows,
            bundle_sha256=None,
            set=faces.origin,
            synthetic=faces.synthetic,
            counts=faces.counts(),
            judges={judge.name: judge.sha256 for judge in judges},
        )


if __name__ == "__main__":
    main()
