"""Copy rates of the offload engine."""
