"""Hidden states between the ranks of consecutive stages."""

import torch

from fastserve.distributed.pipe import NO_PIPE
from fastserve.models.shard import Shard
from fastserve.worker.worker import shard_pipe
from tests.rank_threads import ThreadGroup, run_ranks, thread_groups


def test_hidden_states_go_to_the_same_rank_of_the_next_stage() -> None:
    def work(world: ThreadGroup) -> list[float]:
        shard = Shard(world.rank % 2, 2, world.rank // 2, 3)
        pipe = shard_pipe(shard, world)
        assert (pipe.is_first, pipe.is_last) == (shard.stage == 0, shard.stage == 2)
        hidden = torch.full((2,), float(world.rank))
        if not pipe.is_first:
            pipe.take(hidden)
        if not pipe.is_last:
            pipe.hand_over(hidden * 10 if pipe.is_first else hidden + 5)
        assert pipe.take_waited_s() > 0
        assert pipe.take_waited_s() == 0
        return hidden.tolist()

    assert run_ranks(thread_groups(6), work) == [[0, 0], [1, 1], [0, 0], [10, 10], [5, 5], [15, 15]]


def test_one_stage_is_first_and_last() -> None:
    assert NO_PIPE.is_first
    assert NO_PIPE.is_last
