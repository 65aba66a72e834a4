"""The listening socket: accepting fails, for a while or for good."""

from __future__ import annotations

import errno
import os
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.listening import Callbacks, Taker, balance, clients_of, close_all, faulty, opened
from tests.helpers.scarcity import no_more_descriptors
from tests.helpers.support import (
    PATIENCE,
    FaultyTransport,
    connect,
    connect_now,
    fate_of,
    until,
)
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    EventMask,
    ListenDispatch,
    ListeningSocket,
    Status,
    open_listening_socket,
)
from trio_wsk._intake import backoff as _backoff
from trio_wsk.transports._contract import (
    FAULTS_IN_A_ROW,
    NoDescriptorsError,
    PeerFaultError,
    TransportFailedError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trio_wsk import Irp

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


def names_of(sockets: list[trio.socket.SocketType]) -> list[Any]:
    """Say where sockets are bound."""
    return [sock.getsockname() for sock in sockets]


# --- When accepting fails ---------------------------------------------------------------------


def _oserror(number: int) -> OSError:
    return OSError(number, os.strerror(number))


async def test_a_peers_fault_is_counted_and_no_more() -> None:
    """Errors that are one peer's fault are counted by name, and the next peer is served."""
    async with opened(None, transport=FaultyTransport.tcp(0, host=HOST)) as listening:
        faulty(listening).faults.extend(
            PeerFaultError(_oserror(number))
            for number in (errno.ECONNABORTED, errno.EPROTO, errno.ECONNABORTED)
        )
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()

        assert {"ECONNABORTED": 2, "EPROTO": 1} == listening.statistics().accept_errors

        await close_all(connection, client)


async def test_a_flood_of_faults_leaves_others_their_turn() -> None:
    """Faults are taken in batches, too: other tasks run in between."""
    async with opened(None, transport=FaultyTransport.tcp(0, host=HOST)) as listening:
        fault = PeerFaultError(_oserror(errno.ECONNABORTED))
        count = FAULTS_IN_A_ROW - 1  # with one more it would wait
        faulty(listening).faults.extend([fault] * count)
        irp = listening.queue_accept()
        turns = 0
        client = await connect(listening.local_addresses[0])
        while irp.status is Status.PENDING:
            await trio.lowlevel.checkpoint()
            turns += 1

        assert turns >= count // 64
        assert {"ECONNABORTED": count} == listening.statistics().accept_errors

        await close_all((await irp.wait()).unwrap(), client)


@pytest.mark.parametrize("number", [errno.EBADF, errno.EINVAL, errno.ENOTSOCK])
async def test_failed_socket_is_told_to_everybody_once(number: int) -> None:
    """
    When the listening socket fails: queued Irps complete with FILE_FORCED_CLOSED, the task in
    accept() and all later calls get ForcedClosedError, ``failed`` is called once with the error,
    peers that were parked get a reset, the block raises the OSError.
    """
    taker = Taker()
    completed: list[Irp[Connection]] = []
    errors: list[trio_wsk.WskError] = []
    records: list[object] = []
    with pytest.raises(OSError) as caught:  # noqa: PT012, PT011 - the errno is looked at below
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST),
            dispatch=taker.dispatch,
            observers=[records.append],
        ) as listening:
            listening.enable_events(EventMask.ACCEPT)
            irps = [listening.queue_accept(on_completion=completed.append) for _ in range(3)]

            async def accept() -> None:
                with pytest.raises(trio_wsk.ForcedClosedError) as raised:
                    await listening.accept()
                errors.append(raised.value)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                faulty(listening).faults.append(TransportFailedError(_oserror(number)))
                listening.resume()  # has it look
                with trio.CancelScope(shield=True):
                    outcomes = [await irp.wait() for irp in irps]

            await trio.sleep(PATIENCE)

    assert number == caught.value.errno
    assert {Status.FILE_FORCED_CLOSED} == {irp.status for irp in irps}
    assert irps == completed
    for each in outcomes:
        with pytest.raises(trio_wsk.ForcedClosedError):
            each.unwrap()
    assert [caught.value] == [error.__cause__ for error in errors]
    assert [(listening, caught.value)] == taker.failures
    assert 1 == sum(isinstance(each, trio_wsk.observers.ListenerFailed) for each in records)
    for call in (listening.accept_nowait, listening.queue_accept, listening.pause):
        with pytest.raises(trio_wsk.ForcedClosedError):
            call()
    with pytest.raises(trio_wsk.ForcedClosedError):
        await listening.accept()
    await listening.aclose()

    assert [(listening, caught.value)] == taker.failures


async def test_error_in_the_middle_of_a_batch_comes_after_it() -> None:
    """What was accepted before the listening socket failed is delivered, and stays usable."""
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(transport=FaultyTransport.tcp(0, host=HOST)) as listening:
            clients = await clients_of(listening, 3)
            faults = faulty(listening).faults
            faults.extend([None, None, TransportFailedError(_oserror(errno.EINVAL))])
            irps = [listening.queue_accept()]
            irps += [listening.queue_accept() for _ in range(0)]
            with trio.CancelScope(shield=True):
                connection = (await irps[0].wait()).unwrap()
                await connection.send_all(b"alive")

                assert b"alive" == await clients[0].receive_some()
                assert "reset" == await fate_of(clients[1])  # it was parked

                await close_all(connection, *clients)
            await trio.sleep(PATIENCE)
    assert {"failed": 1} == listening.statistics().dropped
    balance(listening)


@pytest.mark.parametrize("place", ["ports", "path"])
async def test_closing_a_public_socket_closes_the_listening_socket(
    place: str, tmp_path: Path
) -> None:
    """
    Who closes one of ``listening.sockets`` closes all: the task in accept() is told, a queued Irp
    is cancelled, what is tried afterwards is refused, and the block ends in peace.
    """
    places: dict[str, dict[str, Any]] = {
        "ports": {"port": 0, "host": ["127.0.0.1", "127.0.0.2"]},
        "path": {"path": tmp_path / "app.sock"},
    }

    async def accept(listening: ListeningSocket) -> None:
        with pytest.raises(trio_wsk.SocketClosedError):
            await listening.accept()

    with trio.fail_after(PATIENCE):
        async with open_listening_socket(**places[place]) as listening:
            irp = listening.queue_accept()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept, listening)
                await trio.testing.wait_all_tasks_blocked()
                listening.sockets[-1].close()

            await irp.wait()

            assert Status.CANCELLED is irp.status

            for call in (listening.accept_nowait, listening.queue_accept):
                with pytest.raises(trio_wsk.SocketClosedError):
                    call()
            for address in listening.local_addresses:
                with pytest.raises(OSError):  # noqa: PT011 - which one depends on the family
                    connect_now(address)


async def test_closed_public_socket_is_no_failure_to_who_asks_at_once() -> None:
    """In the instant in which it was closed, accept_nowait() says that it is closed."""
    async with open_listening_socket(0, host=HOST) as listening:
        listening.socket.close()
        with pytest.raises(trio_wsk.SocketClosedError):
            listening.accept_nowait()


async def test_public_socket_is_not_detached_while_it_listens() -> None:
    """
    A listening socket without its descriptor would be none: who tries is told how to hand it
    over, and it goes on. What the message says works: who waits in the queue is taken elsewhere.
    """
    async with open_listening_socket(0, host=HOST) as listening:
        sock = listening.socket
        with pytest.raises(trio_wsk.InvalidDeviceStateError, match=r"os\.dup\("):
            sock.detach()
        async with connect_now(listening.local_addresses[0]):
            (await listening.accept()).abort()
        client = connect_now(listening.local_addresses[0])
        descriptor = os.dup(sock.fileno())
        await listening.aclose()

        assert -1 == sock.detach()

    async with open_listening_socket(sockets=[descriptor]) as heir:
        connection = await heir.accept()
        await connection.send_all(b"taken")

        assert b"taken" == await client.receive_some()

        await close_all(connection, client)


