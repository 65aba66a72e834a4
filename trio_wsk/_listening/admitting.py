"""What a server has of its listening socket, beside what users have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from trio_wsk._connection.events import CONNECTION_EVENTS
from trio_wsk._engine.callers import runs_in

from .stages import LISTENING

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.connection import Connection
    from trio_wsk._delivery.contract import Taker

    from .listening import ListeningSocket

__all__ = ["Admitting"]


@final
class Admitting:
    """A listening socket for its server: who takes connections, how many, and until when."""

    def __init__(self, listening: ListeningSocket) -> None:
        stages = listening._stages
        self.block: Final = stages.block
        """Where its connections live."""
        self.drain_callback: Final[Callable[[Connection], object] | None] = stages.dispatch.drain
        """``ListenDispatch.drain``."""
        self._stages = stages

    @property
    def is_called_from_within(self) -> bool:
        """Whether the current task is one of the listening socket's: an inspector, or the pump."""
        return runs_in(self._stages.nursery)

    def serve(self, taker: Taker, permits: float) -> None:
        """Have connections taken, with all events enabled.

        Args:
          taker: Is given every connection that the accept event would be given, before that is.
          permits: How many connections it may have at once. One is taken for each, before accept.
        """
        self._stages.handing_over.event.inherited = CONNECTION_EVENTS
        self._stages.handing_over.give_all_to(taker, permits)

    def indicate(self, connection: Connection) -> None:
        """In the pump: give the accept callback a connection that its taker has kept until now."""
        self._stages.handing_over.indicate_late(connection)

    def return_permit(self) -> None:
        """A connection has ended, so another one may come."""
        self._stages.handing_over.add_permits(1)

    async def stop_admitting(self, *, more_permits: float) -> None:  # noqa: ASYNC910 - a drain has other checkpoints
        """Take who waits already, and then nobody more.

        Returns when nobody is left who may become a connection, and those who were turned away
        have read why.

        Args:
          more_permits: How many of them may be open beyond the limit.
        """
        intake = self._stages.intake
        if self._stages.state is LISTENING:
            self._stages.handing_over.add_permits(more_permits)
            intake.finish()
        if intake.finished is not None:
            await intake.finished.wait()
        await self._stages.last_words.wait_read()

    def close(self) -> None:
        """Stop listening at once; see `ListeningSocket.aclose`. Idempotent."""
        self._stages.close()
