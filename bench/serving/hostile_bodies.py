"""Request bodies that no honest client sends, made from valid ones by seeded mutations: the same seed gives the same bytes."""

import json
import random
from collections.abc import Callable

from fastserve.server.requests.ignored_fields import CHAT_NOOP_VALUES, COMPLETION_NOOP_VALUES
from fastserve.server.requests.schema import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest


class Raw(str):
    """JSON text that stands for itself, valid or not."""


class Pairs(list):
    """An object as (name, value) pairs: names may repeat."""


# A deadline ends what was accepted and asks for very many tokens.
_LIMITS = {"max_tokens": 3, "deadline_s": 20, "temperature": 0}
VALID_BODIES: dict[str, list[dict[str, object]]] = {
    "/v1/completions": [
        {"prompt": "The quick brown fox", **_LIMITS},
        {"prompt": [5, 6, 7], "logprobs": 3, "echo": False, **_LIMITS},
        {"prompt": ["one", "two"], "n": 2, "stop": ["a", "b"], "seed": 7, **_LIMITS, "temperature": 1.0},
        {"prompt": [[5, 6], [7, 8]], "stream": True, "stream_options": {"include_usage": True}, **_LIMITS},
    ],
    "/v1/chat/completions": [
        {"messages": [{"role": "user", "content": "hi"}], **_LIMITS},
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}], "stream": True, **_LIMITS},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "logprobs": True,
         "top_logprobs": 2, **_LIMITS},
        {"messages": [{"role": "user", "content": "hi"}], "response_format": {"type": "json_schema", "json_schema":
         {"name": "x", "schema": {"type": "object", "properties": {"a": {"enum": ["b", 1]}}, "required": ["a"]}}}, **_LIMITS},
        {"messages": [{"role": "user", "content": "hi"}], "structured_outputs": {"regex": "[a-c]{1,3}(x|y)"}, **_LIMITS},
    ],
    "/tokenize": [{"prompt": "hello"}, {"messages": [{"role": "user", "content": "hi"}], "return_token_strs": True}],
    "/detokenize": [{"tokens": [5, 6, 7]}],
}  # fmt: skip
FIELDS = sorted(
    {"tokens", "messages", *CHAT_NOOP_VALUES, *COMPLETION_NOOP_VALUES}.union(
        *(model.model_fields for model in (CompletionRequest, ChatRequest, TokenizeRequest, DetokenizeRequest))
    )
)
_NUMBERS = [
    0, 1, -1, 2, 16, 17, 255, 512, 1e-300, 5e-324, 1e-45, 1.5, -0.0, 1e308, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63,
    -(2**63) - 1, 10**30, 10**300, Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("1E+2"), Raw("01"), Raw("+1"),
    Raw("9" * 5000), Raw("0." + "0" * 5000 + "1"), Raw("1e-99999"), Raw("-"),
]  # fmt: skip
_TEXTS = [
    "", "a", " ", "None", "\0", "a\r\nb: c", "\u202e\u2028\ufeff", "e\u0301" * 500, "👩‍👩‍👧‍👦" * 100, "<|eos|><|bos|>", "{{ 7 * 7 }}", "%s%n",
    "../../etc/passwd", "x" * 200, "y" * 5000, "word " * 20_000, "[" * 3000, '"' * 3000, "\\" * 3000,
    Raw('"\\ud800"'), Raw('"\\udc00\\ud800"'), Raw('"\\x"'), Raw('"\t"'), Raw('"unended'), Raw("'single'"),
]  # fmt: skip


def hostile_body(rng: random.Random) -> tuple[str, bytes]:
    """Draw a path and a body for it."""
    path = rng.choice(list(VALID_BODIES))
    body = Pairs(rng.choice(VALID_BODIES[path]).items())
    for _ in range(rng.choice((1, 1, 2, 3))):
        rng.choice(_CHANGES)(rng, body)
    content = _write(body if rng.random() > 0.03 else _value(rng)).encode(errors="surrogatepass")
    if rng.random() < 0.15:
        content = _damaged(rng, content)
    return path, content


def _value(rng: random.Random) -> object:
    return _scalar(rng) if rng.random() < 0.8 else rng.choice(_CONTAINERS)(rng)


def _scalar(rng: random.Random) -> object:
    kind = rng.randrange(8)
    if kind < 4:
        return rng.choice(_NUMBERS)
    return rng.choice(_TEXTS) if kind < 7 else rng.choice((None, True, False))


def _nested(rng: random.Random) -> object:
    depth = rng.choice((5, 30, 31, 33, 500, 3000))
    opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
    return Raw(opening * depth + ("1" if opening != "[" else "") + closing * depth)


# None of them is repeated by another one: a body has a few megabytes at most.
_CONTAINERS: list[Callable[[random.Random], object]] = [
    lambda rng: [],
    lambda rng: {},
    lambda rng: [_scalar(rng)] * rng.choice((1, 2, 5, 65)),
    lambda rng: [rng.choice(_NUMBERS[:8]) for _ in range(rng.choice((1, 300, 20_000)))],
    lambda rng: [[]] * rng.choice((1, 64, 65, 50_000)),
    lambda rng: [{"role": rng.choice(("user", "system", "assistant", "tool", "robot")), "content": _value(rng)}],
    lambda rng: [{"type": rng.choice(("text", "image_url", 3)), "text": _scalar(rng)}] * rng.choice((1, 50)),
    lambda rng: Pairs((f"k{i}", 1) for i in range(rng.choice((3, 300, 20_000)))),
    lambda rng: {rng.choice(FIELDS): _value(rng)},
    _nested,
]


def _set(rng: random.Random, body: Pairs) -> None:
    index = rng.randrange(len(body))
    body[index] = (body[index][0], _value(rng))


def _add(rng: random.Random, body: Pairs) -> None:
    body.insert(rng.randrange(len(body) + 1), (rng.choice(FIELDS), _value(rng)))


def _add_unknown(rng: random.Random, body: Pairs) -> None:
    name = rng.choice([text for text in _TEXTS if not isinstance(text, Raw)])
    body.insert(rng.randrange(len(body) + 1), (name, _value(rng)))


def _remove(rng: random.Random, body: Pairs) -> None:
    if len(body) > 1:
        del body[rng.randrange(len(body))]


def _change_within(rng: random.Random, body: Pairs) -> None:
    """Put a hostile value somewhere into a list or an object."""
    index = rng.randrange(len(body))
    name, value = body[index]
    value = json.loads(json.dumps(value, default=str)) if not isinstance(value, Raw) else value
    if isinstance(value, list) and value:
        place = rng.randrange(len(value))
        if isinstance(value[place], dict) and rng.random() < 0.8:
            value[place][rng.choice(["role", "content", "name", "tool_calls", "extra"])] = _value(rng)
        else:
            value[place] = _value(rng)
    elif isinstance(value, dict):
        value[rng.choice([*value, "extra"])] = _value(rng)
    body[index] = (name, value)


_CHANGES = [_set, _set, _set, _add, _add, _add_unknown, _remove, _change_within, _change_within]


def _damaged(rng: random.Random, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 3, 20))):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[place : place + 1] = rng.randbytes(1)
            case 1:
                del data[place:]
            case 2:
                data[place:place] = rng.randbytes(rng.randrange(1, 30))
            case 3:
                data[place:place] = data[: rng.randrange(1, 100)]
    return bytes(data)


def _write(value: object) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs | dict):
        pairs = value.items() if isinstance(value, dict) else value
        return "{" + ",".join(f"{json.dumps(name)}:{_write(item)}" for name, item in pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_write, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
