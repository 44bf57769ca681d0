"""The text of `/metrics`, under our names and vLLM's, and the facts of this process under those of all clients."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from fastserve.metrics.engine import EngineTotals, engine_families, fallback_family, info_family
from fastserve.metrics.names import PREFIX, VLLM_PREFIX
from fastserve.metrics.requests import RequestMetrics
from fastserve.types import EngineInfo, EngineStats

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True, eq=False)
class _Snapshot:
    """A collector over families that were gathered already."""

    families: list[Metric]

    def collect(self) -> Iterable[Metric]:
        return self.families


class MetricsExporter:
    """Renders the metrics of one server.

    Args:
        requests: what the server observed.
        vllm_names: export every family a second time under vLLM's prefix.
    """

    def __init__(self, requests: RequestMetrics, *, vllm_names: bool = False) -> None:
        self._requests = requests
        self._vllm_names = vllm_names
        self._totals = EngineTotals()
        self._process = ProcessCollector(registry=None)

    def start_engine(self) -> None:
        """Go on with the counters of the engines so far; called when another one is attached."""
        self._totals.start_engine()

    def render(self, info: EngineInfo | None, stats: EngineStats | None) -> bytes:
        """The exposition text; without engine values while there is no engine."""
        families = [_without_creation_times(family) for family in self._requests.registry.collect()]
        if info is not None:
            families.append(info_family(info, self._requests.labels))
            families.append(fallback_family(info, self._requests.labels))
        if stats is not None:
            families.extend(engine_families(self._totals.with_earlier(stats), self._requests.labels))
        if self._vllm_names:
            families.extend(list(_renamed(families)))
        families.extend(self._process.collect())
        registry = CollectorRegistry()
        registry.register(_Snapshot(families))
        return generate_latest(registry)


def _without_creation_times(family: Metric) -> Metric:
    """Drop the `_created` samples: a third more lines that no dashboard reads."""
    family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
    return family


def _renamed(families: Iterable[Metric]) -> Iterator[Metric]:
    for family in families:
        copy = Metric(_vllm_name(family.name), family.documentation, family.type, family.unit)
        copy.samples = [Sample(_vllm_name(sample.name), *sample[1:]) for sample in family.samples]
        yield copy


def _vllm_name(name: str) -> str:
    return VLLM_PREFIX + name.removeprefix(PREFIX)
