"""Listening sockets: accepting, queued operations, events and counts."""

from __future__ import annotations

from collections.abc import Mapping

import trio
from outcome import Outcome
from typing_extensions import assert_type

import trio_wsk
from trio_wsk import (
    Address,
    Connection,
    ConnectionDispatch,
    EventMask,
    Irp,
    ListenDispatch,
    ListeningSocket,
    ListeningStatistics,
    Status,
)


async def opened() -> None:
    """`open_listening_socket` gives a listening socket, from one of several places."""
    async with trio_wsk.open_listening_socket(0, host=["127.0.0.1", "::1"]) as listening:
        assert_type(listening, ListeningSocket)
        assert_type(listening.local_addresses, list[Address])
        assert_type(listening.socket, trio.socket.SocketType)
        assert_type(listening.draining, trio.Event)
        assert_type(listening.context, object)

    trio_wsk.open_listening_socket(path=b"/run/echo", backlog=10)
    trio_wsk.open_listening_socket(sockets=[3, trio.socket.socket()], context="mine")
    trio_wsk.open_listening_socket(0, on_no_descriptors="shed", max_parked=0)

    trio_wsk.open_listening_socket("80")  # type: ignore[arg-type]  # a port is an int
    trio_wsk.open_listening_socket(0, on_no_descriptors="ignore")  # type: ignore[arg-type]  # no such policy
    trio_wsk.open_listening_socket(0, "localhost")  # type: ignore[call-arg]  # options have names


async def accepting(listening: ListeningSocket) -> None:
    """A connection is a connection, whichever way it is asked for."""
    assert_type(await listening.accept(), Connection)
    assert_type(await listening.accept(context=1, dispatch=ConnectionDispatch()), Connection)
    assert_type(listening.accept_nowait(), Connection)
    assert_type(listening.queue_accept(), Irp[Connection])


async def queued(listening: ListeningSocket) -> None:
    """An Irp knows what it brings."""

    def completed(irp: Irp[Connection]) -> None:
        assert_type(irp.information, Connection | None)

    def sent(irp: Irp[int]) -> None:
        assert_type(irp.information, int | None)

    irp = listening.queue_accept(context="mine", on_completion=completed)
    assert_type(irp.status, Status)
    assert_type(irp.information, Connection | None)
    assert_type(irp.outcome, Outcome[Connection] | None)
    assert_type(irp.context, object)
    assert_type(await irp.wait(), Outcome[Connection])
    assert_type((await irp.wait()).unwrap(), Connection)
    assert_type(irp.cancel(), bool)

    connection = await listening.accept()
    assert_type(connection.queue_send(b"octets", on_completion=sent), Irp[int])
    assert_type((await connection.queue_send(bytearray(2)).wait()).unwrap(), int)

    listening.queue_accept(on_completion=sent)  # type: ignore[arg-type]  # what brings a connection
    connection.queue_send(b"", on_completion=completed)  # type: ignore[arg-type]  # what brings a count
    irp.information = connection  # type: ignore[misc]  # only its operation completes it


async def switched(listening: ListeningSocket) -> None:
    """Events are flags; switching them off says whether the callback is running."""
    listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
    assert_type(await listening.disable_event(EventMask.ACCEPT), None)
    assert_type(listening.disable_event_nowait(EventMask.ACCEPT), Status)
    assert_type(listening.pause(), None)
    assert_type(listening.refuse(), None)
    assert_type(listening.resume(), None)

    listening.enable_events(0x200)  # type: ignore[arg-type]  # an int is no event


def called_back(connection: Connection) -> None:
    """Callbacks are plain functions; what they may answer is part of their type."""

    def refuse(connection: Connection) -> Status:
        return Status.REQUEST_NOT_ACCEPTED

    def accept(connection: Connection) -> ConnectionDispatch | Status:
        return Status.SUCCESS

    def accept_forgetfully(connection: Connection) -> None:
        """Doesn't say what becomes of the connection."""

    async def accept_slowly(connection: Connection) -> Status:
        """Isn't plain."""
        return Status.SUCCESS

    def failed(listening: ListeningSocket, error: OSError) -> None:
        assert_type(error.errno, int | None)

    def drain(connection: Connection) -> None:
        connection.disconnect()

    ListenDispatch(accept=refuse)
    dispatch = ListenDispatch(accept=accept, drain=drain, failed=failed)
    trio_wsk.open_listening_socket(0, dispatch=dispatch)
    if dispatch.accept is not None:
        assert_type(dispatch.accept(connection), ConnectionDispatch | Status)

    ListenDispatch(accept)  # type: ignore[call-arg]  # callbacks have names
    ListenDispatch(accept=accept_forgetfully)  # type: ignore[arg-type]  # as it says
    ListenDispatch(accept=accept_slowly)  # type: ignore[arg-type]  # as it says
    ListenDispatch(failed=refuse)  # type: ignore[arg-type]  # it is told what has failed, and why
    dispatch.accept = refuse  # type: ignore[misc]  # frozen


def counted(statistics: ListeningStatistics) -> None:
    """Counts are numbers, by name where there are several kinds."""
    assert_type(statistics.accepted, int)
    assert_type(statistics.delivered, Mapping[str, int])
    assert_type(statistics.parked, int)
    assert_type(statistics.parked_most, int)
    assert_type(statistics.dropped, Mapping[str, int])
    assert_type(statistics.inspected, int)
    assert_type(statistics.approved, int)
    assert_type(statistics.pending, int)
    assert_type(statistics.pending_most, int)
    assert_type(statistics.rejected, Mapping[str, int])
    assert_type(statistics.aborted, Mapping[str, int])
    assert_type(statistics.close_fallbacks, int)
    assert_type(statistics.straggling, int)
    assert_type(statistics.queued_accepts, int)
    assert_type(statistics.accept_errors, Mapping[str, int])
    assert_type(statistics.accept_backoffs, int)
    assert_type(statistics.shed, int)
    assert_type(statistics.backlog, int | None)
    assert_type(statistics.backlog_limit, int | None)
