"""Every number that a room of `_C` takes, set to the ends of its type and beyond: run as `python -m tests.core_arguments kv`.

The process has little memory to spare. It prints each call before it makes it, so the last line names the one that ended
it. A call may raise InvalidArgumentError, or TypeError for a number that its C++ type cannot hold; or it works, and then
what it was called on must still work.
"""

import ast
import contextlib
import importlib
import math
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import fastserve
from fastserve._C.kv import KvManager, Tier
from fastserve._C.offload import Direction, HostArena, OffloadEngine
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, SchedulerConfig, StepPlan
from fastserve.errors import DeviceError, InvalidArgumentError
from tests import core_internals

SPARE_BYTES = 1 << 30
FLOATS = [math.nan, math.inf, -math.inf, -1.0, 0.0, 5e-324, 1e-300, 1e-40, 1e-6, 1.0, 1e9, 1e300]
INTEGERS = [-(2**63), -(2**31), -2, -1, 0, 1, 7, 1024, 2**24 + 1, 2**31 - 2, 2**31 - 1, 2**32, 2**63 - 1, 2**64 - 1]
ROOMS = ("kv", "sched", "offload")
REFUSALS = (InvalidArgumentError, TypeError, OverflowError)
"""OverflowError is numpy's, of an array that cannot hold the number."""


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def make_kv(**changes: object) -> KvManager:
    return KvManager(**{"block_size": 4, "num_device_blocks": 16, "num_host_blocks": 8} | changes)


def use_kv(kv: KvManager) -> None:
    scheduler = Scheduler(SchedulerConfig(max_num_seqs=4, max_model_len=40), kv, LatencyModel())
    if kv.usage(Tier.DEVICE).total >= 40:
        use_scheduler(scheduler)
    scheduler.check_integrity()


def make_config(**changes: object) -> SchedulerConfig:
    return SchedulerConfig(**{"max_num_seqs": 4, "max_model_len": 40} | changes)


def use_config(config: SchedulerConfig) -> None:
    use_scheduler(make_scheduler(config))


def make_scheduler(config: SchedulerConfig | None = None) -> Scheduler:
    kv = KvManager(block_size=4, num_device_blocks=16, num_host_blocks=8)
    scheduler = Scheduler(config or make_config(), kv, LatencyModel())
    scheduler.add(0, ints(1, 2, 3), RequestOptions(max_tokens=4), now_s=1.0)
    scheduler.schedule(1.0)
    return scheduler


def use_scheduler(scheduler: Scheduler) -> None:
    """Run what it holds, and another request, for some iterations; times may have been moved to the end of the world."""
    scheduler.add(-5, ints(*range(9)), RequestOptions(max_tokens=2), now_s=2.0)
    plans = []
    for turn in range(8):
        with contextlib.suppress(InvalidArgumentError):  # two plans are in flight
            while True:
                plans.append(scheduler.schedule(3.0 + turn))
        for plan in plans[-2:]:
            try:
                scheduler.commit(plan.step, np.full(plan.num_samples, 5, np.int32), 0.1, 3.0 + turn)
            except InvalidArgumentError:
                continue  # it was made before, or committed by the call
    scheduler.take_events()
    scheduler.check_integrity()


def make_plan() -> StepPlan:
    scheduler = Scheduler(
        SchedulerConfig(max_model_len=40), KvManager(block_size=4, num_device_blocks=16), LatencyModel()
    )
    scheduler.add(0, ints(1, 2, 3), RequestOptions(), now_s=0.0)
    return scheduler.schedule(0.0)


def make_arena(**changes: object) -> HostArena:
    return HostArena(**{"num_blocks": 4, "block_bytes": 64, "prefault": False} | changes)


def make_offload(**changes: object) -> OffloadEngine:
    engine = OffloadEngine(np.zeros((4, 64), np.uint8), make_arena(), **changes)
    engine.submit(Direction.DEVICE_TO_HOST, ints(3), ints(3))
    return engine


def use_offload(engine: OffloadEngine) -> None:
    core_internals.check_integrity(engine)
    engine.close()


MAKERS: dict[str, Callable[..., object]] = {
    "KvManager": make_kv,
    "SchedulerConfig": make_config,
    "Scheduler": make_scheduler,
    "LatencyModel": LatencyModel,
    "RequestOptions": RequestOptions,
    "StepPlan": make_plan,
    "HostArena": make_arena,
    "OffloadEngine": make_offload,
}
USERS: dict[str, Callable[..., None]] = {
    "KvManager": use_kv,
    "SchedulerConfig": use_config,
    "Scheduler": use_scheduler,
    "OffloadEngine": use_offload,
}
ARGUMENTS: dict[str, object] = {
    "num_tokens": 12, "ok": True, "request_id": 0, "prompt": ints(1, 2), "options": RequestOptions(), "now_s": 1.0, "step": 0,
    "sampled": ints(5), "iteration_s": 0.1, "ids": np.empty(0, np.int64), "hold": True, "offload_bytes_per_s": 1e9,
    "upload_bytes_per_s": 1e9, "batch": 1.0, "total_ctx": 10.0, "ctx": 0.0, "prefill_tokens": 1.0, "prefill_pairs": 1.0,
    "num_decodes": 1.0, "decode_ctx": 1.0, "seconds": 0.1, "first": 0, "end": 1, "direction": Direction.DEVICE_TO_HOST,
    "ticket": 1, "timeout_s": 0.0, "offsets": np.zeros(1, np.int64),
    "sizes": np.ones(1, np.int64), "stream": 0, "source": np.zeros(8, np.uint8), "target": np.zeros(8, np.uint8),
    "source_blocks": ints(0), "target_blocks": ints(0), "samples": np.ones((6, 5)), "coefficients": [1e-3] * 5,
    "max_tokens": 3, "eos_token_ids": [1], "stop_token_ids": [1],
}  # fmt: skip
"""Good values, for the arguments that are not being varied."""
SPECIAL: dict[tuple[str, str], dict[str, object]] = {
    ("Scheduler", "add"): {"request_id": 1},
    ("Scheduler", "stop"): {"request_id": 9},  # unknown: request 0 has no outputs to stop at
    ("Scheduler", "complete_transfers"): {"ok": np.empty(0, np.uint8)},
}
VARIED_ARRAYS = {"prompt", "sampled", "ids", "offsets", "sizes", "source_blocks", "target_blocks", "samples",
                 "coefficients", "eos_token_ids", "stop_token_ids"}  # fmt: skip


