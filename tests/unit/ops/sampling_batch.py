"""Settings for rows of logits, and sampling by them wherever the logits are."""

from dataclasses import fields
from typing import Any

import numpy as np
import torch

from fastserve import ops

_DEFAULTS = {
    "temperature": (np.float32, 0.0),
    "top_k": (np.int32, 0),
    "top_p": (np.float32, 1.0),
    "min_p": (np.float32, 0.0),
    "repetition_penalty": (np.float32, 1.0),
    "presence_penalty": (np.float32, 0.0),
    "frequency_penalty": (np.float32, 0.0),
    "seeds": (np.uint64, 0),
    "counters": (np.int64, 0),
}


def settings(num_rows: int, **changes: Any) -> ops.SamplingBatch:
    """Greedy settings for `num_rows` rows.

    Args:
        num_rows: rows of logits.
        changes: arrays of SamplingBatch as scalars or one value per row; `prompts`, `outputs` and `banned`: a list of
            tokens per row; `biases`: a bias per token of each row; `only_biased`: one value per row.
    """
    arrays = {
        name: np.broadcast_to(np.asarray(changes.get(name, value), dtype=dtype), (num_rows,)).copy()
        for name, (dtype, value) in _DEFAULTS.items()
    }
    prompts = changes.get("prompts", [[]] * num_rows)
    outputs = changes.get("outputs", [[]] * num_rows)
    banned = changes.get("banned", [[]] * num_rows)
    biases = changes.get("biases", [{}] * num_rows)
    histories = [[*p, *o] for p, o in zip(prompts, outputs, strict=True)]
    return ops.SamplingBatch(
        **arrays,
        history_start=_starts(histories),
        history_tokens=_flat(histories),
        history_prompt_len=np.array([len(p) for p in prompts], dtype=np.int32),
        banned_start=_starts(banned),
        banned_tokens=_flat(banned),
        bias_start=_starts(biases),
        bias_tokens=_flat(biases),
        bias_values=np.array([bias for of_row in biases for bias in of_row.values()], dtype=np.float32),
        only_biased=np.broadcast_to(np.asarray(changes.get("only_biased", 0), np.int32), (num_rows,)).copy(),
    )


def tensors_of(batch: ops.SamplingBatch) -> dict[str, torch.Tensor]:
    """The arrays of a batch as tensors on the CPU, seeds as int64."""
    arrays = {field.name: getattr(batch, field.name) for field in fields(batch)}
    arrays["seeds"] = arrays["seeds"].view(np.int64)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def sample(
    logits: torch.Tensor | np.ndarray, batch: ops.SamplingBatch, *, workspace: torch.Tensor | None = None
) -> np.ndarray:
    """ops.sample with the settings where the logits are, and an array as result."""
    if not isinstance(logits, torch.Tensor) or not logits.is_cuda:
        return ops.sample(logits, batch)
    on_gpu = ops.SamplingBatch(**{name: array.to(logits.device) for name, array in tensors_of(batch).items()})
    return ops.sample(logits, on_gpu, workspace=workspace).cpu().numpy()


def _starts(lists: list[Any]) -> np.ndarray:
    return np.cumsum([0, *map(len, lists)]).astype(np.int32)


def _flat(lists: list[Any]) -> np.ndarray:
    return np.array([token for tokens in lists for token in tokens], dtype=np.int32)
