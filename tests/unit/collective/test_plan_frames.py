"""Plans in a ring of shared memory: whole, small, refused when they do not fit."""

import threading

import numpy as np
import pytest

from fastserve._C.collective import FrameReader, FrameWriter, plan_bytes, read_plan
from fastserve._C.kv import KvManager
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, SchedulerConfig, StepPlan
from fastserve.errors import InvalidArgumentError
from tests import core_internals
from tests.plans import check_plan, contents

BLOCK_SIZE = 16


def some_plans(num_requests: int = 40, prompt_tokens: int = 50, steps: int = 30) -> list[StepPlan]:
    """Prefills, decodes, parks, with transfers; each plan as it is submitted."""
    kv = KvManager(block_size=BLOCK_SIZE, num_device_blocks=64, num_host_blocks=400, enable_prefix_caching=False)
    latency = LatencyModel()
    limits = SchedulerConfig(
        max_num_seqs=16, max_num_batched_tokens=128, max_prefill_chunk_tokens=64, max_model_len=256
    )
    scheduler = Scheduler(limits, kv, latency)
    rng = np.random.default_rng(0)
    for request_id in range(num_requests):
        prompt = rng.integers(0, 500, prompt_tokens).astype(np.int32)
        scheduler.add(request_id, prompt, RequestOptions(max_tokens=20, ignore_eos=True), now_s=0.0)
    plans = []
    for step in range(steps):
        plan = scheduler.schedule(float(step))
        plans.append(plan)
        scheduler.commit(plan.step, np.full(plan.num_samples, 7, np.int32), 0.01, float(step))
        if plan.num_transfers:
            ids = plan.transfer_ids.copy()
            scheduler.complete_transfers(ids, np.ones(len(ids), np.uint8), float(step))
        if step % 5 == 4:
            for request_id in plan.request_ids.tolist():
                core_internals.park(scheduler, request_id, False, float(step))
    return plans


@pytest.fixture(scope="module")
def plans() -> list[StepPlan]:
    return some_plans()


def ring(slot_bytes: int, *, num_readers: int = 1) -> tuple[FrameWriter, list[FrameReader]]:
    writer = FrameWriter(num_readers=num_readers, num_slots=4, slot_bytes=slot_bytes)
    return writer, [FrameReader(writer.fd, index) for index in range(num_readers)]


def test_plans_arrive_whole_at_every_reader(plans: list[StepPlan]) -> None:
    writer, readers = ring(1 << 16, num_readers=2)
    received = [StepPlan() for _ in readers]
    assert any(plan.num_transfers for plan in plans)
    for number, plan in enumerate(plans):
        text = b"x" * (number % 11)
        assert writer.write_plan(number, text, plan, timeout_s=0.0)
        for reader, target in zip(readers, received, strict=True):
            kind, frame = reader.read(0.0)
            assert kind == number
            assert bytes(frame[: len(text)]) == text
            read_plan(frame, len(text), target)
            reader.release()
            check_plan(target)
            assert contents(target) == contents(plan)
            assert target.shape == plan.shape


def test_a_plan_is_small(plans: list[StepPlan]) -> None:
    for plan in plans:
        if not plan.num_rows:
            continue
        limit = 130 * plan.num_rows + 4 * len(plan.block_ids) + 16 * plan.num_tokens
        moved = 13 * plan.num_transfers + 8 * len(plan.transfer_sources) + 4 * len(plan.ended_slots)
        assert plan_bytes(plan) <= limit + moved


def test_what_does_not_fit_is_refused_and_what_follows_arrives(plans: list[StepPlan]) -> None:
    large = max(plans, key=plan_bytes)
    writer, (reader,) = ring(plan_bytes(large) - 1)
    with pytest.raises(InvalidArgumentError, match="a frame has at most"):
        writer.write_plan(1, b"", large, timeout_s=0.0)
    assert writer.write(2, b"next", timeout_s=0.0)
    assert bytes(reader.read(0.0)[1]) == b"next"


def test_a_writer_waits_for_the_slowest_reader_and_goes_on_with_it() -> None:
    writer, (quick, slow) = ring(8, num_readers=2)
    for number in range(4):
        assert writer.write(number, b"", timeout_s=0.0)
        quick.read(0.0)
        quick.release()
    assert not writer.write(4, b"", timeout_s=0.01)
    slow.read(0.0)
    thread = threading.Thread(target=slow.release)
    thread.start()
    assert writer.write(4, b"", timeout_s=60.0)
    thread.join()
    assert [slow.read(0.0)[0] for _ in range(4)] == [1, 2, 3, 4]
    assert slow.read(0.0) is None


def test_a_frame_keeps_the_memory_in_place() -> None:
    writer, (reader,) = ring(8)
    writer.write(1, b"kept", timeout_s=0.0)
    frame = reader.read(0.0)[1]
    del writer, reader
    assert bytes(frame) == b"kept"
    with pytest.raises(TypeError):
        frame[0] = 1


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:40], lambda raw: raw + bytes(1), lambda raw: bytes(12) + b"\xff" * 200]
)
def test_bytes_that_are_no_plan_are_refused(plans: list[StepPlan], damage) -> None:
    writer, (reader,) = ring(1 << 16)
    writer.write_plan(1, b"", plans[3], timeout_s=0.0)
    raw = bytes(reader.read(0.0)[1])
    with pytest.raises(InvalidArgumentError, match="a plan"):
        read_plan(damage(raw), 0, StepPlan())
    with pytest.raises(InvalidArgumentError, match="must end within it"):
        read_plan(raw, len(raw) + 1, StepPlan())
