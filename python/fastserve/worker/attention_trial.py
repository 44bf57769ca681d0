"""`check_attention` in a process of its own: a kernel that hangs or faults there ends that process, not the one that serves."""

import json
import os
import subprocess
import sys

import torch

from fastserve.ops.attention_batch import AttentionBackend
from fastserve.ops.attention_check import check_attention

TIMEOUT_S = 120.0


def check_attention_apart(
    device: torch.device,
    dtype: torch.dtype,
    *,
    head_dim: int,
    num_q_heads: int,
    num_kv_heads: int,
    block_size: int,
    backend: AttentionBackend,
    timeout_s: float = TIMEOUT_S,
) -> list[str]:
    """As `check_attention`, but whatever happens is a fault of the kernels. Takes as long as a start of Python with torch.

    Args:
        timeout_s: a process that takes longer is ended.
    """
    shape = {
        "head_dim": head_dim,
        "num_q_heads": num_q_heads,
        "num_kv_heads": num_kv_heads,
        "block_size": block_size,
        "backend": backend.value,
    }
    words = [str(device), str(dtype).removeprefix("torch."), json.dumps(shape)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fastserve.worker.attention_trial", *words],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"the check did not end within {timeout_s:g} s"]
    if done.returncode != 0:
        last = done.stderr.strip().rpartition("\n")[2]
        return [f"the process of the check ended with {done.returncode}: {last}"]
    return json.loads(done.stdout.rpartition("faults:")[2])


def main() -> None:
    """Run one check, as the arguments say, and print the faults."""
    device, dtype, text = sys.argv[1:]
    shape = json.loads(text)
    backend = AttentionBackend(shape.pop("backend"))
    faults = check_attention(torch.device(device), getattr(torch, dtype), **shape, backend=backend)
    print("faults:" + json.dumps(faults))


if __name__ == "__main__":
    main()
