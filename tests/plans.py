"""What is in a plan, to compare plans with, and whether its arrays fit together."""

from types import GetSetDescriptorType

import numpy as np

from fastserve._C.sched import StepPlan

ARRAYS = tuple(name for name, member in vars(StepPlan).items() if isinstance(member, GetSetDescriptorType))


def contents(plan: StepPlan) -> tuple[object, ...]:
    """Everything in a plan, as a value: two plans are the same when these are equal."""
    return (plan.step, plan.num_decode_rows, *((name, getattr(plan, name).tobytes()) for name in ARRAYS))


def check_plan(plan: StepPlan) -> None:
    """The lengths of the arrays agree, starts rise, indices are in range."""
    rows, tokens, samples, copies = plan.num_rows, plan.num_tokens, plan.num_samples, plan.num_transfers
    for names, length in (
        (("request_ids", "request_slots", "seq_lens", "token_sources"), rows),
        (("token_ids", "positions", "slots"), tokens),
        (("sample_rows",), samples),
        (("transfer_ids", "transfer_to_host"), copies),
        (("transfer_targets",), len(plan.transfer_sources)),
    ):
        assert all(len(getattr(plan, name)) == length for name in names), names
    for starts, count, total in (
        (plan.query_start, rows, tokens),
        (plan.block_start, rows, len(plan.block_ids)),
        (plan.transfer_start, copies, len(plan.transfer_sources)),
    ):
        assert len(starts) == count + 1
        assert starts[0] == 0
        assert starts[-1] == total
        assert (np.diff(starts) >= 0).all()
    assert 0 <= plan.num_decode_rows <= rows
    assert (np.diff(plan.sample_rows) > 0).all()
    assert ((plan.sample_rows >= 0) & (plan.sample_rows < rows)).all()
    assert (plan.token_sources >= -1).all()
    for name in (
        "request_slots",
        "block_ids",
        "positions",
        "slots",
        "transfer_sources",
        "transfer_targets",
        "ended_slots",
    ):
        assert (getattr(plan, name) >= 0).all(), name
