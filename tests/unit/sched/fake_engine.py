"""An engine without a model: runs step plans on block memory that holds stamps instead of KV.

The stamp of a position is a hash of every token up to it, and the token sampled at a position is a function of its stamp.
So the output of a request is known beforehand, and a row that reads a block which was lost, mixed up, overwritten while it
was copied or not copied yet is noticed at once.

With several stages each has memory of its own, runs the plans in order and behind the stage before it, and moves blocks as
soon as a plan was made.
"""

import random
from dataclasses import dataclass, field

import numpy as np

from fastserve._C.kv import KvManager, Tier
from fastserve._C.sched import FinishReason, LatencyModel, RequestOptions, Scheduler, SchedulerConfig, StepPlan
from tests.plans import check_plan, contents

VOCAB = 40
EOS = 7
POISON = -1
COUNTED = ("preemptions", "iterations", "iteration_tokens", "upload_blocks", "prefix_cache_queries",
           "prefix_cache_hits", "recomputed_tokens")  # fmt: skip
NO_TOKENS = np.empty(0, np.int32)


def stamp_of(previous: int, token: int) -> int:
    """The stamp behind `token`, given that of the position before it (1 at the start)."""
    return (previous * 6364136223846793005 + token * 1442695040888963407 + 99) % (2**61 - 1)


def stamps_of(tokens: list[int]) -> list[int]:
    """The stamp of every position."""
    stamps, previous = [], 1
    for token in tokens:
        previous = stamp_of(previous, token)
        stamps.append(previous)
    return stamps


def sample(stamp: int) -> int:
    """The token that follows a position with this stamp."""
    return (stamp >> 13) % VOCAB


def expected_output(prompt: list[int], limit: int, *, min_tokens: int = 0, ignore_eos: bool = False) -> list[int]:
    """What an undisturbed run gives: until EOS, or `limit` tokens in all."""
    tokens, previous = list(prompt), stamps_of(prompt)[-1]
    while len(tokens) < limit:
        token = sample(previous)
        tokens.append(token)
        previous = stamp_of(previous, token)
        if token == EOS and not ignore_eos and len(tokens) - len(prompt) > min_tokens:
            break
    return tokens[len(prompt) :]


@dataclass
class Copy:
    """A transfer under way: a stage reads its source when it ends there, and its target is garbage until then."""

    to_host: bool
    sources: np.ndarray
    targets: np.ndarray
    stages: list[int]  # on which it has not ended
    ok: bool = True


@dataclass
class Client:
    """What the test knows of a request."""

    prompt: list[int]
    limit: int
    min_tokens: int = 0
    ignore_eos: bool = False
    stopped: bool = False  # at a stop string of its own
    output: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    promotions: int = 0
    level: int = 0


