"""What a type checker sees of the public interface: `make lint` has mypy read this file; nothing runs it."""

from typing import assert_type

import numpy as np

import fastserve
from fastserve import LLM, AsyncEngine, SamplingParams
from fastserve.config import EngineConfig, ModelConfig, SchedulerConfig
from fastserve.errors import FastServeError, InvalidArgumentError
from fastserve.sim import Deployment, SimulationResult, roofline_deployment, simulate
from fastserve.types import CompletionOutput, RequestOutput
from fastserve.workload import Workload, poisson_arrivals, read_trace, replay


def offline(llm: LLM) -> str:
    assert_type(fastserve.__version__, str)
    outputs = llm.generate(["Hi"], SamplingParams(max_tokens=8, temperature=0.0))
    assert_type(outputs, list[RequestOutput])
    assert_type(outputs[0].outputs[0], CompletionOutput)
    assert_type(llm.get_default_sampling_params(), SamplingParams)
    return outputs[0].outputs[0].text


async def online(config: EngineConfig) -> None:
    engine = await AsyncEngine.start(config)
    assert_type(engine, AsyncEngine)


def configured() -> EngineConfig:
    config = EngineConfig(
        model=ModelConfig(model="/models/m", dtype="bfloat16"), scheduler=SchedulerConfig(max_num_seqs=4)
    )
    assert_type(config.scheduler.max_num_seqs, int)
    assert_type(config.model.max_model_len, int | None)
    return config


def simulated(path: str) -> float:
    workload = replay(read_trace(path), name="trace", seed=0)
    assert_type(workload, Workload)
    deployment = roofline_deployment("opt-13b", "a100-80gb")
    assert_type(deployment, Deployment)
    result = simulate(workload, deployment, SchedulerConfig(scheduling_policy="fcfs"))
    assert_type(result, SimulationResult)
    return result.summary.normalized_latency_s.mean


def arrivals() -> np.ndarray:
    return poisson_arrivals(2.0, 100, np.random.default_rng(0))


def refused(error: InvalidArgumentError) -> FastServeError:
    assert isinstance(error, ValueError)
    return error
