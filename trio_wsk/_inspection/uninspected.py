"""What stands in the place of inspection where a listening socket has no inspector."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from trio_wsk._vocabulary.status import Status
from trio_wsk._vocabulary.verdict import InspectId

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_wsk._vocabulary.verdict import AbortReason

    from .request import ConnectionRequest

__all__ = ["Uninspected"]


@final
class Uninspected:
    """No requests: intake gives them to delivery, past this."""

    pending = 0
    """How many wait for their verdict, or for the end of their handshake."""
    straggling = 0
    """How many inspectors were cancelled and are still running."""

    def find(self, inspect_id: InspectId) -> ConnectionRequest | None:  # noqa: ARG002 - none has one
        """There is none."""
        return None

    def requests(self) -> Iterator[ConnectionRequest]:
        """There are none."""
        return iter(())

    def __len__(self) -> int:
        return 0

    def complete(self, inspect_id: InspectId, answer: object) -> Status:  # noqa: ARG002 - whatever it is
        """There is nothing to complete."""
        return Status.NOT_FOUND

    def close(self, reason: AbortReason) -> None:
        """There is nothing to abort."""

    async def settle(self) -> None:  # noqa: ASYNC910 - `aclose` has other checkpoints
        """There is nobody to wait for."""
