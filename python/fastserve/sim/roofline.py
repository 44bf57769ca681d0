"""Seconds of an iteration from first principles: arithmetic, traffic, and the messages between devices."""

from dataclasses import dataclass

from fastserve.errors import InvalidArgumentError
from fastserve.sim.devices import Device
from fastserve.sim.shapes import ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallelism:
    """Devices that hold one copy of the model.

    Attributes:
        tensor: devices that share every layer.
        pipeline: stages of consecutive layers.
    """

    tensor: int = 1
    pipeline: int = 1

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline"):
            if not 1 <= getattr(self, name) <= 1024:
                raise InvalidArgumentError(
                    f"{name} parallelism must be between 1 and 1024 devices, got {getattr(self, name)}"
                )

    @property
    def num_devices(self) -> int:
        """Devices in all."""
        return self.tensor * self.pipeline


class Roofline:
    """A device does either arithmetic or memory traffic, whichever takes longer, part by part.

    The parts of an iteration are the matrix products (weights are read once, whatever the batch), attention (KV is read once per
    decode; a prefill chunk reads the context before it once), and a fixed overhead per layer. Tensor parallelism divides the first
    two and adds two all-reduces per layer. A pipeline of p stages holds p groups of rows at a time, each with 1/p of the batch: an
    iteration is one round, in which every group passes every stage.
    """

    def __init__(self, model: ModelShape, device: Device, parallelism: Parallelism | None = None) -> None:
        """Prepare the rates."""
        parallelism = parallelism or Parallelism()
        tensor = parallelism.tensor
        self.model, self.device, self.parallelism = model, device, parallelism
        flops = device.flops_per_s * device.compute_efficiency * tensor
        bandwidth = device.bytes_per_s * device.bandwidth_efficiency * tensor
        layers, element = model.num_layers, model.element_bytes
        self._stages = parallelism.pipeline
        self._layers_flop_s = 2.0 * layers * model.layer_weights / flops  # per token
        self._layers_read_s = element * layers * model.layer_weights / bandwidth
        self._head_flop_s = 2.0 * model.head_weights / flops  # per sampled row
        self._head_read_s = element * model.head_weights / bandwidth
        self._pair_flop_s = 4.0 * layers * model.num_heads * model.head_dim / flops
        self._kv_read_s = model.kv_token_bytes / bandwidth  # per token of context
        self._decode_ctx_s = max(self._pair_flop_s, self._kv_read_s)  # per token of context
        self._fixed_s = layers * device.layer_overhead_s
        self._token_s = 0.0
        if tensor > 1:
            self._fixed_s += 2 * layers * device.peer_latency_s
            message_bytes = 2.0 * (tensor - 1) / tensor * model.hidden_size * element
            self._token_s += 2 * layers * message_bytes / device.peer_bytes_per_s
        if self._stages > 1:
            self._fixed_s += self._stages * device.hop_latency_s
            self._token_s += model.hidden_size * element / device.hop_bytes_per_s

    def iteration_s(self, prefill_tokens: float, prefill_pairs: float, num_decodes: float, decode_ctx: float) -> float:
        """See CostModel."""
        stages = self._stages
        tokens = (prefill_tokens + num_decodes) / stages
        sampled = max(1.0, num_decodes / stages)
        linear_s = max(tokens * self._layers_flop_s, self._layers_read_s)
        head_s = max(sampled * self._head_flop_s, self._head_read_s)
        decode_s = decode_ctx * self._decode_ctx_s
        prefill_s = 0.0
        if prefill_tokens:
            context = prefill_pairs / prefill_tokens + prefill_tokens / 2  # exact for one chunk, too little for several
            prefill_s = max(prefill_pairs * self._pair_flop_s, context * self._kv_read_s)
        attention_s = (decode_s + prefill_s) / stages
        return linear_s + head_s + attention_s + self._fixed_s + tokens * self._token_s
