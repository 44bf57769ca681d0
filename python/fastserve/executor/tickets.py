"""Transfers that every rank makes for its part of the KV: complete when all have ended, good when all are."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fastserve.errors import InternalError
from fastserve.worker.step_output import TransferResults


@dataclass(slots=True)
class _Ticket:
    ranks: set[int] = field(default_factory=set)
    ok: bool = True


class TicketTable:
    """Joins what ranks report. Holds only transfers that some ranks have ended and others have not."""

    def __init__(self, size: int) -> None:
        """Of `size` ranks."""
        self._size = size
        self._tickets: dict[int, _Ticket] = {}

    def __len__(self) -> int:
        """Transfers that some ranks have ended and others have not."""
        return len(self._tickets)

    def join(self, results: Sequence[TransferResults]) -> TransferResults:
        """Note what each rank has ended, by rank, and return what all have ended by now.

        Bytes are those of all ranks; the rate of a direction is that of the slowest.

        Raises:
            InternalError: a rank reports a transfer twice.
        """
        complete: list[tuple[int, bool]] = []
        for rank, result in enumerate(results):
            for transfer_id, ok in zip(result.ids.tolist(), result.ok.tolist(), strict=True):
                ticket = self._tickets.setdefault(transfer_id, _Ticket())
                if rank in ticket.ranks:
                    raise InternalError(f"rank {rank} reports the end of transfer {transfer_id} twice")
                ticket.ranks.add(rank)
                ticket.ok = ticket.ok and bool(ok)
                if len(ticket.ranks) == self._size:
                    complete.append((transfer_id, ticket.ok))
                    del self._tickets[transfer_id]
        if not any(result.ids.size for result in results):
            return TransferResults()
        reported = [result for result in results if result.ids.size]
        return TransferResults(
            ids=np.array([transfer_id for transfer_id, _ in complete], np.int64),
            ok=np.array([ok for _, ok in complete], np.uint8),
            errors=tuple(f"rank {rank}: {e}" for rank, result in enumerate(results) for e in result.errors),
            offload_bytes=sum(result.offload_bytes for result in reported),
            upload_bytes=sum(result.upload_bytes for result in reported),
            offload_bytes_per_s=min(result.offload_bytes_per_s for result in reported),
            upload_bytes_per_s=min(result.upload_bytes_per_s for result in reported),
        )
