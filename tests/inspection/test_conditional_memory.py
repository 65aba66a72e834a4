"""
Conditional accept over the network in memory, on the virtual clock: what an inspector is told, what
its peer sees on the wire and when, before the handshake and after it.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing

from tests.helpers.support import read_to_end
from trio_wsk import (
    AbortReason,
    CloseStyle,
    InspectAction,
    InspectId,
    InspectPoint,
    InvalidDeviceStateError,
    InvalidParameterError,
    ListenDispatch,
    ListeningSocket,
    Overflow,
    Status,
    Verdict,
    open_listening_socket,
)
from trio_wsk._inspection import driver as _conditional_accept
from trio_wsk.observers import (
    CallbackFailed,
    CloseStyleUnavailable,
    InspectorStraggles,
    RequestAborted,
    RequestApproved,
    RequestPended,
    RequestRejected,
)
from trio_wsk.testing import MemoryNetwork, SegmentKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_wsk import ConnectionRequest, ListeningSocket
    from trio_wsk.testing import MemoryStream, MemoryTransport, Segment

SERVER: Final = "192.0.2.1"
CLIENT: Final = "192.0.2.2"
HERE: Final = (SERVER, 80)
BEFORE: Final = InspectPoint.BEFORE_HANDSHAKE
AFTER: Final = InspectPoint.AFTER_HANDSHAKE

ACCEPT: Final = InspectAction.ACCEPT
REJECT: Final = InspectAction.REJECT
PEND: Final = InspectAction.PEND

LONG: Final = 1000.0
"""A time for a verdict that is longer than anything here takes."""


@pytest.fixture(params=list(InspectPoint), ids=lambda point: point.value)
def point(request: pytest.FixtureRequest) -> InspectPoint:
    """When requests are inspected: most of what is true is true of both."""
    chosen: InspectPoint = request.param
    return chosen


class Scene:
    """A network, who comes from where, and notes of what happened."""

    def __init__(self, *, latency: float = 0.0, loss: float = 0.0, seed: int = 0) -> None:
        self.network = MemoryNetwork(latency=latency, loss=loss, seed=seed)
        self.segments: list[Segment] = []
        self.network.on_segment = self.segments.append
        self.requests: list[ConnectionRequest] = []
        """What the inspector was asked about."""
        self.aborts: list[tuple[InspectId, AbortReason]] = []
        """What the abort callback was called with, and what the request said then."""
        self.records: list[object] = []
        self.listening: ListeningSocket

    def transport(self, *, backlog: int = 128) -> MemoryTransport:
        """Make the server's transport."""
        return self.network.host(SERVER).transport(HERE[1], backlog=backlog)

    def open(self) -> MemoryStream:
        """Have a client send its SYN."""
        return self.network.host(CLIENT).open_connection(HERE)

    async def connect(self) -> MemoryStream:
        """Connect a client."""
        return await self.network.host(CLIENT).connect(HERE)

    def sent_by_server(self, *kinds: SegmentKind) -> list[float]:
        """When the server has sent segments of these kinds, or any."""
        return [
            segment.at
            for segment in self.segments
            if segment.source.port == HERE[1] and (not kinds or segment.kind in kinds)
        ]

    def sent_by_clients(self, *kinds: SegmentKind) -> list[float]:
        """When clients have sent segments of these kinds, or any."""
        return [
            segment.at
            for segment in self.segments
            if segment.source.port != HERE[1] and (not kinds or segment.kind in kinds)
        ]

    def pend(self, request: ConnectionRequest) -> InspectAction:
        """Inspect: note the request, and answer later."""
        self.requests.append(request)
        return PEND

    def abort(self, inspect_id: InspectId) -> None:
        """Note that a request was aborted; it is still to be found meanwhile."""
        record = self.listening.pending_inspections[inspect_id].aborted

        assert record is not None

        self.aborts.append((inspect_id, record.reason))

    def dispatch(
        self,
        inspect: Callable[[ConnectionRequest], object] | None = None,
        failed: Callable[[ListeningSocket, OSError], object] | None = None,
    ) -> ListenDispatch:
        """Make the callbacks: an inspector that pends by default, and one that notes aborts."""
        return ListenDispatch(inspect=inspect or self.pend, abort=self.abort, failed=failed)  # type: ignore[arg-type]  # what it answers is part of what is tested

    def told(self, kind: type[object]) -> list[object]:
        """Return the records of one kind."""
        return [record for record in self.records if isinstance(record, kind)]


settled = trio.testing.wait_all_tasks_blocked

TURNED_AWAY: Final = {BEFORE: "refused", AFTER: "reset"}
"""What becomes of a client by a rejection or an abort, at each inspect point."""


