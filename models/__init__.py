"""PyTorch modules: eigenspace, AIS, PIN, edge. Pure functions of tensors; no files are touched here."""
