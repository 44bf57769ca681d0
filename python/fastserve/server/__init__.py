"""The OpenAI-compatible HTTP API: schema, streaming, limits, auth, liveness. It knows nothing of scheduling."""
