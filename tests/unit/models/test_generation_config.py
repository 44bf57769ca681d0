"""Sampling defaults: which file, which values, and what is refused."""

import json
import logging
from pathlib import Path

import pytest

from fastserve.config import ModelConfig
from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.models.generation_config import (
    FILE,
    NOT_APPLIED,
    generation_config_path,
    read_end_tokens,
    read_sampling_defaults,
)
from fastserve.types import SamplingDefaults, SamplingParams

QWEN3 = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [5, 6]}


def write(folder: Path, **values: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(json.dumps(values))
    return folder


def read(folder: Path, **options: object) -> SamplingDefaults:
    config = ModelConfig(**options)
    return read_sampling_defaults(config, generation_config_path(config, folder))


def test_the_values_of_the_file_are_the_defaults(tmp_path: Path) -> None:
    write(tmp_path, **QWEN3, min_p=0.1, repetition_penalty=1.05, max_new_tokens=2048, max_length=9, presence_penalty=1)
    defaults = read(tmp_path)
    assert defaults == SamplingDefaults(
        temperature=0.6, top_k=20, top_p=0.95, min_p=0.1, repetition_penalty=1.05, max_tokens=2048
    )
    assert defaults.params() == SamplingParams(
        temperature=0.6, top_k=20, top_p=0.95, min_p=0.1, repetition_penalty=1.05, max_tokens=2048
    )


def test_vllm_means_without_the_file(tmp_path: Path) -> None:
    write(tmp_path, **QWEN3)
    assert read(tmp_path, generation_config="vllm") == SamplingDefaults()
    assert read(tmp_path / "without a file") == SamplingDefaults()


@pytest.mark.parametrize("path", ["other", f"other/{FILE}"])
def test_a_path_replaces_the_model_s_own_file_and_limits_all_requests(tmp_path: Path, path: str) -> None:
    write(tmp_path, **QWEN3)
    write(tmp_path / "other", temperature=0.1, max_new_tokens=7, eos_token_id=9)
    option = str(tmp_path / path)
    assert read(tmp_path, generation_config=option) == SamplingDefaults(
        temperature=0.1, max_tokens=7, max_tokens_limit=7
    )
    assert read_end_tokens(generation_config_path(ModelConfig(generation_config=option), tmp_path)) == (9,)


@pytest.mark.parametrize("option", ["auto", "vllm"])
def test_the_override_wins_and_its_max_new_tokens_limits_all_requests(tmp_path: Path, option: str) -> None:
    write(tmp_path, temperature=0.6, max_new_tokens=100)
    override = {"temperature": 0.2, "max_new_tokens": 8}
    assert read(tmp_path, generation_config=option, override_generation_config=override) == SamplingDefaults(
        temperature=0.2, max_tokens=8, max_tokens_limit=8
    )


def test_do_sample_is_not_looked_at_as_in_vllm(tmp_path: Path) -> None:
    write(tmp_path, do_sample=False, temperature=0.7)
    assert read(tmp_path).temperature == 0.7


BAD = {
    "temperature": [-1, "hot", True, [0.5], 1e9],
    "top_k": [-2, 0.5, "20"],
    "top_p": [0, 1.5],
    "min_p": [-0.1, 2],
    "repetition_penalty": [0, -1, 1e30],
    "max_new_tokens": [0, -1, 7.5],
}
BAD_CASES = [(name, value) for name, values in BAD.items() for value in values]


@pytest.mark.parametrize(("name", "value"), BAD_CASES)
def test_a_bad_value_of_the_file_is_refused_with_its_name_and_the_way_out(
    tmp_path: Path, name: str, value: object
) -> None:
    write(tmp_path, **{name: value})
    with pytest.raises(CheckpointError, match=rf"{FILE}: {name} must .*--generation-config vllm"):
        read(tmp_path)
    assert read(tmp_path, generation_config="vllm") == SamplingDefaults()


@pytest.mark.parametrize(("name", "value"), BAD_CASES)
def test_a_bad_value_of_the_override_is_refused(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=f"override_generation_config: {name} must"):
        read(tmp_path, override_generation_config={name: value})


def test_an_override_of_an_unknown_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match=r"override_generation_config may have temperature.*got 'top_q'"):
        read(tmp_path, override_generation_config={"top_q": 1})


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    for option in (str(tmp_path), str(tmp_path / "none"), ""):
        with pytest.raises(InvalidArgumentError, match="generation_config must be auto, vllm, or the path"):
            read(tmp_path, generation_config=option)


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=FILE):
        read(tmp_path)


def test_the_log_says_which_values_apply(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write(tmp_path, eos_token_id=1)
    read(tmp_path)
    assert caplog.text == ""
    write(tmp_path, **QWEN3)
    read(tmp_path, override_generation_config={"max_new_tokens": 8})
    assert f"{tmp_path / FILE} and --override-generation-config: temperature 0.6, top_k 20, top_p 0.95" in caplog.text
    assert "max_tokens 8, at most 8 tokens" in caplog.text


def test_what_asks_for_something_that_is_not_applied_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, **{name: values[0] for name, values in NOT_APPLIED.items() if values})
    read(tmp_path)
    assert caplog.text == ""
    write(tmp_path, num_beams=4, no_repeat_ngram_size=3, typical_p=1.0)
    read(tmp_path)
    assert "no effect: no_repeat_ngram_size, num_beams" in caplog.text
