"""ops.sample and ops.token_logprobs on a GPU: the very tokens of the CPU, and the same bits."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from fastserve import _C, ops
from fastserve._C import kernels
from fastserve.errors import InvalidArgumentError
from fastserve.ops.sampling import SETTINGS
from tests.unit.ops.sampling_batch import sample, settings, tensors_of

pytestmark = pytest.mark.gpu

UNFILTERED = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
FILTERS = [
    {"temperature": 0.0},
    {},
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 7},
    {"temperature": 0.5, "top_k": 50},
    {"top_k": 50, "top_p": 0.6},
    {"top_k": 40, "min_p": 0.2},
    {"top_p": 0.0},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"temperature": 2.5, "top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"temperature": 0.6, "top_k": 100, "top_p": 0.9, "min_p": 0.01},
    {"top_p": 0.95, "min_p": 0.03},
]


@pytest.fixture(autouse=True)
def cpu_with_the_same_rounding(gpu):
    """The masses have the bits of these CPU kernels; others differ in the seventh digit."""
    if _C.cpu_isa() == "scalar":
        pytest.skip("the CPU kernels without fused multiply-add round otherwise")


@pytest.fixture
def generator():
    return np.random.default_rng(20260)


def batch_of(rows, generator, **changes):
    """One set of filters per row, with seeds and counters of its own."""
    columns = {name: [row.get(name, value) for row in rows] for name, value in UNFILTERED.items()}
    seeds = generator.integers(0, 2**64, len(rows), dtype=np.uint64)
    return settings(len(rows), seeds=seeds, counters=17 * np.arange(len(rows)), **columns, **changes)


def assert_the_tokens_of_the_cpu(gpu, logits, batch):
    """Sample on both from rows that lie apart, with a workspace that holds NaN and marks of -1."""
    num_rows, vocab_size = logits.shape
    wide = torch.full((num_rows, vocab_size + 3), torch.nan)
    wide[:, :vocab_size] = logits
    on_gpu = wide.to(gpu)
    size = ops.sampling_workspace_bytes(num_rows, vocab_size, changes_logits=batch.has_lists)
    workspace = torch.full((size,), 0xFF, dtype=torch.uint8, device=gpu)
    assert sample(on_gpu[:, :vocab_size], batch, workspace=workspace).tolist() == sample(logits, batch).tolist()
    assert torch.equal(on_gpu.cpu().view(torch.int32), wide.view(torch.int32)), "logits were changed"


def test_the_tokens_of_the_cpu_go_into_pinned_memory(gpu):
    logits = torch.randn(64, 128_256) * 3
    batch = settings(
        64,
        temperature=np.linspace(0.0, 2.0, 64),
        top_k=np.arange(64) % 4 * 20,
        top_p=1 - np.arange(64) % 3 * 0.2,
        min_p=np.arange(64) % 5 * 0.02,
        seeds=np.arange(64),
    )
    pinned = ops.SamplingBatch(**{name: array.pin_memory() for name, array in tensors_of(batch).items()})
    out = torch.full((64,), -7, dtype=torch.int32).pin_memory()
    assert ops.sample(logits.to(gpu), pinned, out=out) is out
    torch.cuda.synchronize()
    assert out.tolist() == ops.sample(logits, batch).tolist()


@pytest.mark.parametrize("vocab_size", [1, 63, 64, 65, 1000, 2500])
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_every_filter_chooses_the_token_of_the_cpu(gpu, generator, vocab_size, spread):
    logits = torch.randn(len(FILTERS), vocab_size) * spread
    assert_the_tokens_of_the_cpu(gpu, logits, batch_of(FILTERS, generator))


@pytest.mark.parametrize(("vocab_size", "spread"), [(66_001, 0.01), (9_001, 2.0)])
def test_flat_rows_of_a_large_vocabulary_leave_shared_memory(gpu, generator, vocab_size, spread):
    rows = [{"top_p": 0.9}, {"top_k": 3000}, {"top_k": 2000, "top_p": 0.5}, {"min_p": 0.5}]
    assert_the_tokens_of_the_cpu(gpu, torch.randn(4, vocab_size) * spread, batch_of(rows, generator))


def test_equal_logits_are_ordered_by_id(gpu, generator):
    rows = [{"temperature": 0.0}, {"top_k": 4}, {"top_k": 100, "top_p": 0.5}, {"top_p": 0.3}, {"top_k": 2500}]
    batch, logits = batch_of(rows, generator), torch.randn(5, 4000).round()
    assert_the_tokens_of_the_cpu(gpu, logits, batch)
    assert_the_tokens_of_the_cpu(gpu, torch.zeros(5, 4000).copysign(logits), batch)


@pytest.mark.parametrize(("vocab_size", "num_banned"), [(3, 1), (300, 9)])
@pytest.mark.parametrize(
    "penalties",
    [{"repetition_penalty": 1.3}, {"presence_penalty": 0.4, "frequency_penalty": -0.3}, {}],
    ids=["repetition", "presence", "bans"],
)
def test_penalties_and_bans_equal_those_of_the_cpu(gpu, generator, vocab_size, num_banned, penalties):
    rows = [row for row in FILTERS for _ in range(2)]

    def lists(length):  # for every second row
        return [generator.integers(0, vocab_size, length if row % 2 == 0 else 0).tolist() for row in range(len(rows))]

    history = {"prompts": lists(40), "outputs": lists(60)} if penalties else {}
    batch = batch_of(rows, generator, banned=lists(num_banned), **history, **penalties)
    assert_the_tokens_of_the_cpu(gpu, torch.randn(len(rows), vocab_size), batch)


def test_biases_and_banned_sequences_equal_those_of_the_cpu(gpu, generator):
    rows = [row for row in FILTERS for _ in range(2)]
    outputs = generator.integers(0, 4, (len(rows), 6)).tolist()
    banned = [
        [~2, ~tokens[-1], token, ~tokens[-1], 3, ~tokens[-2], ~tokens[-1], 4] for token, tokens in enumerate(outputs)
    ]
    biases = [
        dict(zip(range(0, 70, 5), generator.normal(0, 3, 14), strict=True)) if i % 3 else {} for i in range(len(rows))
    ]
    batch = batch_of(
        rows, generator, banned=banned, outputs=outputs, biases=biases, only_biased=np.arange(len(rows)) % 2,
        prompts=[[2]] * len(rows), repetition_penalty=1.0 + 0.3 * (np.arange(len(rows)) % 4 == 0),
    )  # fmt: skip
    assert_the_tokens_of_the_cpu(gpu, torch.randn(len(rows), 65), batch)


def test_tokens_outside_the_vocabulary_are_left_out(gpu):
    logits = torch.linspace(1.0, 0.0, 100)[None]
    batch = settings(1, frequency_penalty=0.5, prompts=[[5, 6]], outputs=[[0, 0, 2]], banned=[[1, 3]])
    expected = sample(logits, batch)
    strange = replace(
        batch,
        history_tokens=np.append(batch.history_tokens, np.array([-1, 100, 1 << 30], dtype=np.int32)),
        history_start=np.array([0, 8], dtype=np.int32),
        banned_tokens=np.append(batch.banned_tokens, np.int32(100)),
        banned_start=np.array([0, 1000], dtype=np.int32),  # longer than its array
        bias_tokens=np.array([-1, 100, 1 << 30], dtype=np.int32),
        bias_values=np.full(3, 100, dtype=np.float32),
        bias_start=np.array([0, 1000], dtype=np.int32),
    )
    assert expected.tolist() == [4]
    assert sample(logits.to(gpu), strange).tolist() == [4]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_few_finite_logits_give_the_tokens_of_the_cpu(gpu, generator, bad):
    batch, logits = batch_of(FILTERS, generator), torch.full((len(FILTERS), 300), bad)
    assert_the_tokens_of_the_cpu(gpu, logits, batch)
    logits[:, 77] = -3.0
    logits[::2, 130] = -3.5
    assert_the_tokens_of_the_cpu(gpu, logits, batch)


def test_extreme_logits_give_the_tokens_of_the_cpu(gpu, generator):
    rows = [{}, {"temperature": 1e-4}, {"temperature": 1e30}, {"top_p": 0.5}, {"top_k": 3}]
    logits = torch.randn(5, 70) * (torch.finfo(torch.float32).max / 8)
    assert_the_tokens_of_the_cpu(gpu, logits, batch_of(rows, generator))


def test_a_workspace_that_is_missing_or_too_small_is_refused(gpu):
    logits = torch.zeros(1, 1000, device=gpu)
    size = ops.sampling_workspace_bytes(1, 1000, changes_logits=False)
    small = torch.empty(size - 1, dtype=torch.uint8, device=gpu)
    with pytest.raises(InvalidArgumentError, match="workspace"):
        sample(logits, settings(1), workspace=small)
    tokens = torch.zeros(1, dtype=torch.int32, device=gpu)
    with pytest.raises(InvalidArgumentError, match="workspace"):
        ops.token_logprobs(logits, tokens, 0, workspace=small)
    on_gpu = [array.to(gpu) for array in tensors_of(settings(1)).values()]
    with pytest.raises(InvalidArgumentError, match="a workspace of sampling_workspace_bytes is needed, got none"):
        kernels.sample(logits, on_gpu[: len(SETTINGS)], *on_gpu[len(SETTINGS) :], tokens, workspace=None)


@pytest.mark.parametrize("vocab_size", [1, 65, 6001])
@pytest.mark.parametrize("num_top", [0, 1, 5, 100])
@pytest.mark.parametrize("rounded", [False, True], ids=["any", "rounded"])
def test_logprobs_ranks_and_top_tokens_have_the_bits_of_the_cpu(gpu, generator, vocab_size, num_top, rounded):
    logits = torch.randn(6, vocab_size) * 4
    logits = logits.round() if rounded else logits
    logits[0, 0] = torch.nan
    tokens = np.array([0, -1, vocab_size, *generator.integers(0, vocab_size, 3)], dtype=np.int32)
    size = ops.sampling_workspace_bytes(6, vocab_size, changes_logits=False)
    workspace = torch.full((size,), 0xFF, dtype=torch.uint8, device=gpu)
    expected = ops.token_logprobs(logits, tokens, num_top)
    result = ops.token_logprobs(logits.to(gpu), torch.from_numpy(tokens).to(gpu), num_top, workspace=workspace)
    for field in fields(expected):
        np.testing.assert_array_equal(getattr(result, field.name).cpu().numpy(), getattr(expected, field.name))
