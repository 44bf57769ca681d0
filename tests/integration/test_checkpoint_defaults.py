"""What the files of a checkpoint say reaches the requests: end tokens and sampling defaults, with a real tokenizer."""

import json
from pathlib import Path

import pytest

from fastserve.config import CacheConfig, EngineConfig, ModelConfig
from fastserve.engine.core import EngineCore
from fastserve.engine.llm import LLM
from fastserve.types import FinishReason, SamplingParams
from tests.checkpoints import copy_checkpoint, edit_config, tiny_checkpoint

SMALL = {"kv_gib": 0.01, "host_kv_gib": 0.0, "max_num_seqs": 4, "max_num_batched_tokens": 64}
PROMPT = [[40, 41, 42, 43]]
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


def greedy_tokens(folder: Path) -> tuple[int, ...]:
    with LLM(str(folder), **SMALL) as llm:
        return (
            llm.generate(PROMPT, SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True), use_tqdm=False)[0]
            .outputs[0]
            .token_ids
        )


def edit(folder: Path, name: str, **fields: object) -> None:
    path = folder / name
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | fields))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_checkpoint(tiny_checkpoint("llama"), tmp_path / "llama")


@pytest.mark.parametrize("carrier", ["tokenizer", "generation_config", "config"])
def test_a_sequence_ends_at_the_end_token_of_each_file(folder: Path, carrier: str) -> None:
    """As a ChatML fine-tune that changed the tokenizer's end token only, and the other two ways."""
    tokens = greedy_tokens(folder)
    end = next(token for i, token in enumerate(tokens) if i > 1 and token not in tokens[:i])
    edit_config(folder, eos_token_id=end if carrier == "config" else 1)
    edit(folder, "generation_config.json", eos_token_id=end if carrier == "generation_config" else 2)
    with LLM(str(folder), **SMALL) as llm:
        spelling = llm.tokenizer.id_to_token(end)
    if carrier == "tokenizer":
        edit(folder, "tokenizer_config.json", eos_token=spelling)
    with LLM(str(folder), **SMALL) as llm:
        assert {1, 2, end} - {1, 2} <= set(llm.info.eos_token_ids)
        [output] = llm.generate(PROMPT, GREEDY, use_tqdm=False)[0].outputs
    assert output.finish_reason is FinishReason.STOP and output.stop_reason is None
    assert output.token_ids == tokens[: tokens.index(end) + 1]


def test_an_end_token_outside_the_model_s_vocabulary_is_left_out(folder: Path) -> None:
    cache = CacheConfig(kv_gib=0.01, host_kv_gib=0.0)
    config = EngineConfig(model=ModelConfig(model=str(folder)), cache=cache, eos_token_ids=(2, 7, 512))
    core = EngineCore.from_config(config)
    assert core.info.eos_token_ids == (1, 2, 7)
    core.close()


def test_llm_takes_the_model_s_sampling_defaults_where_no_parameters_are_given(folder: Path) -> None:
    edit(folder, "generation_config.json", do_sample=True, temperature=0.9, top_k=1, max_new_tokens=5)
    tokens = greedy_tokens(folder)
    with LLM(str(folder), **SMALL) as llm:
        assert llm.get_default_sampling_params() == SamplingParams(temperature=0.9, top_k=1, max_tokens=5)
        assert llm.generate(PROMPT, use_tqdm=False)[0].outputs[0].token_ids == tokens[:5]
    with LLM(str(folder), generation_config="vllm", **SMALL) as llm:
        assert llm.get_default_sampling_params() == SamplingParams()
    with LLM(str(folder), override_generation_config={"max_new_tokens": 3}, **SMALL) as llm:
        assert llm.generate(PROMPT, use_tqdm=False)[0].outputs[0].token_ids == tokens[:3]
