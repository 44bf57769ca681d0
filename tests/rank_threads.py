"""Ranks as threads of one process: a group between them, and a way to run them."""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

import torch

from fastserve.distributed.group import tree_sum

T = TypeVar("T")
MOST_S = 60.0


class _Meeting:
    """What the ends of one group share."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=MOST_S)
        self.tensors: list[torch.Tensor] = [torch.empty(0)] * size
        self.mail: dict[tuple[int, int], queue.SimpleQueue[torch.Tensor]] = {
            (source, to): queue.SimpleQueue() for source in range(size) for to in range(size)
        }


class ThreadGroup:
    """See `Group`. `num_sums` counts the calls of all_reduce."""

    def __init__(self, meeting: _Meeting, rank: int) -> None:
        self._meeting = meeting
        self.rank = rank
        self.size = len(meeting.tensors)
        self.num_sums = 0

    def all_reduce(self, x: torch.Tensor) -> None:
        assert x.dtype == torch.float32
        self.num_sums += 1
        x.copy_(tree_sum(self.all_gather(x)))

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        assert x.is_contiguous()
        self._meeting.tensors[self.rank] = x
        self._meeting.barrier.wait()
        out = torch.stack(self._meeting.tensors)
        self._meeting.barrier.wait()
        return out

    def send(self, x: torch.Tensor, to: int) -> None:
        self._meeting.mail[self.rank, to].put(x.clone())

    def recv(self, x: torch.Tensor, source: int) -> None:
        x.copy_(self._meeting.mail[source, self.rank].get(timeout=MOST_S))

    def close(self) -> None:
        """End the calls in which the other ranks wait."""
        self._meeting.barrier.abort()


def thread_groups(size: int) -> list[ThreadGroup]:
    """The ends of one group, by rank."""
    meeting = _Meeting(size)
    return [ThreadGroup(meeting, rank) for rank in range(size)]


def run_ranks(groups: list[ThreadGroup], work: Callable[[ThreadGroup], T]) -> list[T]:
    """Run `work` for every end in a thread of its own, in inference mode; results in the order of the ends.

    Raises:
        Exception: the first that a rank raised; the others are let go.
    """
    results: dict[int, T] = {}
    errors: list[Exception] = []

    def run(index: int) -> None:
        try:
            with torch.inference_mode():
                results[index] = work(groups[index])
        except Exception as error:
            errors.append(error)
            groups[index].close()

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(groups))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return [results[index] for index in range(len(groups))]
