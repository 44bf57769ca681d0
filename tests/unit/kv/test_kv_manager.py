"""The KV manager through its bindings: values, errors and what crosses the border."""

import numpy as np
import pytest

from fastserve._C.kv import Tier
from fastserve.errors import InvalidArgumentError
from tests.core_internals import KvManager, Residency, TransferKind


def tokens(count: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.int32)


@pytest.fixture
def manager() -> KvManager:
    return KvManager(block_size=4, num_device_blocks=4, num_host_blocks=4)


def run(manager: KvManager, seq: int, prompt: np.ndarray) -> int:
    cached = manager.begin(seq, prompt)
    assert manager.try_reserve(seq, len(prompt))
    manager.commit_computed(seq, prompt, len(prompt))
    return cached


def counts(manager: KvManager, tier: Tier) -> tuple[int, int, int, int]:
    usage = manager.usage(tier)
    assert usage.free + usage.used + usage.in_transfer == usage.total
    assert usage.free == manager.num_free(tier)
    return usage.free, usage.used, usage.in_transfer, usage.cached


def test_a_sequence_lives_from_begin_to_end(manager):
    assert manager.begin(7, tokens(6)) == 0
    assert 7 in manager and 8 not in manager
    assert manager.residency(7) is Residency.NONE
    assert manager.num_blocks_to_reserve(7, 6) == 2
    assert manager.try_reserve(7, 6)
    assert manager.residency(7) is Residency.DEVICE
    assert not manager.try_reserve(7, 100)
    manager.commit_computed(7, tokens(6), 5)
    assert manager.num_computed(7) == 5
    assert manager.num_device_blocks(7) == manager.num_releasable_blocks(7) == 2
    manager.drop(7)
    assert manager.num_computed(7) == 0
    manager.end(7)
    assert 7 not in manager
    assert counts(manager, Tier.DEVICE) == (4, 0, 0, 1)
    manager.clear_prefix_cache()
    assert counts(manager, Tier.DEVICE) == (4, 0, 0, 0)


def test_block_ids_come_as_int32_copies(manager):
    run(manager, 1, tokens(6))
    blocks = manager.device_blocks(1)
    assert blocks.dtype == np.int32 and blocks.tolist() == [0, 1]
    blocks[:] = 99
    assert manager.device_blocks(1).tolist() == [0, 1]


def test_prefixes_are_shared_within_their_salt(manager):
    run(manager, 1, tokens(9))
    assert manager.probe_prefix(tokens(9)) == 8
    assert manager.probe_prefix(tokens(9), salt=3) == 0
    assert manager.begin(2, tokens(9)) == 8


def test_a_sequence_moves_to_the_host_and_back(manager):
    run(manager, 1, tokens(6))
    assert manager.num_blocks_to_offload(1) == 2
    offload = manager.try_offload(1)
    assert offload.seq == 1 and offload.kind is TransferKind.OFFLOAD and len(offload) == 2
    assert offload.source.dtype == offload.target.dtype == np.int32
    assert offload.source.tolist() == manager.device_blocks(1).tolist()
    assert manager.residency(1) is Residency.OFFLOADING
    assert counts(manager, Tier.HOST) == (2, 0, 2, 0)
    manager.complete(offload.id, True)
    assert manager.residency(1) is Residency.HOST
    run(manager, 2, tokens(16, 100))
    assert manager.try_upload(1) is None
    manager.end(2)
    assert manager.num_blocks_to_upload(1) == 2
    upload = manager.try_upload(1)
    assert upload.kind is TransferKind.UPLOAD and len(upload) == 2
    manager.complete(upload.id, ok=False)
    assert manager.residency(1) is Residency.HOST
    upload = manager.try_upload(1)
    manager.complete(upload.id, ok=True)
    assert manager.residency(1) is Residency.DEVICE
    manager.check_integrity()


def test_mirrors_need_full_blocks_and_space(manager):
    run(manager, 1, tokens(6))
    mirror = manager.try_mirror(1, 8)
    assert mirror.kind is TransferKind.MIRROR and len(mirror) == 1
    assert manager.try_mirror(1, max_blocks=8) is None
    manager.complete(mirror.id, True)
    assert manager.num_blocks_to_offload(1) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_device_blocks": 0},
        {"num_device_blocks": 4, "num_host_blocks": -1},
        {"num_device_blocks": 4, "block_size": 0},
    ],
)
def test_a_manager_needs_blocks(arguments):
    with pytest.raises(InvalidArgumentError, match="must"):
        KvManager(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.begin(1, tokens(4)), "is live"),
        (lambda m: m.begin(5, tokens(0)), "must not be empty"),
        (lambda m: m.begin(5, tokens(8).astype(np.int64)), "tokens"),
        (lambda m: m.begin(5, tokens(8)[::2]), "contiguous"),
        (lambda m: m.begin(5, tokens(8).reshape(2, 4)), "tokens"),
        (lambda m: m.residency(5), "is not live"),
        (lambda m: m.commit_computed(1, tokens(6), 5), "must not shrink"),
        (lambda m: m.commit_computed(1, tokens(9), 9), "reserve first"),
        (lambda m: m.try_reserve(1, -1), "must not be negative"),
        (lambda m: m.try_upload(1), "needs a sequence in kHost"),
        (lambda m: m.try_mirror(1, 0), "max_blocks must be positive"),
        (lambda m: m.complete(3, True), "is not under way"),
    ],
)
def test_a_broken_contract_raises_and_changes_nothing(manager, call, message):
    run(manager, 1, tokens(6))
    before = counts(manager, Tier.DEVICE), counts(manager, Tier.HOST)
    with pytest.raises(ValueError, match=message) as error:
        call(manager)
    assert isinstance(error.value, InvalidArgumentError)
    assert (counts(manager, Tier.DEVICE), counts(manager, Tier.HOST)) == before
    assert 5 not in manager
    manager.check_integrity()
