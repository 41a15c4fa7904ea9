"""What is checked and measured on a card; `python benchmarks/gpu.py` runs it all."""
