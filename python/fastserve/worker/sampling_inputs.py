"""The sampling settings of a step on a device."""

import numpy as np
import torch

from fastserve._C.sched import StepPlan
from fastserve.ops.sampling import SamplingBatch
from fastserve.worker.device import Device
from fastserve.worker.step_inputs import Field, PackedInputs

FIRST_TOKENS = 4096  # room for history and banned tokens at first; it grows with the need

_PER_ENTRY = (
    ("temperature", np.float32),
    ("top_k", np.int32),
    ("top_p", np.float32),
    ("min_p", np.float32),
    ("repetition_penalty", np.float32),
    ("presence_penalty", np.float32),
    ("frequency_penalty", np.float32),
    ("counters", np.int64),
    ("history_prompt_len", np.int32),
)


class SamplingInputs:
    """Packs the sampling entries of plans; used by one thread."""

    def __init__(self, device: Device, max_num_seqs: int) -> None:
        self._device = device
        self._max_num_seqs = max_num_seqs
        self._inputs = self._make(FIRST_TOKENS, FIRST_TOKENS)

    def send(self, plan: StepPlan, previous_sampled: torch.Tensor) -> SamplingBatch:
        """Queue the copy of a plan's entries; call it within the device's scope.

        Args:
            previous_sampled: int32 on the device, tokens of the step before, which end the history of rows whose last
                token is not known to the host yet.
        Returns:
            Arrays on the device that hold the settings when later work of its stream runs.
        """
        self._make_room(plan)
        inputs = self._inputs
        inputs.begin()
        for name, _ in _PER_ENTRY:
            inputs.put(name, getattr(plan, name))
        inputs.put("seeds", plan.seeds.view(np.int64))
        for name in ("history_start", "history_tokens", "banned_start", "banned_tokens"):
            inputs.put(name, getattr(plan, name))
        last, sources = _unknown_ends(plan)
        inputs.put("last_index", last)
        inputs.put("last_source", sources)
        inputs.send()
        if len(last):
            tokens = previous_sampled.index_select(0, inputs.view("last_source", len(last)))
            inputs.view("history_tokens").index_copy_(0, inputs.view("last_index", len(last)), tokens.clamp_min(0))
        return self._batch(plan)

    def _batch(self, plan: StepPlan) -> SamplingBatch:
        count = plan.num_samples
        view = self._inputs.view
        arrays = {name: view(name, count) for name, _ in _PER_ENTRY}
        return SamplingBatch(
            **arrays,
            seeds=view("seeds", count),
            history_start=view("history_start", count + 1),
            history_tokens=view("history_tokens", len(plan.history_tokens)),
            banned_start=view("banned_start", count + 1),
            banned_tokens=view("banned_tokens", len(plan.banned_tokens)),
        )

    def _make_room(self, plan: StepPlan) -> None:
        inputs = self._inputs
        history, banned = len(plan.history_tokens), len(plan.banned_tokens)
        if not inputs.fits("history_tokens", history) or not inputs.fits("banned_tokens", banned):
            self._device.synchronize()  # copies may still read the host side of the old ones
            self._inputs = self._make(max(FIRST_TOKENS, 2 * history), max(FIRST_TOKENS, 2 * banned))

    def _make(self, history_tokens: int, banned_tokens: int) -> PackedInputs:
        most = self._max_num_seqs
        fields = [Field(name, dtype, most) for name, dtype in _PER_ENTRY]
        fields += [
            Field("seeds", np.int64, most),
            Field("history_start", np.int32, most + 1),
            Field("history_tokens", np.int32, history_tokens),
            Field("banned_start", np.int32, most + 1),
            Field("banned_tokens", np.int32, banned_tokens),
            Field("last_index", np.int64, most),
            Field("last_source", np.int32, most),
        ]
        return PackedInputs(self._device, fields)


def _unknown_ends(plan: StepPlan) -> tuple[np.ndarray, np.ndarray]:
    """Where histories end in a token of the step before: its places int64[L], its sampling entries int32[L]."""
    if not len(plan.history_tokens):
        return np.empty(0, np.int64), np.empty(0, np.int32)
    ends = plan.history_start[1:]
    sources = plan.token_sources[plan.sample_rows]
    entries = np.flatnonzero((ends > plan.history_start[:-1]) & (sources >= 0))
    return ends[entries].astype(np.int64) - 1, sources[entries]
