"""From a trained network to a bundle: ONNX graphs, parity checks, manifest."""