async def fate_of(client: MemoryStream) -> str:
    """Wait until a client knows what has become of it, and say that in one word."""
    try:
        await client.established()
        while await client.receive_some():
            pass
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "timed out"
    except trio.BrokenResourceError:
        return "reset"
    return "fin"


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
        late = slow.open_connection(HERE)
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


# --- Inspectors -------------------------------------------------------------------------------


async def test_thousand_slow_inspections_are_in_flight_together(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """
    An inspector that takes 200 ms, and 1,000 clients at once: all are inspected together, and
    all are served after 200 ms.
    """
    scene = Scene()
    scene.network.on_segment = None
    clients = 1000

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await trio.sleep(0.2)
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(backlog=clients),
        dispatch=scene.dispatch(inspect),
        inspect_point=point,
        max_pending=clients,
    ) as scene.listening:
        streams = [scene.open() for _ in range(clients)]
        for _ in range(clients):
            connection = await scene.listening.accept()
            connection.close()
        counted = scene.listening.statistics()

        assert 0.2 == trio.current_time()
        assert (clients, clients) == (counted.pending_most, counted.delivered["accept"])
        for stream in streams:
            await stream.established()

            assert b"" == await stream.receive_some()

            await stream.aclose()


async def test_completed_early(autojump_clock: MockClock, point: InspectPoint) -> None:
    """
    A request can be completed before its inspector has answered: the word is kept, and counts
    when that answers PEND.
    """
    scene = Scene()
    may_answer = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction:

        scene.requests.append(request)
        await may_answer.wait()
        return PEND

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=point
    ) as scene.listening:
        for _ in range(2):
            scene.open()
        await settled()
        yes, no = (request.inspect_id for request in scene.requests)

        assert Status.SUCCESS is scene.listening.inspect_complete(yes, ACCEPT)
        assert Status.SUCCESS is scene.listening.inspect_complete(
            no, Verdict(REJECT, "early", CloseStyle.SILENT)
        )
        assert Status.NOT_FOUND is scene.listening.inspect_complete(no, ACCEPT)
        assert 0 == scene.listening.statistics().approved
        assert {yes, no} == set(scene.listening.pending_inspections)

        may_answer.set()
        connection = await scene.listening.accept()

        assert yes == connection.inspect_id
        assert scene.requests[0].remote_address == connection.remote_address
        assert {"early": 1} == scene.listening.statistics().rejected
        assert 0 == scene.listening.statistics().close_fallbacks

        connection.close()


@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
async def test_own_word_overrules_an_early_one(
    autojump_clock: MockClock, point: InspectPoint, answer: InspectAction
) -> None:
    """An inspector that answers by itself never pended, so a completion of its request is void."""
    scene = Scene()

    def inspect(request: ConnectionRequest) -> InspectAction:

        early = REJECT if answer is ACCEPT else ACCEPT
        statuses.append(scene.listening.inspect_complete(request.inspect_id, early))
        return answer

    statuses: list[Status] = []
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=point
    ) as scene.listening:
        scene.open()
        await settled()
        counted = scene.listening.statistics()

        assert [Status.SUCCESS] == statuses
        assert (answer is ACCEPT) == counted.approved == counted.parked
        assert ({} if answer is ACCEPT else {"rejected": 1}) == counted.rejected


async def test_ids_that_mean_nothing(autojump_clock: MockClock, point: InspectPoint) -> None:
    """
    Completing an id that was never given out, or another socket's, finds nothing; what is no
    verdict is refused, and the request waits on.
    """
    scene = Scene()
    other = scene.network.host("192.0.2.3").transport(80)
    async with (
        open_listening_socket(
            transport=scene.transport(), dispatch=scene.dispatch(), inspect_point=point
        ) as scene.listening,
        open_listening_socket(transport=other, inspect=lambda _: PEND) as elsewhere,
    ):
        scene.open()
        await settled()
        (inspect_id,) = scene.listening.pending_inspections
        complete = scene.listening.inspect_complete

        unknown = InspectId(inspect_id.key, inspect_id.serial_number + 1000)
        assert Status.NOT_FOUND is complete(unknown, ACCEPT)
        assert Status.NOT_FOUND is complete(InspectId(-1, inspect_id.serial_number), ACCEPT)
        assert Status.NOT_FOUND is elsewhere.inspect_complete(inspect_id, ACCEPT)
        for nonsense in (PEND, True, None, Verdict(PEND)):
            assert Status.INVALID_PARAMETER is complete(inspect_id, nonsense)  # type: ignore[arg-type]  # on purpose
        assert Status.INVALID_PARAMETER is complete(inspect_id.serial_number, ACCEPT)  # type: ignore[arg-type]  # on purpose
        assert [inspect_id] == list(scene.listening.pending_inspections)
        assert Status.SUCCESS is complete(inspect_id, ACCEPT)


