"""What a run starts from, if not anew: the weights of another run, or those of a bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from immunecam.errors import InputError
from immunecam.models import Eigenspace, build_model
from immunecam.training.deployed import purification_from_bundle
from immunecam.training.from_bundle import eigenspace_from_bundle, weights_from_bundle

if TYPE_CHECKING:
    from immunecam.runtime.bundle import Bundle

__all__ = ["BundleOrigin", "Origin", "RunOrigin", "origin_of", "recognizers_met"]

_BATCH = 16


class Origin:
    """Weights by their name in the network, and what a manifest must say of them.

    Attributes
    ----------
    name : str
        For messages.
    provenance : dict
        Which run or bundle, and every recogniser that it has seen.
    """

    name: str
    provenance: dict[str, Any]

    def eigenspace(self) -> Eigenspace:
        """The eigenfaces that the weights go with: fitted again they are others in their last rows, by another seed."""
        raise NotImplementedError

    def weights(self, faces: Tensor) -> dict[str, Tensor]:
        """The weights, given some training faces (N, 112, 112) in [-1, 1]."""
        raise NotImplementedError

    def probabilities(self, faces: Tensor) -> Tensor:
        """(N, K) of its antibodies for faces (N, 112, 112) in [-1, 1]."""
        raise NotImplementedError


class RunOrigin(Origin):
    """Another run, of which the slow copy is taken.

    Raises
    ------
    InputError
        If the folder is none.
    """

    def __init__(self, folder: Path) -> None:
        self.name = f"the run {str(folder)!r}"
        self._eigenspace = folder / "eigenspace.safetensors"
        self._file = folder / "checkpoint.safetensors"
        try:
            content = json.loads((folder / "config.json").read_text())
            self._config = content["config"]
            digest = hashlib.sha256(self._file.read_bytes()).hexdigest()
            self.provenance = {"checkpoint": digest, "recognizers": recognizers_met(content)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{str(folder)!r} is no run to start from ({error}): name a run folder or a bundle"
            ) from None

    def eigenspace(self) -> Eigenspace:
        try:
            return Eigenspace(**self._load(self._eigenspace))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.name} to start from has damaged eigenfaces ({error})") from None

    def weights(self, faces: Tensor) -> dict[str, Tensor]:
        tensors = self._load(self._file)
        return {name.removeprefix("slow."): value for name, value in tensors.items() if name.startswith("slow.")}

    def probabilities(self, faces: Tensor) -> Tensor:
        config = self._config
        try:
            network = build_model(config["kind"], config["k"], config["model_options"])
            network.load_state_dict(self.weights(faces))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{self.name} to start from does not fit its own config.json ({error})") from None
        return _batched(network.eval(), faces)

    def _load(self, file: Path) -> dict[str, Tensor]:
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{self.name} to start from cannot be read ({error})") from None


class BundleOrigin(Origin):
    """A bundle, whose run need not be there any more."""

    def __init__(self, bundle: Bundle) -> None:
        self.name = f"the bundle {str(bundle.path)!r}"
        self._bundle = bundle
        self.provenance = {"bundle": bundle.sha256, "recognizers": recognizers_met(bundle.manifest.provenance)}

    def eigenspace(self) -> Eigenspace:
        return eigenspace_from_bundle(self._bundle)

    def weights(self, faces: Tensor) -> dict[str, Tensor]:
        return weights_from_bundle(self._bundle, faces)

    def probabilities(self, faces: Tensor) -> Tensor:
        return _batched(purification_from_bundle(self._bundle).analyze, faces)


def origin_of(start: str | Path | Bundle) -> Origin:
    """A run, by its folder, or a bundle.

    Raises
    ------
    InputError
        If the folder is no run.
    """
    return RunOrigin(Path(start)) if isinstance(start, (str, Path)) else BundleOrigin(start)


def _batched(network: Callable[[Tensor], Tensor], faces: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(part) for part in faces.split(_BATCH)])


def recognizers_met(run: Mapping[str, Any]) -> list[dict[str, str]]:
    """Name and SHA-256 of the recognisers of a run, by its manifest or `config.json`, of those before it and of its
    teacher's, each once."""
    before = [run.get(key) or {} for key in ("started_from", "teacher")]
    every = [item for one in (run, *before) for item in one.get("recognizers", [])]
    return list({item["sha256"]: item for item in every}.values())
