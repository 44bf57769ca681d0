"""Decoders shared by ranks that are threads: tensor-parallel, in stages, or both."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fastserve.distributed.group import Group
from fastserve.layers.context import ForwardContext
from fastserve.loader.checkpoint import CheckpointWeights
from fastserve.models.build import build_decoder
from fastserve.models.decoder import Decoder
from fastserve.models.registry import read_spec
from fastserve.models.shard import Shard
from tests.paged import PagedRunner, PagedSequence, remaining
from tests.rank_threads import ThreadGroup, run_ranks, thread_groups

CPU = torch.device("cpu")
PROMPTS = [[5, 17, 300, 41, 8, 99, 123], [7] * 21, [200, 511, 0, 64]]
NUM_DECODED = 5
CHUNK = 9


@dataclass
class StageDecoder:
    """A stage that takes its hidden states from the one before and hands its own on."""

    decoder: Decoder
    shard: Shard
    stages: Group

    @property
    def spec(self):
        return self.decoder.spec

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.dtype

    @property
    def device(self) -> torch.device:
        return self.decoder.device

    def forward(self, token_ids: torch.Tensor, ctx: ForwardContext) -> torch.Tensor:
        """As `Decoder.forward`; the logits of a stage that is not the last are those that the last one sent it."""
        hidden = None
        if not self.shard.is_first:
            hidden = torch.empty(len(token_ids), self.spec.hidden_size, dtype=self.dtype)
            self.stages.recv(hidden, self.shard.stage - 1)
        out = self.decoder.forward(token_ids, ctx, hidden=hidden)
        last = self.shard.num_stages - 1
        if self.shard.is_last:
            for stage in range(last):
                self.stages.send(out, stage)
            return out
        self.stages.send(out, self.shard.stage + 1)
        logits = torch.empty(len(ctx.logit_rows), self.spec.vocab_size)
        self.stages.recv(logits, last)
        return logits


def load_shard(folder: Path, shard: Shard, group: Group, dtype: torch.dtype) -> Decoder:
    """Build a rank's decoder from a checkpoint; every tensor of the file is accounted for."""
    spec = read_spec(folder)
    with CheckpointWeights(folder, ignored=spec.names.ignored) as source:
        decoder = build_decoder(spec, source, shard, group, max_model_len=128, dtype=dtype, device=CPU)
        source.check_all_read()
    return decoder


def run_requests(decoder: Decoder | StageDecoder) -> torch.Tensor:
    """Prefill some prompts in chunks and decode greedily, all in one batch: logits of every token [num, vocab_size]."""
    runner = PagedRunner(decoder)  # type: ignore[arg-type]
    sequences = [PagedSequence(list(prompt)) for prompt in PROMPTS]
    outputs: list[list[torch.Tensor]] = [[] for _ in PROMPTS]
    while any(len(output) < NUM_DECODED for output in outputs):
        for index, logits in runner.step([(s, min(CHUNK, remaining(s))) for s in sequences]).items():
            outputs[index].append(logits)
            sequences[index].token_ids.append(int(logits.argmax()))
    return torch.stack([logits for output in outputs for logits in output[:NUM_DECODED]])


def logits_of_ranks(
    folder: Path, dtype: torch.dtype, *, tensor_size: int = 1, num_stages: int = 1
) -> list[torch.Tensor]:
    """What `run_requests` gives on every rank."""
    tensor_groups = [thread_groups(tensor_size) for _ in range(num_stages)]
    stage_groups = [thread_groups(num_stages) for _ in range(tensor_size)]
    places = {
        tensor_groups[stage][rank]: (Shard(rank, tensor_size, stage, num_stages), stage_groups[rank][stage])
        for stage in range(num_stages)
        for rank in range(tensor_size)
    }

    def work(group: ThreadGroup) -> torch.Tensor:
        shard, stages = places[group]
        return run_requests(StageDecoder(load_shard(folder, shard, group, dtype), shard, stages))

    return run_ranks(list(places), work)
