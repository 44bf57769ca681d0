"""The engine's view of a worker; needs no torch, so that the simulator runs without it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fastserve._C.sched import StepPlan
from fastserve.worker.memory import PoolSizes

__all__ = ["IDLE_WAIT_S", "Progress", "StepPlan", "WorkerInfo", "end_tokens"]

IDLE_WAIT_S = 0.005  # a plan without rows waits this long for a transfer to end before it returns

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Facts about the loaded model for the engine; link rates are 0 where they were not measured at start."""

    pools: PoolSizes
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    dtype: str
    device: str
    attention_backend: str = "native"
    kernel_fallback: str = ""  # why our best attention kernels are not used although they were wanted
    offload_bytes_per_s: float = 0.0
    upload_bytes_per_s: float = 0.0


def end_tokens(of_model: Iterable[int], more: Iterable[int], vocab_size: int) -> tuple[int, ...]:
    """Return all end tokens without duplicates; the tokenizer's may lie outside the model's vocabulary and are dropped then."""
    return tuple(dict.fromkeys((*of_model, *(i for i in more if i < vocab_size))))
