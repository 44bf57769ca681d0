"""The figures of the paper, and more, from the simulator: `python -m bench.figures NAME|all`."""
