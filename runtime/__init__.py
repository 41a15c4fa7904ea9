"""What a device runs: bundle, engines, purifier, frames and faces. Never imports PyTorch."""
