"""The engine's own loop, scheduler and KV manager on a virtual clock: what a workload would be like, in seconds instead of hours.

from fastserve.config import SchedulerConfig
from fastserve.sim import roofline_deployment, simulate
deployment = roofline_deployment("opt-13b", "a100-80gb")
result = simulate(workload, deployment, SchedulerConfig(scheduling_policy="fcfs", max_num_seqs=16))
result.summary.normalized_latency_s.mean
"""

from fastserve.sim.cost import CostModel
from fastserve.sim.deployment import Deployment, roofline_deployment
from fastserve.sim.devices import DEVICES, Device, HostLink, find_device
from fastserve.sim.engine_costs import EngineCosts, with_engine_costs
from fastserve.sim.explain import Level, explain_policy
from fastserve.sim.learned import LengthClass, LengthStep
from fastserve.sim.policy import Policy, QueuedRequest
from fastserve.sim.profile import FittedCost, Profile, profile_deployment, read_profile_file
from fastserve.sim.requests import RequestTable
from fastserve.sim.roofline import Parallelism, Roofline
from fastserve.sim.shapes import MODELS, ModelShape, find_model
from fastserve.sim.simulation import Endings, SimulationResult, simulate
from fastserve.sim.suggest import OBJECTIVES, Suggestion, Trial, suggest
from fastserve.sim.summary import Distribution, Summary
from fastserve.sim.timeline import Timeline

__all__ = [
    "DEVICES",
    "MODELS",
    "OBJECTIVES",
    "CostModel",
    "Deployment",
    "Device",
    "Distribution",
    "Endings",
    "EngineCosts",
    "FittedCost",
    "HostLink",
    "LengthClass",
    "LengthStep",
    "Level",
    "ModelShape",
    "Parallelism",
    "Policy",
    "Profile",
    "QueuedRequest",
    "RequestTable",
    "Roofline",
    "SimulationResult",
    "Suggestion",
    "Summary",
    "Timeline",
    "Trial",
    "explain_policy",
    "find_device",
    "find_model",
    "profile_deployment",
    "read_profile_file",
    "roofline_deployment",
    "simulate",
    "suggest",
    "with_engine_costs",
]
