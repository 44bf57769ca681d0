"""The result of one StepPlan, as a worker returns it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fastserve.logprobs import PromptLogprobs


def _no_ids() -> np.ndarray:
    return np.empty(0, np.int64)


class StepLogprobs(Protocol):
    """Log-probabilities of sampled tokens; see `ops.TokenLogprobs`, which is one, for the shapes."""

    @property
    def token_logprobs(self) -> np.ndarray: ...
    @property
    def ranks(self) -> np.ndarray: ...
    @property
    def top_ids(self) -> np.ndarray: ...
    @property
    def top_logprobs(self) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class TransferResults:
    """Transfers that ended: ids int64[J]; ok uint8[J], 1 = copied; bytes moved and measured link rate per direction."""

    ids: np.ndarray = field(default_factory=_no_ids)
    ok: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))
    errors: tuple[str, ...] = ()
    offload_bytes: int = 0
    upload_bytes: int = 0
    offload_bytes_per_s: float = 0.0
    upload_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Result of one plan with S sampling entries.

    Attributes:
        sampled: int32[S], negative where no token could be chosen: see `types`.
        logprobs: of the S sampled tokens, when any entry asked for them.
        transfers: transfers that ended up to now, of this plan or an earlier one.
        elapsed_s: wall time of the plan, seconds.
        errors: rows of the plan that could not run, and why; all others ran.
        num_logprobs: int32[S], likeliest tokens that each entry asked for, -1 for no log-probabilities; empty without
            logprobs.
        prompt_logprobs: by row of the plan, of the prompt tokens that it ran, for requests that want them.
    """

    sampled: np.ndarray
    logprobs: StepLogprobs | None
    transfers: TransferResults
    elapsed_s: float
    errors: Mapping[int, str] = field(default_factory=dict)
    num_logprobs: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    prompt_logprobs: Mapping[int, PromptLogprobs] = field(default_factory=dict)
