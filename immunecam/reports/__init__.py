"""How every plot and every page of a report looks; training and benchmarks draw what is in them."""
