"""Tiny random checkpoints, made with transformers as real ones are: config, safetensors, tokenizer, chat template.

`tiny_checkpoint("llama")` gives a folder that lives as long as the process and is shared by all tests: copy it with
`copy_checkpoint` before changing anything in it.
"""

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "opt")
VOCAB_SIZE = 512
MAX_POSITION = 512
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
BOS_ID, EOS_ID, PAD_ID = 0, 1, 2

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|eos|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
CORPUS = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "A request that waits is a request that somebody is waiting for.",
    "Short jobs first, long jobs later, and nobody waits for ever.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "def quantum(level: int) -> float:\n    return first * ratio**level\n",
    "0 1 2 3 4 5 6 7 8 9 10 11 12 100 1000 2048 4096",
    "猫が好きです。 Ünïcödé 🙂🙃 and emoji 🎉.",
)

_COMMON = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_POSITION,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "pad_token_id": PAD_ID,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2, "intermediate_size": 192}
_CONFIGS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, _GROUPED),
    "llama-64": (transformers.LlamaConfig, transformers.LlamaForCausalLM, _GROUPED | {"head_dim": 64}),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, _GROUPED | {"sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, _GROUPED | {"tie_word_embeddings": True}),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, _GROUPED | {"head_dim": 40}),
    "opt": (transformers.OPTConfig, transformers.OPTForCausalLM, _COMMON | {"ffn_dim": 192}),
}


@functools.cache
def _root() -> Path:
    folder = tempfile.mkdtemp(prefix="fastserve-checkpoints-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, chat_template=CHAT_TEMPLATE
    )


def save_tokenizer(folder: Path) -> None:
    """Write the byte-level BPE tokenizer and its chat template into a folder."""
    _tokenizer().save_pretrained(folder)


def _randomize(model: torch.nn.Module, seed: int) -> None:
    """Values of the size that trained models have, none of them 0 or 1: a weight that is skipped shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() >= 2:
            parameter.data.copy_(noise * 1.5 * parameter.shape[-1] ** -0.5)
        elif name.endswith(".bias"):
            parameter.data.copy_(noise * 0.2)
        else:
            parameter.data.copy_(1.0 + 0.2 * noise)


@functools.cache
def _checkpoint(family: str, dtype: str, seed: int, max_shard_size: str, overrides_json: str) -> Path:
    config_class, model_class, fields = _CONFIGS[family]
    folder = Path(tempfile.mkdtemp(prefix=f"{family}-", dir=_root()))
    model = model_class(config_class(**fields | json.loads(overrides_json)))
    _randomize(model, seed)
    model = model.to(getattr(torch, dtype))
    model.generation_config.eos_token_id = [EOS_ID, PAD_ID]
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    save_tokenizer(folder)
    return folder


def tiny_checkpoint(
    family: str, *, dtype: str = "float32", seed: int = 0, max_shard_size: str = "1GB", **overrides: object
) -> Path:
    """The folder of a random checkpoint of about a megabyte, made once per process.

    Args:
        family: one of FAMILIES.
        dtype: it is stored in.
        max_shard_size: above which transformers splits the weights, for example "200KB".
        overrides: fields of the transformers config class, JSON values.
    """
    return _checkpoint(family, dtype, seed, max_shard_size, json.dumps(overrides, sort_keys=True))


def copy_checkpoint(source: Path, target: Path) -> Path:
    """Copy a checkpoint into the new folder `target`, to be changed there."""
    return Path(shutil.copytree(source, target))


def edit_config(folder: Path, **fields: object) -> None:
    """Set fields of config.json; None removes one."""
    path = folder / "config.json"
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def reference_model(folder: Path) -> transformers.PreTrainedModel:
    """The checkpoint as transformers runs it, eager attention, in its stored type."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto", attn_implementation="eager")
    return model.eval()
