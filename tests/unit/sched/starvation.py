"""A search for requests that starve: random loads against the bound of docs/scheduling.md, on a scheduler without a model.

`python -m tests.unit.sched.starvation --runs 10000` searches for long; the test runs a few hundred.

The bound, checked in turns of the loop so that it holds for any iteration times: once a request is due, that is, has waited for
`starvation_limit_s` (for `max_pause_s`, with a stream that has begun; at once, under a policy that does not promote), it runs
before all the requests of its own and of higher classes that were there by then, and that were there when it was promoted, could
have been served to their ends one after the other. Requests that come later do not count, unless their class is higher. Under `slo` they take turns in the
tenth of the slots that is kept for those that missed their objective.
"""

import argparse
import random
from dataclasses import dataclass

import numpy as np

from fastserve._C.kv import KvManager, Tier
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, SchedulerConfig, StepPlan
from tests import core_internals

POLICIES = ("learned", "slo", "skip-join-mlfq", "mlfq", "fcfs", "priority")
PROMOTING = ("learned", "slo", "skip-join-mlfq", "mlfq")
BLOCK_SIZE = 4
MODEL_LEN = 48
WATCHED = 8  # the first requests of a run
TURNS = 4000  # longest run
# Turns that serving a request takes beside its chunks and tokens: it is moved out and back, or computed again, a few times.
AGAIN = 3
COPIES = 12
REST_SHARE = 10  # slo: of the slots, one in so many is for those that missed their objective


@dataclass
class Waiting:
    """A watched request that does not run."""

    since_s: float
    allowed: int | None = None  # turns left to the bound; None before it is due
    promoted: bool = False


@dataclass
class Live:
    """What the search knows of an unfinished request."""

    priority: int
    work: int  # turns that it takes at most, alone
    number: int  # of arrival
    held: bool = False
    streams: bool = False  # has output


