"""Simulated runs as text: one run in full, several as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastserve.config import LEARNING

if TYPE_CHECKING:  # the simulator loads slowly, and the command's help does not need it
    from fastserve.sim.explain import Level
    from fastserve.sim.learned import LengthClass
    from fastserve.sim.simulation import SimulationResult
    from fastserve.sim.suggest import Suggestion

_LATENCIES = (
    ("normalised latency, s/token", "normalized_latency_s"),
    ("end to end, s", "e2e_s"),
    ("first token, s", "ttft_s"),
    ("mean between tokens, s", "tpot_s"),
    ("gap between tokens, s", "gap_s"),
    ("longest pause, s", "longest_pause_s"),
)


def report(result: "SimulationResult") -> str:
    """One run: latencies, throughput, where the time went, what the scheduler did."""
    s = result.summary
    lines = [f"{result.workload}: {result.policy} on {result.deployment}", ""]
    rows = [["", "mean", "p50", "p95", "p99", "max"]]
    for label, name in _LATENCIES:
        d = getattr(s, name)
        rows.append([label, *(f"{value:.4g}" for value in (d.mean, d.p50, d.p95, d.p99, d.max))])
    lines += [*_table(rows), ""]
    has_goodput = s.goodput_per_s is not None
    goodput = f", goodput {s.goodput_per_s:.4g} requests/s ({s.goodput_share:.1%})" if has_goodput else ""
    refused = f", {s.num_refused} refused as too long" if s.num_refused else ""
    facts = [
        ["requests", f"{s.num_requests}{refused}"],
        ["throughput", f"{s.requests_per_s:.4g} requests/s, {s.output_tokens_per_s:.5g} tokens/s over {s.duration_s:.5g} s{goodput}"],
        ["a request's time", f"queue {s.queue_s:.4g} s, KV away {s.swap_s:.4g} s, parked {s.parked_s:.4g} s, running {s.run_s:.4g} s"],
        ["iterations", f"{s.iterations}, busy {100 * s.busy_share:.1f} %"],
        ["scheduling", f"{s.preemptions} preemptions, {s.promotions} promotions, {s.demotions} demotions"],
        ["KV", f"{s.swaps} swaps, {s.recomputes} recomputes ({s.recomputed_tokens} tokens); blocks out {s.offload_blocks}, mirrored {s.mirror_blocks}, in {s.upload_blocks}"],
    ]  # fmt: skip
    if s.cached_tokens:
        facts.append(["prefix cache", f"{s.cached_tokens} prompt tokens found"])
    if s.thrash_governor_trips:
        facts.append(["thrash governor", f"{s.thrash_governor_trips} trips"])
    width = max(len(name) for name, _ in facts)
    return "\n".join(lines + [f"{name:<{width}}  {text}" for name, text in facts])


def comparison(results: "Sequence[tuple[float | None, SimulationResult]]") -> str:
    """Several runs, one line each; latencies in seconds."""
    first = results[0][1]
    with_rate = any(rate is not None for rate, _ in results)
    with_goodput = first.summary.goodput_per_s is not None
    head = ["policy", "norm mean", "norm p50", "norm p95", "norm p99", "e2e mean", "e2e p99", "ttft mean", "ttft p50",
            "ttft p95", "ttft p99", "gap p50", "gap p95", "gap p99", "pause p50", "pause p95", "pause p99", "pause max",
            *(["goodput/s", "good share"] if with_goodput else []), "tokens/s", "preempt", "swaps", "recomp"]  # fmt: skip
    rows = [["rate", *head] if with_rate else head]
    for rate, result in results:
        s = result.summary
        n = s.normalized_latency_s
        first_token, gap, pause = s.ttft_s, s.gap_s, s.longest_pause_s
        seconds = [n.mean, n.p50, n.p95, n.p99, s.e2e_s.mean, s.e2e_s.p99]
        seconds += [first_token.mean, first_token.p50, first_token.p95, first_token.p99]
        seconds += [gap.p50, gap.p95, gap.p99, pause.p50, pause.p95, pause.p99, pause.max]
        seconds += [value for value in (s.goodput_per_s, s.goodput_share) if value is not None]
        row = [result.policy, *(f"{value:.4g}" for value in seconds), f"{s.output_tokens_per_s:.5g}"]
        row += [str(s.preemptions), str(s.swaps), str(s.recomputes)]
        rows.append([f"{rate:g}", *row] if with_rate else row)
    return "\n".join([f"{first.workload} on {first.deployment}", "", *_table(rows)])


def explanation(policy: str, levels: "Sequence[Level]", classes: "Sequence[LengthClass]" = ()) -> str:
    """The levels of a policy, from the highest on; for `learned` also the levels by tokens produced."""
    if not levels:
        return f"{policy}: no levels, one order for all requests"
    rows = [["level", "quantum, s", "prefill that fits, tokens", "full-batch iterations"]]
    for i, level in enumerate(levels):
        rows.append([f"Q{i + 1}", f"{level.quantum_s:.4g}", str(level.max_prompt_tokens), f"{level.decodes:.4g}"])
    lines = [policy, "", *_table(rows)]
    for found in classes if policy in LEARNING else ():
        lines += ["", *_learned(found)]
    return "\n".join(lines)


def _learned(found: "LengthClass") -> list[str]:
    quantiles = ", ".join(f"{100 * share:g} %: {tokens:.0f}" for share, tokens in found.quantiles)
    rows = [["output tokens so far", "level"]]
    rows += [[f"from {step.tokens}", f"Q{step.level + 1}"] for step in found.steps]
    return [f"lengths learned from {found.num_observations} requests: {quantiles}", "", *_table(rows)]


def advice(found: "Suggestion") -> str:
    """What was tried, and the flags to take."""
    rows = [
        ["policy", "starvation limit, s", "quantum ratio", "reserve", "norm mean", "e2e mean", "ttft mean", "swaps"]
    ]
    for trial in (found.fcfs, *found.trials):
        s, config = trial.summary, trial.scheduler
        own = [f"{config.starvation_limit_s:g}", f"{config.quantum_ratio:g}", str(config.reserve_iterations)]
        if config.policy == "fcfs":
            own = ["", "", ""]
        means = [f"{value.mean:.4g}" for value in (s.normalized_latency_s, s.e2e_s, s.ttft_s)]
        rows.append([config.policy, *own, *means, str(s.swaps)])
    best = found.best.scheduler
    flags = (
        f"--starvation-limit-s {best.starvation_limit_s:g} --quantum-ratio {best.quantum_ratio:g}"
        f" --reserve-iterations {best.reserve_iterations}"
    )
    before, after, plain = (getattr(t.summary, found.objective).mean for t in (found.start, found.best, found.fcfs))
    gain = (
        "nothing tried is better by 1 %"
        if found.best is found.start
        else f"{before:.4g} s before, {after:.4g} s with these"
    )
    lines = [*_table(rows), "", f"{flags}   # mean {found.objective}: {gain}"]
    if plain < after:
        lines.append(f"--scheduling-policy fcfs is better still on this workload: {plain:.4g} s")
    return "\n".join(lines)


def _table(rows: list[list[str]]) -> list[str]:
    """First column left, the others right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
