"""Decode steps captured once per batch size and replayed."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

import torch

from fastserve.worker.device import Gpu, Graph

LARGEST_BATCH = 256
SMALL_BATCHES = (1, 2, 4)
BATCH_STEP = 8


def batch_buckets(max_num_seqs: int) -> list[int]:
    """Batch sizes to capture, ascending: 1, 2, 4, then every 8th up to 256, and the largest batch when it is below."""
    most = min(max_num_seqs, LARGEST_BATCH)
    sizes = {n for n in SMALL_BATCHES if n <= most} | set(range(BATCH_STEP, most + 1, BATCH_STEP)) | {most}
    return sorted(sizes)


class DecodeGraphs:
    """One graph per bucket; a batch runs in the smallest bucket that holds it, with empty rows behind its own."""

    def __init__(
        self,
        device: Gpu,
        buckets: Sequence[int],
        step_of: Callable[[int], Callable[[], torch.Tensor]],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Capture all, the largest first, so that the smaller ones find their memory in the pool.

        Args:
            step_of: makes the step of a batch size: a call that reads the fixed inputs and returns its logits.
            progress: called as progress(done, total).
        """
        self._buckets = sorted(buckets)
        self._graphs: dict[int, tuple[Graph, torch.Tensor]] = {}
        for size in reversed(self._buckets):
            self._graphs[size] = device.capture(step_of(size))
            if progress is not None:
                progress(len(self._graphs), len(self._buckets))

    def bucket(self, num_rows: int) -> int | None:
        """The smallest captured batch size of at least `num_rows`; None when there is none."""
        at = bisect_left(self._buckets, num_rows)
        return self._buckets[at] if at < len(self._buckets) else None

    def replay(self, bucket: int) -> torch.Tensor:
        """Queue the step of a bucket; returns its logits [bucket, vocab_size], overwritten by the next replay."""
        graph, logits = self._graphs[bucket]
        graph.replay()
        return logits
