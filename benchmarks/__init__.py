"""How fast actstore is, as ratios within one run: ``python -m benchmarks``, or ``make bench``."""
