"""Our attention kernels serve only when they agree with torch; otherwise others do, and everybody can see it."""

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
NATIVE, MMA, TORCH = AttentionBackend.NATIVE, AttentionBackend.MMA, AttentionBackend.TORCH


@pytest.fixture(params=[False, True], ids=["any-gpu", "hopper"])
def hopper(request, monkeypatch) -> bool:
    monkeypatch.setattr(attention_choice.kernels, "attention_hopper_available", lambda: request.param)
    return request.param


def replace_checks(monkeypatch, check, apart=None) -> None:
    monkeypatch.setattr(attention_choice, "check_attention", check)
    monkeypatch.setattr(attention_choice, "check_attention_apart", apart or check)


@pytest.fixture
def checks(monkeypatch) -> list[dict]:
    """The calls of both checks, which find nothing."""
    calls = []

    def checking(where: str):
        def check(device, dtype, **shape):
            calls.append({"where": where, "device": device, "dtype": dtype, **shape})
            return []

        return check

    replace_checks(monkeypatch, checking("here"), checking("apart"))
    return calls


def test_kernels_that_agree_with_torch_serve(hopper, checks):
    choice = choose_attention("auto", MODEL, block_size=16, device=GPU)
    assert (choice.backend, choice.fallback) == (NATIVE, "")
    shape = {"head_dim": 64, "num_q_heads": 4, "num_kv_heads": 2, "block_size": 16}
    where = "apart" if hopper else "here"
    assert checks == [{"where": where, "device": GPU, "dtype": torch.bfloat16, **shape, "backend": NATIVE}]


def fails(*_: object, **__: object) -> list[str]:
    return ["decode: off by 3", "prefill: 2 of 70 tokens are not finite"]


def refuses(*_: object, **__: object) -> list[str]:
    raise InvalidArgumentError("head_dim must be a multiple of 8")


@pytest.mark.parametrize(("check", "reason"), [(fails, "off by 3; prefill: 2 of 70"), (refuses, "multiple of 8")])
def test_kernels_that_all_fail_their_check_are_replaced_by_torch_loudly(hopper, monkeypatch, caplog, check, reason):
    replace_checks(monkeypatch, check)
    with caplog.at_level("ERROR", logger="fastserve"):
        choice = choose_attention("auto", MODEL, block_size=16, device=GPU)
    assert choice.backend is TORCH
    assert choice.fallback.count(reason) == caplog.text.count(reason) == (2 if hopper else 1)
    assert "torch computes attention" in caplog.text


@pytest.mark.parametrize("check", [fails, refuses])
def test_kernels_for_hopper_that_fail_are_replaced_by_those_of_every_gpu_loudly(monkeypatch, caplog, check):
    monkeypatch.setattr(attention_choice.kernels, "attention_hopper_available", lambda: True)
    replace_checks(monkeypatch, lambda *_, **__: [], check)
    with caplog.at_level("ERROR", logger="fastserve"):
        choice = choose_attention("auto", MODEL, block_size=16, device=GPU)
    assert choice.backend is MMA
    assert choice.fallback.startswith("native: ")
    assert choice.fallback.removeprefix("native: ") in caplog.text
    assert "torch" not in caplog.text


@pytest.mark.parametrize(
    ("requested", "device", "backend"),
    [
        ("native", GPU, "native"),
        ("mma", GPU, "mma"),
        ("torch", GPU, "torch"),
        ("auto", CPU, "native"),
        ("torch", CPU, "torch"),
    ],
)
def test_a_named_backend_and_the_cpu_need_no_check(checks, requested, device, backend):
    choice = choose_attention(requested, MODEL, block_size=16, device=device)
    assert (choice.backend, choice.fallback) == (backend, "")
    assert not checks


def test_kernels_for_a_gpu_are_refused_on_a_cpu():
    with pytest.raises(InvalidArgumentError, match="for a GPU: use native"):
        choose_attention("mma", MODEL, block_size=16, device=CPU)
