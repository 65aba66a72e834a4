"""The accept event: the callback that is given the connections nobody is queued for."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from trio_wsk._connection.control import call_accept, start_events, start_without_events
from trio_wsk._connection.dispatch import ConnectionDispatch
from trio_wsk._engine.pump import FAILED
from trio_wsk._vocabulary.arguments import shown
from trio_wsk._vocabulary.errors import ConnectionBrokenError
from trio_wsk._vocabulary.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._connection.block import Block
    from trio_wsk._connection.connection import Connection
    from trio_wsk._vocabulary.statistics import ListeningCounters

    from .dropping import Dropping

    AcceptCallback = Callable[[Connection], ConnectionDispatch | Status]

__all__ = ["AcceptEvent"]


@final
class AcceptEvent:
    """The accept callback of one listening socket, and what follows from its answers.

    Args:
      callback: None if there is none; then the event can't be enabled.
      block: Where connections with events live.
      counters: Where those that are taken are counted.
      dropping: Where the others go.
    """

    def __init__(
        self,
        callback: AcceptCallback | None,
        block: Block,
        counters: ListeningCounters,
        dropping: Dropping,
    ) -> None:
        self._callback = callback
        self._block = block
        self._counters = counters
        self._dropping = dropping
        self.inherited = 0
        """The events, as bits, that connections have from the beginning if their dispatch has
        callbacks for them."""

    @property
    def has_callback(self) -> bool:
        """Whether there is anything to call."""
        return self._callback is not None

    def indicate(self, connection: Connection) -> None:
        """In the pump: call the callback with a connection, and do what it answers."""
        assert self._callback is not None
        try:
            answer = call_accept(connection, self._callback)
        except ConnectionBrokenError:
            answer = Status.SUCCESS  # it came, and it went while it was being taken
            connection.abort()
        except BaseException:  # Ctrl-C and its like: they go on, and nobody has this connection
            connection.abort()
            raise
        if isinstance(answer, ConnectionDispatch):
            self._counters.to_event += 1
            start_events(connection, self.inherited & answer.mask, answer)
        elif answer is Status.SUCCESS:
            self._counters.to_event += 1
            start_without_events(connection)
        else:
            self._not_accepted(connection, answer)

    def _not_accepted(self, connection: Connection, answer: object) -> None:
        if answer is not FAILED and answer is not Status.REQUEST_NOT_ACCEPTED:
            nonsense = TypeError(
                f"the accept callback returned {shown(answer)}: return a ConnectionDispatch (its"
                " events), Status.SUCCESS (taken, without events), or"
                " Status.REQUEST_NOT_ACCEPTED (to have it reset)"
            )
            self._block.report_callback("accept", connection, nonsense)
        connection.abort()
        self._dropping.dropped(
            connection.remote_address, "accept-failed" if answer is FAILED else "not-accepted"
        )
