"""Kernels compiled ahead of time: ``make kernels``, or ``python -m immunecam.kernels.cuda.prebuilt``.

nvcc makes one fat binary of every source, with machine code for the architectures that it knows of the project's, and
PTX of the newest for those that come after. A record beside them says which sources they were made of.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from immunecam.errors import BackendMissingError, ImmuneCamError, InputError
from immunecam.files import written_whole
from immunecam.kernels.cuda.sources import FOLDER, SOURCES, source

__all__ = ["ARCHITECTURES", "PREBUILT", "build", "find_prebuilt", "main"]

ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120)
"""What the project is built for, as far as the installed nvcc knows it (87: Orin, 90: H200, 110: Thor)."""

PREBUILT = FOLDER / "prebuilt"
"""Where the package looks for them."""

_RECORD = "record.json"


def build(folder: Path = PREBUILT, *, nvcc: str = "nvcc", architectures: Sequence[int] | None = None) -> Path:
    """Compile every source into a folder, and give back its record.

    Parameters
    ----------
    folder : path
        Made if missing.
    nvcc : str
        The compiler.
    architectures : sequence of int, optional
        Rising, as 90 for sm_90; None takes :data:`ARCHITECTURES`. Those that the compiler does not know are left out.

    Raises
    ------
    BackendMissingError
        If there is no nvcc, or it knows none of the architectures.
    InputError
        If a source does not compile.
    """
    compiler = shutil.which(nvcc)
    if compiler is None:
        raise BackendMissingError(
            f"{nvcc!r} was not found: install the CUDA toolkit, or let NVRTC compile at first use."
        )
    known = set(_output([compiler, "--list-gpu-arch"]).split())
    wanted = ARCHITECTURES if architectures is None else architectures
    architectures = [number for number in wanted if f"compute_{number}" in known]
    if not architectures:
        raise BackendMissingError(f"{compiler} knows none of {', '.join(f'sm_{number}' for number in wanted)}.")
    version = re.search(r"V(\d+\.\d+\.\d+)", _output([compiler, "--version"]))
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in architectures]
    newest = architectures[-1]
    targets.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in SOURCES:
        text = source(name)
        with written_whole(folder / f"{name}.fatbin") as partial, tempfile.TemporaryDirectory() as place:
            file = Path(place) / f"{name}.cu"
            file.write_text(text, encoding="utf-8")
            _output(
                [compiler, *targets, "-std=c++17", "-Werror", "all-warnings", "-fatbin", "-o", str(partial), str(file)]
            )
            files[name] = {"source_sha256": _sha256(text.encode()), "sha256": _sha256(partial.read_bytes())}
    record = folder / _RECORD
    content = {"nvcc": version[1] if version else "unknown", "architectures": architectures, "files": files}
    with written_whole(record) as partial:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return record


def find_prebuilt(name: str, capability: tuple[int, int], folder: Path = PREBUILT) -> bytes | None:
    """The fat binary of a source, if it was made of this very source and has code for the card; None otherwise."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        entry = record["files"][name]
        code = (folder / f"{name}.fatbin").read_bytes()
        architectures = [int(number) for number in record["architectures"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if entry.get("source_sha256") != _sha256(source(name).encode()) or entry.get("sha256") != _sha256(code):
        return None
    # Machine code runs on later minor revisions of its generation; PTX of the newest runs on what came after.
    wanted = 10 * capability[0] + capability[1]
    runs = any(number // 10 == capability[0] and number <= wanted for number in architectures)
    return code if runs or wanted >= max(architectures) else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, and say what was made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PREBUILT, help="folder for the binaries (default: in the package)")
    parser.add_argument("--nvcc", default="nvcc", help="the compiler")
    given = parser.parse_args(arguments)
    try:
        record = build(given.out, nvcc=given.nvcc)
    except ImmuneCamError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    content = json.loads(record.read_text(encoding="utf-8"))
    architectures = ", ".join(f"sm_{number}" for number in content["architectures"])
    print(f"nvcc {content['nvcc']} made {len(content['files'])} fat binaries for {architectures} in {given.out}")
    return 0


def _output(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        said = next((line for line in result.stderr.splitlines() if "error" in line), result.stderr.strip()[-200:])
        raise InputError(f"{Path(command[0]).name} failed ({said.strip()}): the kernels cannot be built with it.")
    return result.stdout


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
