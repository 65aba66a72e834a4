"""The dispatch table of a connection: which function is called for which event.

WSK_CLIENT_CONNECTION_DISPATCH, as a frozen value. A slot that is None has no callback, and its
event can't be enabled.

Source: WSK_CLIENT_CONNECTION_DISPATCH.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from trio_wsk._vocabulary.arguments import plain_function_slot
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.status import (
    DISCONNECT,
    RECEIVE,
    SEND_BACKLOG,
    EventMask,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._vocabulary.records import ConnectionEnded
    from trio_wsk._vocabulary.status import Status

    from .connection import Connection

__all__ = ["ConnectionDispatch", "Taken"]


def _count(_taken: Taken, _field: attrs.Attribute[Any], count: object) -> None:
    if type(count) is not int or count < 0:  # a `Status` or a bool says something else
        raise InvalidParameterError(
            f"Taken takes the number of octets that were taken, 0 or more, not {count!r}"
        )


@attrs.frozen
class Taken:
    """What a receive callback returns that has taken some of the octets, and not all.

    A type of its own: a callback that ends with another function's count, such as that of
    `Connection.send_nowait`, has not said how many it has taken.

    Raises:
      InvalidParameterError: ``count`` is no number of octets. (Yours.)

    Source: PFN_WSK_RECEIVE_EVENT, its parameter BytesAccepted.
    """

    count: int = attrs.field(validator=_count)
    """How many of them, from the first on. 0 says what `Status.DATA_NOT_ACCEPTED` says,
    so a parser can return what it has consumed; as many as came is all of them."""


@attrs.frozen(kw_only=True)
class ConnectionDispatch:
    """The callbacks of one connection: plain functions that start things and never wait.

    They run in the pump task of the listening block, one after the other, each
    connection's in its own copy of the context in which the block was opened. One that
    raises is reported, and its connection is reset.
    """

    receive: Callable[[Connection, bytes], Status | Taken | None] | None = attrs.field(
        default=None, validator=plain_function_slot
    )
    """``receive(connection, data)``: octets have come; never empty.

    Return None or `Status.SUCCESS` if all are taken, `Taken` with their number if some are,
    or `Status.DATA_NOT_ACCEPTED` if none are. After less than all nothing more is
    indicated until `Connection.resume_receive` or a ``receive_some``, and then what was
    left comes first. Anything else, a bare number too, is reported, and the connection is
    reset. (WskReceiveEvent)
    """

    disconnect: Callable[[Connection, bool], object] | None = attrs.field(
        default=None, validator=plain_function_slot
    )
    """``disconnect(connection, abortive)``: the peer has ended.

    False: it sent FIN; sending is still possible, and `Connection.disconnect` finishes our
    side. It is told after all the data before it; if there is no receive callback, as soon as
    it is known. True: it reset, perhaps after its FIN; the connection is closed
    when the callback returns. Without this callback a connection whose peer has ended is
    finished by itself, after what was queued has been sent; but not one that was awaited and
    has no receive event, which a task may still answer. (WskDisconnectEvent)
    """

    send_backlog: Callable[[Connection, int], object] | None = attrs.field(
        default=None, validator=plain_function_slot
    )
    """``send_backlog(connection, ideal)``: how many octets should be outstanding has changed.

    More do not go faster, fewer leave the path idle. (WskSendBacklogEvent)
    """

    closed: Callable[[Connection, ConnectionEnded], object] | None = attrs.field(
        default=None, validator=plain_function_slot
    )
    """``closed(connection, ended)``: the connection is closed; called once, and last of all.

    Whoever ended it: the peer, this side, a callback that failed, a drain, or the listening
    block that ended; ``ended`` says which, and what was transferred. It belongs to no event:
    it is called for every connection that the accept event took with this dispatch, and for
    one that was awaited if it has an event enabled when it ends. Sending and receiving raise by
    then. (The completion of WskCloseSocket)
    """

    mask: int = attrs.field(init=False, repr=False, eq=False)
    """The bits of `events`, as a plain int: flags are too slow for each connection."""

    @mask.default
    def _(self) -> int:
        """Compute it, once."""
        mask = RECEIVE if self.receive is not None else 0
        mask |= DISCONNECT if self.disconnect is not None else 0
        return mask | (SEND_BACKLOG if self.send_backlog is not None else 0)

    @property
    def events(self) -> EventMask:
        """The events that have a callback here."""
        return EventMask(self.mask)
