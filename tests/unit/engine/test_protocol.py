"""Messages survive the wire; anything else is an error, never a crash."""

from array import array

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig
from fastserve.engine import protocol
from fastserve.engine.protocol import (
    Abort,
    Error,
    ErrorKind,
    Explain,
    GetStats,
    Outputs,
    ProtocolError,
    Shutdown,
    Stop,
)
from fastserve.engine.request import EngineRequest, pack_token_ids, unpack_token_ids
from fastserve.errors import (
    CheckpointError,
    DeviceError,
    EngineDeadError,
    FastServeError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    RequestFailedError,
)
from fastserve.logprobs import TokenLogprobs
from fastserve.types import (
    EngineInfo,
    EngineOutput,
    EngineStats,
    FinishReason,
    RequestStats,
    SamplingParams,
    SchedulingParams,
)

INFO = EngineInfo(
    model="m", max_model_len=8, vocab_size=9, eos_token_ids=(1, 2), dtype="float32", device="cpu", block_size=16,
    num_device_blocks=1, num_host_blocks=0, block_bytes=4, scheduling_policy="fcfs", max_num_seqs=3,
)  # fmt: skip
LOGPROBS = TokenLogprobs(logprob=-1.5, rank=2, top_ids=(3, 4), top_logprobs=(-0.5, -1.5))
OUTPUT = EngineOutput(
    request_id=2**62, token_ids=(1, 2), logprobs=(LOGPROBS, LOGPROBS), finish_reason=FinishReason.STOP,
    stop_token_id=2, num_cached_tokens=5, stats=RequestStats(preemptions=1, parked_s=0.5), error="é",
)  # fmt: skip
REQUEST = EngineRequest(
    request_id=7,
    prompt=pack_token_ids([5, 0, 2**31 - 1]),
    sampling=SamplingParams(max_tokens=None, seed=-(2**63), stop=("a",), stop_token_ids=(3,), logprobs=2, top_k=-1),
    scheduling=SchedulingParams(
        priority=-3,
        cache_salt="tenant é",
        length_class="chat",
        deadline_s=1.5,
        max_pause_s=2,
        ttft_slo_s=1,
        tpot_slo_s=0.05,
    ),
    watch=True,
)
TO_ENGINE = [
    REQUEST,
    EngineRequest.of(0, [1], SamplingParams()),
    Abort(3),
    Stop(3, 17),
    Explain(3, 4),
    GetStats(5),
    Shutdown(),
]
TO_FRONTEND = [
    protocol.Progress("weights", 1, 2),
    protocol.Ready(INFO),
    Outputs([OUTPUT, EngineOutput(request_id=0)]),
    protocol.Event(3, {"state": "parked", "n": [1, 2.5, None]}),
    protocol.StatsReply(1, EngineStats(num_running=3, level_requests=(1, 2), schedule_s=0.5)),
    protocol.ExplainReply(1, None),
    protocol.ExplainReply(1, {"state": "running"}),
    protocol.Heartbeat(),
    Error(ErrorKind.INVALID, "no", request_id=3),
    Error(ErrorKind.DEVICE, "no", fatal=True),
]


@pytest.mark.parametrize("message", TO_ENGINE, ids=lambda m: type(m).__name__)
def test_messages_to_the_engine_survive_the_wire(message: protocol.ToEngine) -> None:
    assert protocol.decode_to_engine(protocol.encode(message)) == message


@pytest.mark.parametrize("message", TO_FRONTEND, ids=lambda m: type(m).__name__)
def test_messages_to_the_frontend_survive_the_wire(message: protocol.ToFrontend) -> None:
    assert protocol.decode_to_frontend(protocol.encode(message)) == message


def test_the_configuration_survives_the_wire() -> None:
    config = EngineConfig(
        model=ModelConfig(model="m", dtype="bfloat16", num_threads=2),
        cache=CacheConfig(kv_gib=0.5, num_host_blocks_override=0),
        scheduler=SchedulerConfig(scheduling_policy="srpt", first_quantum_s=0.5),
    )
    start = protocol.EngineStart(config, "/tmp/x.sock", "a:b", 3, "info", True)
    assert protocol.decode_start(protocol.encode(start)) == start


def test_a_request_has_its_prompt_packed() -> None:
    request = protocol.decode_to_engine(protocol.encode(REQUEST))
    assert len(request.prompt) == 12
    assert list(request.prompt_token_ids) == [5, 0, 2**31 - 1]


