"""The flags of `vllm serve` (of the release below), and what `fastserve serve` makes of each."""

from fastserve.cli.vllm_flags.engine import CACHE, FORMER_ENGINE, KERNEL, OBSERVABILITY, PARALLEL, SCHEDULER
from fastserve.cli.vllm_flags.flag import VllmFlag
from fastserve.cli.vllm_flags.model import ADAPTERS, FORMER_MODEL, MEDIA, MODEL
from fastserve.cli.vllm_flags.server import API, FORMER_SERVER, LOGGING, SERVER

VLLM_RELEASE = "0.32.0"
GROUPS = {
    "Model": MODEL,
    "Parallel": PARALLEL,
    "KV": CACHE,
    "Scheduler": SCHEDULER,
    "Kernels and decoding": KERNEL,
    "Server": SERVER,
    "API": API,
    "Log": LOGGING,
    "Metrics and traces": OBSERVABILITY,
    "Adapters": ADAPTERS,
    "Images, audio, video": MEDIA,
}
FORMER = (*FORMER_MODEL, *FORMER_ENGINE, *FORMER_SERVER)
FLAGS: tuple[VllmFlag, ...] = tuple(flag for group in GROUPS.values() for flag in group)
