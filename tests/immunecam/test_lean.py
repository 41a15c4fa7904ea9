"""What the package weighs: on the disk, when it is imported, and in memory at work."""

from __future__ import annotations

import subprocess
import sys

from immunecam.benchmarks.latency.installed import installed_bytes

MIB = 2**20

# What a device has no use for; the command line alone needs rich and typer.
HEAVY = ("torch", "onnx", "matplotlib", "scipy", "foolbox", "rich", "typer", "cryptography", "cuda", "tensorrt")


def test_base_package_and_what_it_depends_on_are_small():
    """Measured on x86_64, what it depends on alone: 294 MiB, of which OpenCV is 161, ONNX Runtime 62 and NumPy 55."""
    sizes = installed_bytes()
    assert sum(sizes.values()) < 400 * MIB, sizes
    assert sizes["immunecam"] < 16 * MIB
    assert {"numpy", "onnxruntime", "opencv-python-headless", "safetensors", "typer", "rich"} <= set(sizes)
    assert not set(sizes) & {"torch", "onnx", "matplotlib", "scipy", "foolbox", "cryptography"}
    assert list(sizes.values()) == sorted(sizes.values(), reverse=True)


def _fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240).stdout


def test_runtime_imports_nothing_heavy():
    code = (
        "import sys, immunecam.runtime; print(sorted(sys.modules));"
        "import immunecam.runtime.purifier, immunecam.runtime.faces, immunecam.runtime.frames;"
        "print(sorted(sys.modules))"
    )
    alone, everything = (set(eval(line)) for line in _fresh(code).splitlines())
    assert not alone & {*HEAVY, "numpy", "cv2", "onnxruntime"}
    assert not everything & {*HEAVY, "onnxruntime"}
    assert everything >= {"numpy", "cv2"}


def test_purifying_the_sample_clip_takes_less_than_250_mb():
    """Finding, alignment, purification and paste-back, and a crowd; of a fresh process the peak, not the end."""
    code = (
        "import sys\n"
        "from immunecam.runtime import Purifier, default_bundle\n"
        "from immunecam.runtime.frames import FrameSource\n"
        "purifier, faces = Purifier.load(threads=1), 0\n"
        "with FrameSource.open(default_bundle().with_name('sample.mp4')) as clip:\n"
        "    for frame in clip:\n"
        "        faces += len(purifier.purify_frame(frame.image).faces)\n"
        "        if frame.index == 11: break\n"  # no more is taken after the sixth
        "purifier.purify(frame.image[:112, :112, 0][None].repeat(32, 0))\n"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM:')][0].split()[1]\n"
        f"print(faces, 1024 * int(peak), [name for name in {HEAVY} if name in sys.modules])"
    )
    faces, peak, heavy = _fresh(code).split(maxsplit=2)
    assert int(faces) == 36
    assert int(peak) < 250e6
    assert heavy.strip() == "[]"
