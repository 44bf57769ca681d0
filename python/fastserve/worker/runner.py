"""Runs plans on a device: launch a step, go on, read its tokens later."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from fastserve._C.offload import copy_fragments
from fastserve._C.sched import StepPlan
from fastserve.distributed.pipe import NO_PIPE, Pipe
from fastserve.errors import InternalError
from fastserve.layers.context import ForwardContext
from fastserve.models.decoder import Decoder
from fastserve.ops.attention import attention_workspace
from fastserve.ops.attention_batch import AttentionBackend, AttentionBatch
from fastserve.ops.sampling import TokenLogprobs, sample, sampling_workspace_bytes, token_logprobs
from fastserve.types import MAX_LOGPROBS
from fastserve.worker.device import Device, Event, Gpu
from fastserve.worker.graphs import DecodeGraphs, batch_buckets
from fastserve.worker.prompt_scores import PIECE_ROWS, ScoredTokens
from fastserve.worker.request_table import RequestTable, SamplingEntries
from fastserve.worker.row_inputs import RowInputs, control_row, empty_decode, padded_decode, rows_of_plan
from fastserve.worker.rows_apart import greedy_row, run_apart
from fastserve.worker.sampled import Sampled, nothing_sampled
from fastserve.worker.sampling_inputs import SamplingInputs, sampling_fields
from fastserve.worker.step_inputs import NUM_SLOTS, Field, PackedInputs, aligned


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """The largest step: tokens, rows, and tokens of one row's KV; and the size of a block."""

    max_num_tokens: int
    max_num_seqs: int
    max_model_len: int
    block_size: int


@dataclass(slots=True)
class StepResult:
    """Where the tokens of one step arrive on the host, in page-locked memory, and their log-probabilities."""

    tokens: torch.Tensor  # uint8; int32[max_num_seqs] and some more in it
    logprob_words: torch.Tensor  # int32, see `_logprobs_in`
    ready: Event
    num_samples: int = 0
    logprobs: TokenLogprobs | None = None  # tensors in `logprob_words`, to be read when ready
    scored: ScoredTokens | None = None
    score_words: torch.Tensor | None = None  # int32, grows with the need
    scores: list[TokenLogprobs] = field(default_factory=list)  # tensors in `score_words`, to be read when ready
    busy: bool = False

    def wait(self) -> np.ndarray:
        """A copy of the tokens."""
        self.ready.wait()
        return self.tokens.numpy().view(np.int32)[: self.num_samples].copy()

    def sampled(self) -> Sampled:
        """A copy of everything."""
        tokens = self.wait()
        of_prompts = self.scored.results(self.scores) if self.scored is not None else {}
        return Sampled(tokens, _copied(self.logprobs), prompt_logprobs=of_prompts)


