"""
Conditional accept over the network in memory, on the virtual clock: peers
that leave, and requests that end here.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import pytest
import trio

from tests.helpers.inspecting_in_memory import (
    ACCEPT,
    LONG,
    PEND,
    REJECT,
    TURNED_AWAY,
    Scene,
    settled,
)
from tests.helpers.memory_peers import AFTER, BEFORE, PLACE, fate_of
from tests.helpers.support import read_to_end
from trio_wsk import (
    AbortReason,
    InspectAction,
    InspectPoint,
    ListeningSocket,
    Status,
    open_listening_socket,
)
from trio_wsk.observers import InspectorStraggles, RequestAborted, RequestApproved
from trio_wsk.testing import SegmentKind

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_wsk import ConnectionRequest, ListeningSocket


# --- Peers that leave -------------------------------------------------------------------------


async def test_reset_while_pended(autojump_clock: MockClock, point: InspectPoint) -> None:
    """
    A peer that resets while its request pends: the abort callback is called once, the scope is
    cancelled, and completing it is too late and harmless.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        observers=[scene.records.append],
    ) as scene.listening:
        client = scene.open()
        await trio.sleep(1.5)
        (request,) = scene.requests
        inspect_id = request.inspect_id
        client.reset()

        assert Status.CONNECTION_ABORTED is scene.listening.inspect_complete(inspect_id, ACCEPT)
        assert [inspect_id] == list(scene.listening.pending_inspections)

        await settled()

        assert [(inspect_id, AbortReason.RESET)] == scene.aborts
        assert [request.aborted] == scene.told(RequestAborted)
        assert request.aborted is not None
        assert 1.5 == request.aborted.at
        assert request.cancel_scope.cancel_called
        assert {} == dict(scene.listening.pending_inspections)
        assert Status.CONNECTION_ABORTED is scene.listening.inspect_complete(inspect_id, REJECT)
        assert {"reset": 1} == scene.listening.statistics().aborted
    assert 1 == len(scene.aborts)


async def test_peer_leaves_and_its_inspector_is_cancelled(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """What an async inspector awaits is cancelled at the moment when its peer resets."""
    scene = Scene()
    cancelled_at = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled_at.append(trio.current_time())
            raise
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=point
    ) as scene.listening:
        client = scene.open()
        await trio.sleep(1.25)
        client.reset()
        await settled()

        assert [1.25] == cancelled_at
        assert [AbortReason.RESET] == [reason for _, reason in scene.aborts]


@pytest.mark.parametrize("way", ["vanish", "abandon"])
async def test_client_that_stops_asking_is_gone(autojump_clock: MockClock, way: str) -> None:
    """
    Before the handshake a client that gives up says nothing. Its SYN not coming again says
    it: after 3.5 s at first.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=BEFORE,
        inspect_timeout=LONG,
    ) as scene.listening:
        client = scene.open()
        await settled()
        getattr(client, way)()
        with scene.requests[0].cancel_scope:
            await trio.sleep(LONG / 2)
        await settled()

        assert 3.5 == trio.current_time()
        assert [AbortReason.SILENT] == [reason for _, reason in scene.aborts]
        assert {"silent": 1} == scene.listening.statistics().aborted


async def test_client_that_goes_on_asking_is_not_gone(autojump_clock: MockClock) -> None:
    """A client whose SYN comes again, later each time, is there for as long as it does."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=BEFORE,
        inspect_timeout=LONG,
    ) as scene.listening:
        client = scene.open()
        await trio.sleep(130)

        assert [] == scene.aborts

        scene.listening.inspect_complete(scene.requests[0].inspect_id, ACCEPT)
        await client.established()


async def test_delivery_before_the_handshake_is_in_the_order_of_establishment(
    autojump_clock: MockClock,
) -> None:
    """
    Of two that are approved, one after the other, that one is delivered first whose handshake ends
    first: the other's SYN-ACK was lost, and comes again a second later.
    """
    scene = Scene()
    slow = scene.network.host("192.0.2.77")
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(), inspect_point=BEFORE
    ) as scene.listening:
        late = slow.open_connection(PLACE)
        await settled()
        early = scene.open()
        await settled()
        slow.unplug()
        for request in scene.requests:
            assert Status.SUCCESS is scene.listening.inspect_complete(request.inspect_id, ACCEPT)
        slow.plug_in()
        delivered = [await scene.listening.accept() for _ in range(2)]

        assert [early.local_address, late.local_address] == [
            connection.remote_address for connection in delivered
        ]
        assert scene.requests[0].remote_address == late.local_address

        for each in (*delivered, early, late):
            await each.aclose()


