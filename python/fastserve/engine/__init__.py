"""The step loop (core), its process, and the two APIs on top of it (async_engine, llm)."""
