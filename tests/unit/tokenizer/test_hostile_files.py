"""Tokenizer files that are broken on purpose: an error that names the file, or refuses the one text."""

import json
from pathlib import Path

import pytest
from tokenizers import Regex, pre_tokenizers

from fastserve.config import ModelConfig
from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.tokenizer import load_tokenizer
from tests.unit.tokenizer import tiny

CATASTROPHIC = r"(a+)+$"  # exponential in the length of a run of a that something else follows
VICTIM = "a" * 40 + "!"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[]", "3", "\x00", '"', '{"a": ' + "9" * 10_000 + "}"]
)
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "chat_template.json"])
def test_a_broken_json_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    folder = tiny.save(tmp_path)
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=name):
        load_tokenizer(ModelConfig(model=str(folder)))


@pytest.mark.parametrize("pattern", ["(", "(" * 20_000 + ")" * 20_000, "[" * 5_000])
def test_a_pattern_that_does_not_compile_is_refused_at_start(tmp_path: Path, pattern: str) -> None:
    folder = tiny.save(tmp_path)
    values = json.loads((folder / "tokenizer.json").read_text())
    values["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer that can be read"):
        load_tokenizer(ModelConfig(model=str(folder)))


def test_a_catastrophic_pattern_refuses_the_text_that_it_fails_on_and_no_other(tmp_path: Path, capfd) -> None:
    backend = tiny.byte_level().from_str(tiny.byte_level().to_str())
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(CATASTROPHIC), "isolated")
    tokenizer = load_tokenizer(ModelConfig(model=str(tiny.save(tmp_path, backend))))
    fine = tokenizer.encode("aaa")
    with pytest.raises(InvalidArgumentError, match=r"gave up on this text.*retry-limit"):
        tokenizer.encode(VICTIM)
    assert tokenizer.encode("aaa") == fine


def test_a_catastrophic_pattern_that_fails_on_its_own_tokens_is_refused_at_start(tmp_path: Path, capfd) -> None:
    folder = tiny.save(tmp_path)
    values = json.loads((folder / "tokenizer.json").read_text())
    values["normalizer"] = {"type": "Replace", "pattern": {"Regex": CATASTROPHIC}, "content": "b"}
    token = {"id": 5000, "content": VICTIM, "single_word": False, "lstrip": False, "rstrip": False}
    values["added_tokens"].append(token | {"normalized": True, "special": False})
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer that can be read"):
        load_tokenizer(ModelConfig(model=str(folder)))
