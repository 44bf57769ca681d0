"""Inputs are packed into one copy, at fixed addresses, from host memory that is not overwritten too early."""

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.worker.step_inputs import NUM_SLOTS, Field, PackedInputs
from tests.fake_device import FakeDevice

FIELDS = [Field("ids", np.int32, 7), Field("slots", np.int64, 5), Field("scale", np.float32, 3)]


def packed(device: FakeDevice | None = None) -> PackedInputs:
    return PackedInputs(device or FakeDevice(), FIELDS)


def test_what_was_put_arrives_in_its_type():
    inputs = packed()
    inputs.begin()
    inputs.put("ids", np.array([1, 2, 3], np.int32))
    inputs.put("slots", np.array([2**40, -1], np.int64))
    inputs.put("scale", np.array([0.5], np.float32))
    inputs.send()
    assert inputs.view("ids", 3).tolist() == [1, 2, 3]
    assert inputs.view("slots", 2).tolist() == [2**40, -1]
    assert inputs.view("scale", 1).tolist() == [0.5]


def test_addresses_never_change_and_what_was_not_put_stays():
    inputs = packed()
    addresses = {name: inputs.view(name).data_ptr() for name in ("ids", "slots", "scale")}
    for step in range(2 * NUM_SLOTS):
        inputs.begin()
        inputs.put("ids", np.full(7, step, np.int32))
        if step == 0:
            inputs.put("slots", np.array([9], np.int64))
        inputs.send()
        assert inputs.view("ids").tolist() == [step] * 7
        assert inputs.view("slots", 1).tolist() == [9]
    assert addresses == {name: inputs.view(name).data_ptr() for name in addresses}
    assert all(address % 16 == 0 for address in addresses.values())


def test_a_slot_of_host_memory_is_filled_again_only_after_its_copy_was_waited_for():
    device = FakeDevice()
    inputs = packed(device)
    for step in range(NUM_SLOTS + 2):
        inputs.begin()
        inputs.put("ids", np.array([step], np.int32))
        inputs.send()
        assert device.waits == max(0, step + 1 - NUM_SLOTS)


def test_too_many_entries_are_refused():
    inputs = packed()
    inputs.begin()
    with pytest.raises(InvalidArgumentError, match="slots has room for 5 entries, got 6"):
        inputs.put("slots", np.zeros(6, np.int64))


def test_an_empty_step_sends_nothing():
    inputs = packed()
    inputs.begin()
    inputs.put("ids", np.empty(0, np.int32))
    inputs.send()
    assert inputs.view("ids").tolist() == [0] * 7
