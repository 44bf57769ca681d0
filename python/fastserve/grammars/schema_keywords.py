"""Which keywords of JSON Schema cannot be enforced: a schema that has one is refused, not followed in part."""

from collections.abc import Iterator

from fastserve.errors import InvalidArgumentError

# xgrammar reads past these without a word.
_IGNORED = (
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "patternProperties",
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "$dynamicRef",
    "$recursiveRef",
)
_SCHEMAS = (
    "items",
    "additionalItems",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
)
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_MAPS = ("properties", "$defs", "definitions")


def check_keywords(schema: object) -> None:
    """Refuse a schema with a part that would not be enforced.

    Args:
        schema: parsed JSON.
    Raises:
        InvalidArgumentError: it names the keyword.
    """
    for part in _parts(schema):
        for name in _IGNORED:
            if name in part and part[name] is not False:
                raise _unsupported(repr(name))
        if len(_list(part.get("allOf"))) > 1:
            raise _unsupported("'allOf' of several schemas")
        reference = part.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise _unsupported(f"a '$ref' to another document ({reference!r:.100})")


def _parts(schema: object) -> Iterator[dict[str, object]]:
    """The schema and all schemas in it; what is not a schema at its place is left to the compiler."""
    left = [schema]
    while left:
        part = left.pop()
        if not isinstance(part, dict):
            continue
        yield part
        left += (part[name] for name in _SCHEMAS if name in part)
        for name in _LISTS:
            left += _list(part.get(name))
        for name in _MAPS:
            members = part.get(name)
            left += members.values() if isinstance(members, dict) else ()


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _unsupported(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"a JSON schema with {what} is not supported; leave it out and check the output yourself"
    )
