"""The check of attention in a process of its own: nothing that goes wrong there reaches the caller as more than a fault."""

import contextlib
import time
from collections.abc import Callable, Iterator

import pytest
import torch

from fastserve.ops import AttentionBackend
from fastserve.worker import selftest_process
from fastserve.worker.selftest_process import AttentionSelfTest

CPU = torch.device("cpu")
SHAPE = {"head_dim": 64, "num_q_heads": 4, "num_kv_heads": 2, "block_size": 16}


@pytest.fixture
def start() -> Iterator[Callable[..., AttentionSelfTest]]:
    """Start self-tests that the end of the test ends."""
    with contextlib.ExitStack() as selftests:

        def make(dtype=torch.bfloat16, *, device=CPU, backend=AttentionBackend.NATIVE, **options) -> AttentionSelfTest:
            selftest = AttentionSelfTest(device, dtype, **SHAPE, backend=backend, **options)
            return selftests.enter_context(contextlib.closing(selftest))

        yield make


def test_right_kernels_pass_and_the_check_was_timed_without_the_start_of_the_process(start):
    started_s = time.monotonic()
    selftest = start()
    assert selftest.faults() == []
    assert 0 < selftest.seconds < time.monotonic() - started_s


def test_a_process_that_fails_is_a_fault(start):
    (fault,) = start(backend=AttentionBackend.NAIVE).faults()
    assert "ended with 1" in fault
    assert "naive kernels are for tensors on a GPU" in fault


def test_a_process_that_does_not_end_is_a_fault_and_is_ended(start):
    selftest = start(torch.float32, timeout_s=0.02)
    assert selftest.faults() == ["the check did not end within 0.02 s"]
    assert selftest.seconds is None
    assert selftest._process.poll() is not None


def test_a_process_that_is_killed_is_a_fault(start):
    selftest = start()
    selftest._process.kill()
    assert selftest.faults() == ["the process of the check ended with -9: "]


def test_a_process_that_ended_in_time_is_heard_however_late_it_is_asked(start):
    selftest = start()
    selftest._process.wait()
    selftest._deadline_s = 0.0
    assert selftest.faults() == []


def test_a_process_that_says_more_than_a_pipe_holds_is_heard_to_the_end(start, monkeypatch, tmp_path):
    talker = tmp_path / "talker.py"
    talker.write_text("print('x' * 1_000_000)\nraise SystemExit('the last word')")
    real = selftest_process.subprocess.Popen
    monkeypatch.setattr(
        selftest_process.subprocess, "Popen", lambda words, **files: real([words[0], str(talker)], **files)
    )
    assert start().faults() == ["the process of the check ended with 1: the last word"]


def test_a_selftest_without_a_caller_is_stopped(start):
    selftest = start()
    selftest.close()
    assert selftest._process.poll() is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_kernels_of_this_gpu_pass_beside_a_process_that_uses_it(start):
    torch.zeros(1, device="cuda")
    assert start(device=torch.device("cuda")).faults() == []
