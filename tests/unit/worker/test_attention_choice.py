"""Our attention kernels serve only when they agree with torch; otherwise torch does, and everybody can see it."""

import types

import pytest
import torch

from fastserve.errors import InvalidArgumentError
from fastserve.ops.attention import AttentionBackend
from fastserve.worker import attention_choice
from fastserve.worker.attention_choice import choose_attention

MODEL = types.SimpleNamespace(
    dtype=torch.bfloat16, spec=types.SimpleNamespace(head_dim=64, num_heads=4, num_kv_heads=2)
)
GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def checks(monkeypatch) -> list[dict]:
    """The calls of the check, which finds nothing."""
    calls = []

    def check(device, dtype, **shape):
        calls.append({"device": device, "dtype": dtype, **shape})
        return []

    monkeypatch.setattr(attention_choice, "check_attention", check)
    return calls


def test_kernels_that_agree_with_torch_serve(checks):
    choice = choose_attention("auto", MODEL, block_size=16, device=GPU)
    assert (choice.backend, choice.fallback) == (AttentionBackend.NATIVE, "")
    assert checks == [
        {"device": GPU, "dtype": torch.bfloat16, "head_dim": 64, "num_q_heads": 4, "num_kv_heads": 2, "block_size": 16}
    ]


def fails(*_: object, **__: object) -> list[str]:
    return ["decode: off by 3", "prefill: 2 of 70 tokens are not finite"]


def refuses(*_: object, **__: object) -> list[str]:
    raise InvalidArgumentError("head_dim must be a multiple of 8")


@pytest.mark.parametrize(("check", "reason"), [(fails, "off by 3; prefill: 2 of 70"), (refuses, "multiple of 8")])
def test_kernels_that_fail_their_check_are_replaced_loudly(monkeypatch, caplog, check, reason):
    monkeypatch.setattr(attention_choice, "check_attention", check)
    with caplog.at_level("ERROR", logger="fastserve"):
        choice = choose_attention("auto", MODEL, block_size=16, device=GPU)
    assert choice.backend is AttentionBackend.TORCH
    assert reason in choice.fallback
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("requested", "device", "backend"),
    [("native", GPU, "native"), ("torch", GPU, "torch"), ("auto", CPU, "native"), ("torch", CPU, "torch")],
)
def test_a_named_backend_and_the_cpu_need_no_check(checks, requested, device, backend):
    choice = choose_attention(requested, MODEL, block_size=16, device=device)
    assert (choice.backend, choice.fallback) == (backend, "")
    assert not checks
