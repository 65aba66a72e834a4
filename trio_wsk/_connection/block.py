"""The listening block: the pump that a listening socket has, and the connections that live in it.

It keeps account of the connections with events, which nobody else holds, and of those that end
slowly.
"""

from __future__ import annotations

from functools import partial
from operator import methodcaller
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.deadlines import Deadlines
from trio_wsk._engine.pump import Pump, do_all
from trio_wsk._vocabulary.end_reason import EndReason

from .between import Between
from .farewell import SILENT_SECONDS, TOTAL_SECONDS, Farewells

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable

    from trio_wsk._listening.listening import ListeningSocket
    from trio_wsk.observers import Observer

    from .carried import Carried
    from .turns import Turns

__all__ = ["TAKING_OCTETS", "TAKING_SECONDS", "Block"]

TAKING_SECONDS: Final = 30.0
"""How long a peer has to take `TAKING_OCTETS` of what is unsent when its connection is to end, and
then for the next; half of nginx's ``send_timeout``. So the end is bounded by how much is unsent."""

TAKING_OCTETS: Final = 1 << 14
"""What the kernel takes at once as a rule (TCP_NOTSENT_LOWAT): who takes less in that time has not
read at all, or slower than a modem."""


class Block(Pump):
    """What one listening block gives to all that lives in it."""

    def __init__(
        self,
        listening: ListeningSocket | None,
        observers: Iterable[Observer],
        callback_failures: Counter[str],
        inspect_key: int | None = None,
    ) -> None:
        super().__init__(observers, callback_failures)
        self.listening: Final = listening
        """Whose block this is; None for what is opened in none."""
        self.inspect_key: Final = inspect_key
        """The key of its requests' `InspectId` values; None if they are not inspected."""
        self.between: Final = Between(self.call_at)
        """Who waits for a next request, until the server wants its connections to finish."""
        self.carried: dict[int, Carried] = {}
        """What open connections carry, by the numbers of their requests; few carry anything."""
        self.event_driven: set[Turns] = set()
        """The open connections that have events: nobody else holds them."""
        self.lingering: Deadlines[Turns] = Deadlines(
            self.call_at, SILENT_SECONDS, methodcaller("_abort", EndReason.TIMED_OUT)
        )
        """The connections that have sent FIN and wait for the peer's, which says nothing."""
        self.lingering_in_all: Deadlines[Turns] = Deadlines(
            self.call_at, TOTAL_SECONDS, methodcaller("_abort", EndReason.TIMED_OUT)
        )
        """The same connections, whatever their peers say."""
        self.taking: Deadlines[Turns] = Deadlines(
            self.call_at, TAKING_SECONDS, methodcaller("_check_taking")
        )
        """Those that want to send FIN and can't yet: their peers have to take what is before it."""
        self.farewells: Farewells | None = None
        """Where channels linger that are closed; if there is nothing, unread input resets."""
        self.is_served: bool = False
        """A server's: its observers hear of each connection's end."""

    @trio.lowlevel.enable_ki_protection
    def finish(self) -> None:
        """Reset what is still event-driven, and do the work that is left.

        What only has something queued goes on without the block.

        For after the pump's task has ended. Ctrl-C waits until all is done.
        """
        outliving = [each for each in self.event_driven if each._outlives_block]
        ending = self.event_driven.difference(outliving)
        try:
            do_all([partial(each._abort, EndReason.BLOCK_ENDED) for each in ending])
        finally:
            if self.farewells is not None:
                self.farewells.close()
            try:
                self.end()
            finally:
                for each in outliving:
                    each._leave_block()
