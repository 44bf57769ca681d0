"""A rank's part of a model: what it takes of the memory, and what it holds of the checkpoint while it is read."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastserve.config import ModelConfig
from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.loader.load import load_model
from fastserve.loader.memory import check_memory, decoder_bytes
from fastserve.models.registry import read_spec
from fastserve.models.shard import WHOLE, Shard
from tests.checkpoints import tiny_checkpoint
from tests.rank_threads import ThreadGroup, run_ranks, thread_groups

MIB = 1 << 20
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_hidden_layers": 8,
    "vocab_size": 8192,
    "max_position_embeddings": 64,
    "torch_dtype": "bfloat16",
}
# Prints by how much the most memory that the process ever had grew while it loaded a rank of two, MiB; a tiny model comes
# first, so that the libraries that are loaded on the way do not count.
LOAD_A_HALF = """
import sys
from pathlib import Path
from fastserve.config import ModelConfig
from fastserve.loader.load import load_model
from fastserve.models.shard import Shard
from tests.rank_threads import thread_groups

def most_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))

def load(folder):
    return load_model(ModelConfig(model=folder), shard=Shard(0, 2), group=thread_groups(2)[0])

load(sys.argv[2])
Path("/proc/self/clear_refs").write_text("5")
before = most_kib()
model = load(sys.argv[1])
print((most_kib() - before) / 1024)
"""


def write_checkpoint(folder: Path) -> None:
    """A checkpoint of zeros of about 290 MiB."""
    (folder / "config.json").write_text(json.dumps(CONFIG))
    square, wide = torch.zeros(1024, 1024, dtype=torch.bfloat16), torch.zeros(4096, 1024, dtype=torch.bfloat16)
    tensors = {name: torch.zeros(8192, 1024, dtype=torch.bfloat16) for name in ("model.embed_tokens", "lm_head")}
    tensors["model.norm"] = torch.ones(1024, dtype=torch.bfloat16)
    for layer in range(8):
        prefix = f"model.layers.{layer}."
        tensors |= {f"{prefix}self_attn.{name}_proj": square.clone() for name in "qkvo"}
        tensors |= {f"{prefix}mlp.{name}_proj": wide.clone() for name in ("gate", "up")}
        tensors[f"{prefix}mlp.down_proj"] = torch.zeros(1024, 4096, dtype=torch.bfloat16)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[prefix + name] = torch.ones(1024, dtype=torch.bfloat16)
    safetensors.torch.save_file(
        {f"{name}.weight": tensor for name, tensor in tensors.items()}, folder / "model.safetensors"
    )


def test_a_rank_never_holds_the_whole_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    whole, half = (
        decoder_bytes(read_spec(tmp_path), shard, 64, torch.bfloat16).weights / MIB for shard in (WHOLE, Shard(0, 2))
    )
    assert half == whole / 2
    assert whole > half + 64  # what is looked for would show
    process = subprocess.run(
        [sys.executable, "-c", LOAD_A_HALF, str(tmp_path), str(tiny_checkpoint("llama"))],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert half - 1 <= float(process.stdout) <= half + 64


@pytest.mark.parametrize("family", ["llama", "qwen2", "opt"])
def test_the_parts_of_a_model_take_what_the_whole_takes(family: str) -> None:
    spec = read_spec(tiny_checkpoint(family))
    whole = decoder_bytes(spec, WHOLE, 64, torch.float32)
    repeated = 512 * 128 * 4 if spec.tie_word_embeddings else 0  # a tied embedding is on the first stage and the last
    stages = [decoder_bytes(spec, Shard(0, 1, stage, 3), 64, torch.float32) for stage in range(3)]
    assert sum(stage.weights for stage in stages) == whole.weights + repeated
    if spec.rope is not None:
        assert 2 * decoder_bytes(spec, Shard(1, 2), 64, torch.float32).weights == whole.weights
        assert all(stage.tables == whole.tables for stage in stages)


def test_a_loaded_part_says_what_it_is_and_how_far_it_is() -> None:
    calls: list[tuple[str, int, int]] = []
    config = ModelConfig(model=str(tiny_checkpoint("llama")))
    model = load_model(
        config, shard=Shard(1, 2, 1, 2), group=thread_groups(2)[1], progress=lambda *call: calls.append(call)
    )
    assert (model.spec.num_layers, model.spec.num_heads, model.spec.num_kv_heads) == (1, 2, 1)
    assert model.spec.vocab_size == 512
    assert calls[-1][1] == calls[-1][2]


def test_a_model_that_cannot_be_shared_is_refused_before_it_is_read() -> None:
    config = ModelConfig(model=str(tiny_checkpoint("llama")))
    with pytest.raises(InvalidArgumentError, match="tensor_parallel_size 3 does not divide the 4 attention heads"):
        load_model(config, shard=Shard(0, 3), group=thread_groups(3)[0], progress=lambda *_: pytest.fail("is read"))


def test_the_parts_of_all_ranks_are_held_by_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_checkpoint("llama")
    spec = read_spec(folder)
    whole = decoder_bytes(spec, WHOLE, 64, torch.float32)
    needed = whole.weights + 2 * whole.tables

    def check(world: ThreadGroup) -> None:
        check_memory(folder, spec, Shard(world.rank, 2), world,
                     max_model_len=64, dtype=torch.float32, device=torch.device("cpu"))  # fmt: skip

    monkeypatch.setattr("fastserve.loader.memory.available_bytes", lambda: needed)
    run_ranks(thread_groups(2), check)
    monkeypatch.setattr("fastserve.loader.memory.available_bytes", lambda: needed - 1)
    with pytest.raises(CheckpointError, match="of position tables on 2 ranks"):
        run_ranks(thread_groups(2), check)
    monkeypatch.setattr("fastserve.loader.memory.available_bytes", lambda: None)
    run_ranks(thread_groups(2), check)
