"""What the benchmarks share: timing, the machine they ran on, results as JSON."""
