"""The engine on a simulated GPU: the tokens are those of the CPU."""

import ast
import contextlib
import dataclasses
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from fastserve._C import cuda_devices
from fastserve._C.offload import copy_fragments
from fastserve.engine import core as core_module
from fastserve.engine.core import EngineCore
from fastserve.errors import DeviceError, DeviceLostError, InvalidArgumentError
from fastserve.loader.load import LoadedModel, load_model
from fastserve.logprobs import TokenLogprobs
from fastserve.ops.attention import AttentionBackend
from fastserve.types import MAX_LOGPROBS, FinishReason, SamplingParams
from fastserve.worker import start, step_inputs
from fastserve.worker import worker as worker_module
from fastserve.worker.attention_choice import AttentionChoice
from fastserve.worker.device import MEMORY_ALLOCATION_ERROR
from fastserve.worker.runner import Runner
from tests import core_internals
from tests.checkpoints import tiny_checkpoint
from tests.core_internals import FaultInjector
from tests.devices import is_simulated
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
    monkeypatch.setattr(start, "choose_attention", lambda *_, **__: failed)
    cores = []
    assert run_prompts(PROMPTS, prepare=cores.append) == greedy_tokens
    assert cores[0].info.kernel_fallback == "decode: off by 3"


def test_the_kernels_for_hopper_are_tried_while_the_weights_are_loaded(greedy_tokens, device, monkeypatch):
    events = []

    @contextlib.contextmanager
    def begin_selftest(*_: object, **__: object) -> Iterator[str]:
        events.append("self-test begins")
        yield "the self-test"
        events.append("self-test ends")

    def load(*arguments: object, **settings: object) -> LoadedModel:
        events.append("weights")
        return load_model(*arguments, **settings)

    def choose(*_: object, selftest: object, **__: object) -> AttentionChoice:
        events.append(f"choice by {selftest}")
        return AttentionChoice(AttentionBackend.NATIVE)

    monkeypatch.setattr(worker_module, "selftest_of_hopper_kernels", begin_selftest)
    monkeypatch.setattr(worker_module, "load_model", load)
    monkeypatch.setattr(start, "choose_attention", choose)
    assert run_prompts(PROMPTS) == greedy_tokens
    assert events == ["self-test begins", "weights", "choice by the self-test", "self-test ends"]


def test_sampled_tokens_and_penalties_are_those_of_the_cpu_worker(seeded_tokens, device):
    assert run_prompts(PROMPTS, SEEDED) == seeded_tokens


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
        # Besides the event of a step, which the host waits for, the slot of its inputs was long free.
        assert device.waits - waits <= 2 * (core.stats().iterations - iterations)
    finally:
        core.close()


@pytest.mark.parametrize(("sampling", "copies"), [(GREEDY, 1), (SEEDED, 2)], ids=["plain", "with penalties"])
def test_the_inputs_of_a_step_are_one_copy_and_a_second_one_for_histories(device, monkeypatch, sampling, copies):
    sent = []

    def copy(source: torch.Tensor, *rest: object, **stream: int) -> None:
        sent.append(source)
        copy_fragments(source, *rest, **stream)

    core = EngineCore.from_config(engine_config())
    try:
        monkeypatch.setattr(step_inputs, "copy_fragments", copy)
        driver = Driver(core)
        driver.add(0, PROMPTS[0][:16], sampling)
        driver.run()
        assert len(sent) == copies * core.stats().iterations
    finally:
        core.close()


def test_graphs_are_captured_for_every_batch_size_largest_first(device):
    EngineCore.from_config(engine_config(max_num_seqs=20)).close()
    assert device.captured == [20, 16, 8, 4, 2, 1]


