"""The offload engine through its binding: real copies between torch or numpy arenas and a HostArena."""

import gc
import math
import threading

import numpy as np
import psutil
import pytest
import torch

from fastserve._C import InvalidArgumentError
from fastserve._C.offload import Direction, HostArena, OffloadEngine
from tests import core_internals
from tests.core_internals import FaultInjector

TO_HOST = Direction.DEVICE_TO_HOST
TO_DEVICE = Direction.HOST_TO_DEVICE
BEYOND_ANY_TEST_S = 3600.0
BLOCK_SHAPE = (2, 2, 16, 8)  # [layer, K|V, token, feature]


def blocks(*ids):
    return np.array(ids, dtype=np.int32)


def make_kv(num_blocks, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(num_blocks, *BLOCK_SHAPE, generator=generator).to(dtype)


def make_engine(kv, num_host_blocks=8, **options):
    arena = HostArena(num_host_blocks, kv[0].numel() * kv.element_size())
    return OffloadEngine(kv, arena, **options), np.asarray(arena)


def run(engine, direction, source, target):
    completion = engine.wait(engine.submit(direction, source, target))
    assert completion.ok, completion.error
    return completion


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_blocks_come_back_bit_for_bit(dtype):
    kv = make_kv(6, dtype)
    before = kv.clone()
    engine, host = make_engine(kv, verify_checksums=True)
    out = run(engine, TO_HOST, blocks(4, 1), blocks(0, 7))
    assert out.bytes == 2 * engine.block_bytes
    assert out.seconds > 0
    assert host[7].tobytes() == kv[1].contiguous().view(torch.uint8).numpy().tobytes()
    kv.zero_()
    run(engine, TO_DEVICE, blocks(7, 0), blocks(1, 2))
    assert torch.equal(kv[1], before[1])
    assert torch.equal(kv[2], before[4])
    assert not kv[0].any()
    assert (core_internals.num_verified(engine), core_internals.num_mismatches(engine)) == (4, 0)
    core_internals.check_integrity(engine)


def test_a_numpy_array_may_play_the_device():
    kv = np.arange(4 * 100, dtype=np.float32).reshape(4, 100)
    engine, host = make_engine(torch.from_numpy(kv))
    engine_on_numpy = OffloadEngine(kv, HostArena(2, 400))
    run(engine, TO_HOST, blocks(3), blocks(0))
    assert np.array_equal(host[0].view(np.float32), kv[3])
    run(engine_on_numpy, TO_HOST, blocks(3), blocks(1))
    run(engine_on_numpy, TO_DEVICE, blocks(1), blocks(0))
    assert np.array_equal(kv[0], kv[3])


def test_poll_reports_each_completion_once():
    engine, _ = make_engine(make_kv(4))
    tickets = [engine.submit(TO_HOST, blocks(i), blocks(i)) for i in range(4)]
    assert core_internals.num_in_flight(engine) == 4
    completions = []
    while engine.wait_any():
        completions += engine.poll()
    assert [c.ticket for c in completions] == tickets == [1, 2, 3, 4]
    assert all(c.ok and c.error == "" and c.direction is TO_HOST for c in completions)
    assert engine.poll() == []
    assert core_internals.num_in_flight(engine) == 0


def test_adjacent_blocks_share_one_copy():
    engine, _ = make_engine(make_kv(8))
    run(engine, TO_HOST, blocks(0, 1, 2, 5), blocks(4, 5, 6, 7))
    counters = core_internals.counters(engine, TO_HOST)
    assert (counters.num_transfers, counters.num_failed) == (1, 0)
    assert (counters.num_blocks, counters.num_copies, counters.bytes) == (4, 2, 4 * engine.block_bytes)
    assert core_internals.counters(engine, TO_DEVICE).num_transfers == 0


def test_a_transfer_of_no_blocks_completes():
    engine, _ = make_engine(make_kv(2))
    assert run(engine, TO_DEVICE, blocks(), blocks()).bytes == 0


def test_a_slow_transfer_leaves_the_other_direction_free():
    engine, _ = make_engine(make_kv(4), queue_capacity=1)
    FaultInjector(engine).inject_delay(TO_HOST, BEYOND_ANY_TEST_S)
    assert engine.submit(TO_HOST, blocks(0), blocks(0)) == 1
    assert engine.submit(TO_DEVICE, blocks(2), blocks(2)) == 2
    assert engine.wait(2).ok
    assert engine.wait(1, timeout_s=0) is None
    assert not engine.wait_any(timeout_s=0.001)


def test_submit_releases_the_gil_while_the_queue_is_full():
    engine, _ = make_engine(make_kv(4), queue_capacity=1)
    FaultInjector(engine).inject_delay(TO_HOST, BEYOND_ANY_TEST_S)
    engine.submit(TO_HOST, blocks(0), blocks(0))
    closer = threading.Thread(target=engine.close)
    closer.start()
    with pytest.raises(InvalidArgumentError, match="closed"):  # close() ran while submit waited, or before it
        engine.submit(TO_HOST, blocks(1), blocks(1))
    closer.join()


def test_an_injected_failure_fails_one_transfer_only():
    engine, _ = make_engine(make_kv(4))
    FaultInjector(engine).inject_failure(TO_DEVICE, 1)
    failed = engine.wait(engine.submit(TO_DEVICE, blocks(0), blocks(0)))
    assert not failed.ok
    assert failed.error == "injected failure of a copy host to device"
    assert "injected failure" in repr(failed)
    run(engine, TO_DEVICE, blocks(0), blocks(0))
    run(engine, TO_HOST, blocks(1), blocks(1))


def test_the_canary_turns_red_when_a_byte_of_the_host_copy_flips():
    engine, host = make_engine(make_kv(4), verify_checksums=True)
    run(engine, TO_HOST, blocks(2), blocks(5))
    host[5, 17] ^= 1
    completion = engine.wait(engine.submit(TO_DEVICE, blocks(5), blocks(3)))
    assert not completion.ok
    assert completion.error == "checksum mismatch: device block 3, host block 5"
    assert core_internals.num_mismatches(engine) == 1


def test_a_delay_shows_in_the_link_rate():
    engine, _ = make_engine(make_kv(2))
    assert engine.link_bytes_per_s(TO_HOST) == 10e9
    FaultInjector(engine).inject_delay(TO_HOST, 0.01)
    run(engine, TO_HOST, blocks(0), blocks(0))
    assert 0 < engine.link_bytes_per_s(TO_HOST) <= engine.block_bytes / 0.01
    assert engine.link_bytes_per_s(TO_DEVICE) == 10e9


def test_copies_go_on_after_the_names_of_the_arenas_are_gone():
    kv = np.full((64, 1 << 16), 9, dtype=np.uint8)
    arena = HostArena(64, 1 << 16)
    engine = OffloadEngine(kv, arena)
    FaultInjector(engine).inject_random_delay(0.001, seed=1)
    for block in range(64):
        engine.submit(TO_HOST, blocks(block), blocks(63 - block))
    host = np.asarray(arena)
    del kv, arena
    gc.collect()
    while engine.wait_any():
        assert all(completion.ok for completion in engine.poll())
    assert int(host.min()) == 9


def test_an_engine_dropped_with_copies_queued_ends_them_first():
    kv = make_kv(8)
    threads_before = psutil.Process().num_threads()
    for _ in range(20):
        engine, _ = make_engine(kv)
        FaultInjector(engine).inject_random_delay(0.0005, seed=2)
        for block in range(8):
            engine.submit(TO_HOST, blocks(block), blocks(block))
        assert psutil.Process().num_threads() > threads_before
        del engine
        assert psutil.Process().num_threads() == threads_before


def test_the_memory_of_a_bytearray_stays_put_while_an_engine_uses_it():
    memory = bytearray(4 * 64)
    engine = OffloadEngine(memoryview(memory).cast("B", (4, 64)), HostArena(2, 64))
    with pytest.raises(BufferError):
        memory.extend(b"x")
    del engine
    gc.collect()
    memory.extend(b"x")


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (blocks(4), blocks(0), r"device arena must be in \[0, 4\), got 4"),
        (blocks(0), blocks(8), r"host arena must be in \[0, 8\), got 8"),
        (blocks(-1), blocks(0), r"got -1"),
        (blocks(0, 1), blocks(0), "same length, got 2 and 1"),
        (blocks(0, 1), blocks(3, 3), "block 3 twice"),
        (np.array([0]), blocks(0), "source_blocks must be int32, got int64"),
        (blocks(0), blocks(0).reshape(1, 1), "target_blocks must have 1 dimensions"),
        (np.arange(4, dtype=np.int32)[::2], blocks(0, 1), "source_blocks must be contiguous"),
    ],
)
def test_bad_ids_are_refused_with_the_reason(source, target, reason):
    engine, _ = make_engine(make_kv(4))
    with pytest.raises(InvalidArgumentError, match=reason):
        engine.submit(TO_HOST, source, target)
    assert core_internals.num_in_flight(engine) == 0


