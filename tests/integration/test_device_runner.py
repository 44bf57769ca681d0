"""The engine with the worker's code for GPUs, over a device that pretends: the tokens are those of the CPU worker."""

import numpy as np
import pytest
import torch

from fastserve._C import cuda_devices
from fastserve.engine import core as core_module
from fastserve.engine.core import EngineCore
from fastserve.errors import DeviceError, DeviceLostError, InvalidArgumentError
from fastserve.ops.attention import AttentionBackend
from fastserve.types import FinishReason, SamplingParams
from fastserve.worker import gpu_start
from fastserve.worker import worker as worker_module
from fastserve.worker.attention_choice import AttentionChoice
from tests.fake_device import FakeDevice, use_device
from tests.integration.engine_driver import GREEDY, Driver, engine_config, park_every, random_prompts, run_prompts

PROMPTS = random_prompts(10)
SEEDED = SamplingParams(temperature=0.8, top_p=0.9, top_k=40, seed=7, max_tokens=24, ignore_eos=True,
                        repetition_penalty=1.1, frequency_penalty=0.2)  # fmt: skip


@pytest.fixture
def device(monkeypatch) -> FakeDevice:
    """The next engines run on it."""
    device = FakeDevice()
    use_device(device, monkeypatch.setattr)
    return device


@pytest.fixture(scope="module")
def greedy_tokens() -> list[list[int]]:
    return run_prompts(PROMPTS)


@pytest.fixture(scope="module")
def seeded_tokens() -> list[list[int]]:
    return run_prompts(PROMPTS, SEEDED)


@pytest.mark.parametrize("async_scheduling", [True, False])
@pytest.mark.parametrize("enforce_eager", [True, False])
def test_tokens_are_those_of_the_cpu_worker(greedy_tokens, device, enforce_eager, async_scheduling):
    assert run_prompts(PROMPTS, enforce_eager=enforce_eager, async_scheduling=async_scheduling) == greedy_tokens
    assert (device.replays > 0) == (not enforce_eager)


def test_torch_computes_attention_when_asked_to_without_graphs(greedy_tokens, device):
    assert run_prompts(PROMPTS, attention_backend="torch") == greedy_tokens
    assert device.replays == 0


def test_attention_of_torch_gives_the_same_tokens_on_the_cpu(greedy_tokens):
    assert run_prompts(PROMPTS, attention_backend="torch") == greedy_tokens


def test_kernels_that_fail_their_check_are_replaced_and_the_engine_says_so(greedy_tokens, device, monkeypatch):
    failed = AttentionChoice(AttentionBackend.TORCH, "decode: off by 3")
    monkeypatch.setattr(gpu_start, "choose_attention", lambda *_, **__: failed)
    cores = []
    assert run_prompts(PROMPTS, prepare=cores.append) == greedy_tokens
    assert cores[0].info.kernel_fallback == "decode: off by 3"


def test_sampled_tokens_and_penalties_are_those_of_the_cpu_worker(seeded_tokens, device):
    assert run_prompts(PROMPTS, SEEDED) == seeded_tokens


@pytest.mark.parametrize("k", [1, 3])
def test_parking_every_request_every_k_steps_changes_no_token(greedy_tokens, device, k):
    tokens = run_prompts(
        PROMPTS,
        between_steps=park_every(k),
        prepare=lambda core: core.executor.worker.transfers.engine.inject_random_delay(0.002, 1),
        num_gpu_blocks_override=16,
    )
    assert tokens == greedy_tokens


def test_the_host_waits_once_for_a_step_and_synchronises_never(device):
    core = EngineCore.from_config(engine_config())
    try:
        driver = Driver(core)
        driver.add(0, PROMPTS[0])
        driver.run()
        before, waits = device.synchronisations, device.waits
        iterations = core.stats().iterations
        driver.add(1, PROMPTS[1])
        driver.run()
        assert device.synchronisations == before
        # Besides the event of a step, which the host waits for, the slots of packed inputs were long free.
        assert device.waits - waits <= 3 * (core.stats().iterations - iterations)
    finally:
        core.close()


def test_graphs_are_captured_for_every_batch_size_largest_first(device):
    EngineCore.from_config(engine_config(max_num_seqs=20)).close()
    assert device.captured == [20, 16, 8, 4, 2, 1]


def test_log_probabilities_are_those_of_the_cpu_worker(device, monkeypatch):
    sampling = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, logprobs=3)

    def logprobs() -> list[object]:
        core, seen = EngineCore.from_config(engine_config()), []
        try:
            driver = Driver(core)
            driver.add(0, PROMPTS[0], sampling)
            while core.has_work():
                seen += [output.logprobs for output in core.step() if output.logprobs]
            return seen
        finally:
            core.close()

    on_device = logprobs()
    monkeypatch.setattr(worker_module, "open_device", lambda requested: None)
    assert on_device
    assert on_device == logprobs()


