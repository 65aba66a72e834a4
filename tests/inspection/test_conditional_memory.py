"""
Conditional accept over the network in memory, on the virtual clock: what an
inspector is told, what its peer sees on the wire and when, before the handshake and after it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.inspecting_in_memory import ACCEPT, LONG, REJECT, TURNED_AWAY, Scene, settled
from tests.helpers.memory_peers import BEFORE, CLIENT, fate_of
from tests.helpers.support import read_to_end
from trio_wsk import (
    CloseStyle,
    InspectAction,
    InspectPoint,
    InvalidParameterError,
    Status,
    Verdict,
    open_listening_socket,
)
from trio_wsk.observers import (
    CloseStyleUnavailable,
    RequestApproved,
    RequestPended,
    RequestRejected,
)
from trio_wsk.testing import SegmentKind

if TYPE_CHECKING:
    from trio.testing import MockClock

    from trio_wsk import ConnectionRequest


# --- From the SYN to the connection -----------------------------------------------------------


async def test_pended_request_is_completed_and_delivered(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """
    A request is inspected, pends, is completed with yes and delivered: its inspect id is the
    connection's, and the octets go both ways.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        observers=[scene.records.append],
    ) as scene.listening:
        client = scene.open()
        await settled()
        (request,) = scene.requests
        (pending,) = scene.listening.pending_inspections.items()

        assert (request.inspect_id, request) == pending
        assert point is scene.listening.inspect_point
        assert client.local_address == request.remote_address
        assert client.remote_address == request.local_address
        assert scene.listening is request.listening
        assert 0.0 == request.arrived_at

        status = scene.listening.inspect_complete(request.inspect_id, ACCEPT)

        assert Status.SUCCESS is status
        assert {} == dict(scene.listening.pending_inspections)

        connection = await scene.listening.accept()
        await client.established()
        await client.send_all(b"ping")
        answer = await connection.receive_some()
        await connection.send_all(b"pong")

        assert request.inspect_id == connection.inspect_id
        assert [b"ping", b"pong"] == [answer, await client.receive_some()]
        assert [] == scene.aborts
        assert [RequestPended, RequestApproved] == [
            type(each) for each in scene.records if "Request" in type(each).__name__
        ]

        connection.close()


async def test_syn_ack_is_withheld_until_the_verdict(autojump_clock: MockClock) -> None:
    """Before the handshake the server sends nothing while a request is inspected or pends."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=BEFORE,
        inspect_timeout=LONG,
    ) as scene.listening:
        client = scene.open()
        await trio.sleep(2.5)

        assert [] == scene.sent_by_server()
        assert "SYN-SENT" == client.state.value

        scene.listening.inspect_complete(scene.requests[0].inspect_id, ACCEPT)
        await client.established()

        assert 2.5 == trio.current_time()
        assert [2.5] == scene.sent_by_server()
        assert [2.5] == scene.sent_by_server(SegmentKind.SYN_ACK)
        assert [0.0, 1.0, 2.0] == scene.sent_by_clients(SegmentKind.SYN)
        assert [2.5] == scene.sent_by_clients(SegmentKind.ACK)


async def test_syn_ack_is_not_withheld_after_the_handshake(autojump_clock: MockClock) -> None:
    """After the handshake the client is connected while its request pends."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch()
    ) as scene.listening:
        await scene.connect()
        await settled()

        assert 1 == len(scene.requests)
        assert [SegmentKind.SYN, SegmentKind.SYN_ACK, SegmentKind.ACK] == [
            segment.kind for segment in scene.segments
        ]


async def test_repeated_syn_is_the_same_request(autojump_clock: MockClock) -> None:
    """While a request pends, its SYN that comes again is absorbed: one inspection, one id."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=BEFORE,
        inspect_timeout=LONG,
    ) as scene.listening:
        scene.open()
        await trio.sleep(50)

        assert 10 == len(scene.sent_by_clients(SegmentKind.SYN))
        assert 1 == len(scene.requests)
        assert 1 == scene.listening.statistics().inspected
        assert [scene.requests[0].inspect_id] == list(scene.listening.pending_inspections)


async def test_lost_syn_ack_is_sent_again_as_needed(autojump_clock: MockClock) -> None:
    """
    A request is approved after it pended, and the first SYN-ACKs are lost: it stays pending, and
    each SYN-ACK is sent when it is due, the one that arrives being the last.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=BEFORE,
        inspect_timeout=LONG,
    ) as scene.listening:
        client = scene.open()
        await trio.sleep(2.5)
        scene.network.host(CLIENT).unplug()
        scene.listening.inspect_complete(scene.requests[0].inspect_id, ACCEPT)
        await trio.sleep(2)
        counted = scene.listening.statistics()

        assert (1, 1, 0) == (counted.approved, counted.pending, counted.parked)
        assert [2.5, 3.5] == scene.sent_by_server(SegmentKind.SYN_ACK)

        scene.network.host(CLIENT).plug_in()
        await client.established()
        await settled()
        counted = scene.listening.statistics()

        assert (1, 0, 1) == (counted.approved, counted.pending, counted.parked)
        assert [] == scene.aborts

        connection = await scene.listening.accept()
        connection.close()


