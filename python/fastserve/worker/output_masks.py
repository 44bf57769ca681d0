"""The forms of unfinished requests, by slot: masks are made while the forward pass runs, tokens taken when it has ended."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from fastserve._C.sched import StepPlan
from fastserve.errors import InternalError
from fastserve.grammars.store import FormStore
from fastserve.log import get_logger
from fastserve.ops.token_mask import mask_logits
from fastserve.worker.request_changes import RequestStart

if TYPE_CHECKING:  # imports xgrammar
    from fastserve.grammars.matcher import OutputMatcher

logger = get_logger(__name__)

# For the tokens of the step before, which another thread takes on a device that works beside the host.
LONGEST_WAIT_S = 600.0


@dataclass(frozen=True, slots=True)
class _Row:
    entry: int  # of the plan's sampling entries
    matcher: "OutputMatcher"
    num_tokens: int  # of the output so far


@dataclass(frozen=True, slots=True)
class StepMasks:
    """Masks of a step, which a thread fills.

    Attributes:
        masks: int32 [S, num_words] on the host, of which the rows of `entries` have a meaning.
        entries: sampling entries whose output has a form.
        filled: done when they are.
    """

    masks: np.ndarray
    entries: list[int]
    filled: "Future[None]"

    def apply(self, logits: torch.Tensor) -> None:
        """Wait for the masks and apply them to float32 [S, vocab_size]."""
        self.filled.result()
        mask_logits(logits, self.masks, self.entries)


class OutputMasks:
    """Follows the outputs that have a form.

    `start`, `end` and `begin` belong to the thread that launches steps, `take` and `abandon` to the one that finishes them.
    """

    def __init__(self, forms: FormStore) -> None:
        """Take compiled forms from `forms`."""
        self._forms = forms
        self._matchers: dict[int, tuple[OutputMatcher, int]] = {}  # and the length of the prompt
        self._changed = threading.Condition()  # over the matchers' states
        self._lost = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fastserve-masks")

    def start(self, start: RequestStart) -> None:
        """Begin the output of a request, if it has a form; compiles it here only if the store has dropped it meanwhile.

        Raises:
            InvalidArgumentError: the form cannot be used.
        """
        sampling = start.sampling
        if sampling.structured_outputs is None:
            return
        from fastserve.grammars.matcher import OutputMatcher

        matcher = OutputMatcher(
            self._forms.prepare(sampling.structured_outputs).result(),
            self._forms.vocab_size,
            end_token_ids=self._forms.end_token_ids,
            stop_token_ids=sampling.stop_token_ids,
            min_tokens=sampling.min_tokens,
            ignore_eos=sampling.ignore_eos,
        )
        self._matchers[start.slot] = matcher, len(start.prompt)

    def end(self, slot: int) -> None:
        """Forget the request in a slot."""
        self._matchers.pop(slot, None)

    def begin(self, plan: StepPlan) -> StepMasks | None:
        """Begin to fill the masks of a plan; None where no sampled row has a form."""
        rows = self._rows(plan) if self._matchers else []
        if not rows:
            return None
        from fastserve.grammars.matcher import num_words

        masks = np.empty((plan.num_samples, num_words(self._forms.vocab_size)), np.int32)
        return StepMasks(masks, [row.entry for row in rows], self._thread.submit(self._fill, rows, masks))

    def take(self, plan: StepPlan, tokens: np.ndarray) -> None:
        """Take what the entries of a plan sampled, int32 [S]; a negative token ends its output."""
        if not self._matchers or not tokens.size:
            return
        with self._changed:
            for row in self._rows(plan):
                row.matcher.take(row.num_tokens, int(tokens[row.entry]))
            self._changed.notify_all()

    def abandon(self) -> None:
        """No more tokens come: end the wait for them."""
        with self._changed:
            self._lost = True
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread."""
        self.abandon()
        self._thread.shutdown()

    def _rows(self, plan: StepPlan) -> list[_Row]:
        slots = plan.request_slots[plan.sample_rows].tolist()
        lengths = plan.seq_lens[plan.sample_rows].tolist()
        found = ((entry, self._matchers.get(slot)) for entry, slot in enumerate(slots))
        return [_Row(entry, row[0], lengths[entry] - row[1]) for entry, row in found if row is not None]

    def _fill(self, rows: Sequence[_Row], masks: np.ndarray) -> None:
        with self._changed:
            for row in rows:
                taken = partial(self._has_taken, row)
                if not self._changed.wait_for(taken, LONGEST_WAIT_S):
                    raise InternalError("the tokens of the step before did not come")
                try:
                    row.matcher.fill(masks, row.entry)
                except Exception:
                    logger.exception("the mask of a request could not be made: its output ends here")
                    masks[row.entry] = 0

    def _has_taken(self, row: _Row) -> bool:
        return self._lost or row.matcher.num_tokens >= row.num_tokens