async def test_any_number_pends_and_completes_in_any_order(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """Fifty requests pend and are completed from the last to the first: so are they delivered."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(), inspect_point=point
    ) as scene.listening:
        for _ in range(50):
            scene.open()
        await settled()
        ids = [request.inspect_id for request in scene.requests]
        statuses = [scene.listening.inspect_complete(each, ACCEPT) for each in reversed(ids)]
        taken = []
        for _ in ids:
            connection = await scene.listening.accept()
            taken.append(connection.inspect_id)
            connection.close()

        assert {Status.SUCCESS} == set(statuses)
        assert ids[::-1] == taken


def _raises(_: ConnectionRequest) -> InspectAction:
    raise RuntimeError("planned")


async def _raises_later(_: ConnectionRequest) -> InspectAction:
    await trio.sleep(0.1)
    raise RuntimeError("planned")


async def _answers_nonsense(_: ConnectionRequest) -> object:
    await trio.sleep(0.1)
    return True


@pytest.mark.parametrize(
    "inspect", [_raises, _raises_later, lambda _: None, _answers_nonsense], ids=range(4)
)
async def test_inspector_that_fails_rejects(
    autojump_clock: MockClock,
    point: InspectPoint,
    inspect: Callable[[ConnectionRequest], object],
) -> None:
    """
    An inspector that raises or answers nonsense has rejected: it is reported, the peer refused or
    reset, nothing is aborted, and the next request is inspected as if nothing had been.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(inspect),
        inspect_point=point,
        observers=[scene.records.append],
    ) as scene.listening:
        for _ in range(2):
            client = scene.open()
            await trio.sleep(0.2)
            assert TURNED_AWAY[point] == await fate_of(client)
        counted = scene.listening.statistics()

        assert {"inspector-failed": 2} == counted.rejected
        assert ["inspect"] * 2 == [
            each.callback for each in scene.records if isinstance(each, CallbackFailed)
        ]
    assert [] == scene.aborts


async def test_inspector_that_cancels_itself_rejects(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """Cancelling a request's scope oneself is no verdict, so the request is rejected."""
    scene = Scene()

    async def inspect(request: ConnectionRequest) -> InspectAction:

        request.cancel_scope.cancel()
        await trio.sleep_forever()
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=point
    ) as scene.listening:
        scene.open()
        await settled()

        assert {"inspector-failed": 1} == scene.listening.statistics().rejected
    assert [] == scene.aborts


async def test_no_peek_before_the_handshake(autojump_clock: MockClock) -> None:
    """Before the handshake there are no octets to peek at, and peek() says so."""
    scene = Scene()
    errors = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        try:
            await request.peek(1)
        except InvalidDeviceStateError as error:
            errors.append(error)
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=BEFORE
    ) as scene.listening:
        await scene.connect()
        await settled()

    assert 1 == len(errors)
    assert "before the handshake" in str(errors[0])


async def test_peek_after_the_handshake(autojump_clock: MockClock) -> None:
    """
    After the handshake peek() waits for as many octets as it is asked for, or the peer's FIN,
    and leaves them to who accepts the connection.
    """
    scene = Scene(latency=0.1)
    peeked = []

    async def inspect(request: ConnectionRequest) -> InspectAction:

        peeked.append((await request.peek(2), trio.current_time()))
        peeked.append((await request.peek(6), trio.current_time()))
        peeked.append((await request.peek(99), trio.current_time()))
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect)
    ) as scene.listening:
        client = await scene.connect()
        for octets in (b"abc", b"def", b"ghi"):
            await client.send_all(octets)
            await trio.sleep(1)
        await client.send_eof()
        connection = await scene.listening.accept()

        assert [b"ab", b"abcdef", b"abcdefghi"] == [data for data, _ in peeked]
        assert pytest.approx([0.3, 1.3, 3.3]) == [at for _, at in peeked]
        assert b"abcdefghi" == await read_to_end(connection)

        connection.close()


# --- Limits -----------------------------------------------------------------------------------


async def test_handshakes_under_way_count_as_pending(autojump_clock: MockClock) -> None:
    """Who was let through and is in the handshake yet is pending, beside who has no verdict."""
    scene = Scene(latency=1.0)
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(), inspect_point=BEFORE
    ) as scene.listening:
        first = scene.open()
        await trio.sleep(1.1)  # its SYN has come
        (request,) = scene.requests

        assert Status.SUCCESS is scene.listening.inspect_complete(request.inspect_id, ACCEPT)

        second = scene.open()
        await trio.sleep(1.1)  # the second SYN has come, and the first one's ACK has not
        counted = scene.listening.statistics()

        assert 2 == counted.inspected == counted.pending == counted.pending_most

        first.reset()
        second.reset()


