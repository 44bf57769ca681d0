"""One rank: device, KV memory, offload engine; StepPlan -> batch -> forward pass -> sampled tokens."""

from fastserve._C.sched import StepPlan
from fastserve.worker.step_output import StepOutput, TransferResults
from fastserve.worker.transfers import Transfers
from fastserve.worker.worker import Worker, WorkerInfo

__all__ = ["StepOutput", "StepPlan", "TransferResults", "Transfers", "Worker", "WorkerInfo"]
