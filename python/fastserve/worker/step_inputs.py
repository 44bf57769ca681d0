"""The inputs of a step on a device: packed in host memory, copied at once, at addresses that never change."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fastserve._C.offload import copy_fragments
from fastserve.errors import InvalidArgumentError
from fastserve.worker.device import Device, Event

ALIGNMENT = 16  # bytes: what one lane of the copy kernel takes at once
NUM_SLOTS = 3  # two steps may be under way while a third one is packed

_TORCH = {np.dtype(np.int32): torch.int32, np.dtype(np.int64): torch.int64, np.dtype(np.float32): torch.float32}


@dataclass(frozen=True, slots=True)
class Field:
    """An array of at most `capacity` elements of int32, int64 or float32."""

    name: str
    dtype: type
    capacity: int


class _Slot:
    """One copy of all fields in host memory, page-locked for a GPU."""

    def __init__(self, buffer: torch.Tensor, read: Event, fields: dict[str, tuple[int, np.dtype, int]]) -> None:
        self.buffer = buffer
        self.read = read  # the device has taken what was packed last
        in_bytes = buffer.numpy()
        self.arrays = {
            name: in_bytes[begin : begin + capacity * dtype.itemsize].view(dtype)
            for name, (begin, dtype, capacity) in fields.items()
        }


class PackedInputs:
    """Arrays on the device under fixed addresses, filled for every step by one small copy.

    Use: `begin`, `put` each array, `send`. What was put is read by the device later, so a slot of host memory is filled
    again only after the copy of what it held has ended. On the CPU nothing is copied: a step has ended before the next one is
    packed, in the place where it is read. Used by one thread.
    """

    def __init__(self, device: Device, fields: Sequence[Field]) -> None:
        self._device = device
        self._fields: dict[str, tuple[int, np.dtype, int]] = {}
        num_bytes = 0
        for field in fields:
            dtype = np.dtype(field.dtype)
            self._fields[field.name] = (num_bytes, dtype, field.capacity)
            num_bytes += aligned(field.capacity * dtype.itemsize)
        self._target = torch.zeros(max(num_bytes, ALIGNMENT), dtype=torch.uint8, device=device.torch_device)
        in_place = [self._target]
        buffers = in_place if device.is_host else [device.host_buffer(len(self._target)) for _ in range(NUM_SLOTS)]
        self._slots = [_Slot(buffer, device.event(), self._fields) for buffer in buffers]
        self._next = 0
        self._slot = self._slots[0]
        self._offsets: list[int] = []
        self._sizes: list[int] = []
        self._views = {
            name: self._target[begin : begin + capacity * dtype.itemsize].view(_TORCH[dtype])
            for name, (begin, dtype, capacity) in self._fields.items()
        }
        self._last_views = {
            name: (len(view), view) for name, view in self._views.items()
        }  # steps are often of one size

    def view(self, name: str, count: int | None = None) -> torch.Tensor:
        """The first `count` elements (default: all there is room for) of a field on the device."""
        if count is None:
            return self._views[name]
        last_count, last = self._last_views[name]
        if count != last_count:
            last = self._views[name][:count]
            self._last_views[name] = count, last
        return last

    def fits(self, name: str, count: int) -> bool:
        """Whether a field has room for `count` elements."""
        return count <= self._fields[name][2]

    def begin(self) -> None:
        """Start packing a step."""
        self._slot = self._slots[self._next]
        self._next = (self._next + 1) % len(self._slots)
        self._slot.read.wait()
        self._offsets, self._sizes = [], []

    def put(self, name: str, values: np.ndarray) -> None:
        """Pack an array into the field.

        Raises:
            InvalidArgumentError: there is no room for so many.
        """
        begin, dtype, capacity = self._fields[name]
        count = len(values)
        if count > capacity:
            raise InvalidArgumentError(f"{name} has room for {capacity} entries, got {count}")
        if not count:
            return
        self._slot.arrays[name][:count] = values
        self._offsets.append(begin)
        self._sizes.append(aligned(count * dtype.itemsize))

    def send(self) -> None:
        """Queue the copy of everything put since `begin`; call it within the device's scope."""
        if self._slot.buffer is self._target:
            return
        copy_fragments(
            self._slot.buffer,
            self._target,
            np.array(self._offsets, np.int64),
            np.array(self._sizes, np.int64),
            stream=self._device.stream,
        )
        self._slot.read.record()


def aligned(num_bytes: int) -> int:
    """The next multiple of what the copy kernel takes at once."""
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT
