"""The evaluation protocol, one part a module; `benchmarks.robustness` puts them together."""
