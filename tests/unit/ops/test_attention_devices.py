"""ops.attention on every device and by every backend: truth against float64; on a GPU also graphs, long and large batches."""

from dataclasses import dataclass, replace

import pytest
import torch

from fastserve import ops
from fastserve._C import kernels
from fastserve.ops import AttentionBackend
from fastserve.ops.attention_batch import on_device
from tests.unit.ops.oracle import ROUNDING, assert_rounded
from tests.unit.ops.paged import LAYER, Paged, attend_float64, batch_of, page, random_rows

FP32_ERROR = 1e-5  # as in test_attention.py


@dataclass(frozen=True, slots=True)
class Contender:
    device: str
    backend: AttentionBackend

    def attend(self, q, paged: Paged, num_queries, *, num_decode_rows=0, max_seq_len=0, workspace=None):
        """Attention of this backend on its device, of operands on the CPU; `out` holds NaN before."""
        longest = max_seq_len or max(1, *(k.shape[1] for k in paged.keys))
        if workspace is None:
            workspace = ops.attention_workspace(max(1, num_decode_rows), q.shape[1], q.shape[2], longest, self.device)
        batch = replace(
            on_device(batch_of(paged, num_queries, num_decode_rows=num_decode_rows), self.device),
            max_seq_len=longest,
            workspace=workspace,
            backend=self.backend,
        )
        out = torch.full(q.shape, torch.nan, dtype=q.dtype, device=self.device)
        scale = q.shape[2] ** -0.5
        return ops.attention(q.to(self.device), paged.cache.to(self.device), batch, layer=LAYER, scale=scale, out=out)

    def check(self, q, paged, num_queries, **kwargs):
        result = self.attend(q, paged, num_queries, **kwargs).cpu()
        # Other kernels than the CPU's round the weights, too; values are below 5, and weights have a sum of 1.
        exact = q.dtype == torch.float32 or (self.device, self.backend) == ("cpu", AttentionBackend.NATIVE)
        error = FP32_ERROR + (0 if exact else 4 * ROUNDING[q.dtype])
        assert_rounded(result, attend_float64(q, paged, num_queries, scale=q.shape[2] ** -0.5), error=error)


GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ON_GPU = [pytest.param(Contender("cuda", backend), id=f"cuda-{backend}", marks=GPU) for backend in AttentionBackend]
ON_CPU = [
    pytest.param(Contender("cpu", backend), id=f"cpu-{backend}")
    for backend in (AttentionBackend.NATIVE, AttentionBackend.TORCH)
]
NATIVE_GPU = pytest.param(Contender("cuda", AttentionBackend.NATIVE), id="cuda-native", marks=GPU)
MMA_GPU = pytest.param(Contender("cuda", AttentionBackend.MMA), id="cuda-mma", marks=GPU)


