"""Real engine and simulator side by side, where the outcome does not depend on how long anything takes."""

import numpy as np

from bench.fidelity.__main__ import MachineCost
from bench.fidelity.replay import replay
from fastserve._C.sched import LatencyModel
from fastserve.executor.inproc import InprocExecutor
from fastserve.sim import Deployment, FittedCost, HostLink, simulate
from fastserve.sim.calibrate import loop_samples
from fastserve.worker.memory import PoolSizes
from fastserve.workload import NO_CONVERSATION, Workload
from tests.checkpoints import VOCAB_SIZE
from tests.integration.engine_driver import engine_config

COEFFICIENTS = (1e-3, 1e-5, 1e-9, 1e-4, 1e-8)


def at_once(rows: int) -> Workload:
    rng = np.random.default_rng(3)
    zero = np.zeros(rows, np.int64)
    lengths = rng.integers(1, 90, rows), rng.integers(1, 40, rows)
    return Workload("at once", np.zeros(rows), *lengths, zero, zero + NO_CONVERSATION)


def test_requests_that_come_at_once_take_as_many_iterations_as_simulated(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = engine_config(scheduling_policy="fcfs", num_gpu_blocks_override=128)
    workload = at_once(30)
    real = replay(workload, config)
    deployment = Deployment(
        name="tiny",
        cost=FittedCost(COEFFICIENTS),
        pools=PoolSizes(128, config.cache.num_host_blocks_override, 1 << 16),
        block_size=config.cache.block_size,
        link=HostLink(offload_bytes_per_s=1e9, upload_bytes_per_s=1e9, duplex_share=0.8),
        num_devices=1,
        max_model_len=config.model.max_model_len,
        vocab_size=VOCAB_SIZE,
        dtype="float32",
        device="cpu",
    )
    simulated = simulate(workload, deployment, config.scheduler)
    assert real.requests.is_finished.all()
    assert real.summary.iterations == simulated.summary.iterations == len(real.iterations)
    computed = workload.prompt_tokens + workload.output_tokens - 1  # the KV of the last token is not needed
    assert real.iterations[:, [1, 3]].sum() == computed.sum()
    assert 0 == real.summary.preemptions == simulated.summary.preemptions


def test_the_loop_is_timed_over_prefills_and_decodes_and_left_without_work():
    config = engine_config(max_num_seqs=4)
    executor = InprocExecutor(config)
    try:
        samples = loop_samples(config, executor, LatencyModel(), budget_s=0.3)
    finally:
        executor.stop()
    assert (samples[:, 4] > 0).all()
    assert samples[:, 2].max() == 4
    assert {0.0} < set(samples[:, 0].tolist())


def test_a_machine_is_slow_and_fast_in_turn():
    steady = FittedCost(COEFFICIENTS)
    machine = MachineCost(steady, np.array([1.0, 2.0, 0.5]))
    shape = (5.0, 15.0, 3.0, 60.0)
    assert [machine.iteration_s(*shape) / steady.iteration_s(*shape) for _ in range(4)] == [1.0, 2.0, 0.5, 1.0]
