"""An engine core as a simulation sets it up."""

from dataclasses import dataclass

from fastserve._C.sched import LatencyModel
from fastserve.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from fastserve.engine.core import EngineCore
from fastserve.sim.clock import VirtualClock
from fastserve.sim.cost import fitted_latency_model
from fastserve.sim.deployment import Deployment
from fastserve.sim.executor import SampleTokens, SimulatedExecutor
from fastserve.sim.host_link import SimulatedLink
from fastserve.sim.policy import Policy
from fastserve.worker.info import WorkerInfo


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """The shipped core, the executor that computes nothing, and the clock of both."""

    core: EngineCore
    executor: SimulatedExecutor
    clock: VirtualClock


def simulated_engine(
    deployment: Deployment,
    scheduler: SchedulerConfig,
    sample: SampleTokens,
    *,
    enable_prefix_caching: bool,
    policy: Policy | None = None,
) -> SimulatedEngine:
    """Make the engine of a deployment, with the latency model that it has at start.

    Args:
        policy: in place of the scheduler's.

    Raises:
        InvalidArgumentError: the configuration is out of the scheduler's range.
    """
    info = WorkerInfo(
        pools=deployment.pools,
        max_model_len=deployment.max_model_len,
        vocab_size=deployment.vocab_size,
        eos_token_ids=(),
        dtype=deployment.dtype,
        device=deployment.device,
    )
    config = EngineConfig(
        model=ModelConfig(model=deployment.name),
        cache=CacheConfig(block_size=deployment.block_size, enable_prefix_caching=enable_prefix_caching),
        scheduler=scheduler,
    )
    clock = VirtualClock()
    link = SimulatedLink(deployment.link, deployment.num_devices)
    executor = SimulatedExecutor(info, deployment.cost, link, clock, sample)
    latency = _latency_model(deployment, scheduler)
    return SimulatedEngine(EngineCore(config, executor, latency, clock=clock, policy=policy), executor, clock)


def _latency_model(deployment: Deployment, scheduler: SchedulerConfig) -> LatencyModel:
    if deployment.latency is not None:
        return LatencyModel(deployment.latency)
    return fitted_latency_model(
        deployment.cost,
        max_model_len=deployment.max_model_len,
        max_tokens=min(scheduler.max_prefill_chunk_tokens, scheduler.max_num_batched_tokens),
        max_num_seqs=scheduler.max_num_seqs,
        num_blocks=deployment.pools.num_device_blocks,
        block_size=deployment.block_size,
    )
