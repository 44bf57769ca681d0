"""What clients get back: OpenAI's JSON objects and streams."""
