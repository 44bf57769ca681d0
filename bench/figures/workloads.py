"""The workloads that figures name, described in workloads.toml."""

import tomllib
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from fastserve.errors import InvalidArgumentError
from fastserve.workload import (
    Arrivals,
    Trace,
    Workload,
    draw_conversations,
    draw_requests,
    keep_short,
    lengths_alone,
    lognormal_lengths,
    read_trace,
    replay,
)

FILE = Path(__file__).with_name("workloads.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """Where the lengths of a workload come from and how its requests arrive.

    Attributes:
        file: a trace, in the folder of traces; or
        lognormal: mean prompt and mean output, tokens, and sigma of the logarithms; or
        phases: names of workloads, an equal number of requests of each, one after the other.
        speeds: of the phases, each in multiples of the rate.
        rows: from which to which share of the file's rows, e.g. (0.5, 1) for the second half.
        max_input_tokens, max_total_tokens: longer rows are left out.
        output_scale: factor on the outputs.
        arrivals: poisson; trace = the trace's own pattern, at the pace that gives the rate; conversations = Poisson
            conversations, their turns after think times.
        think_time_s: mean, of conversations.
    """

    file: str | None = None
    lognormal: tuple[float, float, float] | None = None
    phases: tuple[str, ...] = ()
    speeds: tuple[float, ...] = ()
    rows: tuple[float, float] = (0.0, 1.0)
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    output_scale: float = 1.0
    arrivals: str = "poisson"
    think_time_s: float = 30.0


def make_workload(name: str, traces: Path | None, *, rate: float, count: int, seed: int) -> Workload:
    """Draw a named workload.

    Args:
        name: in workloads.toml.
        traces: folder of the trace files; None where none is needed.
        rate: requests per second; inf = all at once.
    Raises:
        InvalidArgumentError: there is no such workload or no such file.
    """
    spec = find_workload(name)
    if spec.phases:
        return _phases(name, spec, traces, rate=rate, count=count, seed=seed)
    trace = _lengths(name, traces)
    if trace is None:
        trace = _drawn_lengths(spec, count, seed)
    if spec.arrivals == "trace" and np.isfinite(rate):
        return _at_own_times(name, trace, rate=rate, count=count, seed=seed)
    arrivals = Arrivals(rate=rate, think_time_s=spec.think_time_s)
    draw = draw_conversations if spec.arrivals == "conversations" else draw_requests
    return draw(trace, count, arrivals, name=name, seed=seed)


def find_workload(name: str) -> WorkloadSpec:
    """The description of a workload; raises InvalidArgumentError when there is none."""
    known = _all()
    if name not in known:
        raise InvalidArgumentError(f"workload must be one of {', '.join(known)}, got {name!r}")
    return known[name]


@cache
def _all() -> dict[str, WorkloadSpec]:
    tables = tomllib.loads(FILE.read_text(encoding="utf-8"))
    lists = ("lognormal", "phases", "speeds", "rows")
    return {
        name: WorkloadSpec(**{key: tuple(value) if key in lists else value for key, value in table.items()})
        for name, table in tables.items()
    }


@cache
def _read(path: Path) -> Trace:
    return read_trace(path)


@cache
def _lengths(name: str, traces: Path | None) -> Trace | None:
    """The rows of the workload's file within its limits; None when it has no file."""
    spec = find_workload(name)
    if spec.file is None:
        return None
    if traces is None or not (traces / spec.file).is_file():
        raise InvalidArgumentError(f"workload {name} needs {spec.file} in the folder of traces, got --traces {traces}")
    trace = _read(traces / spec.file)
    begin, end = (round(share * len(trace)) for share in spec.rows)
    trace = trace.take(np.arange(begin, end))
    output = np.maximum(np.rint(trace.output_tokens * spec.output_scale), 1).astype(np.int64)
    trace = replace(trace, output_tokens=output)
    return keep_short(trace, max_prompt_tokens=spec.max_input_tokens, max_total_tokens=spec.max_total_tokens)


def _drawn_lengths(spec: WorkloadSpec, count: int, seed: int) -> Trace:
    if spec.lognormal is None:
        raise InvalidArgumentError("a workload needs file, lognormal or phases")
    rng = np.random.default_rng((seed, 2))
    prompt, output, sigma = spec.lognormal
    longest = spec.max_total_tokens or np.iinfo(np.int64).max
    lengths = [lognormal_lengths(mean, count, rng, sigma=sigma) for mean in (prompt, output)]
    prompts = np.minimum(lengths[0], spec.max_input_tokens or longest)
    return lengths_alone(prompts, np.clip(lengths[1], 1, np.maximum(longest - prompts, 1)))


def _at_own_times(name: str, trace: Trace, *, rate: float, count: int, seed: int) -> Workload:
    """A stretch of the trace that begins at a place the seed gives."""
    if trace.arrival_s is None:
        raise InvalidArgumentError(f"workload {name}: its file has no arrival times")
    count = min(count, len(trace))
    start = int(np.random.default_rng((seed, 3)).integers(0, len(trace) - count, endpoint=True))
    rows = trace.take(np.arange(start, start + count))
    span_s = float(rows.arrival_s[-1] - rows.arrival_s[0])
    return replay(rows, name=name, seed=seed, speed=rate * span_s / count)


def _phases(name: str, spec: WorkloadSpec, traces: Path | None, *, rate: float, count: int, seed: int) -> Workload:
    sizes = [count // len(spec.phases)] * len(spec.phases)
    parts, begin_s = [], 0.0
    for phase, speed, size in zip(spec.phases, spec.speeds, sizes, strict=True):
        part = make_workload(phase, traces, rate=rate * speed, count=size, seed=seed)
        parts.append(replace(part, arrival_s=part.arrival_s + begin_s))
        begin_s = float(parts[-1].arrival_s[-1])
    columns = ("arrival_s", "prompt_tokens", "output_tokens", "priority", "conversation")
    return Workload(name, *(np.concatenate([getattr(part, c) for part in parts]) for c in columns), seed=seed)
