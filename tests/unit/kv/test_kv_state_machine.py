"""The KV manager against a model that copies bytes: hypothesis looks for the shortest history that breaks it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastserve._C.kv import Tier
from tests.core_internals import KvManager, Residency, Transfer, TransferKind

BLOCK_SIZE = 2
NUM_DEVICE_BLOCKS = 5
NUM_HOST_BLOCKS = 6
MAX_SEQUENCES = 3
MOVES = ["compute", "compute", "compute", "offload", "offload", "mirror", "give up"]
GARBAGE = -1


@dataclass
class Sequence:
    tokens: list[int]
    salt: int
    num_computed: int = 0


@dataclass
class Copy:
    transfer: Transfer
    source: tuple[Tier, list[int]] = field(init=False)
    target: tuple[Tier, list[int]] = field(init=False)

    def __post_init__(self) -> None:
        upload = self.transfer.kind is TransferKind.UPLOAD
        self.source = (Tier.HOST if upload else Tier.DEVICE, self.transfer.source.tolist())
        self.target = (Tier.DEVICE if upload else Tier.HOST, self.transfer.target.tolist())


class KvMachine(RuleBasedStateMachine):
    """Memory holds, per slot, the number of the context (salt and tokens up to there) whose KV it holds."""

    caching = True

    def __init__(self) -> None:
        super().__init__()
        self.manager = KvManager(
            block_size=BLOCK_SIZE,
            num_device_blocks=NUM_DEVICE_BLOCKS,
            num_host_blocks=NUM_HOST_BLOCKS,
            enable_prefix_caching=self.caching,
        )
        self.memory = {
            Tier.DEVICE: np.full((NUM_DEVICE_BLOCKS, BLOCK_SIZE), GARBAGE),
            Tier.HOST: np.full((NUM_HOST_BLOCKS, BLOCK_SIZE), GARBAGE),
        }
        self.contexts: dict[tuple[int, ...], int] = {}
        self.sequences: dict[int, Sequence] = {}
        self.copies: list[Copy] = []

    def context(self, seq: Sequence, position: int) -> int:
        return self.contexts.setdefault((seq.salt, *seq.tokens[: position + 1]), len(self.contexts))

    def usage(self) -> list[tuple[int, ...]]:
        usages = [self.manager.usage(tier) for tier in Tier]
        return [(u.free, u.used, u.in_transfer, u.cached) for u in usages]

    @precondition(lambda self: len(self.sequences) < MAX_SEQUENCES)
    @rule(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=9), salt=st.sampled_from([0, 0, 0, 1]))
    def begin(self, tokens: list[int], salt: int) -> None:
        seq = next(i for i in range(MAX_SEQUENCES) if i not in self.sequences)
        array = np.array(tokens, dtype=np.int32)
        probed = self.manager.probe_prefix(array, salt)
        cached = self.manager.begin(seq, array, salt)
        assert cached == probed and cached < len(tokens) and cached % BLOCK_SIZE == 0
        assert (self.manager.residency(seq) is Residency.NONE) == (cached == 0)
        self.sequences[seq] = Sequence(tokens, salt, cached)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), move=st.sampled_from(MOVES), count=st.integers(1, 4))
    def advance(self, data: st.DataObject, move: str, count: int) -> None:
        """Do to a sequence what its residency allows."""
        seq = data.draw(st.sampled_from(sorted(self.sequences)))
        residency = self.manager.residency(seq)
        if move == "give up":
            self.give_up(seq, drop=count == 1)
        elif residency is Residency.NONE or (residency is Residency.DEVICE and move == "compute"):
            self.compute(seq, count)
        elif residency is Residency.HOST:
            self.start(lambda: self.manager.try_upload(seq))
        elif residency is Residency.DEVICE and move == "mirror":
            self.start(lambda: self.manager.try_mirror(seq, count))
        elif residency is Residency.DEVICE:
            self.start(lambda: self.manager.try_offload(seq))

    def compute(self, seq: int, count: int) -> None:
        model = self.sequences[seq]
        target = model.num_computed + count
        model.tokens += [0] * max(0, target - len(model.tokens))
        before, held = self.usage(), self.manager.num_device_blocks(seq)
        missing = self.manager.num_blocks_to_reserve(seq, target)
        assert self.manager.try_reserve(seq, target) == (missing <= before[0][0])
        if missing > before[0][0]:
            assert self.usage() == before
            return
        blocks = self.manager.device_blocks(seq)
        self.memory[Tier.DEVICE][blocks[held:]] = GARBAGE
        for position in range(model.num_computed, target):
            block, slot = divmod(position, BLOCK_SIZE)
            self.memory[Tier.DEVICE][blocks[block], slot] = self.context(model, position)
        self.manager.commit_computed(seq, np.array(model.tokens, dtype=np.int32), target)
        model.num_computed = target

    def start(self, call: Callable[[], Transfer | None]) -> None:
        before = self.usage()
        transfer = call()
        if transfer is None:
            assert self.usage() == before
        elif len(transfer) > 0:
            copy = Copy(transfer)
            tier, blocks = copy.target
            self.memory[tier][blocks] = GARBAGE
            self.copies.append(copy)

    @precondition(lambda self: self.copies)
    @rule(data=st.data(), ok=st.sampled_from([True, True, True, False]))
    def complete(self, data: st.DataObject, ok: bool) -> None:
        copy = self.copies.pop(data.draw(st.integers(0, len(self.copies) - 1)))
        (source_tier, source), (target_tier, target) = copy.source, copy.target
        if ok:
            self.memory[target_tier][target] = self.memory[source_tier][source]
        self.manager.complete(copy.transfer.id, ok)

    def give_up(self, seq: int, *, drop: bool) -> None:
        if drop:
            self.manager.drop(seq)
            self.sequences[seq].num_computed = 0
        else:
            self.manager.end(seq)
            del self.sequences[seq]

    @rule(clear=st.booleans())
    def overwrite_what_is_free(self, clear: bool) -> None:
        """Let a passing sequence use all free blocks of the device."""
        if clear:
            self.manager.clear_prefix_cache()
        seq = MAX_SEQUENCES
        self.manager.begin(seq, np.zeros(1, dtype=np.int32), salt=2)
        assert self.manager.try_reserve(seq, self.manager.num_free(Tier.DEVICE) * BLOCK_SIZE)
        if self.manager.residency(seq) is Residency.DEVICE:
            self.memory[Tier.DEVICE][self.manager.device_blocks(seq)] = GARBAGE
        self.manager.end(seq)

    @invariant()
    def books_are_right(self) -> None:
        self.manager.check_integrity()
        for tier in Tier:
            usage = self.manager.usage(tier)
            assert usage.free + usage.used + usage.in_transfer == usage.total

    @invariant()
    def sequences_find_their_kv(self) -> None:
        for seq, model in self.sequences.items():
            assert self.manager.num_computed(seq) == model.num_computed
            residency = self.manager.residency(seq)
            assert self.copies or residency not in (Residency.OFFLOADING, Residency.UPLOADING)
            if residency in (Residency.DEVICE, Residency.OFFLOADING):
                found = self.memory[Tier.DEVICE][self.manager.device_blocks(seq)].ravel()[: model.num_computed]
                assert found.tolist() == [self.context(model, position) for position in range(model.num_computed)]

    def teardown(self) -> None:
        for copy in self.copies:
            self.manager.complete(copy.transfer.id, False)
        for seq in self.sequences:
            self.manager.end(seq)
        self.manager.check_integrity()
        assert [usage[1:3] for usage in self.usage()] == [(0, 0), (0, 0)]


class KvMachineWithoutCaching(KvMachine):
    caching = False


_SETTINGS = settings(
    max_examples=100,
    stateful_step_count=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
KvMachine.TestCase.settings = _SETTINGS
KvMachineWithoutCaching.TestCase.settings = _SETTINGS

TestKvManagerWithCaching = KvMachine.TestCase
TestKvManagerWithoutCaching = KvMachineWithoutCaching.TestCase