@pytest.mark.parametrize("async_scheduling", [True, False])
@pytest.mark.parametrize("step", [1, 4, 15])
def test_a_fault_ends_the_engine_in_its_step_which_yields_no_token(greedy_tokens, device, step, async_scheduling):
    core = EngineCore.from_config(engine_config(async_scheduling=async_scheduling))
    try:
        driver = Driver(core)
        for request_id, prompt in enumerate(PROMPTS[:4]):
            driver.add(request_id, prompt)
        device.fail_in_step(step)
        with pytest.raises(DeviceLostError, match=r"cannot be used any more.*illegal memory access was encountered$"):
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


@pytest.mark.parametrize("error", [DeviceError("copy.cu:7: launch failed"), torch.AcceleratorError("CUDA error: lost")])
def test_a_fault_that_a_launch_meets_ends_the_engine_too(greedy_tokens, device, monkeypatch, error):
    core = EngineCore.from_config(engine_config())
    try:
        driver = Driver(core)
        driver.add(0, PROMPTS[0])
        for _ in range(3):
            driver.step()

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(core.executor.worker._runner, "_forward", fail)
        with pytest.raises(DeviceLostError, match=f"cannot be used any more: {error}"):
            driver.run()
        assert driver.tokens[0] == greedy_tokens[0][: len(driver.tokens[0])]
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
        FaultInjector(core.executor.worker.transfers.engine).inject_device_fault()
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
            patch.setattr(core.executor.worker._runner, "_forward", lambda *_: 1 / 0)
            while not driver.last:
                driver.step()
        assert driver.last[0].finish_reason is FinishReason.ERROR
        driver.add(1, PROMPTS[1])
        driver.run()
        assert driver.tokens[1] == greedy_tokens[1]
    finally:
        core.close()


def test_the_scheduler_knows_the_rates_of_the_link_before_the_first_request(device, monkeypatch):
    reported = []

    class WatchedScheduler(core_module.Scheduler):
        def set_link_rates(self, *rates: float) -> None:
            reported.append(rates)

    monkeypatch.setattr(core_module, "Scheduler", WatchedScheduler)
    core = EngineCore.from_config(engine_config())
    core.close()
    assert reported == [(core.executor.info.offload_bytes_per_s, core.executor.info.upload_bytes_per_s)]
    assert min(reported[0]) > 1e6


def test_the_pool_gets_what_the_memory_of_the_device_leaves(monkeypatch):
    def blocks(**changes: object) -> int:
        monkeypatch.setattr(worker_module, "open_device", lambda requested: FakeDevice(total=512 << 20))
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


def cuda_out_of_memory(text: str) -> torch.AcceleratorError:
    error = torch.AcceleratorError(text)
    error.error_code = MEMORY_ALLOCATION_ERROR  # as torch sets it
    return error


@pytest.mark.parametrize(
    ("owner", "function", "text"),
    [
        (worker_module, "load_model", r"the weights of .* do not fit into the memory of the GPU: .*--dtype"),
        (Runner, "__init__", r"does not hold a step of 128 tokens in 8 requests .*--max-num-seqs"),
        (Runner, "time", r"does not hold a step of 128 tokens in 8 requests .*--max-num-batched-tokens"),
        (Runner, "capture_graphs", r"does not hold the graphs .*--gpu-memory-utilization .*--enforce-eager"),
    ],
)
@pytest.mark.parametrize("error", [torch.OutOfMemoryError, cuda_out_of_memory], ids=["allocator", "cuda"])
def test_memory_that_runs_out_at_start_is_an_error_with_the_remedy(device, monkeypatch, error, owner, function, text):
    def run_out(*args: object, **settings: object) -> None:
        raise error("out of memory")

    monkeypatch.setattr(owner, function, run_out)
    with pytest.raises(InvalidArgumentError, match=text):
        EngineCore.from_config(engine_config())


