"""What ranks of consecutive stages hand to each other."""

import time

import torch

from fastserve.distributed.group import Group
from fastserve.distributed.single import SINGLE


class Pipe:
    """One rank's place in the pipeline: it takes hidden states from the rank before it and hands its own to the next."""

    def __init__(self, world: Group = SINGLE, *, source: int | None = None, to: int | None = None) -> None:
        """Join two ranks of the group of all ranks.

        Args:
            source: the rank of the stage before; None on the first stage.
            to: the rank of the next stage; None on the last one.
        """
        self._world = world
        self._source = source
        self._to = to
        self._waited_s = 0.0

    @property
    def is_first(self) -> bool:
        """Whether no stage comes before."""
        return self._source is None

    @property
    def is_last(self) -> bool:
        """Whether no stage follows."""
        return self._to is None

    def take(self, hidden: torch.Tensor) -> None:
        """Fill hidden [num_tokens, hidden_size] with what the stage before hands over."""
        assert self._source is not None, "the first stage takes nothing"
        started_s = time.perf_counter()
        self._world.recv(hidden, self._source)
        self._waited_s += time.perf_counter() - started_s

    def hand_over(self, hidden: torch.Tensor) -> None:
        """Give hidden [num_tokens, hidden_size] to the next stage."""
        assert self._to is not None, "the last stage hands nothing over"
        started_s = time.perf_counter()
        self._world.send(hidden, self._to)
        self._waited_s += time.perf_counter() - started_s

    def take_waited_s(self) -> float:
        """Seconds spent with other stages since the last call."""
        waited_s, self._waited_s = self._waited_s, 0.0
        return waited_s


NO_PIPE = Pipe()