class Search:
    """One random run."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        blocks = rng.choice((12, 14, 20, 40, 200))
        self.policy = rng.choice(POLICIES)
        self.alpha_s = rng.choice((0.03, 0.3, 3.0))
        self.max_pause_s = rng.choice((0.02, 0.2, 1.0, 1e6))
        self.slots = rng.choice((1, 2, 4, 7, 20))
        self.chunk = rng.choice((1, 4, 16))
        self.tokens = rng.choice((self.slots, self.slots + 3, 64))
        self.depth = rng.choice((1, 2))
        self.kv = KvManager(
            block_size=BLOCK_SIZE,
            num_device_blocks=blocks,
            num_host_blocks=rng.choice((0, 0, 3, 10, 400)),
            enable_prefix_caching=rng.random() < 0.3,
        )
        self.config = {
            "policy": self.policy,
            "max_num_seqs": self.slots,
            "max_num_batched_tokens": self.tokens,
            "max_prefill_chunk_tokens": self.chunk,
            "max_model_len": MODEL_LEN,
            "starvation_limit_s": self.alpha_s,
            "max_pause_s": self.max_pause_s,
            "ttft_slo_s": rng.choice((None, 0.05, 0.5, 5.0)) if self.policy == "slo" else None,
            "tpot_slo_s": rng.choice((None, 0.01, 0.1, 1.0)) if self.policy == "slo" else None,
            "preemption_mode": rng.choice(("auto", "swap", "recompute")),
            "max_parks_per_request": rng.choice((1, 64)),
            "thrash_parks_per_finish": rng.choice((0.1, 8.0)),
            "block_bytes": rng.choice((0.0, 1e6)),
            "write_through": rng.random() < 0.5,
            "min_length_observations": rng.choice((1, 1, 8)),
        }
        self.scheduler = Scheduler(SchedulerConfig(**self.config), self.kv, LatencyModel())
        self.iterations_s = rng.choice(((0.01,), (0.001, 0.01, 0.05), (0.05, 0.3)))
        self.num_priorities = rng.choice((1, 1, 2, 3))
        self.rate = rng.choice((0.3, 1.0, 2.0))  # newcomers per turn
        self.short = rng.random() < 0.7  # newcomers are, so that they come first
        self.disturbs = rng.random() < 0.5
        self.now_s = 0.0
        self.next_id = 0
        self.live: dict[int, Live] = {}
        self.waiting: dict[int, Waiting] = {}
        self.pending: list[StepPlan] = []
        self.copies: list[int] = []
        self.longest_share = 0.0  # of the bound that a wait took

    def run(self) -> float:
        """Run until all watched requests have ended; return the largest share of the bound that one of them waited."""
        for turn in range(TURNS):
            self._arrivals(turn)
            if self.disturbs:
                self._disturb()
            plan = self.scheduler.schedule(self.now_s)
            self.pending.append(plan)
            self._check(set(plan.request_ids.tolist()))
            if len(self.pending) >= self.depth:
                self._commit(self.pending.pop(0))
            if not any(i in self.live for i in range(WATCHED)):
                break
        self.scheduler.check_integrity()
        return self.longest_share

    def _arrivals(self, turn: int) -> None:
        rng = self.rng
        while len(self.live) < 400 and (self.next_id < WATCHED or rng.random() < self.rate / (1.0 + self.rate)):
            watched = self.next_id < WATCHED
            small = not watched and self.short
            prompt = rng.randrange(1, 6 if small else MODEL_LEN - 1)
            outputs = rng.randrange(1, 3 if small else MODEL_LEN - prompt + 1)
            # Later requests are never of a higher class than all before: strict classes may starve lower ones.
            priority = rng.randrange(self.num_priorities) if watched else self.num_priorities - 1
            if self.policy == "fcfs":
                priority = 0
            grain = max(1, min(self.chunk, self.tokens) // 2)
            again = AGAIN * (-(-(prompt + outputs) // grain) + COPIES)
            self.live[self.next_id] = Live(priority, outputs + again, self.next_id)
            options = RequestOptions(max_tokens=outputs, ignore_eos=True, priority=priority)
            tokens = np.full(prompt, rng.randrange(3), np.int32)
            self.scheduler.add(self.next_id, tokens, options, now_s=self.now_s)
            if watched:
                self.waiting[self.next_id] = Waiting(self.now_s)
            self.next_id += 1

    def _disturb(self) -> None:
        rng = self.rng
        if not self.live or rng.random() < 0.8:
            return
        victim = rng.choice(list(self.live))
        what = rng.random()
        if what < 0.4:
            self.live[victim].held = rng.random() < 0.5 and victim >= WATCHED
            core_internals.park(self.scheduler, victim, self.live[victim].held, self.now_s)
        elif what < 0.8:
            for i, request in self.live.items():
                if request.held:
                    request.held = False
                    core_internals.unpark(self.scheduler, i, self.now_s)
                    break
        else:
            self.scheduler.abort(victim, self.now_s)
            self._take_events()

    def _check(self, running: set[int]) -> None:
        for i in [i for i in self.waiting if i not in self.live]:
            del self.waiting[i]
        for i in range(WATCHED):
            if i not in self.live:
                continue
            if i in running:
                self.waiting.pop(i, None)
                continue
            wait = self.waiting.setdefault(i, Waiting(self.now_s))
            self._count(i, wait)

    def _count(self, i: int, wait: Waiting) -> None:
        limit_s = 0.0
        if self.policy in PROMOTING:
            limit_s = self.max_pause_s if self.live[i].streams else self.alpha_s
            if self.policy == "learned" and not self.scheduler.explain(i, self.now_s)["index_s"]:
                limit_s = 0.0  # order of arrival
        if self.now_s - wait.since_s < limit_s:
            wait.allowed = None  # it was due by its arrival, and now the index is followed
            return
        if wait.allowed is None:
            wait.allowed = wait_bound = self._work_before(i)
            wait.bound = wait_bound
        if not wait.promoted and self.scheduler.explain(i, self.now_s)["starving"]:
            wait.promoted = True
            more = self._work_before(i)
            wait.allowed += more
            wait.bound += more
        wait.allowed -= 1
        self.longest_share = max(self.longest_share, 1.0 - wait.allowed / wait.bound)
        if wait.allowed < 0:
            view = self.scheduler.explain(i, self.now_s)
            raise AssertionError(
                f"request {i} starves: {view}; {self.config}; device blocks {self.kv.usage(Tier.DEVICE).total}"
            )

    def _work_before(self, i: int) -> int:
        """Turns that serving those takes that are there now, in its own class or a higher one, itself included."""
        own = self.live[i].priority
        work = COPIES + sum(request.work for request in self.live.values() if request.priority <= own)
        return REST_SHARE * work if self.policy == "slo" else work

    def _commit(self, plan: StepPlan) -> None:
        started = plan.transfer_ids.tolist()
        elapsed_s = self.rng.choice(self.iterations_s) if plan.num_rows else 0.0
        self.now_s += elapsed_s or 0.001
        self.scheduler.commit(plan.step, np.ones(plan.num_samples, np.int32), elapsed_s, self.now_s)
        for row in plan.sample_rows.tolist():
            request = self.live.get(int(plan.request_ids[row]))
            if request is not None:
                request.streams = True
        self.copies += started
        ended = [i for i in self.copies if self.rng.random() < 0.5]
        if ended:
            self.copies = [i for i in self.copies if i not in set(ended)]
            self.scheduler.complete_transfers(np.array(ended, np.int64), np.ones(len(ended), np.uint8), self.now_s)
        self._take_events()

    def _take_events(self) -> None:
        events = self.scheduler.take_events()
        for i in events.request_ids[events.finish_reasons != 0].tolist():
            self.live.pop(i, None)


def main() -> None:
    """Search with many seeds; print how near to the bound the worst one came."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args()
    shares = {}
    for seed in range(args.first_seed, args.first_seed + args.runs):
        search = Search(seed)
        try:
            share = search.run()
        except AssertionError as error:
            raise SystemExit(f"seed {seed}: {error}") from error
        shares[search.policy] = max(shares.get(search.policy, 0.0), share)
    print(f"{args.runs} runs, no request waited longer than the bound; largest share of it:", shares)


if __name__ == "__main__":
    main()
