"""
Policies, latency model, swap planner, StepPlan, scheduler.
"""
from __future__ import annotations
import collections.abc
import enum
import fastserve._C.kv
import numpy
import numpy.typing
import typing
__all__: list[str] = ['FinishReason', 'LatencyModel', 'PolicyName', 'QueuedRequest', 'RequestOptions', 'RequestStats', 'Scheduler', 'SchedulerConfig', 'SchedulerStats', 'StepEvents', 'StepPlan', 'prefill_pairs']
class RequestOptions:
    """
    What the caller asks of one request; the scheduler copies it. deadline_s is absolute, <= 0 none; max_pause_s, ttft_slo_s and tpot_slo_s <= 0 the scheduler's; oracle_output_tokens is its output length, for srpt; requests of one length_class have similar output lengths, for learned.
    """
    def __init__(self, *, max_tokens: typing.SupportsInt | typing.SupportsIndex = 16, min_tokens: typing.SupportsInt | typing.SupportsIndex = 0, ignore_eos: bool = False, eos_token_ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = (), stop_token_ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = (), priority: typing.SupportsInt | typing.SupportsIndex = 0, cache_salt: typing.SupportsInt | typing.SupportsIndex = 0, deadline_s: typing.SupportsFloat | typing.SupportsIndex = 0.0, max_pause_s: typing.SupportsFloat | typing.SupportsIndex = 0.0, ttft_slo_s: typing.SupportsFloat | typing.SupportsIndex = 0.0, tpot_slo_s: typing.SupportsFloat | typing.SupportsIndex = 0.0, oracle_output_tokens: typing.SupportsInt | typing.SupportsIndex = 0, length_class: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        ...
class FinishReason(enum.IntEnum):
    """
    Why a request ended.
    """
    ABORT = 3
    DEADLINE = 5
    ERROR = 4
    LENGTH = 2
    NONE = 0
    STOP = 1
class StepPlan:
    """
    One iteration as the workers need it. Every array is a read-only numpy view that keeps the plan alive; the fields are described in csrc/sched/plans/step_plan.h.
    """
    def __init__(self) -> None:
        """
        A plan of nothing, for collective.read_plan.
        """
    def slice(self, first: typing.SupportsInt | typing.SupportsIndex, end: typing.SupportsInt | typing.SupportsIndex) -> StepPlan:
        """
        The rows [first, end) as a plan of their own, with their sampling entries, without transfers and ended slots.
        """
    @property
    def block_ids(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def block_start(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def ended_slots(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def num_decode_rows(self) -> int:
        ...
    @property
    def num_rows(self) -> int:
        ...
    @property
    def num_samples(self) -> int:
        ...
    @property
    def num_tokens(self) -> int:
        ...
    @property
    def num_transfers(self) -> int:
        ...
    @property
    def positions(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def query_start(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def request_ids(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def request_slots(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def sample_rows(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def seq_lens(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def shape(self) -> tuple[float, float, float, float]:
        """
        What the time of the iteration depends on: (prefill_tokens, prefill_pairs, num_decodes, decode_ctx), the arguments of LatencyModel.iteration_s.
        """
    @property
    def slots(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def step(self) -> int:
        ...
    @property
    def token_ids(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def token_sources(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def transfer_ids(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def transfer_sources(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def transfer_start(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def transfer_targets(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
    @property
    def transfer_to_host(self) -> numpy.typing.NDArray[numpy.uint8]:
        """
        uint8 [n], read-only; see csrc/sched/plans/step_plan.h.
        """
class StepEvents:
    """
    Tokens and ends of requests, in the order of happening; read-only numpy views.
    """
    @property
    def finish_reasons(self) -> numpy.typing.NDArray[numpy.uint8]:
        """
        uint8 [n], FinishReason; NONE while it goes on.
        """
    @property
    def num_cached_tokens(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], prompt tokens from the prefix cache.
        """
    @property
    def request_ids(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64 [n].
        """
    @property
    def sample_indices(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], sampling entry of the committed step, -1 = none.
        """
    @property
    def token_ids(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 [n], -1 = no token.
        """
class RequestStats:
    """
    Where the time of a request went, seconds.
    """
    @property
    def host_s(self) -> float:
        ...
    @property
    def parked_s(self) -> float:
        ...
    @property
    def preemptions(self) -> int:
        ...
    @property
    def queue_s(self) -> float:
        ...
    @property
    def recomputed_tokens(self) -> int:
        ...
    @property
    def upload_wait_s(self) -> float:
        ...
class SchedulerStats:
    """
    State and counters of the scheduler at one moment.
    """
    @property
    def demotions(self) -> int:
        ...
    @property
    def device_usage(self) -> float:
        ...
    @property
    def dropped_s(self) -> float:
        ...
    @property
    def finished(self) -> int:
        ...
    @property
    def host_usage(self) -> float:
        ...
    @property
    def iteration_tokens(self) -> int:
        ...
    @property
    def iterations(self) -> int:
        ...
    @property
    def level_requests(self) -> list[int]:
        ...
    @property
    def mirror_blocks(self) -> int:
        ...
    @property
    def num_held(self) -> int:
        ...
    @property
    def num_parked_device(self) -> int:
        ...
    @property
    def num_parked_host(self) -> int:
        ...
    @property
    def num_running(self) -> int:
        ...
    @property
    def num_waiting(self) -> int:
        ...
    @property
    def offload_blocks(self) -> int:
        ...
    @property
    def offload_bytes(self) -> float:
        ...
    @property
    def parks(self) -> int:
        ...
    @property
    def preemptions(self) -> int:
        ...
    @property
    def prefix_cache_hits(self) -> int:
        ...
    @property
    def prefix_cache_queries(self) -> int:
        ...
    @property
    def promotions(self) -> int:
        ...
    @property
    def recomputed_tokens(self) -> int:
        ...
    @property
    def recomputes(self) -> int:
        ...
    @property
    def recomputes_by_mode(self) -> int:
        ...
    @property
    def recomputes_cheaper(self) -> int:
        ...
    @property
    def recomputes_host_full(self) -> int:
        ...
    @property
    def recomputes_no_host(self) -> int:
        ...
    @property
    def swaps(self) -> int:
        ...
    @property
    def thrash_governor_trips(self) -> int:
        ...
    @property
    def upload_blocks(self) -> int:
        ...
    @property
    def upload_bytes(self) -> float:
        ...
    @property
    def uploads_hit(self) -> int:
        ...
    @property
    def uploads_late(self) -> int:
        ...
    @property
    def uploads_wasted(self) -> int:
        ...
class LatencyModel:
    """
    Seconds of an iteration: base + a * prefill_tokens + b * prefill_pairs + c * num_decodes + d * decode_ctx, times a correction learned from the iterations that ran.
    """
    def __init__(self, coefficients: typing.Annotated[collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex], "FixedSize(5)"] = [0.001, 5e-05, 1e-09, 0.0001, 1e-08]) -> None:
        """
        coefficients: (base, a, b, c, d), seconds, none negative.
        """
    def coefficients(self) -> typing.Annotated[list[float], "FixedSize(5)"]:
        """
        (base, a, b, c, d), without the correction.
        """
    def decode_s(self, batch: typing.SupportsFloat | typing.SupportsIndex, total_ctx: typing.SupportsFloat | typing.SupportsIndex) -> float:
        """
        Predicted seconds of a decode iteration.
        """
    def fit(self, samples: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> None:
        """
        Fit to measured iterations, float64 [n, 5]: prefill_tokens, prefill_pairs, num_decodes, decode_ctx, seconds.
        """
    def iteration_s(self, prefill_tokens: typing.SupportsFloat | typing.SupportsIndex, prefill_pairs: typing.SupportsFloat | typing.SupportsIndex, num_decodes: typing.SupportsFloat | typing.SupportsIndex, decode_ctx: typing.SupportsFloat | typing.SupportsIndex) -> float:
        """
        Predicted seconds of an iteration.
        """
    def observe(self, prefill_tokens: typing.SupportsFloat | typing.SupportsIndex, prefill_pairs: typing.SupportsFloat | typing.SupportsIndex, num_decodes: typing.SupportsFloat | typing.SupportsIndex, decode_ctx: typing.SupportsFloat | typing.SupportsIndex, seconds: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Let the correction follow one iteration that ran.
        """
    def prefill_s(self, num_tokens: typing.SupportsFloat | typing.SupportsIndex, ctx: typing.SupportsFloat | typing.SupportsIndex = 0.0) -> float:
        """
        Predicted seconds of a prefill of num_tokens behind ctx tokens.
        """
    @property
    def correction(self) -> float:
        """
        Measured over predicted time, smoothed, within 1/4..4.
        """
class SchedulerConfig:
    """
    How requests are scheduled, with the defaults and limits of every setting. fastserve.config.SchedulerConfig says what each means.
    """
    policy: str
    preemption_mode: str
    proactive_offload: bool
    write_through: bool
    def __init__(self, **kwargs: typing.Any) -> None:
        """
        Raises InvalidArgumentError when a value is out of its limits, TypeError for an unknown setting.
        """
    def validate(self) -> None:
        """
        Raise InvalidArgumentError when a value is out of its limits or settings do not go together.
        """
    @property
    def block_bytes(self) -> float:
        ...
    @block_bytes.setter
    def block_bytes(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def first_quantum_s(self) -> float | None:
        ...
    @first_quantum_s.setter
    def first_quantum_s(self, arg1: typing.SupportsFloat | typing.SupportsIndex | None) -> None:
        ...
    @property
    def length_half_life(self) -> float:
        ...
    @length_half_life.setter
    def length_half_life(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def max_model_len(self) -> int:
        ...
    @max_model_len.setter
    def max_model_len(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def max_num_batched_tokens(self) -> int:
        ...
    @max_num_batched_tokens.setter
    def max_num_batched_tokens(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def max_num_seqs(self) -> int:
        ...
    @max_num_seqs.setter
    def max_num_seqs(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def max_parks_per_request(self) -> int:
        ...
    @max_parks_per_request.setter
    def max_parks_per_request(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def max_pause_s(self) -> float:
        ...
    @max_pause_s.setter
    def max_pause_s(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def max_prefill_chunk_tokens(self) -> int:
        ...
    @max_prefill_chunk_tokens.setter
    def max_prefill_chunk_tokens(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def min_length_observations(self) -> int:
        ...
    @min_length_observations.setter
    def min_length_observations(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def num_levels(self) -> int | None:
        ...
    @num_levels.setter
    def num_levels(self, arg1: typing.SupportsInt | typing.SupportsIndex | None) -> None:
        ...
    @property
    def num_stages(self) -> int:
        ...
    @num_stages.setter
    def num_stages(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def offload_bytes_per_s(self) -> float:
        ...
    @offload_bytes_per_s.setter
    def offload_bytes_per_s(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def quantum_ratio(self) -> float:
        ...
    @quantum_ratio.setter
    def quantum_ratio(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def reserve_iterations(self) -> int:
        ...
    @reserve_iterations.setter
    def reserve_iterations(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def starvation_limit_s(self) -> float:
        ...
    @starvation_limit_s.setter
    def starvation_limit_s(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def thrash_parks_per_finish(self) -> float:
        ...
    @thrash_parks_per_finish.setter
    def thrash_parks_per_finish(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def tpot_slo_s(self) -> float | None:
        ...
    @tpot_slo_s.setter
    def tpot_slo_s(self, arg1: typing.SupportsFloat | typing.SupportsIndex | None) -> None:
        ...
    @property
    def ttft_slo_s(self) -> float | None:
        ...
    @ttft_slo_s.setter
    def ttft_slo_s(self, arg1: typing.SupportsFloat | typing.SupportsIndex | None) -> None:
        ...
    @property
    def upload_bytes_per_s(self) -> float:
        ...
    @upload_bytes_per_s.setter
    def upload_bytes_per_s(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def upload_margin(self) -> float:
        ...
    @upload_margin.setter
    def upload_margin(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
class QueuedRequest:
    """
    A request as a policy of the simulator sees it (fastserve.sim.Policy). It may be given further attributes.
    """
    @property
    def arrival_s(self) -> float:
        ...
    @property
    def attained_s(self) -> float:
        """
        Seconds of the iterations that it was in.
        """
    @property
    def first_iteration_s(self) -> float:
        """
        Predicted time of its uncached prefill.
        """
    @property
    def id(self) -> int:
        """
        Row of the workload.
        """
    @property
    def key(self) -> float:
        """
        The smallest runs first; equal ones in order of arrival. Set it in join, charge or promote.
        """
    @key.setter
    def key(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def length_class(self) -> int:
        ...
    @property
    def max_tokens(self) -> int:
        """
        Its limit; its length where lengths are known.
        """
    @property
    def output_tokens(self) -> int:
        """
        Produced so far.
        """
    @property
    def priority(self) -> int:
        """
        Lower first, if the policy cares.
        """
    @property
    def prompt_tokens(self) -> int:
        ...
    @property
    def running(self) -> bool:
        """
        It is in a plan in flight.
        """
    @property
    def waiting_since_s(self) -> float:
        """
        Its last iteration, or its arrival.
        """
    @property
    def work_s(self) -> float:
        """
        Seconds that it is taken to run for once it gets on. Where it is infinite, the default, the request neither takes memory from others to start nor gives way to such.
        """
    @work_s.setter
    def work_s(self, arg1: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
class Scheduler:
    """
    Policy, KV and swap planner: schedule() -> run the plan -> commit(). Times are monotonic seconds given by the caller. One thread.
    """
    def __init__(self, config: SchedulerConfig, kv: fastserve._C.kv.KvManager, latency: LatencyModel, policy: typing.Any | None = None) -> None:
        """
        policy: a fastserve.sim.Policy in place of the one that the config names. Raises InvalidArgumentError for a config that does not hold, see SchedulerConfig.validate.
        """
    def abort(self, request_id: typing.SupportsInt | typing.SupportsIndex, now_s: typing.SupportsFloat | typing.SupportsIndex) -> bool:
        """
        End a request; False when unknown or finished. Its end comes as an event, at once or with a commit.
        """
    def add(self, request_id: typing.SupportsInt | typing.SupportsIndex, prompt: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], options: RequestOptions = ..., *, now_s: typing.SupportsFloat | typing.SupportsIndex) -> int:
        """
        Queue a request; prompt int32 [n]. Returns its slot of the workers' request tables, which a plan lists in ended_slots when it is free again. Raises InvalidArgumentError when it can never run.
        """
    def check_integrity(self) -> None:
        """
        Raise InternalError at the first broken invariant. For tests; slow.
        """
    def commit(self, step: typing.SupportsInt | typing.SupportsIndex, sampled: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], iteration_s: typing.SupportsFloat | typing.SupportsIndex, now_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        The oldest plan in flight ran; sampled int32 [num_samples], negative = no token, which fails the request.
        """
    def complete_transfers(self, ids: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], ok: typing.Annotated[numpy.typing.ArrayLike, numpy.uint8], now_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Transfers ended: ids int64 [n], ok uint8 [n], 0 = failed.
        """
    def explain(self, request_id: typing.SupportsInt | typing.SupportsIndex, now_s: typing.SupportsFloat | typing.SupportsIndex) -> dict[str, typing.Any]:
        """
        Why a request is where it is, as a dict.
        """
    def fail(self, request_id: typing.SupportsInt | typing.SupportsIndex, now_s: typing.SupportsFloat | typing.SupportsIndex) -> bool:
        """
        As abort, for a request that cannot go on: it ends with ERROR.
        """
    def fail_step(self, step: typing.SupportsInt | typing.SupportsIndex, now_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Fail every request of the oldest plan in flight.
        """
    def length_classes(self) -> list[typing.Any]:
        """
        What the policy learned knows of output lengths: a dict per class, in the order of length_class.
        """
    def level_quanta_s(self) -> list[float]:
        """
        Quanta of the policy's levels, seconds; infinite where no request is demoted, none for a policy without levels.
        """
    def request_stats(self, request_id: typing.SupportsInt | typing.SupportsIndex, now_s: typing.SupportsFloat | typing.SupportsIndex) -> RequestStats:
        """
        Where the time of a request went; a finished one is known until the schedule() after its end was taken.
        """
    def schedule(self, now_s: typing.SupportsFloat | typing.SupportsIndex) -> StepPlan:
        """
        Plan the next iteration; as many plans may be in flight as there are stages, and two with one stage.
        """
    def set_link_rates(self, offload_bytes_per_s: typing.SupportsFloat | typing.SupportsIndex, upload_bytes_per_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        Measured speed of the copies.
        """
    def stats(self) -> SchedulerStats:
        """
        State and counters now.
        """
    def stop(self, request_id: typing.SupportsInt | typing.SupportsIndex, num_tokens: typing.SupportsInt | typing.SupportsIndex, now_s: typing.SupportsFloat | typing.SupportsIndex) -> bool:
        """
        End a request at a stop string that was found in its outputs, of which the first num_tokens are the answer. False when unknown or finished; raises InvalidArgumentError when it has no such number of outputs.
        """
    def take_events(self) -> StepEvents:
        """
        Tokens and ends since the last call.
        """
    @property
    def has_events(self) -> bool:
        """
        Whether take_events() would return any.
        """
    @property
    def has_unfinished(self) -> bool:
        ...
    @property
    def num_transfers_in_flight(self) -> int:
        ...
    @property
    def num_unfinished(self) -> int:
        ...
def prefill_pairs(num_tokens: typing.SupportsFloat | typing.SupportsIndex, ctx: typing.SupportsFloat | typing.SupportsIndex) -> float:
    """
    (query, key) pairs that causal attention computes for num_tokens queries behind ctx tokens.
    """
PolicyName = typing.Literal['learned', 'slo', 'skip-join-mlfq', 'mlfq', 'fcfs', 'priority', 'srpt']
