"""The executor of a configuration."""

from fastserve.config import EngineConfig
from fastserve.executor.base import TimingExecutor
from fastserve.worker.info import Progress


def open_executor(config: EngineConfig, progress: Progress | None = None) -> TimingExecutor:
    """Load the model on one rank in this process, or on ranks in processes of their own; the latter needs no torch here.

    Raises:
        FastServeError: what a worker raises at its start.
    """
    if config.parallel.has_rank_processes:
        from fastserve.executor.mp import MpExecutor

        return MpExecutor(config, progress)
    from fastserve.executor.inproc import InprocExecutor

    return InprocExecutor(config, progress)
