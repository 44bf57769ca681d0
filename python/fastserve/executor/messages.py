"""What the engine, the nursery and the ranks tell each other: msgpack of plain fields, no pickle. Plans go by a ring."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec
import numpy as np

from fastserve import errors
from fastserve.config import EngineConfig
from fastserve.errors import DeviceLostError, FastServeError, InternalError, InvalidArgumentError
from fastserve.logprobs import PromptLogprobs
from fastserve.types import StructuredOutputs
from fastserve.worker.info import WorkerInfo
from fastserve.worker.request_changes import RequestChanges
from fastserve.worker.step_output import StepLogprobs, StepOutput, TransferResults

LENGTH_BYTES = 4  # of changes, before them in the frame of a plan
DEFAULT_WORKER_FACTORY = "fastserve.worker.worker:Worker"


class FrameKind(IntEnum):
    """What a frame of the ring is."""

    PLAN = 1  # length of the changes, 4 bytes; changes; plan
    CHANGES = 2  # a piece of changes that do not fit into the frame of their plan, which comes later
    TIME = 3  # the shape of a dummy iteration
    STOP = 4
    PLAN_PART = 6  # the beginning of the frame of a plan that no slot holds; PLAN has its end
    FORM = 5  # of outputs, to be compiled beside the plans


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, forbid_unknown_fields=True):
    """Base of all messages: the class name, then the fields."""


class RankStart(_Message, frozen=True):
    """Begin a rank; comes with the descriptors of its socket, of the ring, and of the exchanges of its stage and of all.

    Attributes:
        worker_factory: "module:function" that makes the worker, see `Worker`.
        log_level, json_logs: as the engine logs.
    """

    config: EngineConfig
    rank: int
    worker_factory: str
    log_level: str
    json_logs: bool


class KillRanks(_Message, frozen=True):
    """End processes of ranks at once."""

    pids: tuple[int, ...]


class RankForked(_Message, frozen=True):
    """The nursery's answer to RankStart."""

    pid: int


class RankEnded(_Message, frozen=True):
    """A process has ended; the status is negative for the signal that killed it."""

    pid: int
    status: int


class RankProgress(_Message, frozen=True):
    """A step of the start is done."""

    stage: str
    done: int
    total: int


class RankReady(_Message, frozen=True):
    """The rank waits for plans."""

    info: WorkerInfo


class RankTimed(_Message, frozen=True):
    """Answer to FrameKind.TIME."""

    seconds: float


class RankCompiled(_Message, frozen=True):
    """Answer to FrameKind.FORM: the class of the error and its text, or empty."""

    kind: str = ""
    text: str = ""


class RankFailed(_Message, frozen=True):
    """Why the rank ends: the class of the error and its text."""

    kind: str
    text: str


class Transfers(_Message, frozen=True):
    """See TransferResults."""

    ids: bytes  # int64
    ok: bytes  # uint8
    errors: tuple[str, ...]
    offload_bytes: int
    upload_bytes: int
    offload_bytes_per_s: float
    upload_bytes_per_s: float


class Logprobs(_Message, frozen=True):
    """See TokenLogprobs: float32[S], int32[S], int32[S, top], float32[S, top]."""

    token_logprobs: bytes
    ranks: bytes
    top_ids: bytes
    top_logprobs: bytes
    num_top: int
    num_logprobs: bytes  # int32[S]


class RankResult(_Message, frozen=True):
    """What a plan gave. The first rank of the last stage has the tokens; `digest` is the same on all ranks of a stage."""

    step: int
    digest: bytes
    elapsed_s: float
    errors: dict[int, str]
    transfers: Transfers | None
    sampled: bytes | None = None  # int32[S]
    logprobs: Logprobs | None = None
    prompt_logprobs: dict[int, PromptLogprobs] = {}


ToNursery = RankStart | KillRanks
FromNursery = RankForked | RankEnded
FromRank = RankProgress | RankReady | RankTimed | RankCompiled | RankFailed | RankResult


def _encode_array(value: object) -> bytes | float:
    if isinstance(value, float):  # numpy's are subclasses, which msgspec refuses
        return float(value)
    if isinstance(value, np.ndarray):
        return value.astype(np.int32, copy=False).tobytes()
    raise NotImplementedError(f"no message holds a {type(value).__name__}")


