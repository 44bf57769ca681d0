"""The deployment of a simulated engine: costs, memory and host link, from a named device or a measured profile."""

from dataclasses import dataclass

from fastserve.config import CacheConfig
from fastserve.errors import InvalidArgumentError
from fastserve.sim.cost import Coefficients, CostModel
from fastserve.sim.devices import Device, HostLink, find_device
from fastserve.sim.roofline import Parallelism, Roofline
from fastserve.sim.shapes import ModelShape, find_model
from fastserve.worker.memory import PoolSizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model on its devices.

    Attributes:
        name: for reports.
        cost: seconds of iterations.
        pools: KV blocks of all devices together; a block has the KV of `block_size` tokens in all layers.
        link: to host memory, of each device.
        num_devices: each carries its share of every block.
        num_stages: of a pipeline, that holds as many groups of rows at a time.
        max_model_len: longest prompt + output, tokens.
        latency: coefficients of the latency model with which the engine starts; None = as it would measure `cost`.
    """

    name: str
    cost: CostModel
    pools: PoolSizes
    block_size: int
    link: HostLink
    num_devices: int
    max_model_len: int
    vocab_size: int
    dtype: str
    device: str
    latency: Coefficients | None = None
    num_stages: int = 1


def roofline_deployment(
    model: str | ModelShape,
    device: str | Device,
    *,
    parallelism: Parallelism | None = None,
    cache: CacheConfig | None = None,
    max_model_len: int | None = None,
) -> Deployment:
    """A model on named devices, with the costs of `Roofline`.

    Args:
        model: a name or folder as `find_model` takes it, or a shape.
        device: a name as `find_device` takes it, or a device.
        cache: block size and pools; without num_gpu_blocks_override, KV gets what the weights leave of
            gpu_memory_utilization.
        max_model_len: longest prompt + output, tokens; default: the model's own limit.
    Raises:
        InvalidArgumentError: unknown names, or a model or a request of max_model_len that does not fit the memory.
        CheckpointError: see `find_model`.
    """
    shape = find_model(model) if isinstance(model, str) else model
    hardware = find_device(device) if isinstance(device, str) else device
    parallelism = parallelism or Parallelism()
    cache = cache or CacheConfig()
    if max_model_len is not None and not 2 <= max_model_len <= shape.max_model_len:
        raise InvalidArgumentError(
            f"max_model_len must be between 2 and the model's {shape.max_model_len} tokens, got {max_model_len}"
        )
    max_model_len = max_model_len or shape.max_model_len
    pools = _pools(shape, hardware, parallelism, cache)
    if pools.num_device_blocks * cache.block_size < max_model_len:
        raise InvalidArgumentError(
            f"{shape.name} on {parallelism.num_devices} x {hardware.name} leaves memory for {max(0, pools.num_device_blocks)} KV"
            f" blocks of {cache.block_size} tokens, less than one request of max_model_len = {max_model_len}: use more"
            " devices, a smaller --max-model-len, or --num-gpu-blocks-override"
        )
    split = "" if parallelism.num_devices == 1 else f", tp {parallelism.tensor} x pp {parallelism.pipeline}"
    return Deployment(
        name=f"{shape.name} on {hardware.name}{split}",
        cost=Roofline(shape, hardware, parallelism),
        pools=pools,
        block_size=cache.block_size,
        link=hardware.link,
        num_devices=parallelism.num_devices,
        num_stages=parallelism.pipeline,
        max_model_len=max_model_len,
        vocab_size=shape.vocab_size,
        dtype=shape.dtype,
        device=hardware.name,
    )


def _pools(shape: ModelShape, device: Device, parallelism: Parallelism, cache: CacheConfig) -> PoolSizes:
    block_bytes = shape.kv_token_bytes * cache.block_size
    num_device = cache.num_gpu_blocks_override
    if num_device is None:
        room = cache.gpu_memory_utilization * device.memory_bytes * parallelism.num_devices - shape.weight_bytes
        num_device = int(room // block_bytes)
    num_host = cache.num_host_blocks(
        num_device_blocks=num_device,
        block_bytes=block_bytes,
        free_host_bytes=device.host_memory_bytes * parallelism.num_devices,
    )
    return PoolSizes(num_device, num_host, block_bytes)
