"""
Shared memory between the processes of one machine: plans to ranks, tensors among them.
"""
from __future__ import annotations
import fastserve._C.sched
import numpy
import torch
import typing
import typing_extensions
__all__: list[str] = ['ExchangeMemory', 'FrameReader', 'FrameWriter', 'SharedExchange', 'plan_bytes', 'plan_frame', 'read_plan']
class FrameWriter:
    """
    The writing end of a ring of frames in shared memory, which every reader reads in order. One thread.
    """
    def __init__(self, *, num_readers: typing.SupportsInt | typing.SupportsIndex, num_slots: typing.SupportsInt | typing.SupportsIndex, slot_bytes: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Make the memory: num_slots frames of at most slot_bytes may be on their way.
        """
    def beats(self, reader: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        How often the reader called beat, modulo 2**32.
        """
    def write(self, kind: typing.SupportsInt | typing.SupportsIndex, text: bytes, *, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> bool:
        """
        Write a frame; False when a reader left no room for it within timeout_s. InvalidArgumentError: longer than slot_bytes.
        """
    def write_plan(self, kind: typing.SupportsInt | typing.SupportsIndex, text: bytes, plan: fastserve._C.sched.StepPlan, *, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> bool:
        """
        As write, of text and a plan, which is written in place; see FrameReader.read_plan.
        """
    @property
    def fd(self) -> int:
        """
        Descriptor of the memory, for the readers' processes.
        """
class FrameReader:
    """
    A reading end; one thread, but for beat. A frame stays as it is until it is released.
    """
    def __init__(self, fd: typing.SupportsInt | typing.SupportsIndex, index: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Map the memory of a ring; the descriptor stays the caller's.
        """
    def beat(self) -> None:
        """
        Count up what FrameWriter.beats shows.
        """
    def read(self, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> tuple[int, memoryview] | None:
        """
        (kind, bytes in place) of the next frame; None when none came within timeout_s.
        """
    def release(self) -> None:
        """
        Let the writer have the oldest frame that was read.
        """
class ExchangeMemory:
    """
    Memory through which the ranks of one machine exchange tensors.
    """
    def __init__(self, num_ranks: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def fd(self) -> int:
        """
        Descriptor of the memory, for the ranks' processes.
        """
class SharedExchange:
    """
    A rank's end. All ranks make the same collective calls in the same order; one that is not joined within timeout_s raises DeviceError, one that differs InternalError.
    """
    def __init__(self, fd: typing.SupportsInt | typing.SupportsIndex, rank: typing.SupportsInt | typing.SupportsIndex, *, timeout_s: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    def all_gather(self, x: numpy.ndarray | torch.Tensor, out: numpy.ndarray | torch.Tensor) -> None:
        """
        Fill out [num_ranks, *x.shape] with x of every rank.
        """
    def all_reduce(self, x: numpy.ndarray | torch.Tensor) -> None:
        """
        Replace the float32 x by its sum over the ranks, added as a binary tree, on all ranks.
        """
    def recv(self, x: numpy.ndarray | torch.Tensor, source: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Fill x with what another rank sends.
        """
    def send(self, x: numpy.ndarray | torch.Tensor, to: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Hand x to another rank, which receives as many bytes.
        """
    @property
    def num_ranks(self) -> int:
        ...
    @property
    def rank(self) -> int:
        ...
def plan_bytes(plan: fastserve._C.sched.StepPlan) -> int:
    """
    Bytes that a plan takes in a frame.
    """
def plan_frame(text: bytes, plan: fastserve._C.sched.StepPlan) -> bytes:
    """
    What FrameWriter.write_plan writes, for those that no slot holds.
    """
def read_plan(frame: typing_extensions.Buffer, num_text_bytes: typing.SupportsInt | typing.SupportsIndex, plan: fastserve._C.sched.StepPlan) -> None:
    """
    Replace `plan` by that of a frame of FrameWriter.write_plan. InvalidArgumentError: the bytes are none of a plan.
    """
