"""FastServe: an LLM serving engine that preempts at every token.

Importing this package loads neither torch nor the C++ core; `LLM` and the servers load what they need on first use.
Type checkers read __init__.pyi.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["AsyncEngine", "LLM", "SamplingParams", "__version__"]

_LAZY = {
    "AsyncEngine": "fastserve.engine.async_engine",
    "LLM": "fastserve.engine.llm",
    "SamplingParams": "fastserve.types",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'fastserve' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
