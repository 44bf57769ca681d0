"""Who computes attention in this worker: our kernels, once they have shown that they can be trusted, or torch."""

from dataclasses import dataclass

import torch

from fastserve.errors import InvalidArgumentError
from fastserve.loader import LoadedModel
from fastserve.log import get_logger
from fastserve.ops.attention import AttentionBackend
from fastserve.ops.attention_check import check_attention

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The backend, and why it is not the native one although nobody asked for another; empty otherwise."""

    backend: AttentionBackend
    fallback: str = ""


def choose_attention(requested: str, model: LoadedModel, *, block_size: int, device: torch.device) -> AttentionChoice:
    """Decide at start, on the device that will serve.

    Args:
        requested: "native" or "torch", taken as they are; "auto": on a GPU the native kernels have to agree with torch on a
            few small steps, and torch takes over, loudly, when they do not.
    Raises:
        DeviceError: a launch failed, which leaves the device in an unknown state.
    """
    if requested == "torch":
        return AttentionChoice(AttentionBackend.TORCH)
    if requested == "native" or device.type == "cpu":
        return AttentionChoice(AttentionBackend.NATIVE)
    spec = model.spec
    try:
        faults = check_attention(
            device,
            model.dtype,
            head_dim=spec.head_dim,
            num_q_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            block_size=block_size,
        )
    except InvalidArgumentError as error:
        faults = [str(error)]
    if not faults:
        return AttentionChoice(AttentionBackend.NATIVE)
    fallback = "; ".join(faults)
    logger.error(
        "the attention kernels failed their check on this GPU and are not used; torch computes attention, many times"
        " slower (--attention-backend native would use them nevertheless): %s",
        fallback,
    )
    return AttentionChoice(AttentionBackend.TORCH, fallback)
