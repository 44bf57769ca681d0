"""Groups of ranks: sums in a fixed order, gathers, messages; the same over threads, shared memory and gloo."""

import pytest
import torch

from fastserve._C.collective import ExchangeMemory
from fastserve.distributed.group import Group, tree_sum
from fastserve.distributed.shared import SharedGroup
from fastserve.distributed.single import SINGLE
from fastserve.distributed.torch_group import NcclGroup
from fastserve.errors import DeviceError, InvalidArgumentError
from tests.rank_threads import run_ranks, thread_groups
from tests.unit.distributed.gloo_ranks import run_gloo_ranks


def parts(size: int, *shape: int) -> torch.Tensor:
    """Summands whose sum depends on the order."""
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, *shape, generator=generator) * 10.0 ** torch.randint(
        -3, 4, (size, *shape), generator=generator
    )


def test_sums_are_a_binary_tree() -> None:
    p = parts(8, 100)
    expected = ((p[0] + p[1]) + (p[2] + p[3])) + ((p[4] + p[5]) + (p[6] + p[7]))
    assert torch.equal(tree_sum(p.clone()), expected)
    assert not torch.equal(p.sum(0), expected)  # the order shows
    assert torch.equal(tree_sum(p[:4].clone()), (p[0] + p[1]) + (p[2] + p[3]))
    assert torch.equal(tree_sum(p[:5].clone()), ((p[0] + p[1]) + (p[2] + p[3])) + p[4])
    assert torch.equal(tree_sum(p[:1].clone()), p[0])


def check_group(group: Group) -> None:
    """What every group does; run by each of its ranks."""
    size, rank = group.size, group.rank
    p = parts(size, 5, 40)
    x = p[rank].clone()
    group.all_reduce(x)
    assert torch.equal(x, tree_sum(p.clone()))
    for dtype in (torch.float32, torch.bfloat16, torch.int32):
        mine = torch.full((2, 3), rank, dtype=dtype)
        assert torch.equal(group.all_gather(mine), torch.arange(size).to(dtype).view(size, 1, 1).expand(size, 2, 3))
    if size == 1:
        return
    received = torch.empty(3, dtype=torch.bfloat16)
    if rank == 0:
        group.send(torch.arange(3).bfloat16(), 1)
        group.recv(received, 1)
        assert received.tolist() == [7, 7, 7]
    elif rank == 1:
        group.recv(received, 0)
        group.send(torch.full((3,), 7.0).bfloat16(), 0)
        assert received.tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_threads_are_a_group(size: int) -> None:
    run_ranks(thread_groups(size), check_group)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_shared_memory_is_a_group(size: int) -> None:
    memory = ExchangeMemory(size)
    run_ranks([SharedGroup(memory.fd, rank, timeout_s=60.0) for rank in range(size)], check_group)


def test_a_rank_that_no_other_joins_gets_an_error() -> None:
    memory = ExchangeMemory(2)
    group = SharedGroup(memory.fd, 1, timeout_s=0.01)
    with pytest.raises(DeviceError, match=r"did not join within 0\.01 s"):
        group.all_reduce(torch.zeros(3))


def test_one_rank_has_nothing_to_exchange() -> None:
    check_group(SINGLE)
    for call in (SINGLE.send, SINGLE.recv):
        with pytest.raises(InvalidArgumentError, match="no rank 1"):
            call(torch.zeros(1), 1)
    SINGLE.close()


def test_processes_are_a_group_over_gloo() -> None:
    """And their logits are those of one rank: see `gloo_ranks`."""
    run_gloo_ranks(2)


@pytest.mark.skipif(torch.distributed.is_nccl_available(), reason="this build of torch has NCCL")
def test_nccl_is_asked_for_in_words() -> None:
    store = torch.distributed.HashStore()
    with pytest.raises(InvalidArgumentError, match="install a CUDA build"):
        NcclGroup(store, 0, 1, device=torch.device("cuda", 0), timeout_s=1.0)
