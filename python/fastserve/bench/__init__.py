"""Load and measurement: an open-loop client for any OpenAI-compatible server, its figures, and offline benchmarks."""
