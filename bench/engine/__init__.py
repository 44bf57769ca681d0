"""The engine's own costs beside the model; run with `python -m bench.engine`."""