def _decode_array(kind: type, value: object) -> object:
    if kind is np.ndarray and isinstance(value, bytes):
        return np.frombuffer(value, np.int32)
    raise NotImplementedError(f"no message holds a {kind.__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_array)
_to_nursery = msgspec.msgpack.Decoder(ToNursery)
_from_nursery = msgspec.msgpack.Decoder(FromNursery)
_from_rank = msgspec.msgpack.Decoder(FromRank)
_changes = msgspec.msgpack.Decoder(RequestChanges, dec_hook=_decode_array)
_form = msgspec.msgpack.Decoder(StructuredOutputs)
_shape = msgspec.msgpack.Decoder(dict[str, int])


def encode(message: ToNursery | FromNursery | FromRank | RequestChanges | StructuredOutputs | dict[str, int]) -> bytes:
    """Return the bytes of a message."""
    return _encoder.encode(message)


def decode_to_nursery(raw: bytes) -> ToNursery:
    """Read a message of the engine."""
    return _to_nursery.decode(raw)


def decode_from_nursery(raw: bytes) -> FromNursery:
    """Read a message of the nursery."""
    return _from_nursery.decode(raw)


def decode_from_rank(raw: bytes) -> FromRank:
    """Read a message of a rank."""
    return _from_rank.decode(raw)


def decode_changes(raw: bytes | bytearray | memoryview) -> RequestChanges:
    """Read changes of the request tables."""
    return _changes.decode(raw)


def decode_form(raw: bytes | memoryview) -> StructuredOutputs:
    """Read the form of an output."""
    return _form.decode(raw)


def decode_shape(raw: bytes | memoryview) -> dict[str, int]:
    """Read the shape of a dummy iteration."""
    return _shape.decode(raw)


def transfers_message(results: TransferResults) -> Transfers | None:
    """What ended; None for nothing."""
    if not results.ids.size:
        return None
    return Transfers(
        results.ids.tobytes(),
        results.ok.tobytes(),
        results.errors,
        results.offload_bytes,
        results.upload_bytes,
        results.offload_bytes_per_s,
        results.upload_bytes_per_s,
    )


def logprobs_message(output: StepOutput) -> Logprobs | None:
    """The log-probabilities of a step; None without any."""
    values = output.logprobs
    if values is None:
        return None
    top_ids = np.asarray(values.top_ids, np.int32)
    return Logprobs(
        np.asarray(values.token_logprobs, np.float32).tobytes(),
        np.asarray(values.ranks, np.int32).tobytes(),
        top_ids.tobytes(),
        np.asarray(values.top_logprobs, np.float32).tobytes(),
        top_ids.shape[1],
        output.num_logprobs.tobytes(),
    )


@dataclass(frozen=True, slots=True)
class ReceivedLogprobs:
    """See StepLogprobs."""

    token_logprobs: np.ndarray
    ranks: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray


def step_output(result: RankResult, transfers: TransferResults, elapsed_s: float) -> StepOutput:
    """The output of a step whose tokens are those of `result`."""
    logprobs: StepLogprobs | None = None
    num_logprobs = np.empty(0, np.int32)
    if (received := result.logprobs) is not None:
        shape = (-1, received.num_top) if received.num_top else (len(received.ranks) // 4, 0)
        logprobs = ReceivedLogprobs(
            np.frombuffer(received.token_logprobs, np.float32),
            np.frombuffer(received.ranks, np.int32),
            np.frombuffer(received.top_ids, np.int32).reshape(shape),
            np.frombuffer(received.top_logprobs, np.float32).reshape(shape),
        )
        num_logprobs = np.frombuffer(received.num_logprobs, np.int32)
    errors_of_rows: Mapping[int, str] = result.errors
    sampled = np.frombuffer(result.sampled or b"", np.int32)
    return StepOutput(
        sampled, logprobs, transfers, elapsed_s, errors_of_rows, num_logprobs, prompt_logprobs=result.prompt_logprobs
    )


def failure_message(error: BaseException) -> RankFailed:
    """Why a rank ends."""
    text = str(error) if isinstance(error, FastServeError) else f"{type(error).__name__}: {error}"
    return RankFailed(type(error).__name__, text)


def compiled_message(error: BaseException | None) -> RankCompiled:
    """What came of a form."""
    return RankCompiled() if error is None else RankCompiled(type(error).__name__, str(error))


def form_error(message: RankCompiled) -> FastServeError | None:
    """The exception of a form that a rank could not compile."""
    if not message.kind:
        return None
    if message.kind == InvalidArgumentError.__name__:
        return InvalidArgumentError(message.text)
    return InternalError(f"a form could not be compiled: {message.kind}: {message.text}")


def start_error(failed: RankFailed, name: str) -> FastServeError:
    """The exception of a rank that did not start: as it was raised there, where it is one of ours."""
    kind: Any = getattr(errors, failed.kind, None)
    if isinstance(kind, type) and issubclass(kind, FastServeError):
        return kind(failed.text)
    return DeviceLostError(f"{name} did not start: {failed.text}")