@pytest.mark.skipif(bool(cuda_devices()), reason="this machine has a GPU")
def test_asking_for_a_gpu_that_is_not_there_says_what_is_missing():
    with pytest.raises(DeviceError, match=r"device cuda cannot be used: .*(driver|GPU|CUDA)"):
        EngineCore.from_config(engine_config(device="cuda"))


ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or torch without CUDA"),
]
SIMULATED, OTHER_SUMS, CUDA = "simulated", "other sums", pytest.param("cuda", marks=ON_GPU)
BF16 = {"dtype": "bfloat16", "model": str(tiny_checkpoint("llama-64"))}  # heads of a size that tensor cores take
NEAR_TIE = 0.1  # in bf16: logits carry 8 bits, and errors of some layers add up; half of all gaps are above 0.3


@pytest.fixture
def run_on(request) -> dict[str, object]:
    """Settings of an engine on a GPU, or on the simulated one; for other sums than the CPU's, torch computes attention."""
    if request.param == "cuda":
        unchecked = (
            {"attention_backend": "native"} if is_simulated(torch.device("cuda")) else {}
        )  # the check is too large
        return {"device": "cuda"} | unchecked
    request.getfixturevalue("device")
    return {"attention_backend": "torch"} if request.param == OTHER_SUMS else {}


@pytest.mark.parametrize("run_on", [OTHER_SUMS, CUDA], indirect=True)
@pytest.mark.parametrize("enforce_eager", [True, False])
def test_greedy_tokens_in_float32_are_those_of_the_cpu(greedy_tokens, run_on, enforce_eager):
    assert run_prompts(PROMPTS, enforce_eager=enforce_eager, **run_on) == greedy_tokens


@pytest.fixture(scope="module")
def bf16_tokens() -> tuple[list[list[int]], list[list[float]]]:
    """Greedy tokens of the CPU in bf16, and by how much each led the second best, in log-probability."""
    core = EngineCore.from_config(engine_config(**BF16))
    try:
        driver, leads = Driver(core), [[] for _ in PROMPTS]
        for request_id, prompt in enumerate(PROMPTS):
            driver.add(request_id, prompt, dataclasses.replace(GREEDY, logprobs=2))
        while core.has_work():
            for output in driver.step():
                leads[output.request_id] += [first - second for first, second in map(_top_two, output.logprobs)]
        return [driver.tokens[request_id] for request_id in range(len(PROMPTS))], leads
    finally:
        core.close()


def _top_two(logprobs: TokenLogprobs) -> tuple[float, ...]:
    return logprobs.top_logprobs


@pytest.mark.parametrize("run_on", [OTHER_SUMS, CUDA], indirect=True)
@pytest.mark.parametrize("enforce_eager", [True, False])
def test_greedy_tokens_in_bfloat16_leave_those_of_the_cpu_only_at_near_ties(bf16_tokens, run_on, enforce_eager):
    tokens = run_prompts(PROMPTS, **BF16, enforce_eager=enforce_eager, **run_on)
    assert_equal_but_for_near_ties(tokens, *bf16_tokens)


def assert_equal_but_for_near_ties(
    tokens: list[list[int]], expected: list[list[int]], leads: list[list[float]]
) -> None:
    for ours, theirs, leads_of_row in zip(tokens, expected, leads, strict=True):
        first_other = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), None)
        assert first_other is None or leads_of_row[first_other] < NEAR_TIE


@pytest.mark.parametrize("run_on", [CUDA], indirect=True)
def test_the_kernels_of_a_gpu_pass_their_check_at_start_and_serve(bf16_tokens, run_on):
    cores = []
    tokens = run_prompts(PROMPTS, **BF16, **run_on | {"attention_backend": "auto"}, prepare=cores.append)
    assert cores[0].info.kernel_fallback == ""
    assert_equal_but_for_near_ties(tokens, *bf16_tokens)


def logprobs_of(**changes: object) -> list[TokenLogprobs]:
    """Of requests that ask for different numbers of likeliest tokens, one request after the other."""
    core = EngineCore.from_config(engine_config(**changes))
    try:
        driver, seen = Driver(core), {}
        for request_id, num_top in enumerate((0, 3, MAX_LOGPROBS)):
            driver.add(request_id, PROMPTS[request_id], dataclasses.replace(GREEDY, logprobs=num_top))
        while core.has_work():
            for output in driver.step():
                seen.setdefault(output.request_id, []).extend(output.logprobs)
        return [logprobs for request_id in sorted(seen) for logprobs in seen[request_id]]
    finally:
        core.close()


