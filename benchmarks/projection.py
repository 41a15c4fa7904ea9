"""When a projection on a CPU should read the active eigenfaces only.

``python -m immunecam.benchmarks.projection --json benchmarks/results/projection.json``

Forms of the whole purifier's projection, of a bundle's own basis: all rows ("dense"; by integer products if the basis
is int8), all rows in float32 ("dense float32", if it is), a copy of the active ones ("active"), and what is exported,
which chooses ("chosen"); and the NumPy kernel, which other engines use. Antibodies have a given number of rows that any
face of the batch uses, each face three of five of them, and are also drawn as the bundle draws them for the faces of
its sample clip.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.in_turn import in_turn
from immunecam.export.active_rows import SHARE, SHARE_OF_INTEGERS, projection_nodes
from immunecam.export.integer_projection import integer_constants, integer_product
from immunecam.kernels import Subspace, project_float, uniforms
from immunecam.runtime.bundle import Bundle, default_bundle
from immunecam.runtime.engines import OnnxRuntimeEngine
from immunecam.runtime.engines.onnxruntime_session import open_model
from immunecam.runtime.report import write_report

__all__ = ["main"]

_USED = 0.6


def _forms(subspace: Subspace, threads: int) -> dict[str, Any]:
    """Sessions of the projection alone: `pixels` (N, D) and `antibody` (N, K) float32 to `out`."""
    integers = subspace.basis.dtype == np.int8
    forms = {"dense": (0.0, integers), "active": (2.0, integers), "chosen": (None, integers)}
    if integers:
        forms["dense float32"] = (0.0, False)
    return {name: _form(subspace, share, whole, threads) for name, (share, whole) in forms.items()}


def _form(subspace: Subspace, share: float | None, integers: bool, threads: int) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    float32, k, d = TensorProto.FLOAT, subspace.k, subspace.d
    first = [
        helper.make_node("Mul", ["antibody", "squares"], ["weights"]),
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
    ]
    rows, dense = "basis", None
    constants = {"basis": subspace.basis, "mean": subspace.mean, "squares": np.ones(k, np.float32)}
    if subspace.scale is not None:
        constants["squares"] = np.square(subspace.scale)
    if integers:
        first.append(helper.make_node("Transpose", ["basis"], ["columns"], perm=[1, 0]))
        dense = integer_product(
            pixels="pixels", weights="weights", rows="basis", columns="columns", output="dense.spanned"
        )
        constants |= integer_constants(subspace.mean, subspace.basis)
    elif subspace.basis.dtype != np.float32:
        first.append(helper.make_node("Cast", ["basis"], ["rows"], to=float32))
        rows = "rows"
    nodes, more = projection_nodes(
        k,
        d,
        antibody="antibody",
        weights="weights",
        centred="centred",
        rows=rows,
        output="out",
        share=share,
        integers=dense,
    )
    graph = helper.make_graph(
        [*first, *nodes],
        "projection",
        [
            helper.make_tensor_value_info("antibody", float32, ["N", k]),
            helper.make_tensor_value_info("pixels", float32, ["N", d]),
        ],
        [helper.make_tensor_value_info("out", float32, ["N", d])],
        [*more, *(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return open_model(
        model.SerializeToString(), "CPUExecutionProvider", threads, name="projection", remedy="look at this benchmark"
    )


def _antibody(rng: np.random.Generator, faces: int, k: int, used: int) -> NDArray[np.bool_]:
    bits = np.zeros((faces, k), np.bool_)
    chosen = rng.permutation(k)[:used]
    bits[:, chosen] = rng.random((faces, used)) < _USED
    bits[rng.integers(faces, size=used), chosen] = True
    return bits


def _clip_faces(count: int) -> NDArray[np.float32]:
    from immunecam.export.real_faces import real_faces

    return np.resize(real_faces(limit=count), (count, 112, 112))


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=None, help="default: the installed one")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--share", type=float, nargs="+", default=[0.05, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0])
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    bundle = Bundle.load(given.bundle or default_bundle())
    space, rng, rows = bundle.subspace, np.random.default_rng(0), []
    most = max(given.batch)
    faces = _clip_faces(most)
    p = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu").analyze(faces)
    drawn = uniforms(0, np.arange(most), 1, space.k)[:, 0] < p
    pixels = np.rint((faces.reshape(most, -1) + 1) * 127.5) / np.float32(127.5) - 1
    for threads in given.threads:
        sessions = _forms(space, threads)
        for batch in given.batch:
            counts = [max(1, round(share * space.k)) for share in given.share]
            antibodies = {f"{used} rows": _antibody(rng, batch, space.k, used) for used in counts}
            for name, bits in {**antibodies, "as drawn": drawn[:batch]}.items():
                inputs = {"antibody": bits.astype(np.float32), "pixels": pixels[:batch].astype(np.float32)}
                forms: dict[str, Callable[[], object]] = {
                    form: lambda session=session, inputs=inputs: session.run(None, inputs)  # type: ignore[misc]
                    for form, session in sessions.items()
                }
                forms["kernel"] = lambda bits=bits, batch=batch: project_float(faces[:batch], bits, space)  # type: ignore[misc]
                times = in_turn(forms, repeats=given.repeats)
                rows.append(
                    {
                        "antibody": name,
                        "rows": int(bits.any(0).sum()),
                        "k": space.k,
                        "batch": batch,
                        "threads": threads,
                        "dense_by_chosen": round(times["dense"]["cpu_p50_ms"] / times["chosen"]["cpu_p50_ms"], 3),
                        "dense_by_active": round(times["dense"]["cpu_p50_ms"] / times["active"]["cpu_p50_ms"], 3),
                        "forms": times,
                    }
                )
                print(batch, threads, name, {form: value["cpu_p50_ms"] for form, value in times.items()}, flush=True)
    if given.json:
        write_report(
            given.json,
            "immunecam.projection/1",
            rows,
            bundle_sha256=bundle.sha256,
            basis=str(space.basis.dtype),
            share=SHARE_OF_INTEGERS if space.basis.dtype == np.int8 else SHARE,
            repeats=given.repeats,
        )


if __name__ == "__main__":
    main()
