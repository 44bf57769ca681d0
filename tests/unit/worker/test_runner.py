"""The runner turns plans into batches of a model: tokens of the step before are filled in, on any device."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastserve._C.kv import KvManager
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, SchedulerConfig, StepPlan
from fastserve.layers.context import ForwardContext
from fastserve.types import SamplingParams
from fastserve.worker.device import CpuDevice, Device
from fastserve.worker.request_changes import RequestChanges, RequestStart
from fastserve.worker.request_table import RequestTable
from fastserve.worker.runner import Runner, RunnerLimits
from tests.fake_device import FakeDevice

VOCAB = 64
KV_CACHE = torch.zeros(64, 1, 2, 1, 16, 32)


class EchoModel:
    """A decoder that keeps what it was given and wants the token after the last one of each row; none after token 9."""

    spec = SimpleNamespace(num_heads=1, head_dim=32, vocab_size=VOCAB)

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.context: ForwardContext | None = None

    def forward(self, token_ids: torch.Tensor, context: ForwardContext, **_: object) -> torch.Tensor:
        self.token_ids, self.context = token_ids.tolist(), context
        last = token_ids[context.logit_rows]
        logits = torch.nn.functional.one_hot(last.long() + 1, VOCAB).float()
        logits[last == 9] = torch.nan
        return logits


class Rig:
    """A scheduler and a runner."""

    def __init__(self, device: Device) -> None:
        self.scheduler = Scheduler(
            SchedulerConfig(policy="fcfs", max_num_seqs=4), KvManager(num_device_blocks=64), LatencyModel()
        )
        self.requests, self.model = RequestTable(), EchoModel()
        limits = RunnerLimits(max_num_tokens=64, max_num_seqs=4, max_model_len=64, block_size=16)
        self.runner = Runner(self.model, KV_CACHE, device, limits, self.requests)

    def add(self, request_id: int, prompt: list[int], **sampling: object) -> None:
        tokens = np.array(prompt, np.int32)
        options = RequestOptions(max_tokens=8, ignore_eos=True)
        slot = self.scheduler.add(request_id, tokens, options, now_s=0.0)
        start = RequestStart(
            slot=slot, prompt=tokens, max_total_tokens=64, sampling=SamplingParams(temperature=0.0, **sampling), seed=0
        )
        self.requests.apply(RequestChanges((start,)))

    def plan(self) -> StepPlan:
        return self.scheduler.schedule(0.0)


@pytest.fixture(params=[CpuDevice, FakeDevice], ids=["cpu", "simulated gpu"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return Rig(request.param())


def test_a_prefill_and_the_decode_planned_behind_it(rig):
    rig.add(1, [5, 6, 7])
    rig.add(2, [10, 11])
    first, ahead = rig.plan(), rig.plan()  # the second one before the first has run: its tokens are not known yet
    assert ahead.token_ids.tolist() == [-1, -1]
    step = rig.runner.launch(first)
    assert rig.model.token_ids == [5, 6, 7, 10, 11]
    assert rig.model.context.positions.tolist() == [0, 1, 2, 0, 1]
    assert rig.model.context.logit_rows.tolist() == [2, 4]
    behind = rig.runner.launch(ahead)
    assert rig.runner.finish(step).tokens.tolist() == [8, 12]
    assert rig.model.token_ids == [8, 12]
    assert rig.model.context.positions.tolist() == [3, 2]
    assert rig.model.context.attention.num_decode_rows == 2
    assert rig.runner.finish(behind).tokens.tolist() == [9, 13]
    assert ahead.token_ids.tolist() == [-1, -1], "the plan itself is not written to"


def test_a_failed_sample_runs_on_a_valid_token(rig):
    rig.add(1, [5, 6, 9])
    first, ahead = rig.plan(), rig.plan()
    step = rig.runner.launch(first)
    rig.runner.launch(ahead)
    assert rig.runner.finish(step).tokens.tolist() == [-1]
    assert rig.model.token_ids == [0]


def test_a_history_ends_in_the_token_of_the_step_before(rig, monkeypatch):
    rig.add(1, [5, 6, 7])
    rig.add(2, [10, 11], repetition_penalty=1.5)
    first, ahead = rig.plan(), rig.plan()
    seen = []
    monkeypatch.setattr("fastserve.worker.runner.sample", lambda logits, batch, *, out, workspace: seen.append(
        batch.history_tokens.tolist()) or out.copy_(torch.tensor([40, 50])))  # fmt: skip
    step = rig.runner.launch(first)
    rig.runner.launch(ahead)
    rig.runner.finish(step)
    assert seen == [[10, 11], [10, 11, 50]]


def test_slots_follow_the_block_table(rig):
    rig.add(1, list(range(10, 50)))
    plan = rig.plan()
    rig.runner.launch(plan)
    positions = np.arange(40)
    expected = plan.block_ids[positions // 16].astype(np.int64) * 16 + positions % 16
    assert rig.model.context.slots.tolist() == expected.tolist()
