"""The CUDA sources, each as one text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from types import MappingProxyType

__all__ = ["FOLDER", "SOURCES", "kernel_names", "source"]

FOLDER = Path(__file__).parent

SOURCES = tuple(sorted(path.stem for path in FOLDER.glob("*.cu")))
"""Names of the translation units."""

_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)
_KERNEL = re.compile(r'extern "C" __global__ void(?:\s*__launch_bounds__\([^)]*\))?\s*(\w+?)(##NAME)?\(')
_INSTANCE = re.compile(r"^PROJECT\w*\((\w+), \w+\)$", re.MULTILINE)


@cache
def source(name: str) -> str:
    """A translation unit with the headers of this folder in place, each once; it includes nothing else.

    One text is what NVRTC compiles without a folder of headers, and what caches and prebuilt files are checked by.
    """
    seen: set[str] = set()

    def inlined(text: str) -> str:
        def header(match: re.Match[str]) -> str:
            if match[1] in seen:
                return ""
            seen.add(match[1])
            return inlined((FOLDER / match[1]).read_text(encoding="utf-8").replace("#pragma once\n", ""))

        return _INCLUDE.sub(header, text)

    return inlined((FOLDER / f"{name}.cu").read_text(encoding="utf-8"))


@cache
def kernel_names(name: str) -> tuple[str, ...]:
    """The kernels of a translation unit, one for each format where a macro makes them."""
    text = source(name).replace("\\\n", " ")
    formats = _INSTANCE.findall(text)
    return tuple(
        whole
        for base, generic in _KERNEL.findall(text)
        for whole in ([base + f for f in formats] if generic else [base])
    )


KERNELS = MappingProxyType({kernel: name for name in SOURCES for kernel in kernel_names(name)})
"""The translation unit of every kernel."""
