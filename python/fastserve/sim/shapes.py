"""Models as far as time and memory depend on them: by name, or from a config.json."""

from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fastserve.errors import InvalidArgumentError
from fastserve.models.registry import read_spec
from fastserve.models.spec import DecoderSpec, context_limit

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder; all are counts of elements.

    Attributes:
        mlp_matrices: 3 with a gate, else 2.
        embedding_size: width of the token embedding and of the output head.
        max_model_len: longest prompt + output, tokens.
        dtype: of weights, activations and KV.
    """

    name: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    embedding_size: int
    mlp_matrices: int
    max_model_len: int
    tied_embedding: bool = False
    dtype: str = "float16"

    def __post_init__(self) -> None:
        if self.dtype not in _BYTES:
            raise InvalidArgumentError(f"dtype must be one of {', '.join(_BYTES)}, got {self.dtype}")

    @property
    def element_bytes(self) -> int:
        """Bytes of a weight, an activation or a KV element."""
        return _BYTES[self.dtype]

    @property
    def layer_weights(self) -> int:
        """Weights of the matrix products of one layer."""
        query, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        attention = self.hidden_size * (2 * query + 2 * kv)
        return attention + self.mlp_matrices * self.hidden_size * self.intermediate_size

    @property
    def head_weights(self) -> int:
        """Weights of the output head."""
        return self.vocab_size * self.embedding_size

    @property
    def weight_bytes(self) -> int:
        """Return the memory of the weights, without vectors (norms, biases)."""
        tables = 1 if self.tied_embedding else 2
        return self.element_bytes * (self.num_layers * self.layer_weights + tables * self.head_weights)

    @property
    def kv_token_bytes(self) -> int:
        """KV of one token in all layers."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * self.element_bytes


def shape_of(spec: DecoderSpec, name: str, dtype: str = "auto") -> ModelShape:
    """The shape of a decoder spec; dtype auto = as stored."""
    return ModelShape(
        name=name,
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        vocab_size=spec.vocab_size,
        embedding_size=spec.embedding_size,
        mlp_matrices=3 if spec.gated else 2,
        max_model_len=context_limit(spec),
        tied_embedding=spec.tie_word_embeddings,
        dtype=(spec.stored_dtype or "float32") if dtype == "auto" else dtype,
    )


def _opt(name: str, layers: int, hidden: int, heads: int) -> ModelShape:
    """OPT (arXiv:2205.01068, table 1): MLP four times as wide, tied embedding, 2048 positions."""
    return ModelShape(
        name=name,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        vocab_size=50272,
        embedding_size=hidden,
        mlp_matrices=2,
        max_model_len=2048,
        tied_embedding=True,
    )


def _grouped(name: str, *, layers: int, hidden: int, mlp: int, heads: int, vocab: int, max_model_len: int,
             tied: bool = False) -> ModelShape:  # fmt: skip
    """Llama 3 (arXiv:2407.21783) and Qwen3 (arXiv:2505.09388): gated MLP, 8 KV heads of 128."""
    return ModelShape(
        name=name,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=vocab,
        embedding_size=hidden,
        mlp_matrices=3,
        max_model_len=max_model_len,
        tied_embedding=tied,
        dtype="bfloat16",
    )


_LLAMA_3: dict[str, Any] = {"vocab": 128256, "max_model_len": 8192}
_QWEN_3: dict[str, Any] = {"vocab": 151936, "max_model_len": 40960}
_NAMED = (
    _opt("opt-13b", 40, 5120, 40),
    _opt("opt-66b", 64, 9216, 72),
    _opt("opt-175b", 96, 12288, 96),
    _grouped("llama-3-8b", layers=32, hidden=4096, mlp=14336, heads=32, **_LLAMA_3),
    _grouped("llama-3-70b", layers=80, hidden=8192, mlp=28672, heads=64, **_LLAMA_3),
    _grouped("qwen3-0.6b", layers=28, hidden=1024, mlp=3072, heads=16, tied=True, **_QWEN_3),
    _grouped("qwen3-8b", layers=36, hidden=4096, mlp=12288, heads=32, **_QWEN_3),
    _grouped("qwen3-32b", layers=64, hidden=5120, mlp=25600, heads=64, **_QWEN_3),
)
MODELS = MappingProxyType({shape.name: shape for shape in _NAMED})


def find_model(name: str, dtype: str = "auto") -> ModelShape:
    """The shape of a named model, or of a folder with a config.json (or that file itself).

    Raises:
        InvalidArgumentError: neither.
        CheckpointError: config.json is broken, or of a family that is not supported.
    """
    if (shape := MODELS.get(name.lower())) is not None:
        return shape if dtype == "auto" else replace(shape, dtype=dtype)
    folder = Path(name)
    folder = folder.parent if folder.name == "config.json" else folder
    if not (folder / "config.json").is_file():
        raise InvalidArgumentError(
            f"the model must be one of {', '.join(MODELS)}, or a folder with a config.json, got {name}"
        )
    return shape_of(read_spec(folder), folder.resolve().name, dtype)
