"""Log-probabilities of tokens of outputs and of prompts. Values that cross rooms, as those of `types`."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one output position, of the raw (unpenalised, temperature 1) distribution.

    Attributes:
        logprob: log-probability of the chosen token.
        rank: rank of the chosen token; 1 = the likeliest.
        top_ids: the likeliest tokens, best first; at most `SamplingParams.logprobs` of them.
        top_logprobs: log-probabilities of `top_ids`.
    """

    logprob: float
    rank: int
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogprobs:
    """Log-probabilities of consecutive tokens of a prompt, packed, because they may be many; as in `TokenLogprobs`.

    Attributes:
        first: index in the prompt of the first token, 1 or more: there is none for the prompt's first.
        num_top: how many likeliest tokens are listed for each.
        token_logprobs: float32, one per token; ranks: int32 likewise.
        top_ids: int32, `num_top` per token; top_logprobs: float32 likewise.
    """

    first: int
    num_top: int
    token_logprobs: bytes
    ranks: bytes
    top_ids: bytes
    top_logprobs: bytes

    @property
    def end(self) -> int:
        """Index in the prompt behind the last token."""
        return self.first + len(self.ranks) // 4

    def since(self, index: int) -> "PromptLogprobs":
        """Leave out the tokens before an index of the prompt."""
        skip = 4 * max(0, index - self.first)
        return PromptLogprobs(
            first=max(index, self.first),
            num_top=self.num_top,
            token_logprobs=self.token_logprobs[skip:],
            ranks=self.ranks[skip:],
            top_ids=self.top_ids[skip * self.num_top :],
            top_logprobs=self.top_logprobs[skip * self.num_top :],
        )

    def unpack(self) -> list[TokenLogprobs]:
        """Return one entry per token."""
        ids, logprobs = memoryview(self.top_ids).cast("i"), memoryview(self.top_logprobs).cast("f")
        rows = zip(memoryview(self.token_logprobs).cast("f"), memoryview(self.ranks).cast("i"), strict=True)
        k = self.num_top
        return [
            TokenLogprobs(logprob, rank, tuple(ids[i * k : (i + 1) * k]), tuple(logprobs[i * k : (i + 1) * k]))
            for i, (logprob, rank) in enumerate(rows)
        ]
