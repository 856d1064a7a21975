"""lc-history beside its peers, on the same servers: ``python -m benchmarks``."""
