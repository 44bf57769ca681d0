"""What every backend of the offload engine owes, with the KV cache where it lies: cpu here, cuda where there is a GPU."""

import contextlib

import numpy as np
import pytest
import torch

from fastserve._C import DeviceError, InvalidArgumentError, cuda_compiled
from fastserve._C.offload import Direction, HostArena, OffloadEngine
from tests import core_internals
from tests.core_internals import FaultInjector

TO_HOST = Direction.DEVICE_TO_HOST
TO_DEVICE = Direction.HOST_TO_DEVICE
HAS_GPU = torch.cuda.is_available()
CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="no CUDA device, or torch without CUDA")]
)


class Backend:
    """A KV pool of `num_blocks` blocks on a device, its engine, and a stream that the "model" runs on."""

    def __init__(self, device: str, num_blocks: int, block_bytes: int, **options: object) -> None:
        self.stream = torch.cuda.Stream() if device == "cuda" else None
        generator = torch.Generator().manual_seed(3)
        kv = torch.randint(0, 256, (num_blocks, block_bytes), dtype=torch.uint8, generator=generator)
        self.kv = kv.to(device)
        self.arena = HostArena(num_blocks, block_bytes, pin=device == "cuda")
        self.host = np.asarray(self.arena)
        if self.stream is not None:
            torch.cuda.synchronize()
            options["compute_stream"] = self.stream.cuda_stream
        self.engine = OffloadEngine(self.kv, self.arena, **options)

    def compute(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def run(self, direction: Direction, source: list[int], target: list[int]) -> None:
        ticket = self.engine.submit(direction, np.array(source, np.int32), np.array(target, np.int32))
        completion = self.engine.wait(ticket)
        assert completion.ok, completion.error


@pytest.fixture(params=["cpu", CUDA])
def device(request) -> str:
    return request.param


@pytest.mark.parametrize("block_bytes", [16, 1000, 4096, 100_000, 3 << 20])
def test_blocks_come_back_bit_for_bit(device, block_bytes):
    backend = Backend(device, 40, block_bytes, verify_checksums=True)
    before = backend.kv.cpu().clone()
    out, back = list(range(0, 40, 2)), list(range(39, 0, -2))
    backend.run(TO_HOST, out, back)
    for device_block, host_block in zip(out, back, strict=True):
        assert np.array_equal(backend.host[host_block], before[device_block].numpy())
    backend.run(TO_DEVICE, back, list(reversed(out)))
    after = backend.kv.cpu()
    assert torch.equal(after[0::2], before[0::2].flip(0))
    assert torch.equal(after[1::2], before[1::2])
    assert core_internals.num_verified(backend.engine) == 40
    assert core_internals.num_mismatches(backend.engine) == 0
    core_internals.check_integrity(backend.engine)


def test_a_flipped_byte_on_the_host_turns_the_canary_red(device):
    backend = Backend(device, 4, 4096, verify_checksums=True)
    backend.run(TO_HOST, [2], [1])
    backend.host[1, 17] ^= 1
    ticket = backend.engine.submit(TO_DEVICE, np.array([1], np.int32), np.array([3], np.int32))
    completion = backend.engine.wait(ticket)
    assert completion.error == "checksum mismatch: device block 3, host block 1"


def test_an_injected_failure_fails_one_transfer_only(device):
    backend = Backend(device, 4, 4096)
    FaultInjector(backend.engine).inject_failure(TO_HOST, 1)
    failed = backend.engine.wait(backend.engine.submit(TO_HOST, np.array([0], np.int32), np.array([0], np.int32)))
    assert failed.error == "injected failure of a copy device to host"
    backend.run(TO_HOST, [0], [0])


def test_the_link_rate_is_measured(device):
    backend = Backend(device, 8, 1 << 20)
    backend.run(TO_HOST, list(range(8)), list(range(8)))
    assert 1e6 < backend.engine.link_bytes_per_s(TO_HOST) < 1e12


MOST_MOVING = 3  # owners at once, so that the others have steps to make


class ParkedOwners:
    """Owners of one block each, which are parked and brought back beside the steps that check and rewrite them."""

    def __init__(self, backend: Backend, seed: int) -> None:
        num_blocks = backend.kv.size(0)
        self.backend = backend
        self.rng = np.random.default_rng(seed)
        self.at = list(range(num_blocks - 2))  # device block of an owner, or ~host block
        self.stamp = np.zeros(len(self.at), np.uint8)
        self.moving: dict[int, tuple[int, int]] = {}  # ticket -> owner, place it leaves
        self.free_device, self.free_host = [num_blocks - 2, num_blocks - 1], list(range(num_blocks))
        self.most_moving = 0

    def step(self, wrong: torch.Tensor) -> None:
        """Every owner on the device finds what its last step wrote, and writes again."""
        away = {owner for owner, _ in self.moving.values()}
        for owner, block in enumerate(self.at):
            if block < 0 or owner in away:
                continue
            kv = self.backend.kv[block]
            wrong += (kv != int(self.stamp[owner])).any()
            self.stamp[owner] = self.rng.integers(256)
            kv.fill_(int(self.stamp[owner]))

    def start_move(self) -> None:
        """Park an owner, or bring one back, after the step just given to the device; no thread waits for the copy."""
        owner = int(self.rng.integers(len(self.at)))
        if len(self.moving) == MOST_MOVING or owner in {owner for owner, _ in self.moving.values()}:
            return
        place, to_host = self.at[owner], self.at[owner] >= 0
        free = self.free_host if to_host else self.free_device
        if not free:
            return
        target = free.pop(int(self.rng.integers(len(free))))
        source = place if to_host else ~place
        arrays = (np.array([block], np.int32) for block in (source, target))
        ticket = self.backend.engine.submit(TO_HOST if to_host else TO_DEVICE, *arrays)
        self.moving[ticket] = (owner, place)
        self.at[owner] = ~target if to_host else target
        self.most_moving = max(self.most_moving, len(self.moving))

    def take_ends(self) -> None:
        """Free the places that owners have left; others may have them at once."""
        for completion in self.backend.engine.poll():
            assert completion.ok, completion.error
            _, left = self.moving.pop(completion.ticket)
            (self.free_device if left >= 0 else self.free_host).append(left if left >= 0 else ~left)


def steps_with_parking(backend: Backend, num_steps: int) -> int:
    """Run steps with copies of random length beside them.

    Returns:
        How often a step found a byte that the owner's step before had not written.
    """
    owners = ParkedOwners(backend, seed=11)
    FaultInjector(backend.engine).inject_random_delay(0.0005, seed=12)
    with backend.compute():
        wrong = torch.zeros((), dtype=torch.int64, device=backend.kv.device)
        backend.kv.zero_()
        for _ in range(num_steps):
            owners.step(wrong)
            owners.start_move()
            owners.take_ends()
        while owners.moving:
            backend.engine.wait_any()
            owners.take_ends()
        owners.step(wrong)
        assert owners.most_moving == MOST_MOVING
        return int(wrong)


def test_no_step_sees_a_wrong_byte(device):
    assert steps_with_parking(Backend(device, 8, 8192, verify_checksums=True), 1000) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.timeout(300)), pytest.param("cuda", marks=CUDA.marks)]
)
@pytest.mark.timeout(600)
def test_no_step_sees_a_wrong_byte_in_a_hundred_thousand(device):
    assert steps_with_parking(Backend(device, 8, 1 << 20 if device == "cuda" else 4096), 100_000) == 0


@pytest.mark.skipif(HAS_GPU, reason="page-locking works where there is a GPU")
def test_page_locking_without_a_driver_says_so():
    error, text = (DeviceError, "cudaGetDeviceCount.*driver|no CUDA-capable device") if cuda_compiled() else (
        InvalidArgumentError, "no CUDA")  # fmt: skip
    with pytest.raises(error, match=text):
        HostArena(1, 4096, pin=True)
    assert not HostArena(1, 4096).pinned
