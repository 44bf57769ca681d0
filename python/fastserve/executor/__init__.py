"""Executors run plans on the workers: start / submit / result / stop. The only room that spawns threads or processes."""

from fastserve.executor.inproc import InprocExecutor

__all__ = ["InprocExecutor"]
