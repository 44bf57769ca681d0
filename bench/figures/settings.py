"""Everything that one simulation of a figure depends on."""

from dataclasses import dataclass, fields

from fastserve.config import CacheConfig, SchedulerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.sim import Deployment, Endings, EngineCosts, Parallelism, roofline_deployment, with_engine_costs

SCHEDULER_NAMES = tuple(field.name for field in fields(SchedulerConfig))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """A deployment, a workload and a scheduler.

    Attributes:
        model, device, tensor, pipeline, max_model_len: as `roofline_deployment` takes them.
        host_kv_gib, num_gpu_blocks_override: KV pools, as in `CacheConfig`.
        iteration_overhead_us, device_overhead_us, row_overhead_us, separate_prefills: as in `EngineCosts`, microseconds.
        prefix_caching: None = when the workload has conversations.
        hide_lengths: requests end by a stop token that is not known beforehand, whatever the policy: the engine computes a row
            in vain for each. None = only for policies that would learn the lengths from max_tokens. Lines that are
            compared with `learned` need true.
        workload: a name in workloads.toml.
        rate: requests per second; `load` instead says it in multiples of the rate at which `fcfs` is saturated.
        requests: how many.
        seeds: runs are repeated with this many seeds, from first_seed on.
        scheduler: fields of `SchedulerConfig` that are not at their defaults, sorted by name.
    """

    model: str = "opt-13b"
    device: str = "a100-80gb"
    tensor: int = 1
    pipeline: int = 1
    max_model_len: int | None = None
    host_kv_gib: float = 50.0
    num_gpu_blocks_override: int | None = None
    iteration_overhead_us: float = 0.0
    device_overhead_us: float = 0.0
    row_overhead_us: float = 0.0
    separate_prefills: bool = False
    prefix_caching: bool | None = None
    hide_lengths: bool | None = None
    workload: str = "sharegpt"
    rate: float = 1.0
    load: float | None = None
    requests: int = 400
    seeds: int = 3
    first_seed: int = 0
    scheduler: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        for name in ("rate", "load"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidArgumentError(f"{name} must be above 0, got {value}")
        for name in ("requests", "seeds"):
            if not 1 <= getattr(self, name) <= 1_000_000:
                raise InvalidArgumentError(f"{name} must be between 1 and 1000000, got {getattr(self, name)}")

    def scheduler_config(self) -> SchedulerConfig:
        """The scheduler's configuration; raises InvalidArgumentError where it is out of range."""
        return SchedulerConfig(**dict(self.scheduler))

    @property
    def endings(self) -> Endings | None:
        """As `simulate` takes them."""
        if self.hide_lengths is None:
            return None
        return "stop-token" if self.hide_lengths else "known"

    def deployment(self) -> Deployment:
        """The model on its devices; raises as `roofline_deployment` does."""
        cache = CacheConfig(host_kv_gib=self.host_kv_gib, num_gpu_blocks_override=self.num_gpu_blocks_override)
        deployment = roofline_deployment(
            self.model,
            self.device,
            parallelism=Parallelism(tensor=self.tensor, pipeline=self.pipeline),
            cache=cache,
            max_model_len=self.max_model_len,
        )
        costs = EngineCosts(
            iteration_s=1e-6 * self.iteration_overhead_us,
            device_s=1e-6 * self.device_overhead_us,
            row_s=1e-6 * self.row_overhead_us,
            separate_prefills=self.separate_prefills,
        )
        return with_engine_costs(deployment, costs)


RUN_NAMES = tuple(field.name for field in fields(RunSettings) if field.name != "scheduler")


def settings_from(values: dict[str, object]) -> RunSettings:
    """Settings out of a flat mapping of run and scheduler fields.

    Raises:
        InvalidArgumentError: an unknown name, or a value out of range.
    """
    for name in values:
        if name not in RUN_NAMES and name not in SCHEDULER_NAMES:
            known = ", ".join((*RUN_NAMES, *SCHEDULER_NAMES))
            raise InvalidArgumentError(f"{name} is no setting of a run; there are {known}")
    run = {name: value for name, value in values.items() if name in RUN_NAMES}
    scheduler = tuple(sorted((name, value) for name, value in values.items() if name in SCHEDULER_NAMES))
    settings = RunSettings(**run, scheduler=scheduler)
    settings.scheduler_config()
    return settings
