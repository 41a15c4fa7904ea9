"""Measured claims: latency, memory, robustness."""
