"""Prompts from files of texts, as token ids: ShareGPT conversations and JSON lines."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastserve.config import ModelConfig
from fastserve.errors import InvalidArgumentError
from fastserve.tokenizer import load_tokenizer
from fastserve.tokenizer.tokenizer import Tokenizer
from fastserve.workload import Trace, lengths_alone


def open_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of a checkpoint; raises as `load_tokenizer`."""
    return load_tokenizer(ModelConfig(tokenizer=folder))


def read_sharegpt(path: Path, tokenizer: Tokenizer, _: int) -> Trace:
    """The first question and answer of every conversation of a ShareGPT JSON file.

    Raises:
        InvalidArgumentError: the file is not a list of conversations, or none has two turns.
    """
    document = _parse(path, 1, _read_text(path))
    pairs = [turns for turns in map(_first_turns, document) if turns] if isinstance(document, list) else []
    return _trace(path, [(tokenizer.encode(question), len(tokenizer.encode(answer))) for question, answer in pairs])


def read_custom(path: Path, tokenizer: Tokenizer, default_output_tokens: int) -> Trace:
    """JSON lines {"prompt": text, "output_tokens": n}; the latter may be missing.

    Raises:
        InvalidArgumentError: a line has another form; names file and line.
    """
    rows = []
    for number, row in _json_lines(path):
        prompt = row.get("prompt") if isinstance(row, dict) else None
        if not isinstance(prompt, str):
            raise InvalidArgumentError(f'{path}:{number}: a line must be {{"prompt": text, ...}}, got {row!r:.100}')
        output_tokens = row.get("output_tokens", default_output_tokens)
        if isinstance(output_tokens, bool) or not isinstance(output_tokens, int) or output_tokens < 1:
            raise InvalidArgumentError(f"{path}:{number}: output_tokens must be at least 1, got {output_tokens!r:.100}")
        rows.append((tokenizer.encode(prompt), output_tokens))
    return _trace(path, rows)


def _first_turns(conversation: Any) -> tuple[str, str] | None:
    turns = conversation.get("conversations") if isinstance(conversation, dict) else None
    if not isinstance(turns, list) or len(turns) < 2:
        return None
    first, second = (turn.get("value") if isinstance(turn, dict) else None for turn in turns[:2])
    return (first, second) if isinstance(first, str) and isinstance(second, str) and first and second else None


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if line.strip():
            yield number, _parse(path, number, line)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(f"the dataset {path} cannot be read: {error}") from None


def _parse(path: Path, line: int, text: str) -> object:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidArgumentError(f"{path}:{line}: not JSON: {error}") from None


def _trace(path: Path, rows: list[tuple[list[int], int]]) -> Trace:
    rows = [(ids, output_tokens) for ids, output_tokens in rows if ids and output_tokens]
    if not rows:
        raise InvalidArgumentError(f"{path}: a dataset must have at least one prompt, got none")
    prompts = tuple(np.array(ids, np.int32) for ids, _ in rows)
    lengths = np.array([len(ids) for ids in prompts], np.int64)
    return replace(lengths_alone(lengths, np.array([tokens for _, tokens in rows], np.int64)), prompts=prompts)
