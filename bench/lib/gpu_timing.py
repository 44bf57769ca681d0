"""Timing on a GPU with events: caches cold before every call, contenders in turns; and within a captured graph."""

from collections.abc import Callable, Mapping

import torch

from bench.lib.timing import Samples

# Read before every call, several times a second-level cache, so that operands come from memory as in a forward pass. Not
# written: the call would then pay for writing back what it displaces.
_FLUSH_BYTES = 512_000_000
_WARM_UPS = 3
CALLS_PER_GRAPH = 20


def interleave_on_gpu(contenders: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, Samples]:
    """Time every contender once per round on torch's current stream.

    The read before a call also gives the host time to queue the call, so the time between the two events is the GPU's.

    Args:
        contenders: name to a call without arguments that queues its work and does not wait.
        rounds: samples per contender.
    """
    flush = torch.zeros(_FLUSH_BYTES // 4, dtype=torch.float32, device="cuda")
    for call in contenders.values():
        for _ in range(_WARM_UPS):
            call()
    timed: dict[str, list[Span]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            flush.sum()
            timed[name].append(Span(call))
    torch.cuda.synchronize()
    return {name: Samples(tuple(span.seconds() for span in spans)) for name, spans in timed.items()}


def time_in_graph(call: Callable[[], object], *, rounds: int) -> Samples:
    """Seconds of a call among many in a captured graph, caches warm: what it takes in a decode step, launch included.

    Args:
        call: has run before, so that nothing of it is set up within the capture.
        rounds: replays, each a sample.
    """
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CALLS_PER_GRAPH):
            call()
    graph.replay()
    spans = [Span(graph.replay) for _ in range(rounds)]
    torch.cuda.synchronize()
    return Samples(tuple(span.seconds() / CALLS_PER_GRAPH for span in spans))


class Span:
    """What a call queues, between two events."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._start.record()
        call()
        self._end.record()

    def seconds(self) -> float:
        """Once the GPU has done it."""
        return self._start.elapsed_time(self._end) / 1e3
