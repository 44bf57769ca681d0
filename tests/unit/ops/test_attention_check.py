"""ops.check_attention finds kernels that are wrong, and finds nothing when they are right."""

import pytest
import torch

from fastserve import ops
from fastserve.ops import attention_check

SHAPE = {"head_dim": 64, "num_q_heads": 6, "num_kv_heads": 2, "block_size": 16}


@pytest.mark.parametrize("backend", [ops.AttentionBackend.NATIVE, ops.AttentionBackend.TORCH])
def test_right_kernels_pass(dtype, backend):
    assert ops.check_attention("cpu", dtype, **SHAPE, backend=backend) == []


@pytest.mark.parametrize("head_dim", [80, 256])
@pytest.mark.parametrize("block_size", [8, 32])
def test_right_kernels_pass_at_other_shapes(head_dim, block_size):
    shape = {"head_dim": head_dim, "num_q_heads": 4, "num_kv_heads": 4, "block_size": block_size}
    assert ops.check_attention("cpu", torch.bfloat16, **shape) == []


def faulty(monkeypatch: pytest.MonkeyPatch, fault) -> list[str]:
    calls = []

    def attention(q, *args, **kwargs):
        calls.append(q)
        result = ops.attention(q, *args, **kwargs)
        fault(result, q, len(calls))
        return result

    monkeypatch.setattr(attention_check, "attention", attention)
    return ops.check_attention("cpu", torch.float32, **SHAPE)


def test_one_head_of_one_token_that_is_off_is_found_in_every_step(monkeypatch):
    def fault(result, q, call):
        result[0, 3] += 1e-3

    mismatches = faulty(monkeypatch, fault)
    assert len(mismatches) == 5
    assert all("off by 0.001" in mismatch for mismatch in mismatches)


def test_nan_from_a_page_tail_is_found(monkeypatch):
    def fault(result, q, call):
        result[-1, 0, 0] = torch.nan

    assert "1 of 8 tokens are not finite" in faulty(monkeypatch, fault)[0]


def test_an_output_that_is_not_written_is_found(monkeypatch):
    def fault(result, q, call):
        result[0] = torch.nan if call % 2 else 7.0

    assert "not finite" in faulty(monkeypatch, fault)[0]


def test_bits_that_differ_from_run_to_run_are_found(monkeypatch):
    def fault(result, q, call):
        result[0, 0, 0] *= 1 + 1e-7 * call

    assert "other bits" in faulty(monkeypatch, fault)[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", list(ops.AttentionBackend))
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_the_kernels_of_this_gpu_pass(dtype, backend, head_dim):
    assert ops.check_attention("cuda", dtype, **SHAPE | {"head_dim": head_dim}, backend=backend) == []
