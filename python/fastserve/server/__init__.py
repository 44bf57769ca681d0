"""The OpenAI-compatible HTTP face: schema, streaming, limits, auth, liveness. It knows nothing of scheduling."""