async def test_syns_beyond_max_pending_wait(autojump_clock: MockClock) -> None:
    """
    Before the handshake, with ``overflow="wait"`` and a backlog of one: one is inspected, one
    waits, and the SYN of the third is dropped; it comes again by itself when there is room.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(backlog=1),
        dispatch=scene.dispatch(),
        inspect_point=BEFORE,
        inspect_timeout=LONG,
        max_pending=1,
    ) as scene.listening:
        clients = [scene.open() for _ in range(3)]
        await trio.sleep(1.5)  # each but the first has sent its SYN twice

        assert [clients[0].local_address] == [each.remote_address for each in scene.requests]
        assert (1, 1) == (
            scene.listening.statistics().backlog,
            scene.listening.statistics().pending,
        )

        for number, client in enumerate(clients):
            await trio.sleep(2)

            assert number + 1 == len(scene.requests)

            scene.listening.inspect_complete(scene.requests[number].inspect_id, ACCEPT)
            await client.established()

        assert [each.local_address for each in clients] == [
            each.remote_address for each in scene.requests
        ]
        assert 1 == scene.listening.statistics().pending_most
        assert {} == scene.listening.statistics().dropped


async def test_requests_beyond_max_pending_are_reset(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """
    With ``overflow="reset"`` newcomers are turned away unasked, and who pends is left alone;
    they were never inspected, so no abort follows.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        max_pending=2,
        overflow="reset",
    ) as scene.listening:
        clients = [scene.open() for _ in range(4)]
        await settled()
        for client in clients[2:]:
            assert TURNED_AWAY[point] == await fate_of(client)
        counted = scene.listening.statistics()

        assert [each.local_address for each in clients[:2]] == [
            each.remote_address for each in scene.requests
        ]
        assert (4, 2, 2, {"overflowed": 2}) == (
            counted.accepted,
            counted.inspected,
            counted.pending,
            counted.dropped,
        )
        assert [] == scene.aborts


async def test_requests_beyond_max_pending_evict(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """With ``overflow="evict"`` the oldest that waits for its verdict goes for a newcomer."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        max_pending=2,
        overflow=Overflow(pending="evict"),
    ) as scene.listening:
        clients = [scene.open() for _ in range(4)]
        await settled()
        ids = [request.inspect_id for request in scene.requests]
        for client in clients[:2]:
            assert TURNED_AWAY[point] == await fate_of(client)

        assert [(each, AbortReason.EVICTED) for each in ids[:2]] == scene.aborts
        assert ids[2:] == list(scene.listening.pending_inspections)
        assert {"evicted": 2} == scene.listening.statistics().aborted
        assert 2 == scene.listening.statistics().pending_most


async def test_long_flood_evicts_in_order(
    autojump_clock: MockClock, point: InspectPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many newcomers there are, it is always the oldest that goes for the next one."""
    monkeypatch.setattr(_conditional_accept, "EVICTIONS_PER_COPY", 3)
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        max_pending=4,
        overflow=Overflow(pending="evict"),
    ) as scene.listening:
        for _ in range(20):
            scene.open()
        await settled()
        ids = [request.inspect_id for request in scene.requests]

        assert [(each, AbortReason.EVICTED) for each in ids[:16]] == scene.aborts
        assert ids[16:] == list(scene.listening.pending_inspections)
        for each in ids[16:]:
            assert Status.SUCCESS is scene.listening.inspect_complete(each, InspectAction.REJECT)
        assert 0 == scene.listening.statistics().pending


@pytest.mark.parametrize(("policy", "stays"), [("evict", 1), ("reset", 0)])
async def test_connections_beyond_max_parked(
    autojump_clock: MockClock, point: InspectPoint, policy: str, stays: int
) -> None:
    """
    Approved connections that nobody takes, beyond ``max_parked``: the oldest makes room, or the
    newcomer goes, and either was inspected and so is aborted.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        max_parked=1,
        overflow=Overflow(parked=policy),  # type: ignore[arg-type]  # one of them
    ) as scene.listening:
        for _ in range(2):
            scene.open()
        await settled()
        ids = [request.inspect_id for request in scene.requests]
        for each in ids:
            scene.listening.inspect_complete(each, ACCEPT)
        await settled()
        connection = scene.listening.accept_nowait()

        assert ids[stays] == connection.inspect_id
        assert [(ids[1 - stays], AbortReason.EVICTED)] == scene.aborts
        assert 0 == scene.listening.statistics().parked

        connection.close()
