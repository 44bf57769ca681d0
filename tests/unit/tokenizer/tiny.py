"""Tiny trained tokenizers of the families that language models use; also the folders that hold them."""

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It's 42 degrees outside, isn't it?",
    "Hello, world! How are you today? I am fine, thanks; and you?",
    "def main() -> int:\n    return 0  # naïve café, coöperate",
    "你好，世界。今天天气很好。",
    "Привет, мир! Как дела?",
    "🙂 emoji 👩‍👩‍👧 and flags 🇺🇦, \t tabs \n\n newlines",
]
SPECIAL = ["<unk>", "<s>", "</s>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role not in ('system', 'user', 'assistant') %}{{ raise_exception('no role ' ~ m.role) }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@cache
def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool call>", normalized=False), AddedToken("日本", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@cache
def byte_fallback(strip: bool = True) -> Tokenizer:
    """As Llama 2 and Mistral (`strip`), or as Gemma."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁")] * strip + [normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizer
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False, limit_alphabet=40)
    )
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    vocab = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces[len(SPECIAL) :]]
    bpe = models.BPE(
        vocab={piece: i for i, piece in enumerate(vocab)},
        merges=[tuple(merge) for merge in model["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizer
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] * strip)
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


@cache
def odd_byte_fallback() -> Tokenizer:
    """With byte tokens, and a decoder that no byte table can express."""
    tokenizer = Tokenizer.from_str(byte_fallback().to_str())
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Replace("▁", " "), decoders.Fuse()])
    return tokenizer


@cache
def word_piece() -> Tokenizer:
    """As BERT: a decoder that no byte table can express."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=250, special_tokens=SPECIAL, show_progress=False)
    )
    return tokenizer


def save(folder: Path, backend: Tokenizer | None = None, **config: object) -> Path:
    """Write a tokenizer folder as a checkpoint has it; `config` adds to or overrides tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (backend or byte_level()).save(str(folder / "tokenizer.json"))
    values = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": CHAT_TEMPLATE} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder
