"""The listening socket: connections that go to the accept event, and who comes first."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.helpers.listening import (
    Callbacks,
    Taker,
    clients_of,
    close_all,
    faulty,
    names,
    opened,
    parked,
    peers,
)
from tests.helpers.support import PATIENCE, FaultyTransport, connect, fate_of, reset, shown, until
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    Status,
    open_listening_socket,
)

if TYPE_CHECKING:
    from trio_wsk import Irp

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


# --- Accept events ----------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [Status.SUCCESS, ConnectionDispatch()])
async def test_accept_event_hands_out_connections(answer: object) -> None:
    """With the accept event enabled the callback gets each connection, in order, and keeps it."""
    taker = Taker(answer)
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT)
        clients = await clients_of(listening, 3)
        await until(lambda: len(taker.taken) == 3)

        assert names(clients) == peers(taker.taken)
        assert {"accept": 0, "event": 3} == listening.statistics().delivered

        for connection, client in zip(taker.taken, clients):  # noqa: B905 - as many, see above
            await connection.send_all(b"hello")

            assert b"hello" == await client.receive_some()

        await close_all(*taker.taken, *clients)


class Equal:
    """Equal to everything, as no answer should be."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # on purpose


@pytest.mark.parametrize(
    ("answer", "is_reported"),
    [
        (Status.REQUEST_NOT_ACCEPTED, False),
        (Status.PENDING, True),
        (None, True),  # a forgotten `return`
        (0, True),
        (True, True),
        (False, True),
        ("yes", True),
        (EventMask.RECEIVE, True),
        (ConnectionDispatch, True),
        (Equal(), True),
    ],
)
async def test_what_is_no_yes_is_a_no(answer: object, is_reported: bool) -> None:  # noqa: FBT001
    """
    REQUEST_NOT_ACCEPTED has the connection reset, and so has any answer that means nothing,
    which is reported; the listening socket goes on.
    """
    failures: list[Any] = []
    taker = Taker(answer)
    async with opened(dispatch=taker.dispatch, observers=[Callbacks(failures)]) as listening:
        listening.enable_events(EventMask.ACCEPT)
        client = await connect(listening.local_addresses[0])

        assert "reset" == await fate_of(client)
        assert taker.taken[0].closed
        assert {"not-accepted": 1} == listening.statistics().dropped
        assert is_reported == bool(failures)

        if is_reported:
            assert repr(answer) in str(failures[0].error)
            assert "accept" == failures[0].callback
        taker.answer = Status.SUCCESS
        other = await connect(listening.local_addresses[0])
        await until(lambda: len(taker.taken) == 2)
        await close_all(taker.taken[1], client, other)


async def test_accept_callback_that_raises_ends_its_connection_alone() -> None:
    """What the callback raises is reported, its connection is reset, and the next one comes."""
    failures: list[Any] = []
    taken: list[Connection] = []

    def accept(connection: Connection) -> Status:
        if not failures:
            raise ZeroDivisionError("on purpose")
        taken.append(connection)
        return Status.SUCCESS

    async with opened(
        dispatch=ListenDispatch(accept=accept), observers=[Callbacks(failures)]
    ) as listening:
        listening.enable_events(EventMask.ACCEPT)
        client = await connect(listening.local_addresses[0])

        assert "reset" == await fate_of(client)
        assert ["on purpose"] == [str(failure.error) for failure in failures]
        assert {"accept-failed": 1} == listening.statistics().dropped

        other = await connect(listening.local_addresses[0])
        await until(lambda: taken)
        await close_all(taken[0], client, other)


async def test_peer_that_is_gone_in_the_accept_callback_is_no_failure() -> None:
    """A callback that talks to a peer who has reset meanwhile has not failed."""
    failures: list[Any] = []
    seen = []

    def accept(connection: Connection) -> Status:
        seen.append(connection)
        connection.send_nowait(b"x")
        connection.send_nowait(b"x")
        return Status.SUCCESS

    async with opened(
        dispatch=ListenDispatch(accept=accept), observers=[Callbacks(failures)]
    ) as listening:
        client = await connect(listening.local_addresses[0])
        reset(client)
        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: seen)
        await trio.testing.wait_all_tasks_blocked()

        assert [] == failures
        assert seen[0].closed


async def test_ctrl_c_in_a_callback_goes_on() -> None:
    """KeyboardInterrupt from a callback ends the block, and the connection that it had."""

    def accept(connection: Connection) -> Status:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            0, host=HOST, dispatch=ListenDispatch(accept=accept)
        ) as listening:
            listening.enable_events(EventMask.ACCEPT)
            client = await connect(listening.local_addresses[0])
            try:
                await trio.sleep(PATIENCE)
            finally:
                client.socket.close()


async def test_callbacks_run_in_the_context_of_the_block() -> None:
    """Each callback sees the block's context variables, and what it sets stays its own."""
    variable: ContextVar[str] = ContextVar("variable")
    seen: list[str] = []

    def accept(connection: Connection) -> Status:
        seen.append(variable.get())
        variable.set("changed")
        return Status.REQUEST_NOT_ACCEPTED

    variable.set("block")
    async with opened(dispatch=ListenDispatch(accept=accept)) as listening:
        variable.set("later")
        listening.enable_events(EventMask.ACCEPT)
        clients = await clients_of(listening, 2)
        await until(lambda: len(seen) == 2)

        assert ["block", "block"] == seen

        await close_all(*clients)


