"""What a step costs beside its work when ranks are processes, against a thread of this process, and what idle ranks cost.

`python -m bench.executor [--json FILE] [--steps N]`. Workers compute nothing; plans are those of the real scheduler for decodes. A sample is the time from
`submit` to the result. The contenders take turns, step by step.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from bench.lib.report import write_json
from fastserve._C.collective import plan_bytes
from fastserve._C.kv import KvManager
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, SchedulerConfig, StepPlan
from fastserve.config import EngineConfig, ModelConfig, ParallelConfig
from fastserve.executor.mp import MpExecutor
from fastserve.worker.info import WorkerInfo
from fastserve.worker.memory import PoolSizes
from fastserve.worker.request_changes import NO_CHANGES, RequestChanges
from fastserve.worker.step_output import StepOutput, TransferResults

SHAPES = ((1, 128), (64, 512), (256, 1024))  # rows, tokens of context
RANKS = (1, 2, 4)
BLOCK_SIZE = 16
WARM_UPS = 20


class NoWork:
    """A worker that answers at once."""

    info = WorkerInfo(PoolSizes(1, 0, 1), 1, 1, (), "none", "none")

    def __init__(self, *_args: object, **_options: object) -> None: ...

    def execute(self, plan: StepPlan, _changes: RequestChanges = NO_CHANGES) -> StepOutput:
        return StepOutput(np.full(plan.num_samples, 7, np.int32), None, TransferResults(), 0.0)

    def close(self) -> None: ...


def decode_plan(num_rows: int, context: int) -> StepPlan:
    """The plan in which every request decodes its first token."""
    blocks = num_rows * (context // BLOCK_SIZE + 2)
    limits = SchedulerConfig(
        max_num_seqs=num_rows,
        max_num_batched_tokens=num_rows * context,
        max_prefill_chunk_tokens=context,
        max_model_len=context + 2 * BLOCK_SIZE,
    )
    kv = KvManager(block_size=BLOCK_SIZE, num_device_blocks=blocks, num_host_blocks=0)
    scheduler = Scheduler(limits, kv, LatencyModel())
    for request_id in range(num_rows):
        prompt = np.full(context, request_id, np.int32)
        scheduler.add(request_id, prompt, RequestOptions(max_tokens=8, ignore_eos=True), now_s=0.0)
    while (plan := scheduler.schedule(0.0)).num_decode_rows < num_rows:
        scheduler.commit(plan.step, np.full(plan.num_samples, 7, np.int32), 0.01, 0.0)
    return plan


def cpu_s(pid: int) -> float:
    """Processor time of a process, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.executor", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw sample to FILE")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--idle-s", type=float, default=5.0)
    arguments = parser.parse_args()
    results: list[dict[str, object]] = []
    with ExitStack() as stack:
        thread = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        submit: dict[str, Callable[[StepPlan], Future[StepOutput]]] = {
            "a thread": lambda plan: thread.submit(NoWork().execute, plan)
        }
        executors = []
        for size in RANKS:
            config = EngineConfig(
                model=ModelConfig(model="none"),
                parallel=ParallelConfig(tensor_parallel_size=size, distributed_executor_backend="mp"),
            )
            executor = MpExecutor(config, worker_factory="bench.executor.__main__:NoWork")
            stack.callback(executor.stop)
            executors.append(executor)
            submit[f"{size} ranks"] = executor.submit
        for rows, context in SHAPES:
            plan = decode_plan(rows, context)
            samples: dict[str, list[float]] = {name: [] for name in submit}
            for _ in range(arguments.steps + WARM_UPS):
                for name, call in submit.items():
                    started_s = time.perf_counter()
                    call(plan).result()
                    samples[name].append(time.perf_counter() - started_s)
            for name, seconds in samples.items():
                us = [1e6 * s for s in seconds[WARM_UPS:]]
                p50, p99 = statistics.median(us), float(np.percentile(us, 99))
                base = statistics.median([1e6 * s for s in samples["a thread"][WARM_UPS:]])
                print(
                    f"{rows:4d} rows x {context:5d}  {plan_bytes(plan):8d} B  {name:8s}  p50 {p50:7.1f} us  p99 {p99:8.1f} us"
                    f"  {p50 - base:+7.1f} us"
                )
                results.append({"rows": rows, "context": context, "contender": name, "us": us})
        before = {executor: [cpu_s(pid) for pid in executor.pids] for executor in executors}
        time.sleep(arguments.idle_s)
        for executor, at_first in before.items():
            used = sum(cpu_s(pid) for pid in executor.pids) - sum(at_first)
            print(f"{len(at_first)} idle ranks: {100 * used / arguments.idle_s:.1f} % of a core")
            results.append({"idle_ranks": len(at_first), "cpu_share": used / arguments.idle_s})
    if arguments.json:
        write_json(arguments.json, config={"steps": arguments.steps, "idle_s": arguments.idle_s}, results=results)


if __name__ == "__main__":
    main()
