"""Choice of the attention kernels of this worker: the best of ours that passes its self-test, or torch."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fastserve._C import kernels
from fastserve.errors import InvalidArgumentError
from fastserve.loader.load import LoadedModel, ModelOutline
from fastserve.log import get_logger
from fastserve.ops.attention_batch import AttentionBackend
from fastserve.ops.attention_check import check_attention
from fastserve.worker.selftest_process import AttentionSelfTest

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The backend, and why it is not the native one although no other was asked for; empty otherwise."""

    backend: AttentionBackend
    fallback: str = ""


@contextlib.contextmanager
def selftest_of_hopper_kernels(
    requested: str, model: ModelOutline, *, block_size: int, device: torch.device
) -> Iterator[AttentionSelfTest | None]:
    """Check the kernels for Hopper in a process of its own, beside whatever the scope does first: load the weights.

    Yields None where they will not be used, or not checked: no Hopper GPU, float32, or a backend that was named.
    """
    wanted = requested == "auto" and device.type != "cpu" and model.dtype is not torch.float32
    if not wanted or not kernels.attention_hopper_available():
        yield None
        return
    selftest = AttentionSelfTest(device, model.dtype, **_shape(model, block_size), backend=AttentionBackend.NATIVE)
    with contextlib.closing(selftest):
        yield selftest


def choose_attention(
    requested: str,
    model: LoadedModel,
    *,
    block_size: int,
    device: torch.device,
    selftest: AttentionSelfTest | None = None,
) -> AttentionChoice:
    """Choose the kernels at start, on the device that will serve.

    Args:
        requested: "native", "mma" or "torch", taken as they are; "auto": on a GPU kernels have to agree with torch on a few
            small steps, and those that do not are replaced, loudly: the ones for Hopper, which `selftest` checks, by those that
            every GPU has, these by torch.
        selftest: of `selftest_of_hopper_kernels`.
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
    # Without kernels for Hopper native and mma are the same.
    for backend in (AttentionBackend.NATIVE, *([AttentionBackend.MMA] if selftest is not None else [])):
        faults = _faults_of(backend, model, block_size, device, selftest)
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


def _faults_of(
    backend: AttentionBackend,
    model: LoadedModel,
    block_size: int,
    device: torch.device,
    selftest: AttentionSelfTest | None,
) -> str:
    started_s = time.perf_counter()
    apart = selftest if backend is AttentionBackend.NATIVE else None
    try:
        if apart is not None:
            faults = apart.faults()
        else:
            faults = check_attention(device, model.dtype, **_shape(model, block_size), backend=backend)
    except InvalidArgumentError as error:
        return str(error)
    waited_s = time.perf_counter() - started_s
    if not faults:
        logger.info(
            "the %s attention kernels agree with torch on this GPU: compared in %.2f s, for which the start waited %.2f s",
            backend,
            waited_s if apart is None else apart.seconds,
            waited_s,
        )
    return "; ".join(faults)


def _shape(model: LoadedModel | ModelOutline, block_size: int) -> dict[str, int]:
    spec = model.spec
    return {
        "head_dim": spec.head_dim,
        "num_q_heads": spec.num_heads,
        "num_kv_heads": spec.num_kv_heads,
        "block_size": block_size,
    }
