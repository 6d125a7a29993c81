"""What the benchmarks measured, as tables and as a page."""
