"""A simulated GPU: the CPU as a device that works beside the host, so that what only GPUs need runs without one.

Work is done when it is called; what a test sees of a GPU is the packing of inputs, the steps under way, the fixed
addresses of captured steps and the waits of the host.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch

from fastserve.config import GIB
from fastserve.errors import DeviceError
from fastserve.layers import attention as attention_layer
from fastserve.ops.attention import AttentionBatch, attention
from fastserve.worker import worker as worker_module
from fastserve.worker.device import DeviceMemory


class FakeEvent:
    """Counts what happens to it."""

    def __init__(self, device: "FakeDevice") -> None:
        self._device = device
        self.recorded = 0

    def record(self) -> None:
        self.recorded += 1

    def wait(self) -> None:
        if self.recorded:
            self._device.waits += 1
        if self._device.fault is not None:
            raise DeviceError(self._device.fault)


class FakeGraph:
    """Runs the step again and writes its output where the capture left it."""

    def __init__(self, device: "FakeDevice", step: Callable[[], torch.Tensor], output: torch.Tensor) -> None:
        self._device = device
        self._step = step
        self._output = output

    def replay(self) -> None:
        self._device.replays += 1
        output = self._step()
        assert output.data_ptr() == self._output.data_ptr(), "a captured step writes to a fixed address"


class FakeDevice:
    """A Gpu, see there. `fault`, once set, makes every wait fail as a lost GPU would, for work given before as well."""

    def __init__(self, total: int = GIB) -> None:
        self.torch_device = torch.device("cpu")
        self.label = "fake"
        self.stream = 0
        self.is_host = False
        self.total = total
        self.fault: str | None = None
        self._steps_to_fault = 0
        self.waits = 0
        self.replays = 0
        self.synchronisations = 0
        self.captured: list[int] = []

    def fail_in_step(self, step: int) -> None:
        """Be lost in the work of a step, 1 = the next that is launched."""
        self._steps_to_fault = step

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        yield
        self._steps_to_fault -= 1
        if self._steps_to_fault == 0:
            self.fault = "an illegal memory access was encountered\nSearch for the error in the manual.\n"

    def synchronize(self) -> None:
        self.synchronisations += 1

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def host_buffer(self, num_bytes: int) -> torch.Tensor:
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def capture(self, step: Callable[[], torch.Tensor]) -> tuple[FakeGraph, torch.Tensor]:
        output = step()
        self.captured.append(len(output))
        return FakeGraph(self, step, output), output

    def begin_peak(self) -> None:
        pass

    def memory(self) -> DeviceMemory:
        return DeviceMemory(total=self.total, free=self.total // 2, reserved=self.total // 4, peak=self.total // 4)

    def is_fault(self, error: BaseException) -> bool:
        return isinstance(error, DeviceError | torch.AcceleratorError)


def use_device(device: FakeDevice, set_attribute: Callable[[object, str, object], None] = setattr) -> None:
    """Run the engines that this process makes from now on on a device."""
    set_attribute(worker_module, "open_device", lambda requested: device)
    set_attribute(attention_layer, "attention", attention_with_empty_rows)


def attention_with_empty_rows(q, kv_cache, batch: AttentionBatch, *, layer, scale, out) -> torch.Tensor:
    """`attention`, with zeros for the empty rows at the end of a batch, as its kernels for GPUs give them."""
    num_rows = int((batch.seq_lens > 0).sum())
    filled = dataclasses.replace(
        batch,
        query_start=batch.query_start[: num_rows + 1],
        seq_lens=batch.seq_lens[:num_rows],
        block_start=batch.block_start[: num_rows + 1],
        num_decode_rows=min(batch.num_decode_rows, num_rows),
    )
    if num_rows < batch.num_rows:
        out[num_rows:] = 0
    return attention(q, kv_cache, filled, layer=layer, scale=scale, out=out) if num_rows else out
