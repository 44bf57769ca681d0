"""One sequence to run: what the frontend sends, and what the core takes."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from fastserve.errors import InvalidArgumentError
from fastserve.types import SamplingParams, SchedulingParams

TOKEN_BYTES = 4
_DEFAULT_SCHEDULING = SchedulingParams()


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One completion of a prompt; also the message that asks the engine process for it.

    Attributes:
        request_id: unique among live requests; chosen by the frontend.
        prompt: packed int32 ids, 1..max_model_len - 1 of them, each inside the vocabulary.
        sampling: without what the frontend does itself: n = 1, no stop strings, no bad words.
        scheduling: its deadline counts from when the core takes the request.
        watch: report changes of its place in the scheduler as `Event`.
        bad_word_ids: sequences of tokens that the output must not contain.
    """

    request_id: int
    prompt: bytes
    sampling: SamplingParams
    scheduling: SchedulingParams = _DEFAULT_SCHEDULING
    watch: bool = False
    bad_word_ids: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.prompt or len(self.prompt) % TOKEN_BYTES:
            raise InvalidArgumentError(
                f"the prompt must have at least one token of {TOKEN_BYTES} bytes, got {len(self.prompt)} bytes"
            )

    @classmethod
    def of(
        cls,
        request_id: int,
        prompt_token_ids: Sequence[int],
        sampling: SamplingParams,
        scheduling: SchedulingParams = _DEFAULT_SCHEDULING,
    ) -> Self:
        """Pack a prompt; raises InvalidArgumentError when it is empty, or not all ids are integers of 32 bits."""
        return cls(request_id, pack_token_ids(prompt_token_ids), sampling, scheduling)

    @property
    def prompt_token_ids(self) -> "array[int]":
        """The prompt as array('i'); numpy can view it without a copy."""
        return unpack_token_ids(self.prompt)


def pack_token_ids(token_ids: Sequence[int]) -> bytes:
    """Return ids as packed int32, in the byte order of this machine.

    Raises:
        InvalidArgumentError: not all are integers in the range of int32.
    """
    if isinstance(token_ids, array) and token_ids.typecode == "i":
        return token_ids.tobytes()
    try:
        return array("i", token_ids).tobytes()
    except (TypeError, OverflowError) as error:
        raise InvalidArgumentError(f"prompt token ids must be integers between 0 and 2**31 - 1: {error}") from error


def unpack_token_ids(packed: bytes) -> "array[int]":
    """Return an array('i') of packed ids."""
    token_ids = array("i")
    token_ids.frombytes(packed)
    return token_ids
