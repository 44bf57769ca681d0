"""Schemas of the kinds that clients send."""

POINT = {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": "number"}}, "required": ["x", "y"]}
SCHEMAS = {
    "empty object": {"type": "object", "properties": {}, "additionalProperties": False},
    "integer": {"type": "integer"},
    "bounded integer": {"type": "integer", "minimum": -3, "maximum": 120},
    "multiple": {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 5},
    "bounded number": {"type": "number", "minimum": 0.5, "exclusiveMaximum": 3},
    "boolean": {"type": "boolean"},
    "null": {"type": "null"},
    "several types": {"type": ["integer", "null"]},
    "short string": {"type": "string", "maxLength": 5},
    "long enough string": {"type": "string", "minLength": 2, "maxLength": 4},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    "enum": {"enum": ["a", 1, None, "猫", 'quo"te', "new\nline"]},
    "const": {"const": {"a": [1, "b"]}},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    "tuple": {"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": ["x"]}], "items": False, "minItems": 2},
    "object": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer", "maximum": 9}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "optional members": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "boolean"}, "c": {"type": "null"}},
        "required": ["b"],
    },
    "nested": {
        "type": "object",
        "properties": {"from": POINT, "to": {"anyOf": [POINT, {"type": "null"}]}},
        "required": ["from", "to"],
    },
    "any of": {"anyOf": [{"type": "boolean"}, {"type": "string", "maxLength": 2}]},
    "one of with a tag": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": "a"}, "n": {"type": "integer", "maximum": 9}},
             "required": ["kind", "n"]},
            {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]},
        ]
    },
    "definitions": {
        "$defs": {"day": {"enum": ["mon", "tue"]}},
        "type": "object",
        "properties": {"first": {"$ref": "#/$defs/day"}, "last": {"$ref": "#/$defs/day"}},
        "required": ["first", "last"],
    },
    "recursive": {
        "$defs": {"node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
            "required": ["next"],
        }},
        "$ref": "#/$defs/node",
    },
    "all of one": {"allOf": [{"type": "boolean"}]},
    "other members": {"type": "object", "additionalProperties": {"type": "boolean"}},
}  # fmt: skip