def cases(room: str) -> Iterator[tuple[str, str, dict[str, object]]]:
    """(class or "", method or function, keyword arguments): of each first good ones, then with one number varied."""
    tree = ast.parse((Path(fastserve.__file__).parent / f"_C/{room}.pyi").read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield from _cases_of("", node)
        elif isinstance(node, ast.ClassDef) and node.name in MAKERS:
            if node.name == "SchedulerConfig":  # its constructor takes any of its properties
                yield node.name, "__init__", {}
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield from _cases_of(node.name, method)


def _cases_of(owner: str, function: ast.FunctionDef) -> Iterator[tuple[str, str, dict[str, object]]]:
    if owner == "SchedulerConfig" and any(ast.unparse(d).endswith(".setter") for d in function.decorator_list):
        yield from ((owner, "__init__", {function.name: value}) for value in _values_of(function.args.args[1]))
        return
    parameters = [a for a in (*function.args.args, *function.args.kwonlyargs) if a.arg not in ("self", "data")]
    is_static = any(isinstance(d, ast.Name) for d in function.decorator_list)
    if is_static or not parameters:
        return
    names = [p.arg for p in parameters]
    given = {} if function.name == "__init__" else {n: ARGUMENTS[n] for n in names if n in ARGUMENTS}
    given |= SPECIAL.get((owner, function.name), {})
    varied = [given | {p.arg: value} for p in parameters for value in _values_of(p)]
    if varied:
        yield owner, function.name, given
        yield from ((owner, function.name, arguments) for arguments in varied)


def _values_of(parameter: ast.arg) -> Iterator[object]:
    kind = ast.unparse(parameter.annotation) if parameter.annotation else ""
    if parameter.arg in VARIED_ARRAYS:
        yield from _arrays_like(ARGUMENTS[parameter.arg])
    elif "SupportsFloat" in kind:
        yield from FLOATS
    elif "SupportsInt" in kind:
        yield from INTEGERS


def _arrays_like(good: object) -> Iterator[object]:
    """The same array, its first entry replaced, and an empty one."""
    if isinstance(good, list):
        for value in [*FLOATS, *INTEGERS]:
            yield [value, *good[1:]]
        return
    for value in FLOATS if good.dtype == np.float64 else INTEGERS:
        if good.size and (good.dtype == np.float64 or np.iinfo(good.dtype).min <= value <= np.iinfo(good.dtype).max):
            changed = good.copy()
            changed.flat[0] = value
            yield changed
    yield good[:0]


def call(room: str, owner: str, name: str, arguments: dict[str, object]) -> None:
    """Make the call of a case, and use what it was made on."""
    if name == "__init__":
        made = MAKERS[owner](**arguments)
    elif owner:
        made = MAKERS[owner]()
        method = getattr(made, name)
        method(*arguments.values()) if name.startswith("__") else method(**arguments)
        if owner == "LatencyModel":
            assert made.decode_s(1, 1) >= 0.0 and math.isfinite(made.correction)
    else:
        getattr(importlib.import_module(f"fastserve._C.{room}"), name)(**arguments)
        return
    if owner == "RequestOptions":
        scheduler = make_scheduler()
        scheduler.add(1, ints(1, 2), made, now_s=1.0)
        use_scheduler(scheduler)
    if owner in USERS:
        USERS[owner](made)


def main(room: str) -> None:
    """Make every call of a room; returns only when none did harm."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + SPARE_BYTES,) * 2)
    counts = {"worked": 0, "refused": 0}
    former = None
    for number, (owner, name, arguments) in enumerate(cases(room)):
        is_good, former = (owner, name) != former, (owner, name)
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        print(f"{number} {owner}.{name}({shown})", flush=True)
        try:
            call(room, owner, name, arguments)
        except REFUSALS:
            assert not is_good, "good arguments are refused"
            counts["refused"] += 1
        except DeviceError as error:
            assert owner == "HostArena" and "ask for fewer host blocks" in str(error)
            counts["refused"] += 1
        else:
            counts["worked"] += 1
    print(counts)


if __name__ == "__main__":
    main(sys.argv[1])
