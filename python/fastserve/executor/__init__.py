"""Executors run plans on the workers: submit and stop. The only room that spawns workers."""

from fastserve.executor.base import Executor, PendingStep
from fastserve.executor.inproc import InprocExecutor

__all__ = ["Executor", "InprocExecutor", "PendingStep"]
