"""Structural tags: free text with parts that have a form."""

import json
from typing import Any

from fastserve.errors import InvalidArgumentError


def read_tag(text: str) -> dict[str, Any]:
    """Parse a structural tag; the shape that vLLM had first, `{"structures": [], "triggers": []}`, becomes one with a `format`.

    Raises:
        InvalidArgumentError: it is no object, or its structures are none.
        ValueError, RecursionError: it is no JSON.
    """
    tag = json.loads(text)
    if not isinstance(tag, dict):
        raise InvalidArgumentError(f"it must be an object, got {type(tag).__name__}")
    return _tag_of_structures(tag) if "structures" in tag else tag


def _tag_of_structures(tag: dict[str, Any]) -> dict[str, Any]:
    """`{"structures": [{"begin", "schema", "end"}], "triggers": []}` in the form that xgrammar takes."""
    structures = tag["structures"]
    if not isinstance(structures, list) or not all(isinstance(item, dict) for item in structures):
        raise InvalidArgumentError("structures must be a list of objects")
    tags = [
        {
            "type": "tag",
            "begin": item.get("begin"),
            "content": {"type": "json_schema", "json_schema": item.get("schema")},
            "end": item.get("end"),
        }
        for item in structures
    ]
    format_ = {"type": "triggered_tags", "triggers": tag.get("triggers"), "tags": tags}
    return {"type": "structural_tag", "format": format_}