def test_ids_must_be_an_array():
    engine, _ = make_engine(make_kv(4))
    with pytest.raises(TypeError):
        engine.submit(TO_HOST, [0], [0])
    with pytest.raises(TypeError):
        engine.submit("out", blocks(0), blocks(0))


def test_blocks_of_a_transfer_in_flight_are_refused_to_others():
    engine, _ = make_engine(make_kv(4))
    FaultInjector(engine).inject_delay(TO_HOST, BEYOND_ANY_TEST_S)
    engine.submit(TO_HOST, blocks(0), blocks(5))
    with pytest.raises(InvalidArgumentError, match="block 5 of the host arena is still being written"):
        engine.submit(TO_DEVICE, blocks(5), blocks(1))
    with pytest.raises(InvalidArgumentError, match="block 0 of the device arena is in use"):
        engine.submit(TO_DEVICE, blocks(1), blocks(0))
    with pytest.raises(InvalidArgumentError, match="block 5 of the host arena is in use"):
        engine.submit(TO_HOST, blocks(1), blocks(5))
    core_internals.check_integrity(engine)


@pytest.mark.parametrize("timeout_s", [math.nan, -1.0, -math.inf])
def test_senseless_timeouts_are_refused(timeout_s):
    engine, _ = make_engine(make_kv(2))
    ticket = engine.submit(TO_HOST, blocks(0), blocks(0))
    with pytest.raises(InvalidArgumentError, match="timeout_s"):
        engine.wait_any(timeout_s)
    with pytest.raises(InvalidArgumentError, match="timeout_s"):
        engine.wait(ticket, timeout_s)


