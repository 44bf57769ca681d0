"""Late loading of what is slow to import: torch, transformers, the HTTP stack."""

import importlib
from typing import Any


def load(target: str) -> Any:
    """Import "module:name" and return the name."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