def test_an_unpacked_prompt_is_seen_by_numpy_without_a_copy() -> None:
    token_ids = unpack_token_ids(pack_token_ids([1, 2, 3]))
    assert np.shares_memory(np.asarray(token_ids), np.asarray(token_ids))
    assert np.asarray(token_ids).dtype == np.int32


@pytest.mark.parametrize("token_ids", [["a"], [2**31], [-(2**31) - 1], [1.5], [None], 7])
def test_prompts_that_are_no_ids_are_refused(token_ids: object) -> None:
    with pytest.raises(InvalidArgumentError, match="must be integers"):
        pack_token_ids(token_ids)


def test_arrays_are_packed_as_they_are() -> None:
    assert pack_token_ids(array("i", [1, 2])) == pack_token_ids([1, 2])


@pytest.mark.parametrize("prompt", [b"", b"12345"], ids=["empty", "half a token"])
def test_a_prompt_that_is_no_list_of_tokens_is_refused_on_both_sides(prompt: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="at least one token of 4 bytes"):
        EngineRequest(1, prompt, SamplingParams())
    raw = msgspec.msgpack.encode({"request_id": 1, "prompt": prompt, "sampling": {}})
    with pytest.raises(ProtocolError, match="at least one token of 4 bytes"):
        protocol.decode_to_engine(raw)
    assert protocol.request_id_of(raw) == 1


@given(st.binary(max_size=200))
def test_garbage_is_an_error(raw: bytes) -> None:
    for decode in (protocol.decode_to_engine, protocol.decode_to_frontend, protocol.decode_start):
        with pytest.raises(ProtocolError):
            decode(raw)
    assert protocol.request_id_of(raw) is None


@given(st.data())
def test_a_message_with_changed_bytes_is_an_error_or_another_message(data: st.DataObject) -> None:
    messages = [*TO_ENGINE, *TO_FRONTEND]
    raw = bytearray(protocol.encode(data.draw(st.sampled_from(messages))))
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=4)):
        raw[position] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    for decode in (protocol.decode_to_engine, protocol.decode_to_frontend):
        try:
            decode(bytes(raw))
        except ProtocolError:
            continue
    protocol.request_id_of(bytes(raw))


def test_deep_nesting_is_an_error() -> None:
    raw = b"\x93\xa5Event\x01" + b"\x81\xa1a" * 100_000 + b"\xc0"
    with pytest.raises(ProtocolError):
        protocol.decode_to_frontend(raw)


@pytest.mark.parametrize(
    "fields",
    [
        {"request_id": 3, "prompt": b"1234", "sampling": {"top_p": 7.0}},
        {"request_id": 3, "prompt": b"1234", "sampling": {}, "scheduling": {"priority": 2**31}},
        {"request_id": 3, "prompt": 4, "sampling": {}},
        {"request_id": 3},
        ["Abort", 3, "extra"],
        ["Explain", 3, "x"],
    ],
)
def test_the_request_of_a_bad_message_is_found(fields: list | dict) -> None:
    raw = msgspec.msgpack.encode(fields)
    with pytest.raises(ProtocolError):
        protocol.decode_to_engine(raw)
    assert protocol.request_id_of(raw) == 3


def test_no_request_is_found_in_other_messages() -> None:
    for fields in (["GetStats", 3, 4], {"request_id": True}, {"request_id": "3"}, {"Abort": 3}, []):
        assert protocol.request_id_of(msgspec.msgpack.encode(fields)) is None


@pytest.mark.parametrize(
    "error",
    [InvalidArgumentError("x"), OverloadedError("x"), CheckpointError("x"), DeviceError("x"), InternalError("x")],
    ids=lambda e: type(e).__name__,
)
def test_errors_keep_their_type_and_text(error: FastServeError) -> None:
    message = protocol.decode_to_frontend(protocol.encode(protocol.error_of(error, request_id=3)))
    found = protocol.exception_of(message)
    assert type(found) is type(error)
    assert str(found) == "x"


def test_unexpected_errors_are_the_requests_or_the_engines() -> None:
    assert type(protocol.exception_of(protocol.error_of(KeyError("x"), request_id=1))) is RequestFailedError
    assert type(protocol.exception_of(protocol.error_of(KeyError("x"), fatal=True))) is EngineDeadError


def test_facts_of_any_type_can_be_sent() -> None:
    facts = protocol.plain_facts({"a": np.float32(1.5), "b": {1, 2}, "c": (1, "x"), 3: None, "d": np.int64(4)})
    sent = protocol.decode_to_frontend(protocol.encode(protocol.Event(1, facts))).facts
    assert sent == {"a": "1.5", "b": [1, 2], "c": [1, "x"], "3": None, "d": "4"}