@pytest.fixture(scope="module")
def greedy_logprobs() -> list[TokenLogprobs]:
    return logprobs_of()


@pytest.mark.parametrize("run_on", [SIMULATED, CUDA], indirect=True)
def test_log_probabilities_are_those_of_the_cpu_worker(greedy_logprobs, run_on):
    found = logprobs_of(**run_on)
    assert [(each.rank, each.top_ids) for each in found] == [(each.rank, each.top_ids) for each in greedy_logprobs]
    for ours, theirs in zip(found, greedy_logprobs, strict=True):
        assert [ours.logprob, *ours.top_logprobs] == pytest.approx([theirs.logprob, *theirs.top_logprobs], abs=1e-4)


@pytest.mark.parametrize("run_on", [SIMULATED, CUDA], indirect=True)
@pytest.mark.parametrize("enforce_eager", [True, False])
@pytest.mark.parametrize("k", [1, 2, 7])
def test_forced_parking_over_a_link_of_random_speed_changes_no_token(k, run_on, enforce_eager):
    changes = run_on | {"enforce_eager": enforce_eager}
    unparked = run_prompts(PROMPTS, GREEDY, **changes)
    engines = []

    def slow_down(core: EngineCore) -> None:
        engine = core.executor.worker.transfers.engine
        engines.append((engine, core_internals.num_verified(engine)))
        FaultInjector(engine).inject_random_delay(0.002, k)

    parking = {"between_steps": park_every(k), "prepare": slow_down, "num_gpu_blocks_override": 16}
    assert run_prompts(PROMPTS, GREEDY, **parking, **changes) == unparked
    ((engine, verified_at_start),) = engines
    assert core_internals.num_verified(engine) > verified_at_start
    assert core_internals.num_mismatches(engine) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device, or torch without CUDA")
def test_a_real_fault_of_a_gpu_ends_the_engine_and_yields_no_token(greedy_tokens):
    done = subprocess.run(
        [sys.executable, "-m", "tests.faulty_gpu"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    tokens, reason = done.stdout.splitlines()[-2:]
    assert "cannot be used any more" in reason
    for request_id, given in ast.literal_eval(tokens).items():
        assert given == greedy_tokens[request_id][: len(given)]


def prompt_logprobs(**changes: object) -> list[list[TokenLogprobs]]:
    """Those of two prompts, in chunks."""
    core = EngineCore.from_config(engine_config(max_prefill_chunk_tokens=8, **changes))
    try:
        driver = Driver(core)
        for request_id, length in enumerate((20, 11)):
            driver.add(request_id, PROMPTS[0][:length], dataclasses.replace(GREEDY, prompt_logprobs=2, max_tokens=1))
        found = {}
        while core.has_work():
            for output in driver.step():
                found[output.request_id] = [entry for part in output.prompt_logprobs for entry in part.unpack()]
        return [found[0], found[1]]
    finally:
        core.close()


@pytest.fixture(scope="module")
def prompt_logprobs_of_the_cpu() -> list[list[TokenLogprobs]]:
    return prompt_logprobs()


@pytest.mark.parametrize("run_on", [OTHER_SUMS, CUDA], indirect=True)
def test_log_probabilities_of_prompts_are_those_of_the_cpu_worker(prompt_logprobs_of_the_cpu, run_on):
    for on_device, on_cpu in zip(prompt_logprobs(**run_on), prompt_logprobs_of_the_cpu, strict=True):
        assert [entry.top_ids for entry in on_device] == [entry.top_ids for entry in on_cpu]
        assert [entry.logprob for entry in on_device] == pytest.approx([entry.logprob for entry in on_cpu], abs=1e-3)
