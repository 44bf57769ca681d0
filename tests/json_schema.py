"""A validator of JSON Schema for tests: the keywords that FastServe enforces."""

import re
from collections.abc import Mapping

_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def is_valid(value: object, schema: object, root: Mapping[str, object] | None = None) -> bool:
    """Whether a value fits a schema; objects have no properties that the schema does not name, unless it says so."""
    if isinstance(schema, bool):
        return schema
    root = schema if root is None else root
    if "$ref" in schema:
        target = root
        for step in schema["$ref"].split("/")[1:]:
            target = target[step]
        return is_valid(value, target, root)
    checks = [_fits_type(value, schema), _fits_lists(value, schema, root)]
    if isinstance(value, dict):
        checks.append(_fits_object(value, schema, root))
    elif isinstance(value, list):
        checks.append(_fits_array(value, schema, root))
    elif isinstance(value, str):
        checks.append(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", 1e9))
        checks.append(re.search(schema.get("pattern", ""), value) is not None)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        checks.append(schema.get("minimum", -1e99) <= value <= schema.get("maximum", 1e99))
        checks.append(schema.get("exclusiveMinimum", -1e99) < value < schema.get("exclusiveMaximum", 1e99))
        checks.append(not value % schema.get("multipleOf", value or 1))
    return all(checks)


def _fits_type(value: object, schema: Mapping[str, object]) -> bool:
    names = schema.get("type", list(_TYPES))
    names = [names] if isinstance(names, str) else names
    if isinstance(value, bool):
        return "boolean" in names
    return any(isinstance(value, _TYPES[name]) for name in names)


def _fits_lists(value: object, schema: Mapping[str, object], root: Mapping[str, object]) -> bool:
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if not all(is_valid(value, part, root) for part in schema.get("allOf", ())):
        return False
    choices = schema.get("anyOf") or schema.get("oneOf") or [True]
    return any(is_valid(value, part, root) for part in choices)


def _fits_object(value: Mapping[str, object], schema: Mapping[str, object], root: Mapping[str, object]) -> bool:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties", "properties" not in schema)
    return all(name in value for name in schema.get("required", ())) and all(
        is_valid(member, properties.get(name, others), root) for name, member in value.items()
    )


def _fits_array(value: list[object], schema: Mapping[str, object], root: Mapping[str, object]) -> bool:
    first = schema.get("prefixItems", [])
    rest = schema.get("items", "prefixItems" not in schema)
    parts = [*first[: len(value)], *[rest] * (len(value) - len(first))]
    return schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 1e9) and all(
        is_valid(item, part, root) for item, part in zip(value, parts, strict=True)
    )
