"""A bundle that computes in int8, from a bundle: its networks are quantised as far as its own limits allow.

No training run is needed. `analyzer.onnx` and `restorer.onnx` become files that TensorRT takes, too; the whole purifier
for a CPU says the same numbers with uint8 activations (see `export.unsigned_activations`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.export.card_graph import card_roles, simplified_graph
from immunecam.export.layer_sensitivity import QuantisedNetwork, quantised_as_far_as_borne
from immunecam.export.plan_parity import OUTPUTS, Reference
from immunecam.export.purifier_graph import purifier_graph
from immunecam.export.quantisation import is_quantised
from immunecam.export.weight_precision import with_stored_weights
from immunecam.kernels import dequantize_faces, project, quantize_faces, uniforms
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.bundle_parts import kept_parts
from immunecam.runtime.bundle_writer import check_free, check_signature_kept, write_bundle
from immunecam.runtime.engines import OnnxRuntimeEngine, WholePurifier
from immunecam.runtime.engines.external_data import inline_external_data

__all__ = ["LIMITS", "MOST_POINTS", "Figure", "Judge", "QuantisationCost", "quantize_bundle"]

LIMITS: Mapping[str, float] = {"analyzer": 1e-3, "restorer": 1.0}
"""Largest change by int8: mean absolute of a probability; root mean square of a restored pixel, in grey levels.

Of networks that were not trained for int8. Those that were have met the change in training, and recognition decides.
"""

MOST_POINTS = 0.5
"""Percentage points that a figure of recognition may lose."""

# Of an attack at the edge of what is called imperceptible. Ranges from clean faces alone would cut off what the
# restorer's measure of noise says of attacked ones.
_NOISE = np.float32(16 / 255)


@dataclass(frozen=True)
class Figure:
    """A rate of recognition with the bundle as it was and as it is, in percent.

    Attributes
    ----------
    name : str
        What it is of: recogniser, threat, and which pairs.
    before, after : float
    """

    name: str
    before: float
    after: float

    @property
    def cost(self) -> float:
        """Points lost; negative if it gained."""
        return self.before - self.after


Judge = Callable[[Bundle, Bundle], Sequence[Figure]]
"""Figures of the bundle as it was and of the quantised one."""


@dataclass(frozen=True)
class QuantisationCost:
    """What int8 changes for faces that were not calibrated on, the same random numbers on both sides.

    Attributes
    ----------
    faces : int
        Half of them with a perturbation of random signs at 8/255.
    mean_abs_p, max_abs_p : float
        In a probability.
    bits_flipped : float
        Bits of the antibody that change, a face.
    rms_grey_levels, max_grey_levels : float
        In a purified pixel.
    figures : tuple of Figure
        Of recognition; none if no recogniser was there to ask.
    """

    faces: int
    mean_abs_p: float
    max_abs_p: float
    bits_flipped: float
    rms_grey_levels: float
    max_grey_levels: float
    figures: tuple[Figure, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest and reports."""
        return asdict(self)


