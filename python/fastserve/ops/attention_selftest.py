"""`python -m fastserve.ops.attention_selftest DEVICE DTYPE SHAPE`: one self-test of attention kernels, for the parent process.

Imports nothing but the operators: the time until the check begins is that of torch and of CUDA.
"""

import json
import sys
import time

import torch

from fastserve.ops.attention_batch import AttentionBackend
from fastserve.ops.attention_check import check_attention

VERDICT = "verdict:"  # the rest of its line is JSON: faults, and the seconds that the check took


def main() -> None:
    """Run the check that the arguments describe and print the verdict."""
    device, dtype, text = sys.argv[1:]
    shape = json.loads(text)
    backend = AttentionBackend(shape.pop("backend"))
    ones = torch.ones(8, 8, device=device)
    (ones @ ones).sum().item()  # what starts CUDA and its libraries is no part of the check
    started_s = time.perf_counter()
    faults = check_attention(torch.device(device), getattr(torch, dtype), **shape, backend=backend)
    print(VERDICT + json.dumps({"faults": faults, "seconds": time.perf_counter() - started_s}))


if __name__ == "__main__":
    main()
