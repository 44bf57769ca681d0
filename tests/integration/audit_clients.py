"""Clients of a loaded server that write down what came back, and three kinds of load that they make."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx

from tests.checkpoints import VOCAB_SIZE
from tests.unit.server.conftest import Live

PATH = "/v1/completions"
MAX_QUEUED = 40  # of the server that `rough` overloads


@dataclass
class Replies:
    """What the clients of one phase saw.

    Attributes:
        usages: of each reply, and of each stream that was read to its end.
        ends: finish reasons of the sequences of those, and what became of the others.
        sequences: those of all requests that were not refused, with the tokens of their prompts.
        cut_tokens: tokens that were seen of requests without a usage; cut_limit: the most they can have had.
        wall_s: from request to reply, added up over sequences.
        only_lengths: no sequence ended before the engine knew that it would.
    """

    num_requests: int = 0
    usages: list[dict] = field(default_factory=list)
    sequences: int = 0
    prompt_tokens_of_sequences: int = 0
    ends: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    cut_prompt_tokens: int = 0
    cut_tokens: int = 0
    cut_limit: int = 0
    wall_s: float = 0.0
    only_lengths: bool = False
    policy: str = ""

    def sum(self, *path: str) -> float:
        """A figure of `usage`, over all of them."""
        total = 0.0
        for usage in self.usages:
            value = usage
            for name in path:
                value = value[name]
            total += value
        return total

    @property
    def exact(self) -> bool:
        """Whether every request that was not refused was answered in full."""
        return not self.cut_limit

    @property
    def complete(self) -> int:
        return self.ends["stop"] + self.ends["length"]


async def events_of(reply: httpx.Response) -> AsyncIterator[bytes]:
    """The rows of an event stream; `aiter_lines` would split texts at line separators of their own."""
    rest = b""
    async for data in reply.aiter_bytes():
        *rows, rest = (rest + data).split(b"\n\n")
        for row in rows:
            yield row


class Clients:
    """Sends requests and writes down what came back."""

    def __init__(self, live: Live, policy: str, seed: int) -> None:
        self.live = live
        self.rng = random.Random(seed)
        self.replies = Replies(policy=policy)
        self.prefixes = [self.ids(48) for _ in range(3)]

    def ids(self, count: int) -> list[int]:
        return [self.rng.randrange(3, VOCAB_SIZE) for _ in range(count)]

    def prompt(self) -> list[int]:
        """Up to 110 tokens; half of them begin like others."""
        start = self.rng.choice(self.prefixes) if self.rng.random() < 0.5 else []
        return start + self.ids(self.rng.randrange(20, 60))

    async def whole(self, **fields: object) -> None:
        """A request that is answered in one piece, or refused, or too late."""
        started_s = time.monotonic()
        reply = await self.live.complete(**fields)
        replies, num_prompts = self.replies, len(fields["prompt"]) if isinstance(fields["prompt"][0], list) else 1
        if reply.status_code == 429:
            replies.refused["overloaded"] += 1
            return
        self._count(fields, num_prompts, time.monotonic() - started_s)
        if reply.status_code == 504:
            self._cut(fields, "deadline", seen=0)
            return
        assert reply.status_code == 200, reply.text
        replies.usages.append(reply.json()["usage"])
        replies.ends.update(choice["finish_reason"] for choice in reply.json()["choices"])
        self._count_prompts(reply.json()["usage"], fields)

    async def stream(self, *, leave_after: int | None = None, **fields: object) -> None:
        """A streamed request; the client may leave after some tokens."""
        started_s = time.monotonic()
        options = {"include_usage": True, "continuous_usage_stats": True}
        request = self.live.http.build_request("POST", PATH, json=fields | {"stream": True, "stream_options": options})
        reply = await self.live.http.send(request, stream=True)
        assert reply.status_code == 200
        usage, ends = {"completion_tokens": 0}, []
        async for row in events_of(reply):
            if not row.startswith(b"data: {"):
                continue
            chunk = json.loads(row[6:])
            usage = chunk["usage"]
            ends += [choice["finish_reason"] for choice in chunk["choices"] if choice["finish_reason"]]
            if leave_after is not None and usage["completion_tokens"] >= leave_after:
                break
        await reply.aclose()
        self._count(fields, 1, time.monotonic() - started_s)
        if leave_after is not None:
            self._cut(fields, "abort", seen=usage["completion_tokens"])
            return
        self.replies.usages.append(usage)
        self.replies.ends.update(ends)
        self._count_prompts(usage, fields)

    async def refused(self, reason: str, content: bytes) -> None:
        reply = await self.live.http.post(PATH, content=content)
        assert reply.status_code in (400, 404, 413), reply.text
        self.replies.refused[reason] += 1

    def _count(self, fields: dict, num_prompts: int, wall_s: float) -> None:
        num_sequences = num_prompts * fields.get("n", 1)
        self.replies.num_requests += 1
        self.replies.sequences += num_sequences
        self.replies.wall_s += wall_s * num_sequences

    def _count_prompts(self, usage: dict, fields: dict) -> None:
        self.replies.prompt_tokens_of_sequences += usage["prompt_tokens"] * fields.get("n", 1)

    def _cut(self, fields: dict, reason: str, *, seen: int) -> None:
        n = fields.get("n", 1)
        self.replies.ends[reason] += n
        self.replies.cut_tokens += seen
        self.replies.cut_limit += n * fields["max_tokens"]
        self.replies.cut_prompt_tokens += n * len(fields["prompt"])


async def lengths(clients: Clients) -> None:
    """One sequence each, all as long as they may be."""
    clients.replies.only_lengths = True
    bodies = [{"prompt": clients.prompt(), "max_tokens": 100, "ignore_eos": True, "priority": i % 3} for i in range(20)]
    await asyncio.gather(*(clients.stream(**b) if i % 2 else clients.whole(**b) for i, b in enumerate(bodies)))


async def mixed(clients: Clients) -> None:
    """Several sequences and prompts per request, stop strings and stop tokens."""
    jobs = []
    for i in range(6):
        stop = {"stop": [chr(97 + i), "e"], "min_tokens": 3} if i % 2 else {"stop_token_ids": list(range(3, 60))}
        jobs.append(clients.stream(prompt=clients.prompt(), max_tokens=40, n=2, **stop))
        jobs.append(clients.whole(prompt=[clients.prompt(), clients.prompt()], max_tokens=40, n=1 + i % 2, **stop))
    await asyncio.gather(*jobs)


async def rough(clients: Clients) -> None:
    """Clients that leave, deadlines that pass, requests that are refused, and more of them than the queue takes."""
    long = {"max_tokens": 150, "ignore_eos": True}
    jobs = [clients.stream(prompt=clients.prompt(), leave_after=1 + 3 * i, n=1 + i % 2, **long) for i in range(6)]
    jobs += [clients.whole(prompt=clients.prompt(), deadline_s=0.03, n=1 + i % 3, **long) for i in range(6)]
    jobs += [clients.whole(prompt=clients.prompt(), max_tokens=30, ignore_eos=True) for _ in range(6)]
    jobs += [
        clients.refused("invalid_request", b'{"prompt":"a","top_p":7}'),
        clients.refused("invalid_request", b'{"prompt":'),
        clients.refused("context_length", json.dumps({"prompt": [5] * 256}).encode()),
        clients.refused("not_found", b'{"prompt":"a","model":"other"}'),
        clients.refused("too_large", b'{"prompt":"' + b"a" * 70_000 + b'"}'),
    ]
    await asyncio.gather(*jobs)
    full = [clients.whole(prompt=clients.prompt(), n=13, **long) for _ in range(MAX_QUEUED // 13)]
    await asyncio.gather(*full, *(clients.whole(prompt=clients.prompt(), max_tokens=20) for _ in range(30)))
