"""A measured engine as a file: `fastserve profile` writes it, `simulate --profile` reads it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fastserve._C.sched import LatencyModel
from fastserve.config import GIB, CacheConfig
from fastserve.errors import InvalidArgumentError
from fastserve.sim.cost import Coefficients
from fastserve.sim.deployment import Deployment
from fastserve.sim.devices import HostLink
from fastserve.worker.memory import PoolSizes

FORMAT = "fastserve-profile-2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Facts and measurements of one model on one machine.

    Attributes:
        coefficients: of iterations in the engine's loop: base, per prefill token, per prefill pair, per decode, per token of
            decode context.
        latency_coefficients: the same of the forward pass alone: the latency model with which the engine starts.
        offload_bytes_per_s, upload_bytes_per_s: copies of KV blocks, one direction at a time; 0 = there is no host pool.
        duplex_share: share of its rate that each direction kept while both were busy.
        fastserve: version that measured.
    """

    model: str
    dtype: str
    device: str
    num_threads: int
    max_model_len: int
    vocab_size: int
    block_size: int
    block_bytes: int
    num_device_blocks: int
    num_host_blocks: int
    coefficients: Coefficients
    latency_coefficients: Coefficients
    offload_bytes_per_s: float
    upload_bytes_per_s: float
    duplex_share: float
    fastserve: str

    def write(self, path: str | Path) -> None:
        """Write JSON."""
        Path(path).write_text(self.to_json() + "\n")

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": FORMAT} | asdict(self), indent=1)


def read_profile_file(path: str | Path) -> Profile:
    """Read what `Profile.write` wrote.

    Raises:
        InvalidArgumentError: it cannot be read, is of another format, or a field is missing or of the wrong kind.
    """
    try:
        values = json.loads(Path(path).read_text())
        if values.pop("format", None) != FORMAT:
            raise InvalidArgumentError(f"{path} must be a profile of format {FORMAT}: write one with fastserve profile")
        for name in ("coefficients", "latency_coefficients"):
            values[name] = tuple(float(value) for value in values[name])
            LatencyModel(values[name])
        profile = Profile(**values)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidArgumentError(f"the profile {path} cannot be used: {error}") from error
    return profile


class FittedCost:
    """A latency model as costs."""

    def __init__(self, coefficients: Coefficients) -> None:
        """See Profile.coefficients."""
        self._model = LatencyModel(coefficients)  # never observes an iteration, so it stays as it is
        self.iteration_s = self._model.iteration_s


def profile_deployment(
    profile: str | Path | Profile, *, cache: CacheConfig | None = None, max_model_len: int | None = None
) -> Deployment:
    """Return the deployment that a profile measured; its own pools apply unless `cache` overrides them.

    Args:
        profile: or its file.
        cache: num_gpu_blocks_override and num_host_blocks_override (or host_kv_gib) replace the
            profile's pools; the block size is the profile's.
        max_model_len: longest prompt + output, tokens; default: the profile's.
    Raises:
        InvalidArgumentError: the file is no profile, or max_model_len is out of its range.
    """
    found = profile if isinstance(profile, Profile) else read_profile_file(profile)
    cache = cache or CacheConfig()
    if max_model_len is not None and not 2 <= max_model_len <= found.max_model_len:
        raise InvalidArgumentError(
            f"max_model_len must be between 2 and the profile's {found.max_model_len} tokens, got {max_model_len}"
        )
    num_host = found.num_host_blocks if cache.num_host_blocks_override is None else cache.num_host_blocks_override
    if cache.num_host_blocks_override is None and cache.host_kv_gib is not None:
        num_host = int(cache.host_kv_gib * GIB) // found.block_bytes
    return Deployment(
        name=f"{Path(found.model).name} on {found.device}, measured",
        cost=FittedCost(found.coefficients),
        latency=found.latency_coefficients,
        pools=PoolSizes(cache.num_gpu_blocks_override or found.num_device_blocks, num_host, found.block_bytes),
        block_size=found.block_size,
        link=HostLink(
            offload_bytes_per_s=found.offload_bytes_per_s or 1e9,
            upload_bytes_per_s=found.upload_bytes_per_s or 1e9,
            duplex_share=found.duplex_share,
        ),
        num_devices=1,
        max_model_len=max_model_len or found.max_model_len,
        vocab_size=found.vocab_size,
        dtype=found.dtype,
        device=found.device,
    )