class FakeEngine:
    """Scheduler + KV manager + block memory + clock."""

    def __init__(self, *, block_size: int = 4, num_device_blocks: int, num_host_blocks: int, depth: int = 1,
                 check: bool = True, prefix_caching: bool = True, seed: int = 0, **config: object) -> None:  # fmt: skip
        self.kv = KvManager(
            block_size=block_size,
            num_device_blocks=num_device_blocks,
            num_host_blocks=num_host_blocks,
            enable_prefix_caching=prefix_caching,
        )
        self.latency = LatencyModel()
        self.scheduler = Scheduler(SchedulerConfig(**config), self.kv, self.latency)
        self.num_stages = int(config.get("num_stages", 1))
        self.block_size, self.check = block_size, check
        self.depth = depth if self.num_stages == 1 else self.num_stages
        self.prefix_caching = prefix_caching
        self.max_model_len = config.get("max_model_len", 2048)
        self.max_num_seqs = config.get("max_num_seqs", 256)
        self.max_tokens = config.get("max_num_batched_tokens", 2048)
        self.pool_tokens = num_device_blocks * block_size
        self.random = random.Random(seed)
        self.memory = [  # by stage
            {
                Tier.DEVICE: np.full((num_device_blocks, block_size), POISON, np.int64),
                Tier.HOST: np.full((max(1, num_host_blocks), block_size), POISON, np.int64),
            }
            for _ in range(self.num_stages)
        ]
        self.copies: dict[int, Copy] = {}
        self.clients: dict[int, Client] = {}
        self.pending: list[StepPlan] = []  # in flight
        self.stages_run: dict[int, int] = {}  # by step
        self.previous_sampled = NO_TOKENS
        self.now_s = 0.0
        self.plans: list[tuple[object, ...]] = []
        self.slots: dict[int, int] = {}  # in use: whose
        self.reached: dict[int, int] = {}  # tokens of each request whose KV was there once
        self.cached: dict[int, int] = {}  # of each request that ran: where its first row began
        self.left: dict[int, int] = {}  # was in the batch, is in no plan; plans that may be made before it counts
        self.expected = dict.fromkeys(COUNTED, 0)  # what the scheduler's counters must say
        self.num_chunks_ahead = 0  # rows of requests that are in an earlier plan in flight
        self.fail_transfers = 0.0
        self.end_transfers = 0.5  # share of the copies under way that end in a turn
        self.fail_samples = 0.0
        self.fail_steps = 0.0
        self.levels_may_fall = config.get("policy", "learned") == "learned"

    # --- what a caller does ---

    def add(self, request_id: int, prompt: list[int], max_tokens: int, **options: object) -> None:
        limit = min(self.max_model_len, len(prompt) + max_tokens, self.pool_tokens + 1)
        slot = self.scheduler.add(
            request_id,
            np.array(prompt, np.int32),
            RequestOptions(max_tokens=max_tokens, eos_token_ids=(EOS,), **options),
            now_s=self.now_s,
        )
        assert slot not in self.slots, f"slot {slot} is that of request {self.slots[slot]}"
        self.slots[slot] = request_id
        client = Client(prompt, limit, options.get("min_tokens", 0), options.get("ignore_eos", False))
        client.level = self.scheduler.explain(request_id, self.now_s)["level"]
        self.clients[request_id] = client
        self.verify()

    def live(self) -> list[int]:
        return [i for i, client in self.clients.items() if client.reason is None]

    # --- the loop ---

    def turn(self, iteration_s: float = 0.01) -> StepPlan:
        """Schedule one plan; run and commit the oldest once `depth` plans are in flight, of several stages also before."""
        plan = self.scheduler.schedule(self.now_s)
        self.verify()
        self.take_events()  # requests that were aborted or late
        self.count(plan)
        self.plans.append(contents(plan))
        self.check_slots(plan)
        self.check_progress(plan)
        self.check_disjoint(plan)
        self.pending.append(plan)
        self.stages_run[plan.step] = 0
        if self.num_stages > 1:
            self.start_copies(plan)
            self.advance(iteration_s)
        elif len(self.pending) >= self.depth:
            self.commit(iteration_s)
        self.end_copies()
        return plan

    def advance(self, iteration_s: float) -> None:
        """Let stages run some of what is in flight; commit some, or one at least where all stages have a plan."""
        newest = self.pending[-1]
        if not newest.num_rows and not newest.num_transfers and self.random.random() < 0.5:
            self.commit(iteration_s, at=len(self.pending) - 1)
        while len(self.pending) >= self.depth or (self.pending and self.random.random() < 0.3):
            self.commit(iteration_s)
        before = self.num_stages - 1  # the last one runs with the commit
        for plan in self.pending:
            while self.stages_run[plan.step] < before and self.random.random() < 0.7:
                self.run_stage(plan)
            before = self.stages_run[plan.step]

    def commit(self, iteration_s: float = 0.01, at: int = 0) -> None:
        plan = self.pending.pop(at)
        if self.num_stages == 1:
            self.start_copies(plan)  # not before: the plans before it still write
        sampled = NO_TOKENS
        while self.stages_run[plan.step] < self.num_stages:
            sampled = self.run_stage(plan)
        del self.stages_run[plan.step]
        self.now_s += iteration_s if plan.num_rows else 0.001
        if self.fail_steps and self.random.random() < self.fail_steps:
            self.scheduler.fail_step(plan.step, self.now_s)
        else:
            self.scheduler.commit(plan.step, sampled, iteration_s if plan.num_rows else 0.0, self.now_s)
            self.expected["iterations"] += plan.num_rows > 0
            self.expected["iteration_tokens"] += plan.num_tokens
        self.verify()
        self.take_events()
        self.note_who_left(plan)

    def drain(self, max_turns: int) -> None:
        """Run until nothing is left; then no block may be held on either tier."""
        turns = 0
        while self.scheduler.has_unfinished or self.copies or self.pending:
            assert turns < max_turns, f"not finished after {max_turns} turns: {self.describe()}"
            turns += 1
            if self.scheduler.has_unfinished or self.copies:
                self.turn()
            else:
                self.commit()
        self.take_events()
        for tier in (Tier.DEVICE, Tier.HOST):
            usage = self.kv.usage(tier)
            assert usage.used == 0 and usage.in_transfer == 0, f"{tier}: {usage.used} used, {usage.in_transfer} moving"
        assert self.scheduler.num_transfers_in_flight == 0
        self.scheduler.check_integrity()
        self.check_counters()

    def describe(self) -> str:
        return "; ".join(str(self.scheduler.explain(i, self.now_s)) for i in self.live()[:4])

    # --- the device ---

    def run_stage(self, plan: StepPlan) -> np.ndarray:
        """Run a plan on its next stage: write the stamps of every row, check what it reads; return the sampled tokens."""
        stage = self.stages_run[plan.step]
        self.stages_run[plan.step] += 1
        device = self.memory[stage][Tier.DEVICE].reshape(-1)
        tokens = plan.token_ids.copy()
        last_stamps = np.zeros(plan.num_rows, np.int64)
        assert plan.num_rows <= self.max_num_seqs
        assert plan.num_tokens <= -(-self.max_tokens // self.num_stages)
        assert len(set(plan.request_ids.tolist())) == plan.num_rows
        for row, request_id in enumerate(plan.request_ids.tolist()):
            begin, end = int(plan.query_start[row]), int(plan.query_start[row + 1])
            assert (end - begin == 1) == (row < plan.num_decode_rows)
            source = int(plan.token_sources[row])
            assert (tokens[begin] == -1) == (source >= 0)
            assert source < 0 or self.num_stages == 1
            if source >= 0:
                tokens[begin] = max(0, int(self.previous_sampled[source]))
            blocks = plan.block_ids[plan.block_start[row] : plan.block_start[row + 1]]
            length = int(plan.seq_lens[row])
            assert len(blocks) == -(-length // self.block_size)
            ctx = length - (end - begin)
            positions = np.arange(length)
            slots = (
                blocks[positions // self.block_size].astype(np.int64) * self.block_size + positions % self.block_size
            )
            assert (plan.slots[begin:end] == slots[ctx:]).all() and (plan.positions[begin:end] == positions[ctx:]).all()
            previous = int(device[slots[ctx - 1]]) if ctx else 1
            client = self.clients[request_id]
            known = (client.prompt + client.output)[:ctx]
            if self.check and client.reason is None:
                expected = stamps_of(known)
                assert device[slots[: len(known)]].tolist() == expected, f"request {request_id} reads wrong KV"
            for i in range(begin, end):
                previous = stamp_of(previous, int(tokens[i]))
                device[plan.slots[i]] = previous
            last_stamps[row] = previous
        sampled = np.array([sample(int(last_stamps[row])) for row in plan.sample_rows], np.int32)
        for entry, row in enumerate(plan.sample_rows.tolist()):
            length = len(self.clients[int(plan.request_ids[row])].prompt)
            assert plan.seq_lens[row] >= length, "no sample before the prompt is read"
            if self.fail_samples and self.random.random() < self.fail_samples:
                sampled[entry] = -1
        self.previous_sampled = sampled
        return sampled

    def start_copies(self, plan: StepPlan) -> None:
        for j, transfer_id in enumerate(plan.transfer_ids.tolist()):
            part = slice(plan.transfer_start[j], plan.transfer_start[j + 1])
            copy = Copy(
                bool(plan.transfer_to_host[j]),
                plan.transfer_sources[part].copy(),
                plan.transfer_targets[part].copy(),
                list(range(self.num_stages)),
            )
            for memory in self.memory:
                memory[Tier.HOST if copy.to_host else Tier.DEVICE][copy.targets] = POISON
            self.copies[transfer_id] = copy

    def end_copies(self) -> None:
        ends = [(i, copy.stages.pop()) for i, copy in self.copies.items() if self.random.random() < self.end_transfers]
        self.random.shuffle(ends)
        ok = [self.random.random() >= self.fail_transfers for _ in ends]
        for (transfer_id, stage), fine in zip(ends, ok, strict=True):
            copy, memory = self.copies[transfer_id], self.memory[stage]
            source, target = (Tier.DEVICE, Tier.HOST) if copy.to_host else (Tier.HOST, Tier.DEVICE)
            copy.ok = copy.ok and fine
            if fine:
                memory[target][copy.targets] = memory[source][copy.sources]
        complete = [i for i, _ in ends if not self.copies[i].stages]
        flags = [self.copies.pop(i).ok for i in complete]
        self.scheduler.complete_transfers(np.array(complete, np.int64), np.array(flags, np.uint8), self.now_s)
        self.verify()

    # --- what the counters must say, from the plans alone ---

    def count(self, plan: StepPlan) -> None:
        """Count what is in a new plan, and who was in the batch and is not in it."""
        expected, rows = self.expected, plan.request_ids.tolist()
        self.left = {i: plans - 1 for i, plans in self.left.items() if i not in rows and self.clients[i].reason is None}
        expected["preemptions"] += sum(plans == 0 for plans in self.left.values())
        self.left = {i: plans for i, plans in self.left.items() if plans}
        sizes = np.diff(plan.transfer_start)
        expected["upload_blocks"] += int(sizes[plan.transfer_to_host == 0].sum())
        for row, request_id in enumerate(rows):
            positions = plan.positions[plan.query_start[row] : plan.query_start[row + 1]].tolist()
            if request_id not in self.cached:
                self.cached[request_id] = positions[0]
                expected["prefix_cache_queries"] += len(self.clients[request_id].prompt) * self.prefix_caching
                expected["prefix_cache_hits"] += positions[0]
            reached = self.reached.get(request_id, 0)
            expected["recomputed_tokens"] += sum(position < reached for position in positions)
            self.reached[request_id] = max(reached, positions[-1] + 1)

    def note_who_left(self, plan: StepPlan) -> None:
        """A request of a committed plan is preempted unless it has ended or the next plan of a stage holds it."""
        unfinished = {i for i in plan.request_ids.tolist() if self.clients[i].reason is None}
        unfinished -= {i for other in self.pending for i in other.request_ids.tolist()}
        if self.num_stages == 1 and self.pending:
            self.expected["preemptions"] += len(unfinished)
        else:
            self.left |= dict.fromkeys(unfinished, self.num_stages)

    def check_counters(self) -> None:
        stats = self.scheduler.stats()
        found = {name: getattr(stats, name) for name in COUNTED}
        assert found == self.expected, f"{found} instead of {self.expected}"
        assert stats.finished == len(self.clients)
        assert stats.uploads_hit + stats.uploads_late + stats.uploads_wasted >= (stats.upload_blocks > 0)
        places = (stats.num_running, stats.num_waiting, stats.num_parked_device, stats.num_parked_host, stats.num_held)
        assert places == (0, 0, 0, 0, 0) and not any(stats.level_requests)
        assert stats.device_usage == stats.host_usage == 0.0

    # --- checks ---

    def verify(self) -> None:
        if self.check:
            self.scheduler.check_integrity()

    def check_slots(self, plan: StepPlan) -> None:
        """Rows name the slots of their requests; one is freed after the end of its request, when no plan names it."""
        check_plan(plan)
        assert [self.slots[i] for i in plan.request_slots.tolist()] == plan.request_ids.tolist()
        in_flight = {i for other in (*self.pending, plan) for i in other.request_slots.tolist()}
        for slot in plan.ended_slots.tolist():
            assert slot not in in_flight
            assert self.clients[self.slots.pop(slot)].reason is not None

    def check_disjoint(self, plan: StepPlan) -> None:
        """With several stages no request is in two plans, but with chunks of its prompt before the one that samples.

        The slots are those of all plans together.
        """
        if self.num_stages == 1:
            return
        rows = plan.request_ids.tolist()
        others = {i for other in self.pending for i in other.request_ids.tolist()}
        sampled = {int(other.request_ids[row]) for other in self.pending for row in other.sample_rows}
        assert sampled.isdisjoint(rows)
        assert sum(self.clients[i].reason is None for i in others.union(rows)) <= self.max_num_seqs
        self.num_chunks_ahead += len(others.intersection(rows))

    def check_progress(self, plan: StepPlan) -> None:
        if plan.num_rows or plan.num_transfers or self.copies or self.pending:
            return
        idle = [i for i in self.live() if not self.scheduler.explain(i, self.now_s)["held"]]
        assert not idle, f"nothing moves although there is work: {self.describe()}"

    def take_events(self) -> None:
        events = self.scheduler.take_events()
        for request_id, token, code, cached in zip(
            events.request_ids.tolist(),
            events.token_ids.tolist(),
            events.finish_reasons.tolist(),
            events.num_cached_tokens.tolist(),
            strict=True,
        ):
            client = self.clients[request_id]
            assert cached == self.cached.get(request_id, 0), f"request {request_id} reports {cached} cached tokens"
            assert client.reason is None, f"request {request_id} goes on after its end"
            if token >= 0:
                client.output.append(token)
            if code != FinishReason.NONE:
                client.reason = FinishReason(code)
                self.check_output(request_id, client)
        if not self.check:
            return
        for request_id in self.live():
            view = self.scheduler.explain(request_id, self.now_s)
            client = self.clients[request_id]
            if view["promotions"] == client.promotions and not self.levels_may_fall:
                assert view["level"] >= client.level, f"request {request_id} rose without a promotion"
            client.promotions, client.level = view["promotions"], view["level"]

    def check_output(self, request_id: int, client: Client) -> None:
        expected = expected_output(
            client.prompt, client.limit, min_tokens=client.min_tokens, ignore_eos=client.ignore_eos
        )
        if client.reason in (FinishReason.STOP, FinishReason.LENGTH) and not client.stopped:
            assert client.output == expected, f"request {request_id}: {client.output} instead of {expected}"
            stopped = expected[-1] == EOS and not client.ignore_eos and len(expected) > client.min_tokens
            assert client.reason == (FinishReason.STOP if stopped else FinishReason.LENGTH)
        else:
            assert client.output == expected[: len(client.output)]