def test_a_ticket_is_reported_once_and_must_be_known():
    engine, _ = make_engine(make_kv(2))
    ticket = engine.submit(TO_HOST, blocks(0), blocks(0))
    engine.wait(ticket)
    with pytest.raises(InvalidArgumentError, match="reported already"):
        engine.wait(ticket)
    with pytest.raises(InvalidArgumentError, match="never given out"):
        engine.wait(ticket + 1)


@pytest.mark.parametrize("seconds", [math.nan, -1.0, math.inf])
def test_senseless_faults_are_refused(seconds):
    engine, _ = make_engine(make_kv(2))
    faults = FaultInjector(engine)
    with pytest.raises(InvalidArgumentError):
        faults.inject_delay(TO_HOST, seconds)
    with pytest.raises(InvalidArgumentError):
        faults.inject_random_delay(seconds, seed=0)
    with pytest.raises(InvalidArgumentError):
        faults.inject_failure(TO_HOST, -1)


def test_close_cancels_what_is_queued_and_keeps_the_completions():
    engine, _ = make_engine(make_kv(4))
    FaultInjector(engine).inject_delay(TO_HOST, BEYOND_ANY_TEST_S)
    tickets = [engine.submit(TO_HOST, blocks(i), blocks(i)) for i in range(4)]
    engine.close()
    engine.close()
    completions = engine.poll()
    assert sorted(c.ticket for c in completions) == tickets
    assert sum(c.error.startswith("cancelled") for c in completions) >= 3
    with pytest.raises(InvalidArgumentError, match="closed"):
        engine.submit(TO_HOST, blocks(0), blocks(0))
    core_internals.check_integrity(engine)


@pytest.mark.parametrize(
    ("device_arena", "reason"),
    [
        (torch.zeros(4, 100)[:, ::2], "contiguous"),
        (torch.zeros(4, 65), "one size, got 260 bytes .* and 256 bytes"),
        (torch.zeros(0, 64), "non-empty"),
        (torch.zeros(256, dtype=torch.uint8), "non-empty tensor"),
        (np.frombuffer(bytes(4 * 256), dtype=np.uint8).reshape(4, 256), "writable"),
    ],
)
def test_device_arenas_that_do_not_fit_are_refused(device_arena, reason):
    with pytest.raises(InvalidArgumentError, match=reason):
        OffloadEngine(device_arena, HostArena(2, 256))


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="device_arena must be a torch tensor"):
        OffloadEngine("kv", HostArena(2, 256))
    with pytest.raises((TypeError, InvalidArgumentError)):
        OffloadEngine(torch.zeros(4, 64), None)
    with pytest.raises(InvalidArgumentError, match="must not share memory"):
        arena = HostArena(2, 256)
        OffloadEngine(np.asarray(arena), arena)
    with pytest.raises(InvalidArgumentError, match="queue_capacity"):
        OffloadEngine(torch.zeros(4, 64), HostArena(2, 256), queue_capacity=0)


def test_many_random_transfers_match_a_model():
    rng = np.random.default_rng(5)
    kv = rng.integers(0, 256, (32, 512), dtype=np.uint8)
    arena = HostArena(48, 512)
    host = np.asarray(arena)
    engine = OffloadEngine(kv, arena, queue_capacity=8, verify_checksums=True)
    FaultInjector(engine).inject_random_delay(100e-6, seed=9)
    device_model, host_model = kv.copy(), host.copy()
    filled = set()
    for _ in range(300):
        device_ids = rng.permutation(32).astype(np.int32)
        host_ids = rng.permutation(48).astype(np.int32)
        out_device, out_host = device_ids[:6], host_ids[:6]
        readable = [block for block in host_ids[6:].tolist() if block in filled][:5]
        in_host = np.array(readable, dtype=np.int32)
        in_device = device_ids[6 : 6 + len(readable)]
        engine.submit(TO_HOST, out_device, out_host)
        engine.submit(TO_DEVICE, in_host, in_device)
        host_model[out_host] = device_model[out_device]
        device_model[in_device] = host_model[in_host]
        filled.update(out_host.tolist())
        while engine.wait_any():
            assert all(completion.ok for completion in engine.poll())
        kv[device_ids[-1]] = device_model[device_ids[-1]] = rng.integers(0, 256, 512, dtype=np.uint8)
    assert np.array_equal(kv, device_model)
    assert np.array_equal(host, host_model)
    assert core_internals.num_mismatches(engine) == 0
    core_internals.check_integrity(engine)
