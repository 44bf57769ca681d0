"""Workloads: request lengths, arrival times, conversations and priorities, synthetic or read from traces."""

from fastserve.workload.arguments import add_workload_arguments, has_synthetic_lengths, workload_from
from fastserve.workload.arrivals import fixed_arrivals, gamma_arrivals, poisson_arrivals, replayed_arrivals
from fastserve.workload.build import (
    Arrivals,
    draw_conversations,
    draw_priorities,
    draw_requests,
    keep_short,
    replay,
)
from fastserve.workload.lengths import lognormal_lengths, uniform_lengths
from fastserve.workload.ramp import RampUp
from fastserve.workload.trace import (
    COLUMNS,
    Trace,
    lengths_alone,
    read_trace,
    trace_header,
    trace_line,
    write_trace,
)
from fastserve.workload.turns import TurnMatcher
from fastserve.workload.workload import NO_CONVERSATION, Workload

__all__ = [
    "Arrivals",
    "COLUMNS",
    "NO_CONVERSATION",
    "RampUp",
    "Trace",
    "TurnMatcher",
    "Workload",
    "add_workload_arguments",
    "draw_conversations",
    "draw_priorities",
    "draw_requests",
    "fixed_arrivals",
    "gamma_arrivals",
    "has_synthetic_lengths",
    "keep_short",
    "lengths_alone",
    "lognormal_lengths",
    "poisson_arrivals",
    "read_trace",
    "replay",
    "replayed_arrivals",
    "trace_header",
    "trace_line",
    "uniform_lengths",
    "workload_from",
    "write_trace",
]
