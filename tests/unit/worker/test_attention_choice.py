"""Our attention kernels serve only when they agree with torch; otherwise others do, visibly."""

import types

import pytest
import torch

from fastserve.errors import InvalidArgumentError
from fastserve.ops.attention import AttentionBackend
from fastserve.worker import attention_choice
from fastserve.worker.attention_choice import AttentionChoice, choose_attention, selftest_of_hopper_kernels

MODEL = types.SimpleNamespace(
    dtype=torch.bfloat16, spec=types.SimpleNamespace(head_dim=64, num_heads=4, num_kv_heads=2)
)
SHAPE = {"head_dim": 64, "num_q_heads": 4, "num_kv_heads": 2, "block_size": 16}
GPU, CPU = torch.device("cuda"), torch.device("cpu")
NATIVE, MMA, TORCH = AttentionBackend.NATIVE, AttentionBackend.MMA, AttentionBackend.TORCH


def no_faults(*_: object, **__: object) -> list[str]:
    return []


class FakeSelfTest:
    """Finds what `check` finds; remembers what it was started with and whether it was closed."""

    seconds = 0.25

    def __init__(self, *arguments: object, check=no_faults, **shape: object) -> None:
        self.started_with = (*arguments, shape)
        self.faults = check
        self.closed = False

    def close(self) -> None:
        self.closed = True


@pytest.fixture(params=[False, True], ids=["any-gpu", "hopper"])
def hopper(request) -> bool:
    return request.param


def choose(monkeypatch, check, selftest_check=None, *, requested="auto", device=GPU) -> AttentionChoice:
    """Choose with fake checks here and, where `selftest_check` is given, in the self-test of kernels for Hopper."""
    monkeypatch.setattr(attention_choice, "check_attention", check)
    selftest = None if selftest_check is None else FakeSelfTest(check=selftest_check)
    return choose_attention(requested, MODEL, block_size=16, device=device, selftest=selftest)


@pytest.fixture
def checks(monkeypatch) -> list[dict]:
    """The checks made in this process, which find nothing."""
    calls = []

    def check(device, dtype, **shape):
        calls.append({"device": device, "dtype": dtype, **shape})
        return []

    monkeypatch.setattr(attention_choice, "check_attention", check)
    return calls


def test_kernels_that_agree_with_torch_serve(checks):
    choice = choose_attention("auto", MODEL, block_size=16, device=GPU)
    assert (choice.backend, choice.fallback) == (NATIVE, "")
    assert checks == [{"device": GPU, "dtype": torch.bfloat16, **SHAPE, "backend": NATIVE}]


def test_kernels_for_hopper_that_pass_their_selftest_serve_and_the_log_says_how_long_it_took(checks, caplog):
    with caplog.at_level("INFO", logger="fastserve"):
        choice = choose_attention("auto", MODEL, block_size=16, device=GPU, selftest=FakeSelfTest())
    assert (choice.backend, choice.fallback) == (NATIVE, "")
    assert not checks
    assert "compared in 0.25 s, for which the start waited 0.00 s" in caplog.text


def fails(*_: object, **__: object) -> list[str]:
    return ["decode: off by 3", "prefill: 2 of 70 tokens are not finite"]


def refuses(*_: object, **__: object) -> list[str]:
    raise InvalidArgumentError("head_dim must be a multiple of 8")


@pytest.mark.parametrize(("check", "reason"), [(fails, "off by 3; prefill: 2 of 70"), (refuses, "multiple of 8")])
def test_kernels_that_all_fail_their_check_are_replaced_by_torch_loudly(hopper, monkeypatch, caplog, check, reason):
    with caplog.at_level("ERROR", logger="fastserve"):
        choice = choose(monkeypatch, check, check if hopper else None)
    assert choice.backend is TORCH
    assert choice.fallback.count(reason) == caplog.text.count(reason) == (2 if hopper else 1)
    assert "torch computes attention" in caplog.text


@pytest.mark.parametrize("check", [fails, refuses])
def test_kernels_for_hopper_that_fail_are_replaced_by_those_of_every_gpu_loudly(monkeypatch, caplog, check):
    with caplog.at_level("ERROR", logger="fastserve"):
        choice = choose(monkeypatch, no_faults, check)
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


@pytest.mark.parametrize(
    ("requested", "device", "dtype", "available", "is_tried"),
    [
        ("auto", GPU, torch.bfloat16, True, True),
        ("auto", GPU, torch.float16, True, True),
        ("auto", GPU, torch.float32, True, False),
        ("auto", GPU, torch.bfloat16, False, False),
        ("auto", CPU, torch.bfloat16, True, False),
        ("native", GPU, torch.bfloat16, True, False),
        ("torch", GPU, torch.bfloat16, True, False),
    ],
)
def test_kernels_for_hopper_are_tried_where_they_would_serve(
    monkeypatch, requested, device, dtype, available, is_tried
):
    monkeypatch.setattr(attention_choice.kernels, "attention_hopper_available", lambda: available)
    monkeypatch.setattr(attention_choice, "AttentionSelfTest", FakeSelfTest)
    model = types.SimpleNamespace(dtype=dtype, spec=MODEL.spec)
    with selftest_of_hopper_kernels(requested, model, block_size=16, device=device) as selftest:
        assert (selftest is not None) == is_tried
        if is_tried:
            assert selftest.started_with == (device, dtype, SHAPE | {"backend": NATIVE})
            assert not selftest.closed
    assert selftest is None or selftest.closed


def test_a_start_that_fails_ends_the_selftest(monkeypatch):
    monkeypatch.setattr(attention_choice.kernels, "attention_hopper_available", lambda: True)
    selftests = []
    monkeypatch.setattr(
        attention_choice, "AttentionSelfTest", lambda *_, **__: selftests.append(FakeSelfTest()) or selftests[-1]
    )
    with (
        pytest.raises(ZeroDivisionError),
        selftest_of_hopper_kernels("auto", MODEL, block_size=16, device=GPU),
    ):
        raise ZeroDivisionError
    assert selftests[0].closed
