"""`python -m bench.serving.compare`: FastServe against another OpenAI-compatible server, interleaved on one machine.

Both servers run at once and take turns, so that a drift of the machine hits both. Three figures per server: mean normalised
latency at light load, output rate when saturated, and the arrival rate at which mean normalised latency crosses the limit.
"""

import argparse
import contextlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.lib.report import write_json
from bench.serving.model import CONFIG, build_benchmark_model
from bench.serving.servers import fastserve_command, free_port, serving
from fastserve.bench.client import Target
from fastserve.bench.load import LoadOptions, run_load
from fastserve.bench.metrics import summarize
from fastserve.bench.report import lateness_warning
from fastserve.workload import Arrivals, Workload, draw_requests, keep_short, read_trace

ROOT = Path(__file__).parents[2]
MAX_TOKENS = 2040


@dataclass(slots=True)
class Server:
    """A server under test and what was measured of it."""

    name: str
    url: str
    light: dict[str, object] = field(default_factory=dict)
    saturated: dict[str, object] = field(default_factory=dict)
    by_rate: dict[float, dict[str, object]] = field(default_factory=dict)
    samples: dict[str, list[list[float]]] = field(default_factory=dict)

    def run(self, label: str, workload: Workload) -> dict[str, object]:
        """Run a load and keep the raw (arrival, finish, tokens) of every request."""
        options = LoadOptions(vocab_size=CONFIG["vocab_size"], ignore_eos=True)
        run = run_load(Target(base_url=self.url, model="m"), workload, options)
        self.samples[label] = [[r.due_s, r.finished_s, r.output_tokens] for r in run.results]
        summary = summarize(run, percentiles=(95, 99))
        if not summary["completed"]:
            raise SystemExit(f"{self.name}, {label}: no request completed: {summary['error_samples']}")
        _print_row(self.name, label, summary)
        if warning := lateness_warning(run, summary):
            print(f"warning: {warning}", flush=True)
        return summary

    def rate_at(self, limit_s: float) -> float:
        """Arrival rate at which mean normalised latency crosses the limit, interpolated; inf when it never does."""
        rates = sorted(self.by_rate)
        latencies = [self.by_rate[rate]["mean_normalized_ms"] / 1e3 for rate in rates]
        for (r0, l0), (r1, l1) in zip(
            zip(rates, latencies, strict=True), zip(rates[1:], latencies[1:], strict=True), strict=False
        ):
            if l0 <= limit_s < l1:
                return r0 + (r1 - r0) * (np.log(limit_s / l0) / np.log(l1 / l0))
        return float("inf") if latencies and latencies[-1] <= limit_s else 0.0


def _print_row(name: str, label: str, summary: Mapping[str, object]) -> None:
    figures = {key: float("nan") if value is None else value for key, value in summary.items()}
    print(
        f"{name:>14} {label:>14}  mean {figures['mean_normalized_ms'] / 1e3:7.4f} s/token"
        f"  p95 {figures['p95_normalized_ms'] / 1e3:7.4f}  e2e {figures['mean_e2el_ms'] / 1e3:7.2f} s"
        f"  ttft {figures['mean_ttft_ms'] / 1e3:6.2f} s  output {figures['output_throughput']:7.1f} tokens/s"
        f"  failed {summary['failed']} {summary['error_counts'] or ''}",
        flush=True,
    )