@pytest.mark.parametrize("async_scheduling", [True, False])
@pytest.mark.parametrize("step", [1, 4, 15])
def test_a_fault_ends_the_engine_in_its_step_which_yields_no_token(greedy_tokens, device, step, async_scheduling):
    core = EngineCore.from_config(engine_config(async_scheduling=async_scheduling))
    try:
        driver = Driver(core)
        for request_id, prompt in enumerate(PROMPTS[:4]):
            driver.add(request_id, prompt)
        device.fail_in_step(step)
        with pytest.raises(DeviceLostError, match=r"cannot be used any more.*illegal memory access"):
            driver.run()
        # Two steps may be under way: the device can be lost while the one before is waited for.
        assert step - 1 - async_scheduling <= core.stats().iterations < step
        for request_id, tokens in driver.tokens.items():
            assert tokens == greedy_tokens[request_id][: len(tokens)]
        device.fault = None  # the worker remembers: what the device holds stays untrusted
        with pytest.raises(DeviceLostError, match="cannot be used any more"):
            core.executor.worker.check_device()
    finally:
        core.close()


def test_a_fault_that_a_copy_meets_ends_the_engine(greedy_tokens, device):
    core = EngineCore.from_config(engine_config())
    try:
        driver = Driver(core)
        for request_id, prompt in enumerate(PROMPTS[:4]):
            driver.add(request_id, prompt)
        for _ in range(6):
            driver.step()
        core.executor.worker.transfers.engine.inject_device_fault()
        with pytest.raises(DeviceLostError, match=r"cannot be used any more: injected fault of the device in a copy"):
            driver.run(park_every(1))
        for request_id, tokens in driver.tokens.items():
            assert tokens == greedy_tokens[request_id][: len(tokens)]
    finally:
        core.close()


def test_an_error_that_is_no_fault_of_the_device_fails_its_iteration_only(greedy_tokens, device, monkeypatch):
    core = EngineCore.from_config(engine_config(async_scheduling=False))
    try:
        driver = Driver(core)
        driver.add(0, PROMPTS[0])
        driver.step()
        with monkeypatch.context() as patch:
            patch.setattr(core.executor.worker._runner, "_forward", lambda rows: 1 / 0)
            while not driver.last:
                driver.step()
        assert driver.last[0].finish_reason is FinishReason.ERROR
        driver.add(1, PROMPTS[1])
        driver.run()
        assert driver.tokens[1] == greedy_tokens[1]
    finally:
        core.close()


def test_the_scheduler_knows_the_rates_of_the_link_before_the_first_request(device, monkeypatch):
    told = []

    class WatchedScheduler(core_module.Scheduler):
        def set_link_rates(self, *rates: float) -> None:
            told.append(rates)

    monkeypatch.setattr(core_module, "Scheduler", WatchedScheduler)
    core = EngineCore.from_config(engine_config())
    core.close()
    assert told == [(core.executor.info.offload_bytes_per_s, core.executor.info.upload_bytes_per_s)]
    assert min(told[0]) > 1e6


def test_the_pool_gets_what_the_memory_of_the_device_leaves(monkeypatch):
    def blocks(**changes: object) -> int:
        monkeypatch.setattr(worker_module, "open_device", lambda requested: FakeDevice(total=64 << 20))
        core = EngineCore.from_config(engine_config(num_gpu_blocks_override=None, enforce_eager=True, **changes))
        try:
            return core.info.num_device_blocks
        finally:
            core.close()

    assert blocks(gpu_memory_utilization=0.9) > blocks(gpu_memory_utilization=0.7) > 0


def test_a_device_without_room_for_a_block_is_refused_with_the_remedy(monkeypatch):
    monkeypatch.setattr(worker_module, "open_device", lambda requested: FakeDevice(total=1 << 20))
    with pytest.raises(InvalidArgumentError, match=r"no room for one KV block.*--gpu-memory-utilization"):
        EngineCore.from_config(engine_config(num_gpu_blocks_override=None, gpu_memory_utilization=0.2))


@pytest.mark.skipif(bool(cuda_devices()), reason="this machine has a GPU")
def test_asking_for_a_gpu_that_is_not_there_says_what_is_missing():
    with pytest.raises(DeviceError, match=r"device cuda cannot be used: .*(driver|GPU|CUDA)"):
        EngineCore.from_config(engine_config(device="cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or torch without CUDA")
@pytest.mark.parametrize("enforce_eager", [True, False])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_forced_parking_on_a_gpu_changes_no_token(k, enforce_eager):
    changes = {"device": "cuda", "enforce_eager": enforce_eager}
    unparked = run_prompts(PROMPTS, GREEDY, **changes)
    cores = []
    tokens = run_prompts(
        PROMPTS, GREEDY, between_steps=park_every(k), prepare=cores.append, num_gpu_blocks_override=16, **changes
    )
    assert tokens == unparked
    engine = cores[0].executor.worker.transfers.engine
    assert engine.num_verified > 0
    assert engine.num_mismatches == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or torch without CUDA")
def test_a_gpu_gives_the_tokens_of_the_cpu(greedy_tokens):
    on_gpu = run_prompts(PROMPTS, device="cuda")
    same = np.mean(np.concatenate(on_gpu) == np.concatenate(greedy_tokens))
    assert same > 0.9, "the orders of summation differ, so that a near tie may fall the other way, not more"