def quantize_bundle(
    source: Bundle,
    path: str | Path,
    calibration: NDArray[np.float32],
    trial: NDArray[np.float32],
    *,
    judge: Judge | None = None,
    limits: Mapping[str, float | None] | None = None,
    most_points: float = MOST_POINTS,
    overwrite: bool = False,
    drop_signature: bool = False,
    tell: Callable[[str], None] = lambda what: None,
) -> tuple[Bundle, Mapping[str, QuantisedNetwork], QuantisationCost]:
    """Quantise the networks of a bundle, measure what it costs, and write the bundle if that is little.

    Parameters
    ----------
    source : Bundle
        Its basis stays as it is.
    path : path
        The bundle to write, ``NAME.immune``.
    calibration, trial : ndarray of float32, shape (N, 112, 112)
        Training faces in [-1, 1] for the ranges, and others to measure on; a perturbation is added to half of each.
    judge : callable, optional
        Measures recognition.
    limits : Mapping of float or None, optional
        Largest change by role; layers stay in float32 until it holds, and with None none does. Default: `LIMITS`; no
        limit where there is a judge and the networks were trained for int8 (`TrainConfig.quantisation_aware`).
    most_points : float
        A figure of the judge that loses more is an error.
    overwrite, drop_signature
        See :func:`immunecam.runtime.bundle_writer.write_bundle`.
    tell : callable, optional
        Called with what is being done.

    Returns
    -------
    bundle, networks, cost
        As written; the quantised networks by role; what it costs.

    Raises
    ------
    UsageError
        If there are fewer than two faces of either kind, or the path is taken.
    InputError
        If a graph computes in int8 already, no layer bears it, or a figure loses too much; nothing is written then.
    """
    for what, faces in (("calibrate", calibration), ("measure", trial)):
        if len(faces) < 2:
            raise UsageError(f"{len(faces)} faces to {what} on are too few: give two or more")
    check_free(path, overwrite=overwrite)
    check_signature_kept(path, sign=None, drop_signature=drop_signature)
    kept_parts(path, drop=source.manifest.parts)  # whether they can be, said now and not after the slow work
    if limits is None:
        trained_for_it = bool((source.manifest.provenance.get("config") or {}).get("quantisation_aware"))
        limits = dict.fromkeys(LIMITS) if trained_for_it and judge is not None else LIMITS
    ranges, trials = Reference(source, _half_noisy(calibration, 0)), Reference(source, _half_noisy(trial, 1))
    networks: dict[str, QuantisedNetwork] = {}
    floats: dict[str, bytes] = {}
    for role in card_roles(source):
        name = str(source.path / source.manifest.graphs[role])
        graph = simplified_graph(inline_external_data(source.graph(role) or b"", source.files, name=name), name)
        if is_quantised(graph):
            raise InputError(f"{name} computes in int8 already: quantise the bundle that it was made from")
        floats[role] = graph
        networks[role] = quantised_as_far_as_borne(
            graph,
            OUTPUTS[role],
            calibration=ranges.feeds[role],
            trial=trials.feeds[role],
            measure=_MEASURES[role],
            limit=limits[role],
            tell=lambda what, role=role: tell(f"{role}: {what}"),
        )
    if all(network.worst is None for network in networks.values()):
        raise InputError(f"no layer of {source.path} bears int8 within the limits: nothing was written")
    graphs = {role: network.graph for role, network in networks.items()}
    noisy = trials.feeds["analyzer"]["faces"]
    with tempfile.TemporaryDirectory() as scratch:
        tell("the whole in int8")
        draft = write_bundle(Path(scratch) / "draft.immune", **_content(source, graphs))
        cost = _cost(source, draft, noisy, () if judge is None else judge(source, draft))
        worst = max(cost.figures, key=lambda figure: figure.cost, default=None)
        if worst is not None and worst.cost > most_points:
            raise _refusal(worst, most_points, _culprit(source, networks, floats, noisy, Path(scratch)))
    content = _content(source, graphs)
    record = {
        "source_sha256": source.sha256,
        "calibration_faces": len(calibration),
        "networks": {
            role: {"error": n.error, "limit": n.limit, "layers": [layer.to_dict() for layer in n.layers]}
            for role, n in networks.items()
        },
        "cost": cost.to_dict(),
    }
    content["provenance"] = {**content["provenance"], "quantisation": record}
    written = write_bundle(path, **content, overwrite=overwrite, drop_signature=drop_signature)
    return written, networks, cost


