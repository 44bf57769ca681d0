"""The sampling settings of a step on a device."""

import numpy as np
import torch

from fastserve.ops.sampling import SETTINGS, SamplingBatch
from fastserve.worker.device import Device
from fastserve.worker.step_inputs import Field, PackedInputs

FIRST_TOKENS = 4096  # room for each list of tokens at first; it grows with the need

_PER_ENTRY = SETTINGS | {
    "seeds": np.int64,
    "counters": np.int64,
    "history_prompt_len": np.int32,
    "only_biased": np.int32,
}
_STARTS = ("history_start", "banned_start", "bias_start")
_LISTS = {"history_tokens": np.int32, "banned_tokens": np.int32, "bias_tokens": np.int32, "bias_values": np.float32}


def sampling_fields(max_num_seqs: int) -> list[Field]:
    """Inputs of a step for its sampling entries."""
    fields = [Field(name, dtype, max_num_seqs) for name, dtype in _PER_ENTRY.items()]
    return fields + [Field(name, np.int32, max_num_seqs + 1) for name in _STARTS]


class SamplingInputs:
    """Packs the sampling entries of plans; used by one thread.

    Settings travel with the other inputs of a step. Lists of tokens, which most steps do not have and which may be long,
    travel apart, in a buffer that grows.
    """

    def __init__(self, device: Device, inputs: PackedInputs, max_num_seqs: int) -> None:
        """`inputs` has the `sampling_fields`."""
        self._device = device
        self._inputs = inputs
        self._max_num_seqs = max_num_seqs
        self._lists = self._make_lists(dict.fromkeys(_LISTS, FIRST_TOKENS))

    def put(self, batch: SamplingBatch) -> None:
        """Pack the settings of a step's entries (numpy arrays); call it between `begin` and `send` of the inputs."""
        for name in (*_PER_ENTRY, *_STARTS):
            self._inputs.put(name, getattr(batch, name))

    def batch(self, batch: SamplingBatch, sources: np.ndarray, previous_sampled: torch.Tensor) -> SamplingBatch:
        """Queue the copy of a step's lists, if there are any; call it after `send` and within the device's scope.

        Args:
            batch: what was put.
            sources: int32[S], the sampling entry of the step before that is the last token of each entry, else -1.
            previous_sampled: int32 on the device, tokens of the step before, which end the history of entries whose last
                token is one of them.
        Returns:
            Arrays on the device that hold the same when later work of its stream runs.
        """
        if batch.has_lists:
            self._send_lists(batch, sources, previous_sampled)
        count = len(sources)
        return SamplingBatch(
            **{name: self._inputs.view(name, count) for name in _PER_ENTRY},
            **{name: self._inputs.view(name, count + 1) for name in _STARTS},
            **{name: self._lists.view(name, len(getattr(batch, name))) for name in _LISTS},
        )

    def _send_lists(self, batch: SamplingBatch, sources: np.ndarray, previous_sampled: torch.Tensor) -> None:
        self._make_room({name: len(getattr(batch, name)) for name in _LISTS})
        last, last_sources = _sampled_before(batch, sources)
        lists = self._lists
        lists.begin()
        for name in _LISTS:
            lists.put(name, np.asarray(getattr(batch, name)))
        lists.put("last_index", last)
        lists.put("last_source", last_sources)
        lists.send()
        if len(last):
            tokens = previous_sampled.index_select(0, lists.view("last_source", len(last)))
            lists.view("history_tokens").index_copy_(0, lists.view("last_index", len(last)), tokens.clamp_min(0))

    def _make_room(self, sizes: dict[str, int]) -> None:
        if not all(self._lists.fits(name, size) for name, size in sizes.items()):
            self._device.synchronize()  # copies may still read the host side of the old ones
            self._lists = self._make_lists({name: max(FIRST_TOKENS, 2 * size) for name, size in sizes.items()})

    def _make_lists(self, sizes: dict[str, int]) -> PackedInputs:
        fields = [
            *(Field(name, dtype, sizes[name]) for name, dtype in _LISTS.items()),
            Field("last_index", np.int64, self._max_num_seqs),
            Field("last_source", np.int32, self._max_num_seqs),
        ]
        return PackedInputs(self._device, fields)


def _sampled_before(batch: SamplingBatch, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where histories end in a token of the step before: its places int64[L], its sampling entries int32[L]."""
    if not len(batch.history_tokens):
        return np.empty(0, np.int64), np.empty(0, np.int32)
    starts = np.asarray(batch.history_start)
    ends = starts[1:]
    entries = np.flatnonzero((ends > starts[:-1]) & (sources >= 0))
    return ends[entries].astype(np.int64) - 1, sources[entries]
