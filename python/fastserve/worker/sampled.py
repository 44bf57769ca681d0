"""What a runner reads from the rows of a step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fastserve.logprobs import PromptLogprobs
from fastserve.ops.sampling import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Sampled:
    """The result of a step with S sampling entries.

    Attributes:
        tokens: int32[S], negative where none could be chosen.
        logprobs: of these tokens, when any entry asked for them.
        errors: rows that could not run at all, and why.
        prompt_logprobs: of rows whose requests want them.
    """

    tokens: np.ndarray
    logprobs: TokenLogprobs | None = None
    errors: Mapping[int, str] = field(default_factory=dict)
    prompt_logprobs: Mapping[int, PromptLogprobs] = field(default_factory=dict)


def nothing_sampled() -> Sampled:
    """The result of a plan without sampling entries."""
    return Sampled(np.empty(0, np.int32))
