"""``immunecam mask``: what a bundle's mask keeps of a face, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from immunecam.commands.gate_options import KeyFile, mask_key
from immunecam.commands.options import Json, TrustedKey, trust_of
from immunecam.commands.outputs import check_outputs, check_picture
from immunecam.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["mask"]


def mask(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="Picture with a face.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write; it may show a real person.")],
    bundle: Annotated[
        Optional[Path],  # noqa: UP045 (typer on Python 3.10)
        typer.Option(help="Bundle, NAME.immune, with a mask; default: the bundled one."),
    ] = None,
    key_file: KeyFile = None,
    purify: Annotated[
        bool, typer.Option("--purify/--no-purify", help="Purify the face before it is masked, as a gate does.")
    ] = True,
    aligned: Annotated[bool, typer.Option("--aligned", help="The picture is an aligned 112x112 face already.")] = False,
    finder: Annotated[Optional[Path], typer.Option(help="YuNet file; default: the bundled finder.")] = None,  # noqa: UP045
    trust: TrustedKey = None,
    json_report: Json = None,
) -> None:
    """Show what is kept of a face: the face, what its channels show with the key and without, and all channels."""
    import cv2
    import numpy as np

    from immunecam.files import written_whole
    from immunecam.runtime.masking import FaceMask
    from immunecam.runtime.masking_sheet import kept_energy, masking_sheet
    from immunecam.runtime.purifier import Purifier
    from immunecam.runtime.report import write_report

    check_picture(out)
    check_outputs(out, json_report)
    if out.exists() and picture.exists() and out.samefile(picture):
        raise UsageError(f"the picture to write, {str(out)!r}, is the one to read: name another file")
    opened = FaceMask.load(bundle, mask_key(key_file), trust=trust_of(trust, None))
    face = _face(picture, aligned, finder)
    shown = face
    if purify:
        with Purifier.load(opened.bundle) as purifier:
            shown = np.asarray(purifier.purify_batch(face[None]).purified[0], np.uint8)
    sheet = masking_sheet(opened, face, shown)
    done, data = cv2.imencode(".png", sheet)
    assert done
    try:
        with written_whole(out) as partial:
            partial.write_bytes(data.tobytes())
    except OSError as error:
        raise InputError(f"the picture {str(out)!r} cannot be written ({error.strerror}): name another") from None
    record, share = opened.record, kept_energy(opened, shown)
    if json_report is not None:
        row = {
            "picture": picture.name,
            "frequencies": list(record.frequencies),
            "positions": record.positions,
            "kept_energy_percent": round(100 * share, 2),
            "purified": purify,
        }
        write_report(json_report, "immunecam.mask/1", [row], bundle_sha256=opened.bundle.sha256)
    Console().print(
        f"wrote {out}: {record.channels} of 64 frequencies at {record.positions} positions are kept, {share:.1%} of "
        "the face's variance; from left to right the face, what is masked, what is seen of it with the key, and what "
        "is seen without; below all channels as they are masked",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _face(picture: Path, aligned: bool, finder: Path | None) -> NDArray[np.uint8]:
    """(112, 112) uint8 of the picture's largest face."""
    import cv2
    import numpy as np

    from immunecam.kernels import quantize_faces
    from immunecam.runtime.faces import align, face_finder
    from immunecam.runtime.frames import FrameSource

    with FrameSource.open(str(picture)) as source:
        if source.kind != "picture":
            raise InputError(f"{str(picture)!r} is a {source.kind}, but one face is shown: name one picture")
        frame = next((one.image for one in source), None)
    if frame is None:
        raise InputError(f"{str(picture)!r} holds no picture: give one with a face")
    if aligned:
        if frame.shape[:2] != (112, 112):
            raise InputError(
                f"{str(picture)!r} has {frame.shape[1]}x{frame.shape[0]} pixels, but an aligned face has 112x112: "
                "leave --aligned out"
            )
        return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)
    faces = sorted(face_finder(finder).find(frame), key=lambda face: -float(face.box[2] * face.box[3]))
    if not faces:
        raise InputError(
            f"no face was found in {str(picture)!r}: give another picture, or --aligned for a 112x112 face"
        )
    return np.asarray(quantize_faces(align(frame, faces[:1]).grey)[0], np.uint8)