@pytest.mark.parametrize("contender", ON_CPU + ON_GPU)
@pytest.mark.parametrize("head_dim", [32, 40, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("block_size", [8, 16, 32])
def test_decode_and_prefill_rows_in_one_batch_match_float64(contender, dtype, head_dim, block_size):
    seq_lens, num_queries = [1, 7, 64, 129, 300, 5, 77], [1, 1, 1, 1, 17, 5, 40]
    paged = random_rows(seq_lens, num_kv_heads=2, head_dim=head_dim, block_size=block_size, dtype=dtype)
    contender.check(torch.randn(sum(num_queries), 6, head_dim).to(dtype), paged, num_queries, num_decode_rows=4)


@pytest.mark.parametrize("contender", ON_CPU + ON_GPU)
@pytest.mark.parametrize(("num_q_heads", "num_kv_heads"), [(1, 1), (5, 5), (7, 1), (40, 1), (66, 2)])
def test_any_number_of_query_heads_per_kv_head(contender, num_q_heads, num_kv_heads):
    seq_lens, num_queries = [33, 70, 9, 90], [1, 1, 9, 50]
    paged = random_rows(seq_lens, num_kv_heads=num_kv_heads, head_dim=64, block_size=16, dtype=torch.bfloat16)
    q = torch.randn(sum(num_queries), num_q_heads, 64).bfloat16()
    contender.check(q, paged, num_queries, num_decode_rows=2)


@pytest.mark.parametrize("contender", [*ON_CPU[1:], *ON_GPU])
def test_rows_of_length_zero_get_zeros(contender, dtype):
    paged = random_rows([0, 20, 0, 30, 0], num_kv_heads=2, head_dim=64, block_size=16, dtype=dtype)
    q = torch.randn(12, 4, 64).to(dtype)
    for num_decode_rows, num_queries in ((3, [1, 1, 1, 7, 2]), (0, [1, 1, 1, 7, 2])):
        out = contender.attend(q, paged, num_queries, num_decode_rows=num_decode_rows).cpu()
        assert (out[[0, 2, 10, 11]] == 0).all()
        assert out.isfinite().all()
        assert (out[[1, 3]] != 0).any(dim=-1).all()


@pytest.mark.parametrize("contender", [*ON_CPU[1:], *ON_GPU])
def test_tokens_outside_every_row_are_left_alone(contender):
    paged = random_rows([20, 30], num_kv_heads=2, head_dim=64, block_size=16)
    out = contender.attend(torch.randn(9, 4, 64), paged, [1, 5], num_decode_rows=1).cpu()
    assert out[6:].isnan().all()
    assert out[:6].isfinite().all()


def test_kernels_for_hopper_are_there_on_hopper_only():
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
    assert kernels.attention_hopper_available() == hopper


@pytest.mark.parametrize("backend", [AttentionBackend.MMA, AttentionBackend.NAIVE])
def test_kernels_for_a_gpu_are_refused_on_the_cpu(backend):
    paged = random_rows([20], num_kv_heads=2, head_dim=64, block_size=16)
    with pytest.raises(ValueError, match="mma and naive kernels are for tensors on a GPU"):
        Contender("cpu", backend).attend(torch.randn(1, 4, 64), paged, [1], num_decode_rows=1)


def test_a_workspace_for_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        ops.attention_workspace(0, 4, 64, 100, "cpu")
    with pytest.raises(ValueError, match="max_seq_len"):
        ops.attention_workspace(1, 4, 64, 0, "cpu")


def test_a_workspace_grows_with_rows_and_splits_only():
    base = len(ops.attention_workspace(8, 4, 64, 128, "cpu"))
    assert len(ops.attention_workspace(16, 4, 64, 128, "cpu")) == base  # one split needs no partial results
    assert len(ops.attention_workspace(8, 4, 64, 1024, "cpu")) == base + 8 * 4 * 8 * 66 * 4
    assert len(ops.attention_workspace(8, 4, 64, 10**6, "cpu")) == base + 8 * 4 * 32 * 66 * 4


@pytest.mark.parametrize("contender", ON_GPU)
@pytest.mark.parametrize("length", [1, 100, 127, 128, 129, 1024, 1025, 4097, 8193, 16385, 32768])
def test_contexts_up_to_32k(contender, length):
    paged = random_rows([length], num_kv_heads=2, head_dim=128, block_size=16, dtype=torch.bfloat16)
    q = torch.randn(1, 8, 128).bfloat16()
    contender.check(q, paged, [1], num_decode_rows=1)
    num_queries = min(length, 70)
    contender.check(torch.randn(num_queries, 8, 128).bfloat16(), paged, [num_queries])


@pytest.mark.parametrize("contender", ON_GPU)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 31, 64, 129, 256])
def test_batches_up_to_256_rows(contender, num_rows):
    seq_lens = torch.randint(1, 700, (num_rows,)).tolist()
    paged = random_rows(seq_lens, num_kv_heads=2, head_dim=64, block_size=16, dtype=torch.float16)
    contender.check(torch.randn(num_rows, 8, 64).half(), paged, [1] * num_rows, num_decode_rows=num_rows)


@pytest.mark.parametrize("contender", [NATIVE_GPU])
def test_a_row_has_the_same_bits_beside_any_rows_and_with_a_used_workspace(contender):
    paged = random_rows([3000, 40, 500, 0], num_kv_heads=2, head_dim=128, block_size=16, dtype=torch.bfloat16)
    q = torch.randn(4, 8, 128).bfloat16()
    workspace = ops.attention_workspace(4, 8, 128, 4096, "cuda")
    together = [
        contender.attend(q, paged, [1] * 4, num_decode_rows=4, max_seq_len=4096, workspace=workspace) for _ in range(3)
    ]
    alone = page(paged.keys[:1], paged.values[:1], block_size=32)
    single = contender.attend(q[:1], alone, [1], num_decode_rows=1, max_seq_len=4096, workspace=workspace)
    for result in together:
        assert torch.equal(result[:1].view(torch.int16), single.view(torch.int16))


@pytest.mark.parametrize("contender", [NATIVE_GPU, MMA_GPU])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_prefill_of_more_tiles_than_processors(contender, head_dim):
    seq_lens, num_queries = [2500, 700, 33, 1400], [300, 700, 33, 65]
    paged = random_rows(seq_lens, num_kv_heads=4, head_dim=head_dim, block_size=16, dtype=torch.bfloat16)
    contender.check(torch.randn(sum(num_queries), 16, head_dim).bfloat16(), paged, num_queries)


