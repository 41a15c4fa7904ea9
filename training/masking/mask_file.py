"""A mask on disk: what is open of it, and a value by which its key is known. The key itself is never written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from immunecam.errors import InputError
from immunecam.files import written_whole
from immunecam.mask_key import MaskKey
from immunecam.models.frequency import FrequencyMask
from immunecam.models.mask_spec import MaskSpec

__all__ = ["MaskFile", "steps_of", "trained_with"]

_FORMAT = "immunecam-mask-1"


@dataclass(frozen=True, eq=False)
class MaskFile:
    """Everything of a mask but its key.

    Attributes
    ----------
    spec : MaskSpec
    mean, std : Tensor
        (64,) or (192,) float64 of `channel_statistics`.
    key_check : str
        `MaskKey.check_value` of the key.
    """

    spec: MaskSpec
    mean: Tensor
    std: Tensor
    key_check: str

    @property
    def identity(self) -> str:
        """A hash that another set of channels, other statistics or another key do not have; a recogniser keeps it."""
        digest = hashlib.sha256(json.dumps([_FORMAT, self.spec.to_dict(), self.key_check]).encode())
        for part in (self.mean, self.std):
            digest.update(part.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def mask(self, key: MaskKey, what: str = "the mask") -> FrequencyMask:
        """The mask by its key.

        Raises
        ------
        InputError
            If it is another key; `what` names the thing in the sentence.
        """
        key.verify(self.key_check, what)
        count = self.spec.channels
        return FrequencyMask(
            self.spec, self.mean, self.std, key.permutation(count, "pairs"), key.permutation(count, "order")
        )

    def check(self, wanted: str, what: str) -> None:
        """Refuse weights that were trained with another mask.

        Raises
        ------
        InputError
            If `wanted`, the mask's identity that they keep, is not this one's; `what` names them.
        """
        if self.identity != wanted:
            raise InputError(
                f"{what} was trained with another set of channels or other statistics (mask {wanted[:12]!r}) than this "
                f"mask of {self.spec.channels} channels at {self.spec.positions} positions a side has "
                f"({self.identity[:12]!r}): use the mask.safetensors of its run"
            )

    def save(self, path: str | Path) -> None:
        """Write one .safetensors file, whole or not at all."""
        about = {"format": _FORMAT, "spec": self.spec.to_dict(), "key_check": self.key_check}
        with written_whole(Path(path)) as partial:
            tensors = {"mean": self.mean.contiguous(), "std": self.std.contiguous()}
            save_file(tensors, partial, metadata={"about": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> MaskFile:
        """Read what `save` wrote.

        Raises
        ------
        InputError
            If it is something else, or damaged.
        """
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["about"])
                if about["format"] != _FORMAT:
                    raise ValueError(f"its format is {about['format']!r}, wanted {_FORMAT!r}")
                spec, check = MaskSpec.from_dict(about["spec"]), str(about["key_check"])
                return cls(spec, file.get_tensor("mean"), file.get_tensor("std"), check)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"{str(path)!r} is no mask ({reason}): give one that `immunecam masking train` made"
            ) from None


def steps_of(checkpoint: str | Path) -> int:
    """How many steps the weights of a checkpoint were trained for; raises as `trained_with`."""
    trained_with(checkpoint)
    with safe_open(checkpoint, "pt") as file:
        return int(file.metadata()["step"])


def trained_with(checkpoint: str | Path) -> str:
    """The identity of the mask that a checkpoint's weights belong to.

    Raises
    ------
    InputError
        If it cannot be read or says nothing of a mask.
    """
    try:
        with safe_open(checkpoint, "pt") as file:
            return str((file.metadata() or {})["mask"])
    except (OSError, SafetensorError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{str(checkpoint)!r} is no checkpoint of masked training ({reason}): name a run of "
            "`immunecam masking train`"
        ) from None
