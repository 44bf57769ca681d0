"""The check of attention in a process of its own: nothing that goes wrong there reaches the caller as more than a fault."""

import pytest
import torch

from fastserve.ops import AttentionBackend
from fastserve.worker.attention_trial import check_attention_apart

CPU = torch.device("cpu")
SHAPE = {"head_dim": 64, "num_q_heads": 4, "num_kv_heads": 2, "block_size": 16}


def test_right_kernels_pass():
    assert check_attention_apart(CPU, torch.bfloat16, **SHAPE, backend=AttentionBackend.NATIVE) == []


def test_a_process_that_fails_is_a_fault():
    (fault,) = check_attention_apart(CPU, torch.bfloat16, **SHAPE, backend=AttentionBackend.NAIVE)
    assert "ended with 1" in fault
    assert "naive kernels are for tensors on a GPU" in fault


def test_a_process_that_does_not_end_is_a_fault():
    faults = check_attention_apart(CPU, torch.float32, **SHAPE, backend=AttentionBackend.NATIVE, timeout_s=0.02)
    assert faults == ["the check did not end within 0.02 s"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_of_this_gpu_pass_beside_a_process_that_uses_it():
    torch.zeros(1, device="cuda")
    assert check_attention_apart(torch.device("cuda"), torch.bfloat16, **SHAPE, backend=AttentionBackend.NATIVE) == []
