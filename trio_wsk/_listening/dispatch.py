"""The dispatch table of a listening socket: which function is called for which event.

WSK_CLIENT_LISTEN_DISPATCH, as a frozen value. A slot that is None has no callback, and its event
can't be enabled.

Source: WSK_CLIENT_LISTEN_DISPATCH.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_wsk._vocabulary.arguments import function_slot, plain_function_slot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk._connection.connection import Connection
    from trio_wsk._connection.dispatch import ConnectionDispatch
    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._vocabulary.status import Status
    from trio_wsk._vocabulary.verdict import InspectAction, InspectId, Verdict

    from .listening import ListeningSocket

    Answer = InspectAction | Verdict

__all__ = ["ListenDispatch"]


@attrs.frozen(kw_only=True)
class ListenDispatch:
    """The callbacks of one listening socket: plain functions that start things and never wait.

    Only `inspect` may be an async function.
    """

    accept: Callable[[Connection], ConnectionDispatch | Status] | None = attrs.field(
        default=None, validator=plain_function_slot
    )
    """``accept(connection)``: a connection is established and no accept is queued for it.

    Return a `ConnectionDispatch` to have its events, `Status.SUCCESS` to take it without,
    or `Status.REQUEST_NOT_ACCEPTED` to have it reset. Its events are held back until this
    has returned. Anything else, None too, is reported, and the connection is reset: a
    forgotten ``return`` has said nothing. (WskAcceptEvent)
    """

    inspect: Callable[[ConnectionRequest], Answer | Awaitable[Answer]] | None = attrs.field(
        default=None, validator=function_slot
    )
    """``inspect(request)``: somebody wants to connect; called first, for each.

    Return an `InspectAction` or a `Verdict`. An async function runs in a task of its own,
    inside ``request.cancel_scope``; all of them are in flight at once. What it raises, and
    what is no verdict, is reported and counts as a rejection. (WskInspectEvent)
    """

    abort: Callable[[InspectId], object] | None = attrs.field(
        default=None, validator=plain_function_slot
    )
    """``abort(inspect_id)``: a request that was inspected and not rejected has ended undelivered.

    Called once for it, and not for what was rejected or delivered. Until it has returned,
    ``listening.pending_inspections[inspect_id]`` is the request, whose ``aborted`` says who
    left and when. (WskAbortEvent)
    """

    drain: Callable[[Connection], object] | None = attrs.field(
        default=None, validator=plain_function_slot
    )
    """``drain(connection)``: the server wants to end; finish what this connection is doing.

    Called once for each event-driven connection that is open when the server drains, or when it
    has had its ``max_lifetime``.
    """

    failed: Callable[[ListeningSocket, OSError], object] | None = attrs.field(
        default=None, validator=plain_function_slot
    )
    """``failed(listening, error)``: the listening socket itself has failed, and is closed.

    Called once, whatever events are enabled, after every request has been aborted and every
    queued accept completed; nothing of the listening socket is called after it. The error is
    the operating system's, and comes out of the block, too. Not called for a socket that
    was closed. (WskAcceptEvent without a socket, WskInspectEvent without an id)
    """
