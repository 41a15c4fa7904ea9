"""What is freed is kept: measured in a process of its own, by the faults that the kernel counts."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import numpy as np
from immunecam.training.allocator import keep_freed_memory

if sys.argv[1] == "kept":
    assert keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for turn in range(6):
    before = faults()
    np.ones(16 << 20, np.float32)
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these parameters")
def test_buffers_as_large_as_a_network_s_are_not_faulted_in_again():
    def faults(which: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, which], capture_output=True, text=True, check=True, timeout=60
        )
        return int(done.stdout)

    plain, kept = faults("plain"), faults("kept")
    assert kept < 100
    assert plain > 10 * max(kept, 1)