def main() -> None:
    """Run the comparison; see --help."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trace", type=Path, required=True, help="CSV with request lengths")
    parser.add_argument("--scale", type=float, default=0.25, help="factor on all lengths")
    parser.add_argument("--peer", default="", help="command line of the other server; {model} and {port} are filled in")
    parser.add_argument("--peer-name", default="peer")
    parser.add_argument("--ours", default="", help="more flags for `fastserve serve`")
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--light-rate", type=float, default=0.2, help="arrivals per second")
    parser.add_argument("--light-requests", type=int, default=16)
    parser.add_argument("--saturated-requests", type=int, default=64)
    parser.add_argument("--rates", type=float, nargs="*", default=[1.5, 2.5, 4.0, 6.0])
    parser.add_argument("--requests", type=int, default=150, help="requests per rate")
    parser.add_argument("--limit-s", type=float, default=0.6, help="mean normalised latency that counts as too slow")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write results there")
    args = parser.parse_args()
    model = build_benchmark_model(ROOT / "build" / "bench" / "llama-12x768")
    trace = keep_short(read_trace(args.trace), max_total_tokens=int(MAX_TOKENS / args.scale))

    def load(rate: float, count: int) -> Workload:
        """Other prompts at each rate: no prefix cache may answer what an earlier load asked."""
        drawn = draw_requests(trace, count, Arrivals(rate=rate), name=args.trace.stem, seed=args.seed)
        return replace(drawn.scaled(args.scale), seed=args.seed + round(1e6 * min(rate, 1e6)))

    with contextlib.ExitStack() as stack:
        servers = _start(stack, args, model)
        for server in servers:
            server.run("warm-up", load(100.0, 20))
        for server in servers:
            server.light = server.by_rate[args.light_rate] = server.run(
                f"light {args.light_rate:g}/s", load(args.light_rate, args.light_requests)
            )
        for server in servers:
            server.saturated = server.run("saturated", load(float("inf"), args.saturated_requests))
        for rate in args.rates:
            for server in servers:
                latencies = [s["mean_normalized_ms"] for s in server.by_rate.values()]
                if not latencies or latencies[-1] <= 2e3 * args.limit_s:  # beyond that there is nothing left to learn
                    server.by_rate[rate] = server.run(f"{rate:g}/s", load(rate, args.requests))
    report = _report(servers, args.limit_s)
    brief = {s.name: {"rate_at_limit": s.rate_at(args.limit_s)} for s in servers}
    print(json.dumps(brief | {"ratios": report.get("ratios")}, indent=2))
    if args.json:
        paths = {"json", "peer", "trace"}  # of this machine
        config = {name: str(value) for name, value in vars(args).items() if name not in paths} | {
            "trace": args.trace.name
        }
        raw = {s.name: s.samples for s in servers}
        write_json(args.json, config=config, results=[{"summary": report, "raw": raw}])


def _start(stack: contextlib.ExitStack, args: argparse.Namespace, model: Path) -> list[Server]:
    log_folder = ROOT / "build" / "bench"
    port = free_port()
    # Requests that ignore the end of sequence tell their lengths by max_tokens: `learned` would know what no policy can.
    flags = ["--scheduling-policy", "skip-join-mlfq", "--max-num-seqs", str(args.max_num_seqs), "--no-enable-prefix-caching", "--max-model-len", "2048",
             "--kv-gib", "4", *shlex.split(args.ours)]  # fmt: skip
    ours = stack.enter_context(
        serving(fastserve_command(model, port, *flags), f"http://127.0.0.1:{port}", log_folder / "fastserve.log")
    )
    servers = [Server("fastserve", ours)]
    if args.peer:
        port = free_port()
        command = shlex.split(args.peer.format(model=model, port=port))
        url = stack.enter_context(serving(command, f"http://127.0.0.1:{port}", log_folder / "peer.log"))
        servers.append(Server(args.peer_name, url))
    time.sleep(1.0)
    return servers


def _report(servers: Sequence[Server], limit_s: float) -> dict[str, object]:
    rows: dict[str, object] = {
        s.name: {"light": s.light, "saturated": s.saturated, "by_rate": s.by_rate, "rate_at_limit": s.rate_at(limit_s)}
        for s in servers
    }
    if len(servers) == 2:
        ours, peer = servers
        rows["ratios"] = {
            "light_latency": ours.light["mean_normalized_ms"] / peer.light["mean_normalized_ms"],
            "saturated_output_rate": ours.saturated["output_throughput"] / peer.saturated["output_throughput"],
            "rate_at_limit": ours.rate_at(limit_s) / peer.rate_at(limit_s) if peer.rate_at(limit_s) else float("nan"),
        }
    return rows


if __name__ == "__main__":
    main()
