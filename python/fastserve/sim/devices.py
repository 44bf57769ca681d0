"""Devices by name: their makers' figures, and the share of each that an engine reaches.

Peak rates are dense half-precision rates of the makers' data sheets (NVIDIA A100 80GB SXM, H100 SXM, H200 SXM and L4, 2023 to
2024). Efficiencies are assumptions unless said otherwise; `docs/simulator.md` says how they were chosen and how to measure instead.
"""

from dataclasses import dataclass
from types import MappingProxyType

from fastserve.errors import InvalidArgumentError

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLink:
    """The link between a device and host memory.

    Attributes:
        offload_bytes_per_s: device to host, alone on the link, as copies of pinned memory reach it.
        upload_bytes_per_s: host to device.
        duplex_share: share of its rate that each direction keeps while both are busy: 1 = full duplex, 0.5 = one lane.
        copy_overhead_s: fixed cost of a transfer.
    """

    offload_bytes_per_s: float
    upload_bytes_per_s: float
    duplex_share: float = 1.0
    copy_overhead_s: float = 10e-6

    def __post_init__(self) -> None:
        for name in ("offload_bytes_per_s", "upload_bytes_per_s"):
            if not 0.0 < getattr(self, name) < 1e15:
                raise InvalidArgumentError(f"{name} must be above 0 bytes per second, got {getattr(self, name)}")
        if not 0.0 < self.duplex_share <= 1.0:
            raise InvalidArgumentError(f"duplex_share must be above 0 and at most 1, got {self.duplex_share}")
        if not 0.0 <= self.copy_overhead_s < 1e6:
            raise InvalidArgumentError(f"copy_overhead_s must not be negative, got {self.copy_overhead_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One accelerator, or one CPU with all its cores.

    Attributes:
        flops_per_s, bytes_per_s, memory_bytes: peak half-precision arithmetic, memory bandwidth and size.
        compute_efficiency: share of the peak arithmetic that large matrix products reach.
        bandwidth_efficiency: share of the bandwidth at which weights and KV are read.
        layer_overhead_s: fixed time of a layer beside its arithmetic and traffic: launches, small kernels.
        peer_bytes_per_s, peer_latency_s: link to the other devices of a tensor-parallel group, per direction; one message.
        hop_bytes_per_s, hop_latency_s: link to the next stage of a pipeline.
        link: to host memory.
        host_memory_bytes: free memory of the host, for each device.
    """

    name: str
    flops_per_s: float
    bytes_per_s: float
    memory_bytes: float
    compute_efficiency: float
    bandwidth_efficiency: float
    layer_overhead_s: float
    peer_bytes_per_s: float
    peer_latency_s: float
    hop_bytes_per_s: float
    hop_latency_s: float
    link: HostLink
    host_memory_bytes: float


def _gpu(name: str, *, tflops: float, gb_per_s: float, gib: float, layer_overhead_s: float, peer_gb_per_s: float,
         host_gb_per_s: float, host_gib: float) -> Device:  # fmt: skip
    return Device(
        name=name,
        flops_per_s=tflops * 1e12,
        bytes_per_s=gb_per_s * 1e9,
        memory_bytes=gib * GIB,
        compute_efficiency=0.6,
        bandwidth_efficiency=0.75,
        layer_overhead_s=layer_overhead_s,
        # A ring reaches some 70 % of the stated rate; a small all-reduce costs its launches and a synchronisation.
        peer_bytes_per_s=0.7 * peer_gb_per_s * 1e9,
        peer_latency_s=30e-6,
        hop_bytes_per_s=12.5e9,  # 100 Gbit/s between nodes
        hop_latency_s=30e-6,
        link=HostLink(
            offload_bytes_per_s=host_gb_per_s * 1e9, upload_bytes_per_s=host_gb_per_s * 1e9, duplex_share=0.85
        ),
        host_memory_bytes=host_gib * GIB,
    )


# The overhead of a layer on the A100 is fitted to the paper's light-load latencies: engines that launch every kernel from
# Python. The others assume an engine that launches a layer at once. Host memory: servers with 2 TB for eight devices have 250 GiB for each,
# most of it free.
_A100 = _gpu(
    "a100-80gb",
    tflops=312,
    gb_per_s=2039,
    gib=80,
    layer_overhead_s=250e-6,
    peer_gb_per_s=300,
    host_gb_per_s=25,
    host_gib=200,
)
_H100 = _gpu(
    "h100", tflops=989, gb_per_s=3350, gib=80, layer_overhead_s=50e-6, peer_gb_per_s=450, host_gb_per_s=50, host_gib=200
)
_H200 = _gpu(
    "h200",
    tflops=989,
    gb_per_s=4800,
    gib=141,
    layer_overhead_s=50e-6,
    peer_gb_per_s=450,
    host_gb_per_s=50,
    host_gib=200,
)
# No link of its own to other devices: they talk over PCIe 4.0.
_L4 = _gpu(
    "l4", tflops=121, gb_per_s=300, gib=22.5, layer_overhead_s=50e-6, peer_gb_per_s=32, host_gb_per_s=25, host_gib=32
)
# Measured, on two cores with AVX-512: docs/benchmarks.md. A copy to the "host" is a copy within the same memory.
_CPU = Device(
    name="cpu",
    flops_per_s=420e9,
    bytes_per_s=39e9,
    memory_bytes=8 * GIB,
    compute_efficiency=1.0,
    bandwidth_efficiency=0.8,
    layer_overhead_s=30e-6,
    peer_bytes_per_s=10e9,
    peer_latency_s=20e-6,
    hop_bytes_per_s=1e9,
    hop_latency_s=100e-6,
    link=HostLink(offload_bytes_per_s=8e9, upload_bytes_per_s=8e9, duplex_share=0.5),
    host_memory_bytes=8 * GIB,
)

DEVICES = MappingProxyType({device.name: device for device in (_A100, _H100, _H200, _L4, _CPU)})


def find_device(name: str) -> Device:
    """The device of a name.

    Raises:
        InvalidArgumentError: there is none; names those there are.
    """
    device = DEVICES.get(name.lower())
    if device is None:
        raise InvalidArgumentError(f"device must be one of {', '.join(DEVICES)}, got {name}")
    return device
