"""
Block pools, prefix cache, KV manager.
"""
from __future__ import annotations
import enum
import typing
__all__: list[str] = ['KvManager', 'MAX_BLOCKS', 'Tier', 'TierUsage']
class Tier(enum.Enum):
    """
    A pool of blocks.
    """
    DEVICE = 0
    HOST = 1
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
    Owns every KV block of the device and the host pool, for one Scheduler, which takes it.
    """
    def __init__(self, *, block_size: typing.SupportsInt | typing.SupportsIndex = 16, num_device_blocks: typing.SupportsInt | typing.SupportsIndex, num_host_blocks: typing.SupportsInt | typing.SupportsIndex = 0, enable_prefix_caching: bool = True) -> None:
        ...
    def usage(self, tier: Tier) -> TierUsage:
        """
        Block counts of a tier.
        """
MAX_BLOCKS: int = 16777216
