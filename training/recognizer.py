"""Any face recogniser as a differentiable function of grey faces."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from immunecam.errors import InputError
from immunecam.training.prelu import with_fast_prelu

__all__ = ["Recognizer"]


class Recognizer(nn.Module):
    """Embeddings of grey faces in [-1, 1], through a recogniser that takes (N, 3, 112, 112) BGR in 0..255.

    Parameters
    ----------
    network : nn.Module
        The recogniser; its parameters are frozen, gradients reach its input.
    name : str
        For logs and manifests.
    sha256 : str
        Of the file that it came from, for provenance.
    """

    def __init__(self, network: nn.Module, name: str = "recognizer", sha256: str = "") -> None:
        super().__init__()
        self.network = network.eval()
        for parameter in network.parameters():  # a ScriptModule has no requires_grad_ of its own
            parameter.requires_grad = False
        self.name, self.sha256 = name, sha256

    def train(self, mode: bool = True) -> Recognizer:
        """A recogniser always stays in evaluation mode, whatever the loop around it does."""
        return super().train(False)

    def forward(self, faces: Tensor) -> Tensor:
        """(N, E) embeddings of unit length for faces (N, 112, 112) in [-1, 1]."""
        # Channels last is what the convolution libraries want: a fifth faster for MobileFaceNet on a CPU.
        pixels = ((faces + 1) * 127.5).unsqueeze(1).expand(-1, 3, -1, -1)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return F.normalize(self.network(pixels), dim=1)

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu") -> Recognizer:
        """Load a TorchScript (``.pt``) or ONNX (``.onnx``) recogniser and try it on a grey face.

        Raises
        ------
        InputError
            If the file is missing, of another kind, damaged, or does not give one embedding a face.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"recognizer {str(path)!r} does not exist: give a TorchScript .pt or an .onnx file")
        if path.suffix not in (".pt", ".ts", ".onnx"):
            raise InputError(
                f"recognizer {str(path)!r} ends in {path.suffix!r}: give a TorchScript .pt or an .onnx file"
            )
        try:
            if path.suffix == ".onnx":
                from immunecam.training.onnx_module import OnnxModule

                network: nn.Module = OnnxModule.load(path)
            else:
                # TorchScript's own reader, which runs no Python pickle.
                network = with_fast_prelu(torch.jit.freeze(torch.jit.load(str(path), map_location=device).eval()))
            recognizer = cls(
                network,
                path.name.removesuffix(path.suffix).removesuffix(".torchscript"),
                hashlib.sha256(path.read_bytes()).hexdigest(),
            ).to(device)
            with torch.no_grad():
                shape = tuple(recognizer(torch.zeros(2, 112, 112, device=device)).shape)
        except InputError:
            raise
        except Exception as error:  # whatever a foreign network raises while it is read and tried
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"recognizer {str(path)!r} does not map (N, 3, 112, 112) to embeddings: {reason[:200]}: "
                "give a TorchScript or ONNX recogniser of 112x112 BGR faces in 0..255"
            ) from error
        if len(shape) != 2 or shape[0] != 2:
            raise InputError(f"recognizer {str(path)!r} gives {shape} for two faces: wanted (2, embedding size)")
        return recognizer
