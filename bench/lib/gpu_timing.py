"""Timing on a GPU with events: caches cold before every call, contenders in turns."""

from collections.abc import Callable, Mapping

import torch

from bench.lib.timing import Samples

# Written before every call, several times a second-level cache, so that operands come from memory as in a forward pass.
_FLUSH_BYTES = 512_000_000
_WARM_UPS = 3


def interleave_on_gpu(contenders: Mapping[str, Callable[[], object]], *, rounds: int) -> dict[str, Samples]:
    """Time every contender once per round on torch's current stream.

    The write before a call also gives the host time to queue the call, so the time between the two events is the GPU's.

    Args:
        contenders: name to a call without arguments that queues its work and does not wait.
        rounds: samples per contender.
    """
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    for call in contenders.values():
        for _ in range(_WARM_UPS):
            call()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            start.record()
            call()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return {
        name: Samples(tuple(start.elapsed_time(end) / 1e3 for start, end in pairs)) for name, pairs in events.items()
    }
