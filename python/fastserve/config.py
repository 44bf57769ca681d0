"""Configuration. Each field is a command-line flag of `fastserve serve` (`_` becomes `-`): the metadata is its help."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fastserve._C import sched
from fastserve.errors import InvalidArgumentError

Policy = sched.PolicyName  # a Literal of the core's table of policies
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]

LEARNING = ("learned", "slo")  # policies that learn output lengths

MIB = 1 << 20
GIB = 1 << 30


def option(
    default: object,
    text: str,
    *,
    unit: str = "",
    choices: Sequence[str] = (),
    synonyms: Mapping[str, str] | None = None,
    alias: str = "",
    short: str = "",
    secret: bool = False,
) -> Any:
    """Return a config field with its help text, unit and optional further flag names; a secret one is not in the repr.

    `choices` lists the values of its flag where the type has more values than the flag accepts; `synonyms` maps other
    names that the flag accepts to values.
    """
    metadata = {
        "help": text,
        "unit": unit,
        "choices": tuple(choices),
        "synonyms": dict(synonyms or {}),
        "alias": alias,
        "short": short,
    }
    return field(default=default, repr=not secret, metadata=metadata)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidArgumentError(message)


_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text", dict: "an object"}
_MAX_INT = 2**31 - 1


@cache
def _hints(config_class: type) -> dict[str, Any]:
    return get_type_hints(config_class)


@cache
def _secrets(config_class: type) -> frozenset[str]:
    return frozenset(f.name for f in fields(config_class) if not f.repr)


def _check_types(config: object) -> None:
    """Reject values of the wrong type and values that are not among the choices: Python callers can pass anything."""
    config_class: Any = type(config)
    for name, hint in _hints(config_class).items():
        kinds = get_args(hint) if get_origin(hint) in (types.UnionType, Union) else (hint,)
        value, kind = getattr(config, name), kinds[0]
        if value is None and types.NoneType in kinds:
            continue
        if get_origin(kind) is tuple:
            fits = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
            shown = "" if name in _secrets(config_class) else f", got {value!r}"
            _require(fits, f"{name} must be a tuple of texts{shown}")
            continue
        if get_origin(kind) is Literal:
            _require(value in get_args(kind), f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
            continue
        kind = get_origin(kind) or kind
        accepted = (int, float) if kind is float else kind
        fits = isinstance(value, accepted) and isinstance(value, bool) == (kind is bool)
        _require(fits, f"{name} must be {_KINDS[kind]}, got {value!r}")


def _check_range(config: object, low: float, high: float, *names: str, unit: str = "", above: bool = False) -> None:
    """Reject values outside [low, high], or outside (low, high] with `above`; None passes."""
    rule = f"above {low:g} and at most {high:g}" if above else f"between {low} and {high}"
    for name in names:
        value = getattr(config, name)
        fits = value is None or (low < value <= high if above else low <= value <= high)
        _require(fits, f"{name} must be {rule}{unit and ' '}{unit}, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Model and data type."""

    model: str = option(
        "",
        "folder of a Hugging Face checkpoint, or a hub id, which is downloaded once and then read from the local cache",
    )
    tokenizer: str | None = option(None, "folder or hub id of the tokenizer; default: the model's own")
    revision: str | None = option(None, "branch, tag or commit of a model on the hub; default: its main branch")
    download_dir: str | None = option(None, "folder for downloads; default: the local Hugging Face cache")
    dtype: DTypeName = option(
        "auto",
        "data type of weights, activations and KV; auto = as stored in the checkpoint",
        synonyms={"half": "float16", "float": "float32"},
    )
    generation_config: str = option(
        "auto",
        "source of the default sampling parameters: auto = the model's generation_config.json, vllm = none, or the path of"
        " such a file or of its folder",
    )
    override_generation_config: dict[str, Any] | None = option(
        None, "default sampling parameters that override those of the file, for example '{\"temperature\": 0.5}'"
    )
    max_model_len: int | None = option(None, "longest prompt + output; default: the model's own limit", unit="tokens")
    load_format: Literal["safetensors", "dummy"] = option(
        "safetensors", "dummy = random weights of the model's shape", synonyms={"auto": "safetensors"}
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where the model runs")
    attention_backend: Literal["auto", "native", "mma", "torch"] = option(
        "auto",
        "attention kernels: native = FastServe's own, mma = native without the Hopper kernel, torch = PyTorch's, auto = (on a"
        " GPU) the first of these that passes a self-test at start",
    )
    enforce_eager: bool = option(
        False, "on a GPU, launch the kernels of each decode step one by one instead of replaying a CUDA graph"
    )
    seed: int = option(0, "seed of dummy weights and of requests without a seed of their own")
    num_threads: int | None = option(
        None, "compute threads of a rank; default: one per core available to this process, divided among the ranks"
    )

    def __post_init__(self) -> None:
        _check_types(self)
        _check_range(self, 2, _MAX_INT, "max_model_len", unit="tokens")
        _check_range(self, -(2**63), 2**63 - 1, "seed")
        _check_range(self, 1, 1024, "num_threads")


HOST_KV_SHARE = 0.25  # share of the free host memory that the host pool takes
HOST_KV_MULTIPLE = 2  # largest host pool, in sizes of the device pool: more KV is hardly ever parked


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheConfig:
    """KV memory on the device and on the host."""

    block_size: int = option(16, "tokens in a KV block: 8, 16 or 32", unit="tokens")
    num_gpu_blocks_override: int | None = option(
        None, "number of device KV blocks; default: as many as fit into memory", alias="num-device-blocks"
    )
    kv_gib: float = option(1.0, "size of the device KV pool on a CPU, for all ranks together", unit="GiB")
    gpu_memory_utilization: float = option(
        0.9,
        "share of GPU memory to use; the KV pool gets what weights and activations leave of it",
        alias="device-memory-utilization",
    )
    host_kv_gib: float | None = option(
        None,
        "size of the host KV pool for parked requests; 0 = none: parked requests are recomputed; default: a quarter of the"
        " free host memory, at most twice the device pool",
        unit="GiB",
        alias="swap-space",
    )
    num_host_blocks_override: int | None = option(None, "number of host KV blocks; overrides host_kv_gib")
    allow_pageable_host_kv: bool = option(
        False, "on a GPU, accept a host KV pool that cannot be page-locked (copies are much slower) instead of exiting"
    )
    enable_prefix_caching: bool = option(True, "share the KV of common prefixes")
    kv_canary: bool = option(False, "hash every KV block when it is parked and compare the hash when it comes back")

    def __post_init__(self) -> None:
        _check_types(self)
        _require(self.block_size in (8, 16, 32), f"block_size must be 8, 16 or 32 tokens, got {self.block_size}")
        _check_range(self, 1, _MAX_INT, "num_gpu_blocks_override")
        _check_range(self, 0, _MAX_INT, "num_host_blocks_override")
        _check_range(self, 0, 1e6, "kv_gib", unit="GiB", above=True)
        _check_range(self, 0, 1_000_000, "host_kv_gib", unit="GiB")
        _check_range(self, 0, 1, "gpu_memory_utilization", above=True)

    def num_host_blocks(self, *, num_device_blocks: int, block_bytes: int, free_host_bytes: float) -> int:
        """Return the number of host blocks: the configured one, else what the machine has room for."""
        if self.num_host_blocks_override is not None:
            return self.num_host_blocks_override
        if self.host_kv_gib is not None:
            return int(self.host_kv_gib * GIB) // block_bytes
        return min(int(HOST_KV_SHARE * free_host_bytes) // block_bytes, HOST_KV_MULTIPLE * num_device_blocks)


MOST_RANKS = 64  # that the shared memory between ranks is made for


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """Ranks that run one model together."""

    pipeline_parallel_size: int = option(
        1,
        "number of stages, each with a part of the layers; as many iterations run at the same time, one in each",
        unit="stages",
        short="pp",
    )
    tensor_parallel_size: int = option(
        1,
        "number of ranks that share every layer: each has a part of the heads and of the MLP",
        unit="ranks",
        short="tp",
    )
    distributed_executor_backend: Literal["auto", "inproc", "mp"] = option(
        "auto",
        "where ranks run: inproc = in the engine process, mp = in one process each, auto = mp for more than one",
        synonyms={"uni": "inproc"},
    )
    distributed_timeout_s: float = option(
        600.0,
        "time limit for the start of the ranks, and for one to wait for another",
        unit="seconds",
        alias="distributed-timeout-seconds",
    )

    def __post_init__(self) -> None:
        _check_types(self)
        _check_range(self, 1, MOST_RANKS, "tensor_parallel_size", unit="ranks")
        _check_range(self, 1, MOST_RANKS, "pipeline_parallel_size", unit="stages")
        _check_range(self, 0, 1e6, "distributed_timeout_s", unit="seconds", above=True)
        _require(
            self.num_ranks <= MOST_RANKS,
            f"tensor_parallel_size {self.tensor_parallel_size} times pipeline_parallel_size {self.pipeline_parallel_size}"
            f" makes {self.num_ranks} ranks: at most {MOST_RANKS} can run a model",
        )
        _require(
            self.num_ranks == 1 or self.distributed_executor_backend != "inproc",
            f"distributed_executor_backend inproc runs one rank, got tensor_parallel_size {self.tensor_parallel_size} and"
            f" pipeline_parallel_size {self.pipeline_parallel_size}: use mp or auto",
        )

    @property
    def num_ranks(self) -> int:
        """Of all stages."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def stage_of(self, rank: int) -> int:
        """The stage of a rank; the ranks of a stage follow each other."""
        return rank // self.tensor_parallel_size

    @property
    def has_rank_processes(self) -> bool:
        """Whether ranks are processes of their own."""
        return self.distributed_executor_backend == "mp" or self.num_ranks > 1


_CORE = sched.SchedulerConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """Scheduling; docs/scheduling.md explains the method and the defaults.

    The core defines the defaults and limits of the settings that the scheduler reads.
    """

    scheduling_policy: Policy | None = option(
        None,
        "order in which requests run; default: slo if an objective is given, else learned",
        choices=tuple(name for name in get_args(Policy) if name != "srpt"),  # which is for simulations
    )
    max_num_seqs: int = option(_CORE.max_num_seqs, "maximum number of requests in a batch", unit="requests")
    max_num_batched_tokens: int = option(
        _CORE.max_num_batched_tokens, "maximum number of tokens in one iteration", unit="tokens"
    )
    max_prefill_chunk_tokens: int = option(
        _CORE.max_prefill_chunk_tokens,
        "maximum number of prompt tokens of one request in one iteration",
        unit="tokens",
        alias="long-prefill-token-threshold",
    )
    starvation_limit_s: float = option(
        _CORE.starvation_limit_s,
        "move a request to the front once it has waited this long for its first token, or under mlfq for any token",
        unit="seconds",
    )
    max_pause_s: float = option(
        _CORE.max_pause_s,
        "learned and slo: move a stream to the front once it has paused for this long; a large value = no limit",
        unit="seconds",
    )
    ttft_slo_s: float | None = option(
        _CORE.ttft_slo_s, "default objective of requests: time to the first token", unit="seconds"
    )
    tpot_slo_s: float | None = option(
        _CORE.tpot_slo_s, "default objective of requests: mean time per output token after the first", unit="seconds"
    )
    quantum_ratio: float = option(_CORE.quantum_ratio, "ratio of the quanta of two neighbouring levels")
    first_quantum_s: float | None = option(
        _CORE.first_quantum_s, "quantum of the first level; default: the shortest iteration", unit="seconds"
    )
    num_levels: int | None = option(
        _CORE.num_levels, "number of levels of skip-join-mlfq and mlfq; default: enough for the longest prefill"
    )
    length_half_life: float = option(
        _CORE.length_half_life,
        "learned: half-life of an observed output length, in finished requests",
        unit="requests",
    )
    min_length_observations: int = option(
        _CORE.min_length_observations,
        "learned: finished requests before learned lengths decide the order; until then requests run as they arrived",
        unit="requests",
    )
    preemption_mode: Literal["auto", "swap", "recompute"] = option(
        _CORE.preemption_mode,
        "how KV leaves the device: swap = copy it to the host, recompute = drop it and compute it again, auto = the cheaper",
    )
    proactive_offload: bool = option(_CORE.proactive_offload, "move KV ahead of need, by estimated next scheduled time")
    write_through: bool = option(
        _CORE.write_through, "copy full blocks of waiting requests to the host while the link is idle"
    )
    reserve_iterations: int = option(
        _CORE.reserve_iterations, "keep enough device blocks free for this many iterations of growth", unit="iterations"
    )
    upload_margin: float = option(
        _CORE.upload_margin,
        "share of the device blocks, on top of that reserve, that must be free before KV is uploaded ahead of need",
    )
    max_parks_per_request: int = option(
        _CORE.max_parks_per_request,
        "a request that was parked this often can be preempted by running requests only, not by new ones",
    )
    thrash_parks_per_finish: float = option(
        _CORE.thrash_parks_per_finish,
        "pause preemption for a while when a window has more parks per finished request than this",
    )
    max_num_queued_reqs: int = option(
        10_000, "refuse new requests (429) while this many are unfinished", unit="requests"
    )
    async_scheduling: bool = option(True, "plan the next iteration while the current one runs")

    def __post_init__(self) -> None:
        _check_types(self)
        _check_range(self, 1, _MAX_INT, "max_num_queued_reqs")
        self.core().validate()

    def core(self) -> sched.SchedulerConfig:
        """Return the core's configuration with these settings.

        Raises:
            InvalidArgumentError: a value is out of its limits, or settings do not go together.
        """
        core = sched.SchedulerConfig(policy=self.policy)
        for name in CORE_SETTINGS:
            value = getattr(self, name)
            try:
                setattr(core, name, value)
            except TypeError:  # its type was checked before
                raise InvalidArgumentError(f"{name} must be a number of 64 bits, got {value}") from None
        return core

    @property
    def has_objective(self) -> bool:
        """Whether requests have a default objective."""
        return self.ttft_slo_s is not None or self.tpot_slo_s is not None

    @property
    def policy(self) -> Policy:
        """The policy that was chosen, or the default."""
        return self.scheduling_policy or ("slo" if self.has_objective else "learned")

    def of_policy(self, policy: Policy) -> "SchedulerConfig":
        """Return the same configuration under another policy; objectives are dropped where that policy has none."""
        ttft_slo_s, tpot_slo_s = (self.ttft_slo_s, self.tpot_slo_s) if policy == "slo" else (None, None)
        return replace(self, scheduling_policy=policy, ttft_slo_s=ttft_slo_s, tpot_slo_s=tpot_slo_s)


CORE_SETTINGS = tuple(each.name for each in fields(SchedulerConfig) if hasattr(_CORE, each.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Everything the engine process needs.

    Attributes:
        eos_token_ids: end tokens in addition to the checkpoint's: the tokenizer's, which the engine does not read.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    eos_token_ids: tuple[int, ...] = ()


ToolCallParser = Literal["hermes", "llama3_json", "mistral", "json"]
ReasoningParser = Literal["qwen3", "deepseek_r1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """The HTTP API."""

    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "port to listen on; 0 = any free one")
    uds: str | None = option(None, "path of a Unix-domain socket to listen on, instead of host and port")
    root_path: str = option("", "prefix of all paths that a proxy in front of the server adds, such as /llm")
    ssl_certfile: str | None = option(None, "PEM file of the certificate, and of those that signed it: serve HTTPS")
    ssl_keyfile: str | None = option(None, "PEM file of its private key; default: it is in ssl_certfile")
    ssl_ca_certs: str | None = option(None, "PEM file of the authorities that sign certificates of clients")
    ssl_cert_reqs: int = option(0, "certificates of clients: 0 = not asked for, 1 = checked when sent, 2 = required")
    ssl_ciphers: str | None = option(None, "ciphers of TLS 1.2, in OpenSSL's form; default: OpenSSL's")
    allowed_origins: tuple[str, ...] = option(
        (), "origins whose pages may send requests from a browser (CORS), such as https://chat.example; * = every one"
    )
    allowed_methods: tuple[str, ...] = option(("*",), "allowed_origins: methods that they may use; default: all")
    allowed_headers: tuple[str, ...] = option(("*",), "allowed_origins: headers that they may send; default: all")
    allow_credentials: bool = option(False, "allowed_origins: browsers may send cookies and the like")
    api_key: tuple[str, ...] = option(
        (),
        "require one of these keys as a bearer token, except on health routes; other users can read a command line, so"
        " prefer FASTSERVE_API_KEY in the environment or api_keys_file",
        secret=True,
    )
    api_keys_file: str | None = option(None, "CSV file with more keys; its first line is name,key")
    served_model_name: tuple[str, ...] = option(
        (), "names of the model in the API, of which replies and metrics have the first; default: the model argument"
    )
    chat_template: str | None = option(
        None, "chat template in the place of the model's own: a Jinja file, its text, or the name of one of the model's"
    )
    default_chat_template_kwargs: dict[str, Any] | None = option(
        None, "variables of the chat template that requests may override, for example '{\"enable_thinking\": false}'"
    )
    enable_auto_tool_choice: bool = option(
        False, "let the model call tools as it sees fit (tool_choice auto); needs tool_call_parser"
    )
    tool_call_parser: ToolCallParser | None = option(
        None,
        "how the model writes tool calls: hermes (also Qwen), llama3_json, mistral, or json (an object or a list of them)",
        synonyms={"llama4_json": "llama3_json"},
    )
    exclude_tools_when_tool_choice_none: bool = option(
        False, "leave tools out of the prompt of requests with tool_choice none"
    )
    reasoning_parser: ReasoningParser | None = option(
        None, "how the model writes its reasoning, which replies then have apart from the content"
    )
    strict_fields: bool = option(
        False, "refuse requests with unknown fields; otherwise they are ignored and named in a Warning header"
    )
    max_body_bytes: int = option(4 * MIB, "largest request body", unit="bytes")
    shutdown_timeout: float = option(
        25.0, "exit within this time after SIGTERM; running requests may finish until 3 s before", unit="seconds"
    )
    heartbeat_limit_s: float = option(
        30.0, "/livez fails when the engine loop has made no step for this long", unit="seconds"
    )
    restart_engine: bool = option(False, "replace an engine that dies or hangs with a new process instead of exiting")
    max_engine_restarts: int = option(
        3, "restart_engine: exit after this many engine restarts within 10 minutes", unit="restarts"
    )
    metrics_compat: Literal["none", "vllm"] = option(
        "vllm", "vllm = metrics under vLLM's names as well as ours, none = under ours alone"
    )
    log_level: Literal["debug", "info", "warning", "error"] = option("info", "least severe level of messages to log")
    uvicorn_log_level: Literal["debug", "info", "warning", "error", "critical"] = option(
        "warning", "least severe level of messages of the HTTP library to log"
    )
    json_logs: bool = option(False, "log as JSON lines")
    disable_fastapi_docs: bool = option(False, "do not serve /openapi.json")
    record: str | None = option(
        None, "write arrival time and lengths of every request to this new CSV file, for replay (docs/workloads.md)"
    )
    record_prompts: bool = option(False, "also record the token ids of prompts, which reveal what users wrote")

    def __post_init__(self) -> None:
        _check_types(self)
        _check_range(self, 0, 65535, "port")
        _check_range(self, 1024, 1 << 40, "max_body_bytes", unit="bytes")
        _check_range(self, 0, 1_000_000, "shutdown_timeout", unit="seconds")
        _check_range(self, 0, 1e9, "heartbeat_limit_s", unit="seconds", above=True)
        _check_range(self, 1, 1_000_000, "max_engine_restarts", unit="restarts")
        _require(all(key.strip() for key in self.api_key), "api_key must not be blank; leave it out for no key")
        names, path = self.served_model_name, self.root_path
        _require(all(name.strip() for name in names), f"served_model_name must have no blank name, got {names}")
        fits = not path or (path.startswith("/") and not path.endswith("/"))
        _require(fits, f"root_path must begin with a slash and not end with one, got {path!r}")
        _check_range(self, 0, 2, "ssl_cert_reqs")


def config_from(config_class: type, values: dict[str, object]) -> Any:
    """Build one of the dataclasses above from a mapping that may hold other keys as well."""
    names = {f.name for f in fields(config_class)}
    return config_class(**{name: value for name, value in values.items() if name in names})
