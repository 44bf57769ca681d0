"""Results of `bench/gpu_check.sh` as lines of text. Imports nothing beyond the standard library."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from bench.figures.slo import rate_at_slo
from bench.gpu.goals import FASTSERVE

SLO_S = 0.1  # mean time per token
NOT_CONTENDERS = (FASTSERVE, "roof")


def burst_line(shape: str, row: Mapping) -> str:
    """A full batch of decodes."""
    return (
        f"{shape:<10} batch {row['batch']:>3} full: {row['rows']} x {row['context']}  step {1e3 * row['step_s']:.2f} ms"
        f" ({row['of_bound']:.0%} of memory)  forward {1e3 * row['device_s']:.2f} ms  planning"
        f" {1e6 * row['schedule_s_per_step']:.0f} us  CPU {1e3 * row['cpu_s_per_step']:.2f} ms"
        f"  {row['tokens_per_s']:.0f} tokens/s"
    )


def load_line(shape: str, row: Mapping) -> str:
    """Requests that arrive over time."""
    ratio = row["preempting_step_ratio"]
    return (
        f"{shape:<10} batch {row['batch']:>3} load {row['load']:4.2f} = {row['rate']:5.1f}/s {row['policy']:<14}"
        f" {row['output_tokens_per_s']:6.0f} tokens/s  first {1e3 * row['first_token_mean_s']:7.1f} ms"
        f" (p90 {1e3 * row['first_token_p90_s']:7.1f})  per token {1e3 * row['token_latency_mean_s']:6.2f} ms"
        f" (p90 {1e3 * row['token_latency_p90_s']:6.2f})  {row['preemptions']} preempted"
        f"{'' if ratio is None else f' (their steps {ratio:.2f}x)'}"
        f"  swapped {(row['offload_bytes'] + row['upload_bytes']) / 1e9:.1f} GB"
    )


def slo_lines(rows: Sequence[Mapping]) -> Iterator[str]:
    """The rate of arrivals that each policy bears at SLO_S per token, for each batch size."""
    for batch in sorted({row["batch"] for row in rows}):
        words = []
        for policy in dict.fromkeys(row["policy"] for row in rows if row["batch"] == batch):
            of_policy = sorted(
                (row["rate"], row["token_latency_mean_s"])
                for row in rows
                if (row["batch"], row["policy"]) == (batch, policy)
            )
            rates, latencies = zip(*of_policy, strict=True)
            rate = rate_at_slo(rates, latencies, SLO_S)
            words.append(f"{policy} {f'> {rates[-1]:.1f}' if rate is None else f'{rate:.1f}'}/s")
        yield f"batch {batch}: rate at {SLO_S * 1e3:.0f} ms per token: {', '.join(words)}"


def serving_lines(rows: Iterable[Mapping]) -> Iterator[str]:
    """Everything of one model."""
    rows, shape = list(rows), ""
    for row in rows:
        if row["end"] == "start":
            shape = row["shape"]
            yield (
                f"{shape} on {row['device']}: started in {row['seconds']:.1f} s, attention {row['attention']}"
                f" {row['fallback']}, KV of {row['kv_tokens']} tokens"
            )
        elif row.get("kind") == "saturated":
            yield burst_line(shape, row)
    loads = [row for row in rows if row.get("kind") == "load"]
    yield from (load_line(shape, row) for row in loads)
    yield from slo_lines(loads)


def offload_lines(rows: Iterable[Mapping]) -> Iterator[str]:
    """A line per block size and direction, and one for the slowdown of decode."""
    for row in rows:
        if "slowdown" in row:
            yield f"copies both ways slow decode by {row['slowdown']:+.1%}"
        elif "block_bytes" in row:
            ratio = row["batched_bytes_per_s"] / row["roof_bytes_per_s"]
            yield (
                f"KV {row['block_bytes'] >> 10:>6} KiB {row['name']:<10} {row['batched_bytes_per_s'] / 1e9:6.1f} GB/s"
                f" = {ratio:4.2f} x large copy (one by one {row['single_bytes_per_s'] / 1e9:.1f})"
            )


def kernel_lines(rows: Iterable[Mapping]) -> Iterator[str]:
    """A line per kernel and shape: time, rate, share of the roof of the same run, and how much longer the others take."""
    rows = [row for row in rows if "median_s" in row]
    if not rows:
        return
    yield f"{'kernel':<15}{'shape':<34}{'us':>9} {'in graph':>8} {'rate':>13} {'of roof':>8}  against"
    for row in rows:
        seconds = row["median_s"]
        rate, share = _rate_and_share(row)
        in_graph = f"{1e6 * row['in_graph_s']:.2f}" if row.get("in_graph_s") else ""
        others = "  ".join(
            f"{name} {other_s / seconds[FASTSERVE]:.2f}x"
            for name, other_s in seconds.items()
            if name not in NOT_CONTENDERS
        )
        yield (
            f"{row['kernel']:<15}{row['shape']:<34}{seconds[FASTSERVE] * 1e6:9.1f} {in_graph:>8} {rate:>13} {share:>8}"
            f"  {others}"
        )


def _rate_and_share(row: Mapping) -> tuple[str, str]:
    """TFLOP/s of large matrix products, or GB/s of a copy; on a CPU, where the roof is timed as a contender, of that."""
    seconds = row["median_s"][FASTSERVE]
    if row.get("matmul_roof_flops_per_s") and row["flops"]:
        rate = row["flops"] / seconds
        return f"{rate / 1e12:.0f} TFLOP/s", f"{rate / row['matmul_roof_flops_per_s']:.0%}"
    if not row["bytes_moved"]:
        return "", ""
    rate = row["bytes_moved"] / seconds
    roof = row.get("copy_roof_bytes_per_s") or row["bytes_moved"] / row["median_s"]["roof"]
    return f"{rate / 1e9:.0f} GB/s", f"{rate / roof:.0%}"


def tested_lines(rows: Sequence[Mapping]) -> Iterator[str]:
    """How many tests ended how, and which did not pass."""
    outcomes = [row["outcome"] for row in rows]
    yield ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes)))
    for row in rows:
        if row["outcome"] not in ("passed", "skipped"):
            errors = [line for line in str(row.get("text", "")).splitlines() if line.startswith("E ")]
            yield f"{row['outcome']}: {row['end'].partition('unit/')[2] or row['end']}  {errors[0][1:].strip() if errors else ''}"[
                :220
            ]


MOST_FAULTS = 12


def smoke_lines(rows: Sequence[Mapping]) -> Iterator[str]:
    """The device, what was timed, and every item that did not end well, with all that is known of it."""
    outcomes = [row["outcome"] for row in rows]
    yield ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in sorted(set(outcomes)))
    bad = [row for row in rows if row["outcome"] not in ("ok", "left out")]
    yield from (f"{row['outcome']}: {row['end']}: {_facts(row)}" for row in bad[:MOST_FAULTS])
    if len(bad) > MOST_FAULTS:
        yield f"... and {len(bad) - MOST_FAULTS} more, in results.json"
    for row in rows:
        if row["outcome"] == "ok" and row["end"].startswith("time "):
            rate = f"{row['gb_per_s']:.0f} GB/s" if "gb_per_s" in row else f"{row.get('tflop_per_s', 0):.0f} TFLOP/s"
            yield f"{row['end']:<52} {row['us']:9.1f} us  {rate}"
        elif row["outcome"] == "ok" and row["end"] in ("device", "occupancy", "carve-out"):
            yield f"{row['end']}: {_facts(row)}"


def _facts(row: Mapping) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("end", "outcome", "seconds"))


PROFILED = (
    "Duration", "DRAM Throughput", "Compute (SM) Throughput", "Memory Throughput", "L2 Hit Rate", "Achieved Occupancy",
    "Theoretical Occupancy", "Registers Per Thread", "Issued Warp Per Scheduler", "No Eligible",
)  # fmt: skip


def profile_lines(rows: Iterable[Mapping]) -> Iterator[str]:
    """Some counters of each kernel; all of them are in results.json and ncu.txt."""
    for row in rows:
        metrics = row["metrics"]
        yield f"{row['end']}: {', '.join(f'{name} {metrics[name]}' for name in PROFILED if name in metrics)}"


def narrowing_lines(rows: Iterable[Mapping]) -> Iterator[str]:
    """The smallest shape of each kernel that fails, and the features that it needs for that."""
    for row in rows:
        if not row["minimal"]:
            yield f"{row['end']}: right when it was run again: {row['shape']}"
            continue
        yield f"{row['end']}: still fails: {row['minimal']}{'' if row['complete'] else ' (out of time)'}"
        yield f"    right without any of: {', '.join(row['needed']) or '-'}; fails without: {', '.join(row['not_needed']) or '-'}"