async def test_public_sockets_are_those_of_the_addresses() -> None:
    """``listening.sockets`` has one for each address, in their order; afterwards there are none."""
    async with open_listening_socket(0, host=["127.0.0.1", "127.0.0.2"]) as listening:
        sockets = listening.sockets

        assert [each.sockaddr for each in listening.local_addresses] == names_of(sockets)
        assert sockets[0] is listening.socket
        assert sockets == listening.sockets

    assert [] == listening.sockets
    assert not hasattr(listening, "socket")
    with pytest.raises(trio_wsk.NoSocketError, match="closed, and so has no socket"):
        _ = listening.socket


async def test_descriptor_closed_behind_our_back_is_a_failure() -> None:
    """Whoever closes the listening descriptor gets EBADF out of the block."""
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(0, host=HOST) as listening:
            os.close(listening.socket.fileno())
            await listening.accept()


async def test_body_that_only_says_what_failed_adds_nothing() -> None:
    """ForcedClosedError of the body, alone or in groups, is no news beside the OSError."""

    async def accept(listening: ListeningSocket) -> None:
        await listening.accept()

    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # noqa: PT012 - the end of the block raises
        async with (
            open_listening_socket(transport=FaultyTransport.tcp(0, host=HOST)) as listening,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(accept, listening)
            nursery.start_soon(accept, listening)
            await trio.testing.wait_all_tasks_blocked()
            faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            listening.resume()


async def test_both_errors_come_out() -> None:
    """When the body fails for a reason of its own as well, both come out in a group."""
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with open_listening_socket(transport=FaultyTransport.tcp(0, host=HOST)) as listening:
            faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            irp = listening.queue_accept()
            await irp.wait()
            raise ZeroDivisionError

    assert [OSError, ZeroDivisionError] == [type(each) for each in caught.value.exceptions]


@pytest.mark.parametrize("is_enabled", [False, True])
async def test_failure_is_told_whatever_events_are_enabled(is_enabled: bool) -> None:  # noqa: FBT001
    """
    ``failed`` needs no event: it is called in the pump, in a copy of the block's context, last of
    all that is called, and the accept callback is not called for it.
    """
    variable: ContextVar[str] = ContextVar("variable")
    taker = Taker()
    order: list[object] = []

    def failed(listening: ListeningSocket, error: OSError) -> None:
        taker.failed(listening, error)
        order.append(variable.get())
        variable.set("changed")
        order.append(trio.lowlevel.current_task().name)

    variable.set("block")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)) as caught:  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST),
            dispatch=ListenDispatch(accept=taker, failed=failed),
        ) as listening:
            if is_enabled:
                listening.enable_events(EventMask.ACCEPT)
            faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            listening.queue_accept(on_completion=lambda irp: order.append(irp.status))
            variable.set("body")

            assert [] == order  # on no caller's stack

            await trio.sleep(PATIENCE)

    assert [Status.FILE_FORCED_CLOSED, "block", "trio_wsk: pump"] == order
    assert [(listening, caught.value)] == taker.failures
    assert [] == taker.taken


async def test_failure_resets_what_is_event_driven_and_nothing_else() -> None:
    """
    When the listening socket fails, connections with events are reset, with the block that their
    callbacks run in; one that was awaited goes on.
    """
    taker = Taker(ConnectionDispatch(receive=lambda connection, data: None))
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST), dispatch=taker.dispatch
        ) as listening:
            client = await connect(listening.local_addresses[0])
            awaited = await listening.accept()
            listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
            other = await connect(listening.local_addresses[0])
            await until(lambda: taker.taken)
            faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            listening.queue_accept()
            await trio.sleep(PATIENCE)

    assert taker.taken[0].closed
    assert "reset" == await fate_of(other)

    await awaited.send_all(b"alive")

    assert b"alive" == await client.receive_some()

    await close_all(awaited, client, other)


