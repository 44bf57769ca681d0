"""Costs that an engine adds to the iterations of its devices: time in which they wait, and separate prefills."""

from dataclasses import dataclass, replace

from fastserve.errors import InvalidArgumentError
from fastserve.sim.cost import CostModel
from fastserve.sim.deployment import Deployment

_LONGEST_S = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCosts:
    """Costs of an engine in addition to its devices; by default none: the engine hides all of them behind the iterations.

    Attributes:
        iteration_s: per iteration, between its end and the next start: to schedule, prepare inputs and read results, seconds.
        device_s: additional time per iteration for each device but the first, seconds.
        row_s: per decoding row of an iteration, seconds.
        separate_prefills: the prefills of an iteration run before its decodes, as an iteration of their own with all the
            costs of one, instead of in the same forward pass. In a pipeline they are those of one group of rows.
    """

    iteration_s: float = 0.0
    device_s: float = 0.0
    row_s: float = 0.0
    separate_prefills: bool = False

    def __post_init__(self) -> None:
        for name in ("iteration_s", "device_s", "row_s"):
            if not 0.0 <= getattr(self, name) <= _LONGEST_S:
                raise InvalidArgumentError(
                    f"{name} must be between 0 and {_LONGEST_S:g} seconds, got {getattr(self, name)}"
                )


def with_engine_costs(deployment: Deployment, costs: EngineCosts) -> Deployment:
    """Return the deployment with an engine's costs on top of its own."""
    if costs == EngineCosts():
        return deployment
    fixed_s = costs.iteration_s + (deployment.num_devices - 1) * costs.device_s
    cost: CostModel = _Overheads(deployment.cost, fixed_s, costs.row_s)
    if costs.separate_prefills:
        cost = _SeparatePrefills(cost, deployment.num_stages)
    return replace(deployment, cost=cost)


@dataclass(frozen=True, slots=True)
class _Overheads:
    """Costs of a device, a constant per iteration and one per decoding row."""

    cost: CostModel
    fixed_s: float
    row_s: float

    def iteration_s(self, prefill_tokens: float, prefill_pairs: float, num_decodes: float, decode_ctx: float) -> float:
        """See CostModel."""
        spent_s = self.cost.iteration_s(prefill_tokens, prefill_pairs, num_decodes, decode_ctx)
        return spent_s + self.fixed_s + self.row_s * num_decodes


@dataclass(frozen=True, slots=True)
class _SeparatePrefills:
    """Two iterations for one that has both prefills and decodes.

    A pipeline of p stages is busy with the prefills of one of its p groups for a p-th of a round in which every group had as
    many.
    """

    cost: CostModel
    num_stages: int

    def iteration_s(self, prefill_tokens: float, prefill_pairs: float, num_decodes: float, decode_ctx: float) -> float:
        """See CostModel."""
        if not (prefill_tokens and num_decodes):
            return self.cost.iteration_s(prefill_tokens, prefill_pairs, num_decodes, decode_ctx)
        stages = self.num_stages
        prefills_s = self.cost.iteration_s(stages * prefill_tokens, stages * prefill_pairs, 0, 0) / stages
        return prefills_s + self.cost.iteration_s(0, 0, num_decodes, decode_ctx)
