"""Every kernel once on small, odd shapes, held against the CPU: what compute-sanitizer watches in `bench/gpu_check.sh`.

`python -m bench.gpu.small_kernels [--device cuda]`; exit status 1 when a result is wrong.
"""

import argparse
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import torch

from fastserve import ops
from fastserve._C.offload import Direction, HostArena, OffloadEngine, copy_fragments

DTYPES = (torch.float32, torch.bfloat16)
ROUNDING = {torch.float32: 2.0**-16, torch.bfloat16: 2.0**-6}
NUM_TOKENS, HIDDEN, VOCAB_SIZE = 5, 136, 1003

Results = list[torch.Tensor]


def rand(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """The same values on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def norms(device: str, dtype: torch.dtype) -> Results:
    x, residual, weight = (rand(*s, dtype=dtype).to(device) for s in ((NUM_TOKENS, HIDDEN),) * 2 + ((HIDDEN,),))
    return [
        ops.rms_norm(x, weight, eps=1e-5),
        ops.rms_norm(x, weight, eps=1e-5, residual=residual),
        residual,
        ops.layer_norm(x, weight, weight, eps=1e-5),
    ]


def rope(device: str, dtype: torch.dtype) -> Results:
    qkv = rand(NUM_TOKENS, 8, 64, dtype=dtype).to(device)
    cache = torch.zeros((3, 2, 2, 2, 16, 64), dtype=dtype, device=device)
    positions = torch.tensor([0, 1, 30, 31, 7], dtype=torch.int32, device=device)
    slots = torch.tensor([47, 0, -1, 16, 5], dtype=torch.int64, device=device)
    table = rand(32, 64, dtype=torch.float32).to(device)
    norm = rand(64, dtype=dtype).to(device)
    query, key, value = qkv.split((4, 2, 2), dim=1)
    ops.rope_kv_write(query, key, value, positions, table, cache, slots, layer=1, q_norm=norm, norm_eps=1e-6)
    return [query, cache]


def pointwise(device: str, dtype: torch.dtype) -> Results:
    x = rand(NUM_TOKENS, HIDDEN, dtype=dtype).to(device)
    ids = torch.tensor([0, 4, 2, 4], dtype=torch.int32, device=device)
    return [ops.activation(x, kind="silu", gated=True), ops.activation(x, kind="gelu", gated=False),
            ops.embedding(ids, x)]  # fmt: skip


def sampling(device: str, dtype: torch.dtype) -> Results:
    if dtype != torch.float32:
        return []  # logits are float32
    logits = rand(4, VOCAB_SIZE, dtype=dtype).to(device)
    per_row = {
        "temperature": np.array([0, 1, 0.7, 1], np.float32),
        "top_k": np.array([0, 20, 0, 0], np.int32),
        "top_p": np.array([1, 1, 0.8, 1], np.float32),
        "min_p": np.array([0, 0, 0, 0.1], np.float32),
        "repetition_penalty": np.full(4, 1.2, np.float32),
        "presence_penalty": np.full(4, 0.1, np.float32),
        "frequency_penalty": np.full(4, 0.2, np.float32),
        "seeds": np.arange(4, dtype=np.int64),
        "counters": np.arange(4, dtype=np.int64),
        "history_start": np.array([0, 3, 3, 5, 6], np.int32),
        "history_tokens": np.array([1, 7, 7, 1002, 3, 9], np.int32),
        "history_prompt_len": np.array([1, 0, 2, 0], np.int32),
        "banned_start": np.array([0, 1, 1, 1, 4], np.int32),
        "banned_tokens": np.array([5, ~3, ~9, 1001], np.int32),
        "bias_start": np.array([0, 2, 2, 3, 5], np.int32),
        "bias_tokens": np.array([0, 1002, 500, 7, 1001], np.int32),
        "bias_values": np.array([1, -100, 2, 0, 9], np.float32),
        "only_biased": np.array([0, 0, 0, 1], np.int32),
    }
    batch = ops.SamplingBatch(**per_row)
    if device != "cpu":
        arrays = {field.name: torch.from_numpy(getattr(batch, field.name)).to(device) for field in fields(batch)}
        batch = replace(batch, **arrays)
    tokens = ops.sample(logits, batch)
    values = ops.token_logprobs(logits, tokens, 5)
    return [torch.as_tensor(array) for array in (tokens, values.token_logprobs, values.ranks, values.top_ids)]


def blocks(device: str, dtype: torch.dtype) -> Results:
    cache = rand(6, 3, 1000, dtype=dtype).to(device)
    hashes = ops.checksum_blocks(cache, np.array([0, 5, 2], np.int32))
    ops.copy_blocks(cache, cache, np.array([0, 1], np.int32), np.array([4, 3], np.int32), stream=ops.stream_of(cache))
    return [torch.as_tensor(hashes), cache]


def offload(device: str, dtype: torch.dtype) -> Results:
    """Scattered blocks of 4000 bytes, so that the kernel for fragments copies them, and packed inputs."""
    cache = rand(40, 4000 // dtype.itemsize, dtype=dtype).to(device)
    arena = HostArena(40, 4000, pin=device != "cpu")
    engine = OffloadEngine(cache, arena, verify_checksums=True, compute_stream=ops.stream_of(cache))
    even, mirrored = np.arange(0, 40, 2, dtype=np.int32), np.arange(39, 0, -2, dtype=np.int32)
    moves = [(Direction.DEVICE_TO_HOST, even, mirrored), (Direction.HOST_TO_DEVICE, mirrored, even[::-1].copy())]
    for move in moves:
        completion = engine.wait(engine.submit(*move))
        if not completion.ok:
            raise RuntimeError(completion.error)
    engine.close()
    packed = torch.arange(4096, dtype=torch.int16).view(torch.uint8)
    packed = packed.pin_memory() if device != "cpu" else packed
    target = torch.zeros(len(packed), dtype=torch.uint8, device=device)
    copy_fragments(packed, target, np.array([0, 48, 4096]), np.array([16, 5, 4096]), stream=ops.stream_of(target))
    return [cache, target]


def attention(device: str, dtype: torch.dtype) -> Results:
    """Has its own oracle. The plainest kernel comes first, as one that faults ends the process."""
    ours = [] if device == "cpu" else [ops.AttentionBackend.NAIVE, ops.AttentionBackend.MMA]
    for backend in (*ours, ops.AttentionBackend.NATIVE):
        for head_dim, num_q_heads, num_kv_heads in ((64, 4, 1), (128, 2, 2)):
            shape = {"head_dim": head_dim, "num_q_heads": num_q_heads, "num_kv_heads": num_kv_heads, "block_size": 16}
            if faults := ops.check_attention(device, dtype, **shape, backend=backend):
                raise RuntimeError(f"attention {backend} {shape}: {'; '.join(faults)}")
    return []


KERNELS: tuple[Callable[[str, torch.dtype], Results], ...] = (
    norms, rope, pointwise, sampling, blocks, offload, attention)  # fmt: skip


def faults_of(kernel: Callable[[str, torch.dtype], Results], device: str, dtype: torch.dtype) -> list[str]:
    """What differs from the CPU."""
    faults = []
    for i, (result, expected) in enumerate(zip(kernel(device, dtype), kernel("cpu", dtype), strict=True)):
        if (rounding := ROUNDING.get(result.dtype)) is None:
            same = torch.equal(result.cpu(), expected)
        else:
            same = torch.allclose(result.cpu(), expected, rtol=rounding, atol=rounding)
        if not same:
            faults.append(f"{kernel.__name__} {dtype}: result {i} differs from the CPU's")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.small_kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    device = parser.parse_args().device
    faults = []
    for kernel in KERNELS:
        for dtype in DTYPES:
            found = faults_of(kernel, device, dtype)
            print(f"{kernel.__name__:<10} {dtype!s:<15} {'; '.join(found) or 'ok'}", flush=True)
            faults += found
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