async def test_approved_client_is_gone_before_it_is_established(autojump_clock: MockClock) -> None:
    """
    A request is approved and its client has closed meanwhile: the SYN-ACK is answered with RST,
    and the abort callback is called, once, though its inspector had said yes.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=BEFORE,
        observers=[scene.records.append],
    ) as scene.listening:
        client = scene.open()
        await trio.sleep(1.5)
        client.abandon()
        inspect_id = scene.requests[0].inspect_id

        assert Status.SUCCESS is scene.listening.inspect_complete(inspect_id, ACCEPT)

        await settled()
        counted = scene.listening.statistics()

        assert [(inspect_id, AbortReason.RESET)] == scene.aborts
        assert (1, 0, 0, {"reset": 1}) == (
            counted.approved,
            counted.pending,
            counted.parked,
            counted.aborted,
        )
        assert 1 == len(scene.told(RequestApproved)) == len(scene.told(RequestAborted))
    assert 1 == len(scene.aborts)


async def test_approved_client_never_answers(autojump_clock: MockClock) -> None:
    """A request is approved and its client is silent: aborted when the last SYN-ACK is in vain."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(), inspect_point=BEFORE
    ) as scene.listening:
        client = scene.open()
        await trio.sleep(1.5)
        client.vanish()
        scene.listening.inspect_complete(scene.requests[0].inspect_id, ACCEPT)
        await trio.sleep(62.9)

        assert [] == scene.aborts
        assert 1 == scene.listening.statistics().pending

        await trio.sleep(0.2)

        assert [(scene.requests[0].inspect_id, AbortReason.SILENT)] == scene.aborts
        assert 6 == len(scene.sent_by_server(SegmentKind.SYN_ACK))
        assert 0 == scene.listening.statistics().pending


async def test_peer_resets_while_parked(autojump_clock: MockClock, point: InspectPoint) -> None:
    """An approved connection that nobody has taken and whose peer resets is aborted at once."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(lambda _: ACCEPT), inspect_point=point
    ) as scene.listening:
        client = await scene.connect()
        await client.send_all(b"unread")
        await settled()

        assert 1 == scene.listening.statistics().parked

        client.reset()
        await settled()

        assert [AbortReason.RESET] == [reason for _, reason in scene.aborts]
        assert 0 == scene.listening.statistics().parked


HALF_CLOSES: Final = [
    # abort_on_half_close, sent before FIN, whether that is leaving
    (None, b"", True),
    (None, b"request", False),
    (True, b"", True),
    (True, b"request", True),
    (False, b"", False),
    (False, b"request", False),
]


@pytest.mark.parametrize(("option", "sent", "is_gone"), HALF_CLOSES)
async def test_half_close(
    autojump_clock: MockClock,
    option: bool | None,  # noqa: FBT001 - a column of a table
    sent: bytes,
    is_gone: bool,  # noqa: FBT001 - the same
) -> None:
    """
    A peer that has finished sending counts as gone if it had sent nothing, unless
    ``abort_on_half_close`` says otherwise.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(), abort_on_half_close=option
    ) as scene.listening:
        client = await scene.connect()
        if sent:
            await client.send_all(sent)
        await client.send_eof()
        await settled()
        inspect_id = scene.requests[0].inspect_id
        expected = Status.CONNECTION_ABORTED if is_gone else Status.SUCCESS

        assert [(inspect_id, AbortReason.FIN)] * is_gone == scene.aborts
        assert expected is scene.listening.inspect_complete(inspect_id, ACCEPT)
        if not is_gone:
            connection = await scene.listening.accept()

            assert sent == await read_to_end(connection)

            await connection.send_all(b"answer")
            connection.close()

            assert b"answer" == await read_to_end(client)


# --- Ended here -------------------------------------------------------------------------------