async def test_every_connection_on_a_bad_network_is_inspected_once(
    autojump_clock: MockClock,
) -> None:
    """With latency, and every fourth segment lost, each client has one request and is served."""
    scene = Scene(latency=0.03, loss=0.25, seed=3)
    clients = 30
    served: Counter[bytes] = Counter()

    async def inspect(request: ConnectionRequest) -> InspectAction:

        scene.requests.append(request)
        await trio.sleep(0.5)
        return ACCEPT

    async def be_client(number: int) -> None:
        async with await scene.connect() as client:
            await client.send_all(b"%d." % number)
            received = b""
            while data := await client.receive_some():
                received += data
            served[received] += 1

    async def echo() -> None:
        async with await scene.listening.accept() as connection:
            received = b""
            while not received.endswith(b"."):
                received += await connection.receive_some()
            await connection.send_all(received)

    async with (
        open_listening_socket(
            transport=scene.transport(),
            dispatch=scene.dispatch(inspect),
            inspect_point=BEFORE,
            inspect_timeout=LONG,
        ) as scene.listening,
        trio.open_nursery() as nursery,
    ):
        for number in range(clients):
            nursery.start_soon(be_client, number)
            nursery.start_soon(echo)

    assert {b"%d." % number: 1 for number in range(clients)} == served
    assert clients == len({request.inspect_id for request in scene.requests})
    assert [] == scene.aborts


# --- Turned away ------------------------------------------------------------------------------


async def test_rejected_syn_is_refused(autojump_clock: MockClock) -> None:
    """Before the handshake a rejection is a refused connection: one RST, and nothing else."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(lambda _: REJECT), inspect_point=BEFORE
    ) as scene.listening:
        assert "refused" == await fate_of(scene.open())
        assert [SegmentKind.SYN, SegmentKind.RST] == [each.kind for each in scene.segments]
        assert {"rejected": 1} == scene.listening.statistics().rejected
    assert [] == scene.aborts


async def test_rejected_connection_is_reset(autojump_clock: MockClock) -> None:
    """After the handshake a rejection comes to a client that is connected: a reset."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(lambda _: REJECT)
    ) as scene.listening:
        assert "reset" == await fate_of(await scene.connect())
        assert {"rejected": 1} == scene.listening.statistics().rejected
    assert [] == scene.aborts


async def test_pended_request_is_rejected_late(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """A request that pended is rejected: its reason is counted, and no abort follows."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        observers=[scene.records.append],
    ) as scene.listening:
        client = scene.open()
        await trio.sleep(1.5)
        inspect_id = scene.requests[0].inspect_id
        verdict = Verdict(REJECT, "over-quota")

        assert Status.SUCCESS is scene.listening.inspect_complete(inspect_id, verdict)
        assert Status.NOT_FOUND is scene.listening.inspect_complete(inspect_id, ACCEPT)

        assert TURNED_AWAY[point] == await fate_of(client)
        client.abandon()
        await settled()
        (rejected,) = scene.told(RequestRejected)
        assert isinstance(rejected, RequestRejected)

        assert ("over-quota", CloseStyle.RESET) == (rejected.reason, rejected.close)
        assert {"over-quota": 1} == scene.listening.statistics().rejected
    assert [] == scene.aborts


async def test_silence_leaves_a_syn_without_an_answer(autojump_clock: MockClock) -> None:
    """
    Before the handshake silence is silence: the client goes on sending SYN until it times out, it
    is not asked about again, and the server has sent nothing at all.
    """
    scene = Scene()
    verdict = Verdict(REJECT, close=CloseStyle.SILENT)

    def inspect(request: ConnectionRequest) -> Verdict:

        scene.requests.append(request)
        return verdict

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=BEFORE
    ) as scene.listening:
        assert "timed out" == await fate_of(scene.open())
        assert 131.0 == trio.current_time()
        assert [] == scene.sent_by_server()
        assert 11 == len(scene.sent_by_clients(SegmentKind.SYN))
        assert 1 == len(scene.requests)
        assert 0 == scene.listening.statistics().close_fallbacks
    assert [] == scene.aborts


async def test_silence_after_the_handshake(autojump_clock: MockClock) -> None:
    """After the handshake silence is a connection from which nothing ever comes."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(lambda _: Verdict(REJECT, close=CloseStyle.SILENT)),
    ) as scene.listening:
        client = await scene.connect()
        await settled()
        before = len(scene.sent_by_server())
        await client.send_all(b"hello?")
        with trio.move_on_after(LONG / 2) as patience:
            await client.receive_some()

        assert patience.cancelled_caught
        assert before == len(scene.sent_by_server()) == 1
        assert {"rejected": 1} == scene.listening.statistics().rejected


