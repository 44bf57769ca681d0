"""Who computes attention in this worker: the best of our kernels that have shown that they can be trusted, or torch."""

from dataclasses import dataclass

import torch

from fastserve._C import kernels
from fastserve.errors import InvalidArgumentError
from fastserve.loader import LoadedModel
from fastserve.log import get_logger
from fastserve.ops.attention import AttentionBackend
from fastserve.ops.attention_check import check_attention
from fastserve.worker.attention_trial import check_attention_apart

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The backend, and why it is not the native one although nobody asked for another; empty otherwise."""

    backend: AttentionBackend
    fallback: str = ""


def choose_attention(requested: str, model: LoadedModel, *, block_size: int, device: torch.device) -> AttentionChoice:
    """Decide at start, on the device that will serve.

    Args:
        requested: "native", "mma" or "torch", taken as they are; "auto": on a GPU kernels have to agree with torch on a few
            small steps, and those that do not are replaced, loudly: the ones for Hopper, which are checked in a process of
            their own, by those that every GPU has, these by torch.
    Raises:
        InvalidArgumentError: "mma" on a CPU.
        DeviceError: a launch failed, which leaves the device in an unknown state.
    """
    if requested == "torch":
        return AttentionChoice(AttentionBackend.TORCH)
    if requested == "mma":
        if device.type == "cpu":
            raise InvalidArgumentError("--attention-backend mma is for a GPU: use native, or --device cuda")
        return AttentionChoice(AttentionBackend.MMA)
    if requested == "native" or device.type == "cpu":
        return AttentionChoice(AttentionBackend.NATIVE)
    fallback = ""
    for backend in _ours():
        faults = _faults_of(backend, model, block_size, device)
        if not faults:
            return AttentionChoice(backend, fallback)
        fallback += ("; " if fallback else "") + f"{backend}: {faults}"
        logger.error(
            "the %s attention kernels failed their check on this GPU and are not used (--attention-backend %s would use them"
            " nevertheless): %s",
            backend,
            backend,
            faults,
        )
    logger.error("torch computes attention, many times slower")
    return AttentionChoice(AttentionBackend.TORCH, fallback)


def _ours() -> tuple[AttentionBackend, ...]:
    """Our kernels, best first; without those for Hopper native and mma are the same."""
    if kernels.attention_hopper_available():
        return (AttentionBackend.NATIVE, AttentionBackend.MMA)
    return (AttentionBackend.NATIVE,)


def _faults_of(backend: AttentionBackend, model: LoadedModel, block_size: int, device: torch.device) -> str:
    spec = model.spec
    hopper = backend is AttentionBackend.NATIVE and kernels.attention_hopper_available()
    check = check_attention_apart if hopper else check_attention
    try:
        faults = check(
            device,
            model.dtype,
            head_dim=spec.head_dim,
            num_q_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            block_size=block_size,
            backend=backend,
        )
    except InvalidArgumentError as error:
        return str(error)
    return "; ".join(faults)