async def test_closing_aborts_what_pends(autojump_clock: MockClock, point: InspectPoint) -> None:
    """
    Closing a listening socket with three requests pended: when aclose() returns each abort
    callback has been called, and the peers are refused or reset.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(), inspect_point=point
    ) as scene.listening:
        clients = [scene.open() for _ in range(3)]
        await settled()
        ids = [request.inspect_id for request in scene.requests]
        await scene.listening.aclose()

        assert [(each, AbortReason.CLOSED) for each in ids] == scene.aborts
        assert 0.0 == trio.current_time()
        for client, inspect_id in zip(clients, ids, strict=True):
            assert TURNED_AWAY[point] == await fate_of(client)
            status = scene.listening.inspect_complete(inspect_id, ACCEPT)

            assert Status.CONNECTION_ABORTED is status
        counted = scene.listening.statistics()

        assert (3, 0, {"closed": 3}) == (counted.accepted, counted.pending, counted.aborted)
    assert 3 == len(scene.aborts)


async def test_leaving_the_block_aborts_what_pends(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """Leaving the block is closing: inspectors are cancelled, pended requests aborted."""
    scene = Scene()

    async def inspect(request: ConnectionRequest) -> InspectAction:

        scene.requests.append(request)
        if len(scene.requests) == 1:
            await trio.sleep_forever()
        return PEND

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=point
    ) as scene.listening:
        for _ in range(2):
            scene.open()
        await settled()

    assert [AbortReason.CLOSED] * 2 == [reason for _, reason in scene.aborts]
    assert 0 == scene.listening.statistics().straggling


@pytest.mark.parametrize(("where", "seconds"), [(AFTER, 10.0), (BEFORE, 2.0)])
@pytest.mark.parametrize("is_async", [False, True], ids=["pended", "inspected"])
async def test_time_for_a_verdict(
    autojump_clock: MockClock,
    where: InspectPoint,
    seconds: float,
    is_async: bool,  # noqa: FBT001 - a column of a table
) -> None:
    """
    By default there are 10 s for a verdict after the handshake and 2 s before it, pended or not;
    then the request is aborted, and its peer reset or refused.
    """
    scene = Scene()

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await trio.sleep_forever()
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(inspect if is_async else None),
        inspect_point=where,
    ) as scene.listening:
        await trio.sleep(5)
        client = scene.open()

        assert TURNED_AWAY[where] == await fate_of(client)

        await settled()

        assert 5 + seconds == trio.current_time()
        assert [AbortReason.TIMED_OUT] == [reason for _, reason in scene.aborts]
        assert {"timed-out": 1} == scene.listening.statistics().aborted
        assert {} == scene.listening.statistics().rejected


async def test_straggling_inspector_holds_closing_for_a_second(autojump_clock: MockClock) -> None:
    """
    An inspector that swallows its cancellation: aclose() returns after one second, a record names
    it, its late answer changes nothing, and leaving the block waits for it.
    """
    scene = Scene()

    async def inspect(request: ConnectionRequest) -> InspectAction:
        with trio.CancelScope(shield=True):
            await trio.sleep(30)
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(inspect),
        observers=[scene.records.append],
    ) as scene.listening:
        client = await scene.connect()
        await trio.sleep(4)
        await scene.listening.aclose()
        (straggles,) = scene.told(InspectorStraggles)
        assert isinstance(straggles, InspectorStraggles)

        assert 5.0 == trio.current_time()
        assert (5.0, 1.0) == (straggles.at, straggles.seconds)
        assert client.local_address == straggles.remote_address
        assert [(straggles.inspect_id, AbortReason.CLOSED)] == scene.aborts
        assert "reset" == await fate_of(client)
        assert 1 == scene.listening.statistics().straggling

    assert 30.0 == trio.current_time()
    assert 0 == scene.listening.statistics().straggling
    assert 0 == sum(scene.listening.statistics().delivered.values())


async def test_listening_socket_fails(autojump_clock: MockClock, point: InspectPoint) -> None:
    """
    The transport fails for good: what pends is aborted, ``failed`` is called once, and the block
    raises the system's error.
    """
    scene = Scene()
    failures: list[OSError] = []

    def failed(listening: ListeningSocket, error: OSError) -> None:
        assert [AbortReason.FAILED] == [reason for _, reason in scene.aborts]

        failures.append(error)

    async def fail() -> None:
        transport = scene.transport()
        async with open_listening_socket(
            transport=transport, dispatch=scene.dispatch(failed=failed), inspect_point=point
        ) as scene.listening:
            scene.open()
            await settled()
            transport.fail_next(errno.ENOTSOCK)
            scene.open()
            await trio.sleep_forever()

    with pytest.raises(OSError, match="socket") as raised:
        await fail()

    assert errno.ENOTSOCK == raised.value.errno
    assert [raised.value] == failures
    assert [AbortReason.FAILED] == [reason for _, reason in scene.aborts]
    assert {"failed": 1} == scene.listening.statistics().aborted
