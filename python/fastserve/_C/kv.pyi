"""
Block pools, prefix cache, KV manager.
"""
from __future__ import annotations
import enum
import numpy
import numpy.typing
import torch
import typing
__all__: list[str] = ['KvManager', 'MAX_BLOCKS', 'Residency', 'Tier', 'TierUsage', 'Transfer', 'TransferKind']
class Tier(enum.Enum):
    """
    A pool of blocks.
    """
    DEVICE: typing.ClassVar[Tier]
    HOST: typing.ClassVar[Tier]
    @classmethod
    def __new__(cls, value):
        ...
class Residency(enum.Enum):
    """
    Where the KV of a sequence is; only DEVICE may run.
    """
    DEVICE: typing.ClassVar[Residency]
    HOST: typing.ClassVar[Residency]
    NONE: typing.ClassVar[Residency]
    OFFLOADING: typing.ClassVar[Residency]
    UPLOADING: typing.ClassVar[Residency]
    @classmethod
    def __new__(cls, value):
        ...
class TransferKind(enum.Enum):
    """
    Why blocks are copied.
    """
    MIRROR: typing.ClassVar[TransferKind]
    OFFLOAD: typing.ClassVar[TransferKind]
    UPLOAD: typing.ClassVar[TransferKind]
    @classmethod
    def __new__(cls, value):
        ...
class Transfer:
    """
    Blocks to copy from one tier to the other: source[i] to target[i]. UPLOAD goes from host to device, OFFLOAD and MIRROR the other way.
    """
    def __len__(self) -> int:
        ...
    @property
    def id(self) -> int:
        ...
    @property
    def kind(self) -> TransferKind:
        ...
    @property
    def seq(self) -> int:
        ...
    @property
    def source(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [num_blocks], a copy.
        """
    @property
    def target(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [num_blocks], a copy.
        """
class TierUsage:
    """
    Block counts of one tier: free + used + in_transfer = total; cached ones are part of free.
    """
    @property
    def cached(self) -> int:
        ...
    @property
    def free(self) -> int:
        ...
    @property
    def in_transfer(self) -> int:
        ...
    @property
    def total(self) -> int:
        ...
    @property
    def used(self) -> int:
        ...
class KvManager:
    """
    Owns every KV block of the device and the host pool. Decides and copies nothing; one thread at a time. What cannot be served returns False or None and changes nothing; a broken contract raises InvalidArgumentError.
    """
    def __contains__(self, seq: typing.SupportsInt | typing.SupportsIndex) -> bool:
        ...
    def __init__(self, *, block_size: typing.SupportsInt | typing.SupportsIndex = 16, num_device_blocks: typing.SupportsInt | typing.SupportsIndex, num_host_blocks: typing.SupportsInt | typing.SupportsIndex = 0, enable_prefix_caching: bool = True) -> None:
        ...
    def begin(self, seq: typing.SupportsInt | typing.SupportsIndex, tokens: numpy.ndarray | torch.Tensor, salt: typing.SupportsInt | typing.SupportsIndex = 0) -> int:
        """
        Start a sequence, adopt its longest cached prefix and return the tokens of that.
        """
    def check_integrity(self) -> None:
        """
        InternalError when any invariant is broken.
        """
    def clear_prefix_cache(self) -> None:
        """
        Forget all cached prefixes that nobody holds.
        """
    def commit_computed(self, seq: typing.SupportsInt | typing.SupportsIndex, tokens: numpy.ndarray | torch.Tensor, num_computed: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        The KV of the first num_computed tokens (int32 [n], prompt and output) is written.
        """
    def complete(self, transfer: typing.SupportsInt | typing.SupportsIndex, ok: bool) -> None:
        """
        Report the end of a transfer by its id.
        """
    def device_blocks(self, seq: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.int32]:
        """
        Device blocks in order of position: int32 [num_blocks], a copy.
        """
    def drop(self, seq: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Give up all KV of the sequence on both tiers.
        """
    def end(self, seq: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Forget the sequence; its full blocks may live on as cached prefixes.
        """
    def num_blocks_to_offload(self, seq: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Blocks an offload would have to copy.
        """
    def num_blocks_to_reserve(self, seq: typing.SupportsInt | typing.SupportsIndex, num_tokens: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Further device blocks needed to hold num_tokens.
        """
    def num_blocks_to_upload(self, seq: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Free device blocks an upload would take.
        """
    def num_computed(self, seq: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Tokens whose KV is valid.
        """
    def num_device_blocks(self, seq: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
    def num_free(self, tier: Tier) -> int:
        ...
    def num_releasable_blocks(self, seq: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Device blocks that only this sequence holds.
        """
    def probe_prefix(self, tokens: numpy.ndarray | torch.Tensor, salt: typing.SupportsInt | typing.SupportsIndex = 0) -> int:
        """
        Tokens of the longest cached prefix of tokens (int32 [n]), whole blocks, less than n.
        """
    def residency(self, seq: typing.SupportsInt | typing.SupportsIndex) -> Residency:
        ...
    def try_mirror(self, seq: typing.SupportsInt | typing.SupportsIndex, max_blocks: typing.SupportsInt | typing.SupportsIndex) -> Transfer | None:
        """
        Start to copy full blocks of a running sequence to the host; None when there is nothing to copy or no space.
        """
    def try_offload(self, seq: typing.SupportsInt | typing.SupportsIndex) -> Transfer | None:
        """
        Start to move a sequence from the device to the host; None when the host pool is short. An empty transfer needs no complete().
        """
    def try_reserve(self, seq: typing.SupportsInt | typing.SupportsIndex, num_tokens: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Hold device blocks for num_tokens tokens in all; False when the pool is short.
        """
    def try_upload(self, seq: typing.SupportsInt | typing.SupportsIndex) -> Transfer | None:
        """
        Start to bring a sequence back from the host; None when the device pool is short.
        """
    def usage(self, tier: Tier) -> TierUsage:
        ...
    @property
    def block_size(self) -> int:
        ...
    @property
    def enable_prefix_caching(self) -> bool:
        ...
MAX_BLOCKS: int = 16777216
