"""The step loop (core), its process and the faces in front of it (async_engine, llm)."""