async def test_events_are_inherited_on_the_event_path() -> None:
    """
    A connection that the callback took has those events that are enabled on the listening
    socket and have a callback; not those that aren't enabled.
    """
    seen: list[str] = []
    dispatch = ConnectionDispatch(
        receive=lambda connection, data: seen.append("receive"),
        disconnect=lambda connection, abortive: seen.append("disconnect"),
    )
    taker = Taker(dispatch)
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
        listening.disable_event_nowait(EventMask.ACCEPT)
        listening.enable_events(EventMask.ACCEPT)
        client = await connect(listening.local_addresses[0])
        await client.send_all(b"x")
        await until(lambda: seen)
        reset(client)
        await until(lambda: taker.taken[0].closed)

        assert ["receive"] == seen


async def test_disabled_event_is_silent() -> None:
    """
    After disable_event() the callback isn't called; connections wait, and enabling it again
    hands them out in order.
    """
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT)
        first = await connect(listening.local_addresses[0])
        await until(lambda: taker.taken)
        with trio.testing.assert_checkpoints():
            await listening.disable_event(EventMask.ACCEPT)
        clients = await clients_of(listening, 3)
        await shown(listening.socket.fileno())

        assert 1 == len(taker.taken)

        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: len(taker.taken) == 4)

        assert names([first, *clients]) == peers(taker.taken)

        await close_all(*taker.taken, first, *clients)


async def test_disabling_inside_the_callback_is_pending() -> None:
    """
    disable_event_nowait() says EVENT_PENDING inside the callback, which is then its last call,
    and SUCCESS elsewhere.
    """
    answers: list[Status] = []
    taken: list[Connection] = []

    def accept(connection: Connection) -> Status:
        taken.append(connection)
        answers.append(connection.listening.disable_event_nowait(EventMask.ACCEPT))
        return Status.SUCCESS

    async with opened(dispatch=ListenDispatch(accept=accept)) as listening:
        clients = await clients_of(listening, 3)
        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: listening.statistics().parked == 2)
        await trio.testing.wait_all_tasks_blocked()

        assert [Status.EVENT_PENDING] == answers
        assert 1 == len(taken)
        assert Status.SUCCESS is listening.disable_event_nowait(EventMask.ACCEPT)

        await close_all(*taken, *clients)


async def test_parked_connections_are_indicated_in_order() -> None:
    """Enabling the accept event hands out what was read ahead, then what comes, in order."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        clients = await parked(listening, 15)
        listening.enable_events(EventMask.ACCEPT)
        clients += await clients_of(listening, 20)
        await until(lambda: len(taker.taken) == 35)

        assert names(clients) == peers(taker.taken)
        assert 15 == listening.statistics().parked_most

        await close_all(*taker.taken, *clients)


# --- Arbitration ------------------------------------------------------------------------------


async def test_queued_accept_wins_over_the_event() -> None:
    """With both, queued accepts are served first, the event gets what is left."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT)
        irps = [listening.queue_accept() for _ in range(2)]
        clients = await clients_of(listening, 4)
        await until(lambda: len(taker.taken) == 2)
        queued = [(await irp.wait()).unwrap() for irp in irps]

        assert names(clients) == peers([*queued, *taker.taken])

        await close_all(*queued, *taker.taken, *clients)


async def test_accept_queued_in_the_callback_wins_the_next_connection() -> None:
    """An accept that the callback queues gets the connection after this one."""
    irps: list[Irp[Connection]] = []
    taken: list[Connection] = []

    def accept(connection: Connection) -> Status:
        taken.append(connection)
        irps.append(connection.listening.queue_accept())
        return Status.SUCCESS

    async with opened(dispatch=ListenDispatch(accept=accept)) as listening:
        clients = await clients_of(listening, 4)
        listening.enable_events(EventMask.ACCEPT)
        await until(lambda: listening.statistics().accepted == 4)
        queued = [(await irp.wait()).unwrap() for irp in irps]

        assert names(clients)[0::2] == peers(taken)
        assert names(clients)[1::2] == peers(queued)

        await close_all(*taken, *queued, *clients)


async def test_nobody_wants_a_connection() -> None:
    """With neither accept nor event, connections stay in the kernel's backlog: not one is taken."""
    async with opened(transport=FaultyTransport.tcp(0, host=HOST), port=None) as listening:
        clients = await clients_of(listening, 3)
        await shown(listening.socket.fileno())

        assert 0 == listening.statistics().accepted
        assert 0 == faulty(listening).asked
        assert listening.statistics().backlog in {3, None}

        await close_all(*clients)


async def test_no_read_ahead() -> None:
    """max_parked=0 takes as many as are wanted and not one more."""
    async with opened(max_parked=0) as listening:
        clients = await clients_of(listening, 6)
        connections = [await listening.accept() for _ in range(2)]
        irp = listening.queue_accept()
        connections.append((await irp.wait()).unwrap())

        assert 3 == listening.statistics().accepted
        assert 0 == listening.statistics().parked_most
        assert names(clients)[:3] == peers(connections)

        await close_all(*connections, *clients)


async def test_read_ahead_is_bounded() -> None:
    """One accept reads ahead by a batch at most, and never more than max_parked."""
    for limit, expected in ((4, 4), (128, 15)):
        async with opened(max_parked=limit) as listening:
            clients = await clients_of(listening, 20)
            await until(lambda: listening.statistics().backlog in {20, None})
            connection = await listening.accept()

            assert expected == listening.statistics().parked

            await close_all(connection, *clients)


async def test_backlog_is_the_kernels_queue() -> None:
    """statistics() tells how many wait in the kernel, and how many may."""
    async with opened(backlog=7) as listening:
        clients = await clients_of(listening, 3)
        await until(lambda: listening.statistics().backlog == 3)

        assert 7 == listening.statistics().backlog_limit

        await close_all(*clients)
    assert None is listening.statistics().backlog
