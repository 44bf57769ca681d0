"""Kernels against torch and against the machine's roof; run with `python -m bench.kernels`."""