def _half_noisy(faces: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Every second face with random signs of 8/255 on it."""
    signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), faces[::2].shape)
    noisy = faces.copy()
    noisy[::2] = np.clip(noisy[::2] + _NOISE * signs, -1, 1)
    return noisy


def _mean_abs(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    return float(np.abs(before - after).mean())


def _rms_grey_levels(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Of faces in [-1, 1]."""
    return float(np.sqrt(np.square(before.astype(np.float64) - after).mean()) * 127.5)


_MEASURES = {"analyzer": _mean_abs, "restorer": _rms_grey_levels}


def _content(source: Bundle, graphs: Mapping[str, bytes]) -> dict[str, Any]:
    """What `write_bundle` writes; measured quality is left out, for it is of other files."""
    files, precision = {}, {"basis": source.manifest.precision["basis"]}
    for role, graph in graphs.items():
        # What was stored in half precision and stays in floating point goes on so.
        stored = "fp16" if source.manifest.precision[role] == "fp16" else "fp32"
        files[f"{role}.onnx"] = with_stored_weights(graph, stored)
        precision[role] = "int8" if is_quantised(graph) else stored
    basis = source.files["subspace.safetensors"]
    manifest = source.manifest
    for part in manifest.parts.values():  # networks of their own, which stay as they are
        files |= {name: source.files[name] for name in part.files}
    whole = purifier_graph(files["analyzer.onnx"], source.subspace, basis, files.get("restorer.onnx"))
    plain = json.loads(source.manifest_bytes)
    return {
        "kind": manifest.kind,
        "k": manifest.k,
        "files": {**files, "purifier.onnx": whole, "subspace.safetensors": basis},
        "graphs": {"purifier": "purifier.onnx"} | {role: f"{role}.onnx" for role in graphs},
        "precision": precision,
        "options": plain.get("options"),
        "provenance": plain.get("provenance") or {},
        "parity": plain.get("parity"),
        "parts": manifest.parts,
    }


def _cost(source: Bundle, draft: Bundle, faces: NDArray[np.float32], figures: Sequence[Figure]) -> QuantisationCost:
    drawn = uniforms(0, np.arange(len(faces)), 1, source.k)[:, 0]
    (before, p), (after, q) = (_purified(bundle, faces, drawn) for bundle in (source, draft))
    change = before.astype(np.float64) - after
    return QuantisationCost(
        faces=len(faces),
        mean_abs_p=float(np.abs(p - q).mean()),
        max_abs_p=float(np.abs(p - q).max()),
        bits_flipped=float(((drawn < p) != (drawn < q)).sum(1).mean()),
        rms_grey_levels=float(np.sqrt(np.square(change).mean())),
        max_grey_levels=float(np.abs(change).max()),
        figures=tuple(figures),
    )


def _purified(bundle: Bundle, faces: NDArray[np.float32], drawn: NDArray[np.float32]) -> tuple[Any, Any]:
    """Purified faces and probabilities, by the whole purifier where the bundle has one."""
    engine = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu")
    if isinstance(engine, WholePurifier):
        return engine.purify(faces, drawn, False)
    p = engine.analyze(faces)
    purified = project(faces, drawn < p, bundle.subspace)
    if bundle.graph("restorer") is not None:
        purified = quantize_faces(engine.restore(faces, dequantize_faces(purified)))
    return purified, p


def _culprit(
    source: Bundle,
    networks: Mapping[str, QuantisedNetwork],
    floats: Mapping[str, bytes],
    faces: NDArray[np.float32],
    scratch: Path,
) -> str:
    """The worst of the quantised layers, of the network that alone changes purified faces most."""
    alone = {}
    for role, network in networks.items():
        if network.worst is not None:
            graphs = {**floats, role: network.graph}
            draft = write_bundle(scratch / f"{role}.immune", **_content(source, graphs))
            alone[role] = _cost(source, draft, faces, ()).rms_grey_levels
    role = max(alone, key=alone.__getitem__)
    return f"{networks[role].worst} of the {role}"


def _refusal(worst: Figure, most_points: float, culprit: str) -> InputError:
    return InputError(
        f"int8 costs {worst.cost:.2f} points of {worst.name} ({worst.before:.2f} to {worst.after:.2f} %), allowed are "
        f"{most_points:g}: nothing was written; most of it comes from {culprit}, so allow less change there, or "
        "measure on more pairs"
    )