async def test_failure_is_not_told_of_what_was_closed() -> None:
    """A listening socket that is closed, or whose block ends by an error, has not failed."""
    taker = Taker()
    async with opened(dispatch=taker.dispatch) as listening:
        await listening.aclose()
    with pytest.raises(ZeroDivisionError):
        async with opened(dispatch=taker.dispatch):
            raise ZeroDivisionError

    assert [] == taker.failures


async def test_failed_callback_that_raises_is_reported_and_changes_nothing() -> None:
    """The block raises the system's error, and what the callback raised is reported."""

    def failed(listening: ListeningSocket, error: OSError) -> None:
        raise ZeroDivisionError("on purpose")

    reports: list[Any] = []
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST),
            dispatch=ListenDispatch(failed=failed),
            observers=[Callbacks(reports)],
        ) as listening:
            faulty(listening).faults.append(TransportFailedError(_oserror(errno.EINVAL)))
            listening.queue_accept()
            await trio.sleep(PATIENCE)

    assert [("failed", "on purpose", None)] == [
        (each.callback, str(each.error), each.remote_address) for each in reports
    ]


# --- Out of descriptors, as far as that can be injected ---------------------------------------


async def test_shedding_without_memory_does_not_spin() -> None:
    """
    Where giving up the spare descriptor helps nothing (ENOBUFS), the policy "shed" backs off
    instead of trying again at once.
    """
    async with opened(
        None, transport=FaultyTransport.tcp(0, host=HOST), on_no_descriptors="shed"
    ) as listening:
        transport = faulty(listening)
        transport.faults.extend([NoDescriptorsError(_oserror(errno.ENOBUFS))] * 4)
        client = await connect(listening.local_addresses[0])
        before = trio.current_time()
        irp = listening.queue_accept()
        connection = (await irp.wait()).unwrap()

        assert [] == [*transport.faults]
        # Two attempts at a time, the policy's own included; whoever spins is there at once.
        assert trio.current_time() - before > _backoff.FIRST_SECONDS

        await close_all(connection, client)


@pytest.mark.parametrize("policy", ["backoff", "shed"])
@pytest.mark.parametrize("max_parked", [0, 128])
async def test_bad_time_has_a_beginning_and_an_end(policy: Any, max_parked: int) -> None:
    """One record tells when it starts and one when it ends, however little is read ahead."""
    told: list[str] = []

    def observe(record: object) -> None:
        told.append(type(record).__name__)

    observe.records = {  # type: ignore[attr-defined]  # a function takes any attribute
        trio_wsk.observers.AcceptBackoffStarted,
        trio_wsk.observers.AcceptBackoffEnded,
    }
    async with opened(
        None,
        transport=FaultyTransport.tcp(0, host=HOST),
        on_no_descriptors=policy,
        max_parked=max_parked,
        observers=[observe],
    ) as listening:
        fault = NoDescriptorsError(_oserror(errno.EMFILE))
        faulty(listening).faults.extend([fault, fault])
        client = await connect(listening.local_addresses[0])
        connection = await listening.accept()

        assert ["AcceptBackoffStarted", "AcceptBackoffEnded"] == told
        assert 1 == listening.statistics().accept_backoffs
        # Of the two, shedding has met one.
        assert {"EMFILE": 1 if policy == "shed" else 2} == listening.statistics().accept_errors

        await close_all(connection, client)


async def test_no_descriptors_can_be_a_failure() -> None:
    """With "raise" the listening socket fails, and the block raises the error."""
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST), on_no_descriptors="raise"
        ) as listening:
            faulty(listening).faults.append(NoDescriptorsError(_oserror(errno.EMFILE)))
            await listening.accept()


async def test_first_wait_without_descriptors() -> None:
    """Connections can be waited for when no descriptor is left for the first one's wait."""
    async with opened() as listening:
        client = connect_now(listening.local_addresses[0])
        connection = await listening.accept()
        with no_more_descriptors():
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def receive() -> None:
                    assert b"x" == await connection.receive_some()

                await trio.testing.wait_all_tasks_blocked()
                await client.send_all(b"x")
        await client.send_all(b"y")

        assert b"y" == await connection.receive_some()

        await close_all(connection, client)