async def test_retry_after_a_rejection_is_a_new_request(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """Who was rejected and tries again is asked about again, under another id."""
    scene = Scene()
    answers = [REJECT, REJECT, ACCEPT]

    def inspect(request: ConnectionRequest) -> InspectAction:

        scene.requests.append(request)
        return answers[len(scene.requests) - 1]

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=point
    ) as scene.listening:
        clients = []
        for _ in answers:
            clients.append(scene.open())
            await settled()
        await clients[-1].established()
        connection = await scene.listening.accept()
        ids = [request.inspect_id for request in scene.requests]

        assert 3 == len(set(ids)) == len({each.serial_number for each in ids})
        assert 1 == len({each.key for each in ids})
        assert ids[-1] == connection.inspect_id
        assert {"rejected": 2} == scene.listening.statistics().rejected

        connection.close()


@pytest.mark.parametrize("close", [CloseStyle.FIN, b"421 busy\r\n"], ids=["fin", "message"])
async def test_no_words_before_the_handshake(
    autojump_clock: MockClock, close: CloseStyle | bytes
) -> None:
    """
    Before the handshake there is no connection to say goodbye on: FIN and a message become a
    reset, which is counted and recorded.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(lambda _: Verdict(REJECT, "busy", close)),
        inspect_point=BEFORE,
        observers=[scene.records.append],
    ) as scene.listening:
        assert "refused" == await fate_of(scene.open())

        counted = scene.listening.statistics()
        (rejected,) = scene.told(RequestRejected)
        (unavailable,) = scene.told(CloseStyleUnavailable)
        assert isinstance(rejected, RequestRejected)
        assert isinstance(unavailable, CloseStyleUnavailable)

        assert 1 == counted.close_fallbacks
        assert {"busy": 1} == counted.rejected
        assert CloseStyle.RESET is rejected.close
        assert Verdict(REJECT, close=close).style is unavailable.close


@pytest.mark.parametrize(
    ("close", "received"), [(CloseStyle.FIN, b""), (b"421 busy\r\n", b"421 busy\r\n")]
)
async def test_words_after_the_handshake(
    autojump_clock: MockClock, close: CloseStyle | bytes, received: bytes
) -> None:
    """After the handshake a peer can be turned away with FIN, and with a message before it."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(lambda _: Verdict(REJECT, close=close)),
    ) as scene.listening:
        client = await scene.connect()
        await client.send_all(b"let me in")

        assert received == await read_to_end(client)
        assert 0 == scene.listening.statistics().close_fallbacks

        await client.aclose()


@pytest.mark.parametrize("style", [CloseStyle.FIN, CloseStyle.MESSAGE])
async def test_declared_close_style_is_refused_at_open(
    autojump_clock: MockClock, style: CloseStyle
) -> None:
    """
    An inspector that says how it turns peers away is refused where that can't be had, before
    anything listens, and the port is free again; elsewhere it is not.
    """
    scene = Scene()

    class Guard:
        close_styles = frozenset({style})

        def __call__(self, request: ConnectionRequest) -> InspectAction:
            return REJECT

    with pytest.raises(InvalidParameterError, match=rf"{style}.*before the handshake"):
        async with open_listening_socket(
            transport=scene.transport(), inspect=Guard(), inspect_point=BEFORE
        ):
            pytest.fail("it was opened")
    async with open_listening_socket(transport=scene.transport(), inspect=Guard()):
        pass
