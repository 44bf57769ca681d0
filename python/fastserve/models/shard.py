"""What one rank has of a decoder that several ranks run: its heads, its part of the MLP and the vocabulary, its layers."""

from dataclasses import dataclass, replace

from fastserve.errors import InvalidArgumentError
from fastserve.models.spec import DecoderSpec

# Sizes of a tensor-parallel group whose ranks have whole segments of every sum, and inputs that a segment is made of.
EXACT_SIZES = (1, 2, 4, 8)
SEGMENT_UNIT = 32


@dataclass(frozen=True, slots=True)
class Shard:
    """The place of a rank: `tensor_rank` of `tensor_size` ranks that share every layer of `stage`, of `num_stages`.

    Raises:
        InvalidArgumentError: on construction, when there is no such place.
    """

    tensor_rank: int = 0
    tensor_size: int = 1
    stage: int = 0
    num_stages: int = 1

    def __post_init__(self) -> None:
        for name, value, size_name, size in (
            ("tensor_rank", self.tensor_rank, "tensor_parallel_size", self.tensor_size),
            ("stage", self.stage, "pipeline_parallel_size", self.num_stages),
        ):
            if size < 1:
                raise InvalidArgumentError(f"{size_name} must be at least 1, got {size}")
            if not 0 <= value < size:
                raise InvalidArgumentError(f"{name} must be from 0 to {size - 1} ({size_name} is {size}), got {value}")

    @property
    def is_first(self) -> bool:
        """Whether the rank has the embedding."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether the rank has the output projection."""
        return self.stage == self.num_stages - 1

    def layers(self, num_layers: int) -> range:
        """The layers of the stage; the first stages have one more where they cannot all have as many."""
        size, more = divmod(num_layers, self.num_stages)
        begin = self.stage * size + min(self.stage, more)
        return range(begin, begin + size + (self.stage < more))

    def part(self, size: int) -> range:
        """The rank's part of `size` equal things, a multiple of tensor_size."""
        each = size // self.tensor_size
        return range(self.tensor_rank * each, (self.tensor_rank + 1) * each)

    def kv_heads(self, num_kv_heads: int) -> range:
        """The rank's part of the KV heads; ranks that outnumber them have one each, which several of them share."""
        if num_kv_heads >= self.tensor_size:
            return self.part(num_kv_heads)
        head = self.tensor_rank * num_kv_heads // self.tensor_size
        return range(head, head + 1)

    def vocabulary(self, vocab_size: int) -> range:
        """The rank's token ids: as many on every rank, so that those of the last ranks may lie beyond the vocabulary."""
        return self.part(-(-vocab_size // self.tensor_size) * self.tensor_size)


WHOLE = Shard()


def _fits(spec: DecoderSpec, tensor_size: int) -> bool:
    heads, kv_heads = spec.num_heads, spec.num_kv_heads
    shares_kv = kv_heads % tensor_size == 0 or tensor_size % kv_heads == 0
    return heads % tensor_size == 0 and shares_kv and spec.intermediate_size % tensor_size == 0


def check_shard(spec: DecoderSpec, shard: Shard) -> None:
    """Refuse a group that a decoder cannot be shared by.

    Raises:
        InvalidArgumentError: with the size that does not divide, and those that do.
    """
    if shard.num_stages > spec.num_layers:
        raise InvalidArgumentError(
            f"pipeline_parallel_size {shard.num_stages} is more than the {spec.num_layers} layers of {spec.architecture}:"
            f" use at most {spec.num_layers}"
        )
    size = shard.tensor_size
    if _fits(spec, size):
        return
    if spec.num_heads % size != 0:
        what = f"{spec.num_heads} attention heads"
    elif spec.num_kv_heads % size != 0 and size % spec.num_kv_heads != 0:
        what = f"{spec.num_kv_heads} KV heads, nor is it a multiple of them,"
    else:
        what = f"{spec.intermediate_size} inner values of the MLP"
    *fitting, last = [str(other) for other in range(1, spec.num_heads + 1) if _fits(spec, other)]
    use = f"{', '.join(fitting)} or {last}" if fitting else last
    raise InvalidArgumentError(
        f"tensor_parallel_size {size} does not divide the {what} of {spec.architecture}: use {use}"
    )


def local_spec(spec: DecoderSpec, shard: Shard) -> DecoderSpec:
    """The decoder as one rank has it: its heads, KV heads, inner values of the MLP and layers.

    The vocabulary stays whole: a rank's logits are those of all tokens, gathered from the ranks of its stage.

    Raises:
        InvalidArgumentError: see `check_shard`.
    """
    check_shard(spec, shard)
    return replace(
        spec,
        num_layers=len(shard.layers(spec.num_layers)),
        num_heads=len(shard.part(spec.num_heads)),
        num_kv_heads=len(shard.kv_heads(spec.num_kv_heads)),
        intermediate_size=len(shard.part(spec.intermediate_size)),
    )


def has_bits_of_one_rank(spec: DecoderSpec, tensor_size: int) -> bool:
    """Whether a CPU computes the same bits on so many ranks as on one: each has whole segments of the shared sums."""
    shared = (spec.query_size, spec.intermediate_size)
    return tensor_size == 1 or (
        tensor_size in EXACT_SIZES and all(inputs % (tensor_size * SEGMENT_UNIT) == 0 for inputs in shared)
    )
