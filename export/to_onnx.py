"""From a training run to a bundle: ``python export/to_onnx.py RUN -o NAME.immune``."""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from immunecam.errors import ImmuneCamError
from immunecam.export.analyzer_graph import analyzer_graph
from immunecam.export.basis_precision import BASIS_PRECISIONS, subspace_from_eigenspace
from immunecam.export.parity import Parity, check_parity, with_rounding
from immunecam.export.purifier_graph import purifier_graph
from immunecam.export.restorer_graph import restorer_graph
from immunecam.export.run_folder import TrainedNetwork
from immunecam.export.weight_precision import WEIGHT_PRECISIONS, with_stored_weights
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_parts import kept_parts
from immunecam.runtime.bundle_quality import measured_quality
from immunecam.runtime.bundle_writer import check_signature_kept, write_bundle
from immunecam.runtime.subspace_file import subspace_to_bytes
from immunecam.runtime.trust import PrivateKey

__all__ = ["export_bundle", "main", "run_folder_of"]


def run_folder_of(bundle: str | Path) -> Path:
    """Where `immunecam train` keeps the run of a bundle: beside it, ``NAME.run`` for ``NAME.immune``."""
    return Path(bundle).with_suffix(".run")


def export_bundle(
    run: str | Path,
    path: str | Path,
    *,
    precision: str = "int8",
    weights: str = "fp32",
    report: str | Path | None = None,
    overwrite: bool = False,
    version: int | None = None,
    sign: PrivateKey | None = None,
    drop_signature: bool = False,
    drop_parts: Collection[str] = (),
) -> tuple[Bundle, Parity]:
    """Export the graphs and the subspace, compare them with PyTorch, and write the bundle.

    Parameters
    ----------
    run : path
        Run folder of `immunecam train`.
    path : path
        The bundle to write, ``NAME.immune``.
    precision : str
        Storage format of the basis: "fp32", "fp16" or "int8". The networks compute in float32.
    weights : str
        Storage format of the networks' weights: "fp32", "fp16" or "int8" (see `export.weight_precision`).
    report : path, optional
        JSON report of `immunecam evaluate` whose rows become the manifest's measured quality; its `bundle_files` must
        be the hashes of the very files that are exported here.
    overwrite : bool
        Replace a bundle of that name.
    version, sign, drop_signature, drop_parts
        See :func:`immunecam.runtime.bundle_writer.write_bundle`.

    Raises
    ------
    InputError
        If the run cannot be read, a part of the bundle that is replaced is damaged, or ONNX Runtime and
        PyTorch differ by more than the limits of `export.parity`.
    """
    check_signature_kept(path, sign=sign, drop_signature=drop_signature)
    kept_parts(path, drop=drop_parts)  # whether they can be, said now and not after the slow work
    trained = TrainedNetwork.load(run)
    subspace = subspace_from_eigenspace(trained.eigenspace, precision)
    basis = subspace_to_bytes(subspace)
    exact = {"analyzer.onnx": analyzer_graph(trained.network)}
    if trained.network.restorer is not None:
        exact["restorer.onnx"] = restorer_graph(trained.network.restorer)

    def content(networks: Mapping[str, bytes], stored: str) -> dict[str, Any]:
        roles = [name.removesuffix(".onnx") for name in networks]
        whole = purifier_graph(networks["analyzer.onnx"], subspace, basis, networks.get("restorer.onnx"))
        return {
            "kind": trained.kind,
            "k": subspace.k,
            "files": {**networks, "purifier.onnx": whole, "subspace.safetensors": basis},
            "graphs": {"purifier": "purifier.onnx"} | {role: f"{role}.onnx" for role in roles},
            "precision": {"basis": precision} | dict.fromkeys(roles, stored),
            "options": trained.options,
            "provenance": trained.provenance,
        }

    with tempfile.TemporaryDirectory() as scratch:
        draft = _draft(Path(scratch) / "exact.immune", content(exact, "fp32"))
        parity = check_parity(draft, trained)
        networks = {name: with_stored_weights(graph, weights) for name, graph in exact.items()}
        if weights != "fp32":
            stored = _draft(Path(scratch) / "stored.immune", content(networks, weights))
            parity = with_rounding(parity, draft, stored, trained.faces.numpy())
    measured = {**networks, "subspace.safetensors": basis}
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in measured.items()}
    quality = measured_quality(report, hashes) if report else None
    final = content(networks, weights)
    written = write_bundle(
        path,
        **final,
        quality=quality,
        parity=parity.to_dict(),
        version=version,
        sign=sign,
        overwrite=overwrite,
        drop_signature=drop_signature,
        drop_parts=drop_parts,
    )
    return written, parity


def _draft(path: Path, content: dict[str, Any]) -> Bundle:
    """The bundle in a scratch folder; onnx's checker follows external data by path, so it is checked where it lies."""
    import onnx

    draft = write_bundle(path, **content)
    onnx.checker.check_model(str(path / "purifier.onnx"), full_check=True)
    return draft


def main(arguments: list[str] | None = None) -> int:
    """Command line of this file; returns the exit code."""
    parser = argparse.ArgumentParser(prog="to_onnx.py", description="Export a training run as a bundle.")
    parser.add_argument("run", type=Path, help="run folder of `immunecam train`")
    parser.add_argument("-o", "--out", type=Path, required=True, help="bundle to write, NAME.immune")
    parser.add_argument("--precision", choices=BASIS_PRECISIONS, default="int8", help="storage format of the basis")
    parser.add_argument("--weights", choices=WEIGHT_PRECISIONS, default="fp32", help="storage format of the weights")
    parser.add_argument("--overwrite", action="store_true", help="replace a bundle of that name")
    given = parser.parse_args(arguments)
    try:
        bundle, parity = export_bundle(
            given.run, given.out, precision=given.precision, weights=given.weights, overwrite=given.overwrite
        )
    except ImmuneCamError as error:
        print(f"to_onnx.py: {error}", file=sys.stderr)
        return error.exit_code
    for name, value in parity.to_dict().items():
        print(f"{name:24} {value:.3g}")
    print(f"wrote {given.out} (manifest sha256 {bundle.sha256})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
