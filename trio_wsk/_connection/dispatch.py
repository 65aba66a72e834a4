"""The dispatch tables: which function is called for which event.

WSK_CLIENT_LISTEN_DISPATCH and WSK_CLIENT_CONNECTION_DISPATCH, as frozen values. A slot
that is None has no callback, and its event can't be enabled.

Source: WSK_CLIENT_LISTEN_DISPATCH, WSK_CLIENT_CONNECTION_DISPATCH.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from trio_wsk._vocabulary.arguments import check_function, check_plain_function
from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.status import (
    DISCONNECT,
    RECEIVE,
    SEND_BACKLOG,
    EventMask,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._listening.listening import ListeningSocket
    from trio_wsk._vocabulary.records import ConnectionEnded
    from trio_wsk._vocabulary.status import Status
    from trio_wsk._vocabulary.verdict import InspectAction, InspectId, Verdict

    from .connection import Connection

    Answer = InspectAction | Verdict

__all__ = ["ConnectionDispatch", "ListenDispatch", "Taken"]


def _plain_function(owner: object, slot: attrs.Attribute[Any], callback: object) -> None:
    if callback is not None:
        check_plain_function(f"{type(owner).__name__}({slot.name}=...)", callback)


def _function(owner: object, slot: attrs.Attribute[Any], callback: object) -> None:
    if callback is not None:
        check_function(f"{type(owner).__name__}({slot.name}=...)", callback)


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
        default=None, validator=_plain_function
    )
    """``receive(connection, data)``: octets have come; never empty.

    Return None or `Status.SUCCESS` if all are taken, `Taken` with their number if some are,
    or `Status.DATA_NOT_ACCEPTED` if none are. After less than all nothing more is
    indicated until `Connection.resume_receive` or a ``receive_some``, and then what was
    left comes first. Anything else, a bare number too, is reported, and the connection is
    reset. (WskReceiveEvent)
    """

    disconnect: Callable[[Connection, bool], object] | None = attrs.field(
        default=None, validator=_plain_function
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
        default=None, validator=_plain_function
    )
    """``send_backlog(connection, ideal)``: how many octets should be outstanding has changed.

    More do not go faster, fewer leave the path idle. (WskSendBacklogEvent)
    """

    closed: Callable[[Connection, ConnectionEnded], object] | None = attrs.field(
        default=None, validator=_plain_function
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


@attrs.frozen(kw_only=True)
class ListenDispatch:
    """The callbacks of one listening socket: plain functions that start things and never wait.

    Only `inspect` may be an async function.
    """

    accept: Callable[[Connection], ConnectionDispatch | Status] | None = attrs.field(
        default=None, validator=_plain_function
    )
    """``accept(connection)``: a connection is established and no accept is queued for it.

    Return a `ConnectionDispatch` to have its events, `Status.SUCCESS` to take it without,
    or `Status.REQUEST_NOT_ACCEPTED` to have it reset. Its events are held back until this
    has returned. Anything else, None too, is reported, and the connection is reset: a
    forgotten ``return`` has said nothing. (WskAcceptEvent)
    """

    inspect: Callable[[ConnectionRequest], Answer | Awaitable[Answer]] | None = attrs.field(
        default=None, validator=_function
    )
    """``inspect(request)``: somebody wants to connect; called first, for each.

    Return an `InspectAction` or a `Verdict`. An async function runs in a task of its own,
    inside ``request.cancel_scope``; all of them are in flight at once. What it raises, and
    what is no verdict, is reported and counts as a rejection. (WskInspectEvent)
    """

    abort: Callable[[InspectId], object] | None = attrs.field(
        default=None, validator=_plain_function
    )
    """``abort(inspect_id)``: a request that was inspected and not rejected has ended undelivered.

    Called once for it, and not for what was rejected or delivered. Until it has returned,
    ``listening.pending_inspections[inspect_id]`` is the request, whose ``aborted`` says who
    left and when. (WskAbortEvent)
    """

    drain: Callable[[Connection], object] | None = attrs.field(
        default=None, validator=_plain_function
    )
    """``drain(connection)``: the server wants to end; finish what this connection is doing.

    Called once for each event-driven connection that is open when the server drains.
    """

    failed: Callable[[ListeningSocket, OSError], object] | None = attrs.field(
        default=None, validator=_plain_function
    )
    """``failed(listening, error)``: the listening socket itself has failed, and is closed.

    Called once, whatever events are enabled, after every request has been aborted and every
    queued accept completed; nothing of the listening socket is called after it. The error is
    the operating system's, and comes out of the block, too. Not called for a socket that
    was closed. (WskAcceptEvent without a socket, WskInspectEvent without an id)
    """
