"""Small workloads and deployments for the tests of the simulator."""

import numpy as np

from fastserve.config import SchedulerConfig
from fastserve.sim import Deployment, FittedCost, HostLink
from fastserve.worker.memory import PoolSizes
from fastserve.workload import NO_CONVERSATION, Workload

COEFFICIENTS = (5e-3, 2e-5, 1e-9, 1e-4, 1e-7)


def workload(rows: int = 60, *, seed: int = 0, rate: float = 10.0, **columns: object) -> Workload:
    """Random short requests; keyword arguments replace columns."""
    rng = np.random.default_rng(seed)
    values = {
        "name": "small",
        "arrival_s": np.cumsum(rng.exponential(1 / rate, rows)),
        "prompt_tokens": rng.integers(1, 200, rows),
        "output_tokens": rng.integers(1, 80, rows),
        "priority": np.zeros(rows, np.int64),
        "conversation": np.full(rows, NO_CONVERSATION),
    }
    return Workload(**(values | columns))


def deployment(*, num_device_blocks: int = 64, num_host_blocks: int = 256, max_model_len: int = 512) -> Deployment:
    """A device that holds a few requests at a time, so that KV has to move."""
    return Deployment(
        name="small",
        cost=FittedCost(COEFFICIENTS),
        pools=PoolSizes(num_device_blocks, num_host_blocks, 1 << 16),
        block_size=16,
        link=HostLink(offload_bytes_per_s=1e9, upload_bytes_per_s=1e9, duplex_share=0.8),
        num_devices=1,
        max_model_len=max_model_len,
        vocab_size=1000,
        dtype="float32",
        device="test",
    )


def scheduler(policy: str = "skip-join-mlfq", **fields: object) -> SchedulerConfig:
    """A batch of eight."""
    defaults = {"max_num_seqs": 8, "max_num_batched_tokens": 256, "max_prefill_chunk_tokens": 64}
    return SchedulerConfig(**(defaults | {"scheduling_policy": policy} | fields))
