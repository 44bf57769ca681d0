"""ops.check_attention finds kernels that are wrong, and finds nothing when they are right."""

import pytest
import torch

from fastserve import ops
from fastserve.ops import attention_check
from fastserve.ops.attention_difference import first_difference

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


def test_a_fault_is_reported_with_its_place_its_values_and_their_bits(monkeypatch):
    def fault(result, q, call):
        if len(result) == 103:  # of the mixed step: rows of 1, 37 and 65 query tokens, 40, 200 and 65 KV tokens
            result[1 + 30, 4, 17] = 8.0
            result[1 + 30 :, 4, 18:20] = 8.0

    (mismatch,) = faulty(monkeypatch, fault)
    assert mismatch.startswith("mixed, with a chunk after its prefix: off by ")
    for words in (
        "145 of 39552 values; first at row 1 (length 200), query 30 of 37 (query tile 0), head 4 (KV head 1), element 17",
        "which sees 194 tokens, the last in page 12 and tile 3",
        "got 8 (0x41000000), expected ",
        "all in rows 1-2, heads 4, elements 17-19",
    ):
        assert words in mismatch


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, "0xbfc0"), (torch.float16, "0xbe00")])
def test_the_bits_of_16_bit_values_have_four_digits(dtype, bits):
    got = torch.zeros(1, 2, 4, dtype=dtype)
    got[0, 1, 2] = -1.5
    where = first_difference(got, torch.zeros_like(got), got != 0, [(1, 1)], num_kv_heads=1, block_size=16)
    assert (where.head, where.element, where.got_bits, where.expected_bits) == (1, 2, bits, "0x0000")


def test_places_of_many_faults_are_given_as_a_few_ranges():
    got = torch.zeros(1, 40, 4)
    got[:, ::2] = 1.0
    where = first_difference(got, torch.zeros_like(got), got != 0, [(1, 1)], num_kv_heads=40, block_size=16)
    assert where.heads == "0, 2, 4, 6, 8, 10 and 14 more"
    assert where.elements == "0-3"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", list(ops.AttentionBackend))
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_the_kernels_of_this_gpu_pass(dtype, backend, head_dim):
    assert ops.check_attention("cuda", dtype, **SHAPE | {"head_dim": head_dim}, backend=backend) == []