@pytest.mark.parametrize("contender", [NATIVE_GPU, MMA_GPU])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_a_prefilled_token_has_the_same_bits_however_the_prompt_is_cut(contender, head_dim):
    paged = random_rows([1000, 300], num_kv_heads=2, head_dim=head_dim, block_size=16, dtype=torch.bfloat16)
    q = torch.randn(1300, 6, head_dim).bfloat16()
    whole = contender.attend(q, paged, [1000, 300]).cpu()
    for cut in (1, 37, 500):
        alone = page(paged.keys[:1], paged.values[:1], block_size=16)
        part = contender.attend(q[1000 - cut : 1000], alone, [cut]).cpu()
        assert torch.equal(part.view(torch.int16), whole[1000 - cut : 1000].view(torch.int16))


@pytest.mark.parametrize("contender", [NATIVE_GPU, MMA_GPU])
def test_a_captured_prefill_follows_the_arrays(contender):
    long, short = (
        random_rows([length], num_kv_heads=2, head_dim=128, block_size=16, dtype=torch.bfloat16)
        for length in (900, 130)
    )
    q = torch.randn(130, 8, 128).bfloat16()
    batches = [
        replace(
            on_device(batch_of(paged, [130]), "cuda"),
            max_seq_len=1000,
            workspace=ops.attention_workspace(1, 8, 128, 1000, "cuda"),
            backend=contender.backend,
        )
        for paged in (long, short)
    ]
    cache = long.cache.cuda()
    out = torch.empty_like(q, device="cuda")
    moved_q = q.cuda()

    def step():
        ops.attention(moved_q, cache, batches[0], layer=LAYER, scale=128**-0.5, out=out)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    cache[: short.cache.shape[0]] = short.cache.cuda()
    batches[0].seq_lens.copy_(batches[1].seq_lens)
    batches[0].block_ids[: len(batches[1].block_ids)] = batches[1].block_ids
    for _ in range(2):
        out.fill_(torch.nan)
        graph.replay()
        expected = attend_float64(q, short, [130], scale=128**-0.5)
        assert_rounded(out.cpu(), expected, error=FP32_ERROR + 4 * ROUNDING[torch.bfloat16])


@pytest.mark.parametrize("contender", [NATIVE_GPU])
def test_a_captured_decode_follows_the_arrays(contender):
    max_rows, max_seq_len = 4, 2048
    paged = random_rows([1500, 30, 700], num_kv_heads=2, head_dim=64, block_size=16, dtype=torch.bfloat16)
    q = torch.randn(max_rows, 8, 64).bfloat16().cuda()
    cache = paged.cache.cuda()
    arrays = [torch.zeros(n, dtype=torch.int32, device="cuda") for n in (max_rows + 1, max_rows, max_rows + 1, 500)]
    workspace = ops.attention_workspace(max_rows, 8, 64, max_seq_len, "cuda")
    batch = ops.AttentionBatch(*arrays, max_rows, max_seq_len, workspace)
    arrays[0].copy_(torch.arange(max_rows + 1))
    out = torch.empty_like(q)

    def step():
        ops.attention(q, cache, batch, layer=LAYER, scale=64**-0.5, out=out)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for rows in ([0, 1, 2], [2], [1, 0]):
        part = page([paged.keys[r] for r in rows], [paged.values[r] for r in rows], block_size=16)
        cache.zero_()
        cache[: part.cache.shape[0]] = part.cache.cuda()
        moved = on_device(batch_of(part, [1] * len(rows)), "cuda")
        arrays[1].zero_()
        arrays[1][: len(rows)] = moved.seq_lens
        arrays[2].fill_(int(moved.block_start[-1]))
        arrays[2][: len(rows) + 1] = moved.block_start
        arrays[3][: len(moved.block_ids)] = moved.block_ids
        graph.replay()
        expected = attend_float64(q[: len(rows)].cpu(), part, [1] * len(rows), scale=64**-0.5)
        assert_rounded(out[: len(rows)].cpu(), expected, error=FP32_ERROR + 4 * ROUNDING[torch.bfloat16])
        assert (out[len(rows) :] == 0).all()


def test_torch_takes_index_arrays_that_are_read_only():
    paged = random_rows([20, 30], num_kv_heads=2, head_dim=64, block_size=16)
    batch = replace(batch_of(paged, [3, 4]), backend=AttentionBackend.TORCH)
    for array in (batch.query_start, batch.seq_lens, batch.block_start, batch.block_ids):
        array.setflags(write=False)
    q = torch.randn(7, 4, 64)
    result = ops.attention(q, paged.cache, batch, layer=LAYER, scale=64**-0.5)
    assert_rounded(result, attend_float64(q, paged, [3, 4], scale=64**-0.5), error=FP32_ERROR)
