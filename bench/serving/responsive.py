"""How long `/health` takes while others send what is heavy to read: it must stay below 50 ms for 99 of 100 asks.

A small random model is served, with a chat template that runs away when a message says so. One client asks `/health` every
20 ms throughout; first alone, then while attackers send the bodies below as fast as they are answered. The probe's own process does
nothing else, and the attackers are processes of their own, so that what is measured is the server.
"""

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.demo.model import build_demo_model
from bench.lib.report import write_json
from bench.serving.servers import fastserve_command, free_port, serving

ROOT = Path(__file__).parents[2]
GOAL_P99_MS = 50.0
ASK_EVERY_S = 0.02
NO_ANSWER_S = 60.0
MIB = 1 << 20
TEMPLATE = (
    "{% if messages[0].content == 'forever' %}{% for _ in range(100000) %}{% for _ in range(100000) %}{% endfor %}{% endfor %}{% endif %}"
    "{% if messages[0].content == 'huge' %}{{ 'a' * (messages | length * 10**9) }}{% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
)


def attacks() -> dict[str, list[tuple[str, bytes]]]:
    """Bodies by attack: path and content, sent in turn."""
    words = b"the quick brown fox, " * (4 * MIB // 22)

    def chat(content: str) -> bytes:
        return json.dumps({"messages": [{"role": "user", "content": content}]}).encode()

    def listed(item: bytes, size: int = 4 * MIB - 100) -> bytes:
        return b"[%s]" % b",".join([item] * (size // (len(item) + 1)))

    return {
        "4 MB prompts": [
            ("/v1/completions", b'{"prompt":"%s"}' % words),
            ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"%s"}]}' % words),
            ("/tokenize", b'{"prompt":"%s"}' % words[:MIB]),
        ],
        "huge lists": [
            ("/v1/completions", b'{"prompt":%s}' % listed(b"7")),
            ("/v1/completions", b'{"prompt":%s}' % listed(b"[]")),
            ("/v1/completions", b'{"prompt":"a","max_tokens":1,"metadata":%s}' % listed(b"0")),
            ("/v1/completions", b"{%s}" % b",".join(b'"f%d":0' % i for i in range(300_000))),
        ],
        "long /detokenize": [
            ("/detokenize", b'{"tokens":%s}' % listed(b"7")),
            ("/detokenize", b'{"tokens":%s}' % listed(b"999", 500_000)),
        ],
        "bad templates": [("/v1/chat/completions", chat("forever")), ("/v1/chat/completions", chat("huge"))],
        "stop strings": [
            (
                "/v1/completions",
                json.dumps(
                    {"prompt": "hi", "n": 16, "max_tokens": 64, "ignore_eos": True, "stop": [c * 1000 for c in "abcd"]}
                ).encode(),
            )
        ],
    }


def attack(url: str, bodies: list[tuple[str, bytes]], stop: object, counts: object) -> None:
    """Send the bodies in turn until the stop event is set; count the replies by status class."""
    with httpx.Client(base_url=url, timeout=60) as client:
        while not stop.is_set():
            for path, body in bodies:
                if stop.is_set():
                    return
                try:
                    status = client.post(path, content=body).status_code
                except httpx.HTTPError:
                    status = 600
                counts[status // 100] += 1


def ask(url: str, seconds: float) -> list[float]:
    """Ask /health for so long; milliseconds of each, those of the time limit where there was no answer."""
    taken_ms = []
    with httpx.Client(base_url=url, timeout=NO_ANSWER_S) as client:
        end_s = time.perf_counter() + seconds
        while (start_s := time.perf_counter()) < end_s:
            try:
                client.get("/health").raise_for_status()
                taken_ms.append((time.perf_counter() - start_s) * 1e3)
            except httpx.HTTPError:
                taken_ms.append(NO_ANSWER_S * 1e3)
            time.sleep(ASK_EVERY_S)
    return taken_ms


def under_attack(url: str, bodies: list[tuple[str, bytes]], args: argparse.Namespace) -> tuple[list[float], list[int]]:
    """Latencies of /health, and replies to the attackers by status class (the last: none)."""
    context = multiprocessing.get_context("spawn")
    stop, counts = context.Event(), context.Array("q", 7)
    attackers = [
        context.Process(target=attack, args=(url, bodies, stop, counts), daemon=True) for _ in range(args.attackers)
    ]
    for attacker in attackers:
        attacker.start()
    while not sum(counts):  # they import for a second
        time.sleep(0.05)
    taken_ms = ask(url, args.seconds)
    stop.set()
    for attacker in attackers:
        attacker.join(60)
    return taken_ms, list(counts)


def build_model() -> Path:
    """The demo's model, with the template above."""
    folder = build_demo_model(ROOT / "build" / "bench" / "responsive-model", sorted(ROOT.glob("*.md")))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": TEMPLATE}))
    return folder


def main() -> int:
    """Print one row per attack; exit 1 when a p99 is beyond the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack")
    parser.add_argument("--attackers", type=int, default=2, help="clients at a time")
    parser.add_argument("--only", nargs="*", help="names of attacks")
    parser.add_argument("--json", type=Path, help="write results there")
    args = parser.parse_args()
    port = free_port()
    table = Table(title="/health, milliseconds")
    for name in ("while", "asks", "p50", "p99", "max", "replies to attackers: 2xx", "4xx", "5xx", "none"):
        table.add_column(name, justify="left" if name == "while" else "right")
    results = []
    with serving(
        fastserve_command(build_model(), port), f"http://127.0.0.1:{port}", ROOT / "build" / "bench" / "responsive.log"
    ) as url:
        rows = {"nothing else": None} | attacks()
        for name, bodies in rows.items():
            if args.only and bodies is not None and name not in args.only:
                continue
            taken_ms, counts = (ask(url, args.seconds), [0] * 7) if bodies is None else under_attack(url, bodies, args)
            p50, p99, most = np.percentile(taken_ms, [50, 99, 100])
            results.append({"while": name, "p50_ms": p50, "p99_ms": p99, "max_ms": most, "raw_ms": taken_ms})
            table.add_row(
                name,
                str(len(taken_ms)),
                *(f"{ms:.1f}" for ms in (p50, p99, most)),
                *map(str, [*counts[2:3], *counts[4:]]),
            )
    Console(width=120).print(table)
    if args.json:
        config = {name: value for name, value in vars(args).items() if name != "json"}
        write_json(args.json, config=config, results=results)
    late = [row["while"] for row in results if row["p99_ms"] > GOAL_P99_MS]
    if late:
        print(f"p99 is beyond the goal of {GOAL_P99_MS:g} ms under: {', '.join(late)}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