class Runner:
    """Runs plans on a device.

    Threads. `launch` and `finish` each belong to one thread, possibly different ones; at most two steps are in flight.

    Order. All work of a step is queued on the compute stream: one copy of all its inputs (lists of tokens for penalties
    and bans follow in another), the tokens that the step before sampled (they never leave the device on their way), the
    forward pass, sampling, the copy of the tokens to the host, where log-probabilities are written at once. The host
    waits once per step, for the event behind that copy.

    A step that fails is run again in parts; with other ranks only if it failed before they could wait for this one.
    """

    def __init__(
        self,
        decoder: Decoder,
        kv_cache: torch.Tensor,
        device: Device,
        limits: RunnerLimits,
        requests: RequestTable,
        *,
        backend: AttentionBackend = AttentionBackend.NATIVE,
        pipe: Pipe = NO_PIPE,
        is_alone: bool = True,
    ) -> None:
        """Prepare for steps of at most a size.

        Args:
            pipe: to the stages beside this rank's.
            is_alone: no other rank takes part in the forward pass.
        """
        self._decoder = decoder
        self._kv_cache = kv_cache
        self._device = device
        self._limits = limits
        self._requests = requests
        self._backend = backend
        self._pipe = pipe
        self._is_alone = is_alone
        self._is_joined = False  # other ranks may wait for this one within the step
        spec = decoder.spec
        blocks_of_row = -(-limits.max_model_len // limits.block_size)
        rows, tokens = limits.max_num_seqs, limits.max_num_tokens
        self._inputs = PackedInputs(
            device,
            [
                Field("token_ids", np.int32, tokens),
                Field("token_sources", np.int32, tokens),
                Field("positions", np.int32, tokens),
                Field("slots", np.int64, tokens),
                Field("query_start", np.int32, rows + 1),
                Field("seq_lens", np.int32, rows),
                Field("block_start", np.int32, rows + 1),
                Field("block_ids", np.int32, rows * blocks_of_row),
                Field("logit_rows", np.int64, max(rows, tokens)),
                Field("score_targets", np.int32, max(rows, tokens)),
                *sampling_fields(rows),
            ],
        )
        self._sampling = SamplingInputs(device, self._inputs, rows)
        self._workspace = self._sampling_workspace = None  # kernels of the CPU need none
        if not device.is_host:
            self._workspace = attention_workspace(
                rows, spec.num_heads, spec.head_dim, limits.max_model_len, device.torch_device
            )
            # For penalties and bans as well, so that no step allocates and the measured step has it all.
            self._sampling_workspace = torch.empty(
                sampling_workspace_bytes(rows, spec.vocab_size, changes_logits=True),
                dtype=torch.uint8,
                device=device.torch_device,
            )
        self._sampled = torch.full((aligned(4 * rows) // 4,), -1, dtype=torch.int32, device=device.torch_device)
        self._sampled_bytes = self._sampled.view(torch.uint8)
        self._results = [_make_result(device, rows) for _ in range(NUM_SLOTS)]
        self._next_result = 0
        self._previous: StepResult | Sampled = nothing_sampled()  # what `_sampled` holds, to put it there again
        self._graphs: DecodeGraphs | None = None

    def use_cache(self, kv_cache: torch.Tensor) -> None:
        """Run on another KV cache from now on; before graphs are captured."""
        self._kv_cache = kv_cache

    def capture_graphs(self, gpu: Gpu, progress: Callable[[int, int], None] | None = None) -> None:
        """Capture decode steps of every batch size on the runner's device, while it is idle, before the first plan.

        Torch's attention waits for the device within a step, so with it nothing can be captured and this does nothing.
        """
        if self._backend is AttentionBackend.TORCH:
            return
        buckets = batch_buckets(self._limits.max_num_seqs)
        logits = torch.empty((buckets[-1], self._decoder.spec.vocab_size), dtype=torch.float32, device=gpu.torch_device)
        with gpu.scope():
            self._send(empty_decode(buckets[-1]))
        gpu.synchronize()
        self._graphs = DecodeGraphs(gpu, buckets, lambda size: self._decode_step(size, logits[:size]), progress)

    def launch(self, plan: StepPlan) -> StepResult | Sampled:
        """Queue a plan; what has no rows, or had to be run in parts, has ended already."""
        if not plan.num_rows:
            return nothing_sampled()
        result = self._take_result()
        with self._device.scope():
            try:
                self._previous = self._queue(plan, result)
            except Exception as error:
                if self._is_joined:
                    raise
                self._previous = self._run_apart(plan, result, error)
        return self._previous

    def finish(self, launched: StepResult | Sampled) -> Sampled:
        """Wait for a step and return what it sampled."""
        if isinstance(launched, Sampled):
            return launched
        try:
            return launched.sampled()
        finally:
            launched.busy = False

    def time(self, rows: RowInputs) -> float:
        """Seconds of a forward pass over dummy rows, from an idle device to an idle device."""
        self._device.synchronize()
        started_s = time.perf_counter()
        with self._device.scope():
            self._forward(rows)
        self._device.synchronize()
        return time.perf_counter() - started_s

    def _queue(self, plan: StepPlan, result: StepResult) -> StepResult:
        result.num_samples, result.logprobs, result.scored = 0, None, None
        self._is_joined = False
        entries = self._requests.entries(plan) if plan.num_samples else None
        self._is_joined = not self._is_alone
        masks = self._requests.begin_masks(plan) if plan.num_samples and self._pipe.is_last else None
        scored, rows = self._requests.scored_tokens(plan) if self._pipe.is_last else None, rows_of_plan(plan)
        logits = self._forward(rows, entries) if scored is None else self._forward_scored(rows, entries, scored, result)
        if masks is not None:
            masks.apply(logits)
        if entries is not None and self._pipe.is_last:
            self._sample(logits, plan, entries, result)
        elif entries is not None:  # the last stage does
            result.num_samples = plan.num_samples
            result.tokens.zero_()
        result.ready.record()
        return result

    def _run_apart(self, plan: StepPlan, result: StepResult, error: Exception) -> Sampled:
        """Run a plan in parts after it failed with `error`; raises that when the rows are not to blame."""
        previous, self._previous = self._previous, nothing_sampled()

        def run(part: StepPlan) -> Sampled:
            self._put_sampled(previous.tokens if isinstance(previous, Sampled) else previous.wait())
            return self._queue(part, result).sampled()

        try:
            joined = run_apart(
                plan,
                error,
                run=run,
                control=self._run_control_row,
                num_logprobs=self._requests.num_logprobs_of(plan),
                is_fault=lambda error: self._is_joined or self._device.is_fault(error),
            )
            self._put_sampled(joined.tokens)
            return joined
        except BaseException:
            self._sampled.fill_(-1)  # what the next plan finds, since this one fails
            raise
        finally:
            result.busy = False

    def _run_control_row(self) -> None:
        logits = self._forward(control_row(self._limits.block_size))
        if self._pipe.is_last:
            token_logprobs(logits, torch.as_tensor(sample(logits, greedy_row(logits.device))), 1)
        self._device.synchronize()

    def _put_sampled(self, tokens: np.ndarray) -> None:
        self._sampled[: len(tokens)].copy_(torch.from_numpy(tokens))

    def _take_result(self) -> StepResult:
        result = self._results[self._next_result]
        if result.busy:
            raise InternalError(f"{NUM_SLOTS} steps are under way: finish one before launching the next")
        self._next_result = (self._next_result + 1) % NUM_SLOTS
        result.busy = True
        return result

    def _forward(self, rows: RowInputs, entries: SamplingEntries | None = None) -> torch.Tensor:
        """Queue the forward pass; logits float32[S, vocab_size]. How to sample them travels along.

        Of a stage that is not the last one the hidden states are returned, which the next stage has by then.
        """
        graphs = self._graphs
        bucket = graphs.bucket(rows.num_rows) if graphs is not None and rows.is_plain_decode else None
        if graphs is not None and bucket is not None:
            self._send(padded_decode(rows, bucket), entries)
            return graphs.replay(bucket)[: rows.num_rows]
        self._send(rows, entries)
        view = self._inputs.view
        num_logits = len(rows.logit_rows)
        context = self._context(rows.num_tokens, rows.num_rows, rows.num_decode_rows, len(rows.block_ids), num_logits)
        self._fill_in_tokens(rows.num_tokens)
        out = self._decoder.forward(view("token_ids", rows.num_tokens), context, hidden=self._taken(rows.num_tokens))
        if not self._pipe.is_last:
            self._pipe.hand_over(out)
        return out

    def _taken(self, num_tokens: int) -> torch.Tensor | None:
        """What the stage before hands over for so many tokens."""
        if self._pipe.is_first:
            return None
        decoder = self._decoder
        hidden = torch.empty((num_tokens, decoder.spec.hidden_size), dtype=decoder.dtype, device=decoder.device)
        self._pipe.take(hidden)
        return hidden

    def _forward_scored(
        self, rows: RowInputs, entries: SamplingEntries | None, scored: ScoredTokens, result: StepResult
    ) -> torch.Tensor:
        """As `_forward`, where prompts are scored as well: no more than a piece of their logits exists at once."""
        view, num_wanted, num_top = self._inputs.view, len(scored.wanted), scored.num_top
        num_sampled = len(rows.logit_rows)
        self._send(replace(rows, logit_rows=scored.wanted), entries, scored.targets)
        context = self._context(rows.num_tokens, rows.num_rows, rows.num_decode_rows, len(rows.block_ids), num_wanted)
        self._fill_in_tokens(rows.num_tokens)
        targets = view("score_targets", num_wanted)
        words_each = 2 + 2 * num_top
        if result.score_words is None or len(result.score_words) < num_wanted * words_each:
            result.score_words = self._device.host_buffer(4 * num_wanted * words_each).view(torch.int32)
        result.scored, result.scores = scored, []
        logits, first = targets.new_empty((num_sampled, self._decoder.spec.vocab_size), dtype=torch.float32), 0
        piece_rows = min(PIECE_ROWS, self._limits.max_num_seqs)  # the workspace has room for these
        hidden = self._taken(rows.num_tokens)
        pieces = self._decoder.forward_in_pieces(
            view("token_ids", rows.num_tokens), context, hidden=hidden, piece_rows=piece_rows
        )
        for piece in pieces:
            end = first + len(piece)
            out = _logprobs_in(result.score_words[first * words_each :], len(piece), num_top)
            token_logprobs(piece, targets[first:end], num_top, out=out, workspace=self._sampling_workspace)
            result.scores.append(out)
            for entry, at in scored.samples_in(first, end):
                logits[entry].copy_(piece[at])
            first = end
        return logits

    def _decode_step(self, num_rows: int, logits: torch.Tensor) -> Callable[[], torch.Tensor]:
        """The captured step: everything in it is at a fixed address."""
        room_for_blocks = len(self._inputs.view("block_ids"))
        token_ids = self._inputs.view("token_ids", num_rows)
        context = self._context(num_rows, num_rows, num_rows, room_for_blocks, num_rows)

        def step() -> torch.Tensor:
            self._fill_in_tokens(num_rows)
            return self._decoder.forward(token_ids, context, out=logits)

        return step

    def _send(
        self, rows: RowInputs, entries: SamplingEntries | None = None, score_targets: np.ndarray | None = None
    ) -> None:
        inputs = self._inputs
        inputs.begin()
        inputs.put("token_ids", rows.token_ids)
        inputs.put("token_sources", rows.token_sources)
        inputs.put("positions", rows.positions)
        inputs.put("slots", rows.slots)
        inputs.put("query_start", rows.query_start)
        inputs.put("seq_lens", rows.seq_lens)
        inputs.put("block_start", rows.block_start)
        inputs.put("block_ids", rows.block_ids)
        inputs.put("logit_rows", rows.logit_rows)
        if entries is not None:
            self._sampling.put(entries.batch)
        if score_targets is not None:
            inputs.put("score_targets", score_targets)
        inputs.send()

    def _context(
        self, num_tokens: int, num_rows: int, num_decode_rows: int, num_block_ids: int, num_logits: int
    ) -> ForwardContext:
        view = self._inputs.view
        return ForwardContext(
            positions=view("positions", num_tokens),
            slots=view("slots", num_tokens),
            attention=AttentionBatch(
                query_start=view("query_start", num_rows + 1),
                seq_lens=view("seq_lens", num_rows),
                block_start=view("block_start", num_rows + 1),
                block_ids=view("block_ids", num_block_ids),
                num_decode_rows=num_decode_rows,
                max_seq_len=self._limits.max_model_len,
                workspace=self._workspace,
                backend=self._backend,
            ),
            kv_cache=self._kv_cache,
            logit_rows=view("logit_rows", num_logits),
        )

    def _fill_in_tokens(self, num_tokens: int) -> None:
        """Fill in tokens of the previous step that the host did not know yet.

        A failed sample (-1) has ended its request: its row runs on any valid token and is ignored at commit. Written in
        place by a kernel: a copy within the device may be done by a copy engine, behind megabytes of KV.
        """
        sources = self._inputs.view("token_sources", num_tokens)
        token_ids = self._inputs.view("token_ids", num_tokens)
        sampled = self._sampled.index_select(0, sources.clamp_min(0)).clamp_min(0)
        torch.where(sources >= 0, sampled, token_ids, out=token_ids)

    def _sample(self, logits: torch.Tensor, plan: StepPlan, entries: SamplingEntries, result: StepResult) -> None:
        sources = plan.token_sources[plan.sample_rows]
        batch = self._sampling.batch(entries.batch, sources, self._sampled)
        sampled = self._sampled[: plan.num_samples]
        sample(logits, batch, out=sampled, workspace=self._sampling_workspace)
        num_top = int(entries.num_logprobs.max())
        if num_top >= 0:
            result.logprobs = _logprobs_in(result.logprob_words, plan.num_samples, num_top)
            token_logprobs(logits, sampled, num_top, out=result.logprobs, workspace=self._sampling_workspace)
        # By a kernel: a copy engine may be at work on megabytes of KV.
        first = (np.zeros(1, np.int64), np.array([aligned(4 * plan.num_samples)], np.int64))
        copy_fragments(self._sampled_bytes, result.tokens, *first, stream=self._device.stream)
        result.num_samples = plan.num_samples


def _make_result(device: Device, max_num_seqs: int) -> StepResult:
    logprob_bytes = 4 * max_num_seqs * (2 + 2 * MAX_LOGPROBS)
    return StepResult(
        tokens=device.host_buffer(aligned(4 * max_num_seqs)),
        logprob_words=device.host_buffer(logprob_bytes).view(torch.int32),
        ready=device.event(),
    )


def _logprobs_in(words: torch.Tensor, num_rows: int, num_top: int) -> TokenLogprobs:
    """The arrays of `TokenLogprobs`, one after the other in int32 words."""
    listed = num_rows * num_top
    ids = words[2 * num_rows : 2 * num_rows + listed]
    logprobs = words[2 * num_rows + listed : 2 * num_rows + 2 * listed]
    shape = (num_rows, num_top)
    return TokenLogprobs(
        token_logprobs=words[:num_rows].view(torch.float32),
        ranks=words[num_rows : 2 * num_rows],
        top_ids=ids.view(shape),
        top_logprobs=logprobs.view(torch.float32).view(shape),
    )


def _copied(values: TokenLogprobs | None) -> TokenLogprobs | None:
    if values is None:
        return None
    arrays = (values.token_logprobs, values.ranks, values.top_ids, values.top_logprobs)
    return TokenLogprobs(*(np.asarray(array).copy() for array in arrays))
