"""FastServe: an LLM serving engine that preempts at every token.

Importing this package loads neither torch nor the C++ core; `LLM` and the servers load what they need on first use.
"""

__version__ = "0.1.0"
