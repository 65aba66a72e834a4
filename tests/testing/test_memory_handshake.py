"""The handshake on the network in memory: what each side sees of the other, and when."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.helpers.memory_peers import BEFORE, CLIENT, PLACE, SERVER, Keeper, scene
from trio_wsk import InspectAction, InspectPoint, open_listening_socket
from trio_wsk.testing import MemoryNetwork, SegmentKind, TcpState
from trio_wsk.transports._contract import PeerEnd

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from trio_wsk import ConnectionRequest
    from trio_wsk.testing import MemoryStream
    from trio_wsk.testing._memory_request import MemoryRequest
    from trio_wsk.transports import Syn

SYN, SYN_ACK, ACK, RST = (
    SegmentKind.SYN,
    SegmentKind.SYN_ACK,
    SegmentKind.ACK,
    SegmentKind.RST,
)

LINUX_SYNS = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 11.0, 19.0, 35.0, 67.0]
LINUX_SYN_ACKS = [0.0, 1.0, 3.0, 7.0, 15.0, 31.0]


# --- What becomes of connect() ---------------------------------------------------------


async def outcome(attempt: Callable[[], Awaitable[object]]) -> tuple[str, float]:
    """Say how an attempt ends, and when."""
    try:
        await attempt()
    except OSError as error:
        return errno.errorcode[error.errno or 0], trio.current_time()
    return "connected", trio.current_time()


def nobody(network: MemoryNetwork) -> None:
    """There is no such host."""


def closed(network: MemoryNetwork) -> None:
    """There is a host, and nobody listens."""
    network.host(SERVER)


def unplugged_server(network: MemoryNetwork) -> None:
    """The server's cable is pulled."""
    network.host(SERVER).unplug()


def unplugged_client(network: MemoryNetwork) -> None:
    """The client's own cable is pulled."""
    network.host(SERVER)
    network.host(CLIENT).unplug()


def all_is_lost(network: MemoryNetwork) -> None:
    """No segment gets through."""
    network.host(SERVER)
    network.loss = 1.0


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (nobody, ("ETIMEDOUT", 131.0)),
        (closed, ("ECONNREFUSED", 0.0)),
        (unplugged_server, ("ETIMEDOUT", 131.0)),
        (unplugged_client, ("ETIMEDOUT", 131.0)),
        (all_is_lost, ("ETIMEDOUT", 131.0)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_connecting_to_nobody(
    autojump_clock: MockClock,
    situation: Callable[[MemoryNetwork], None],
    expected: tuple[str, float],
) -> None:
    """Where nobody listens a client is refused; where nobody answers it gives up in 131 s."""
    network = MemoryNetwork()
    situation(network)

    assert expected == await outcome(lambda: network.host(CLIENT).connect(PLACE))


async def test_refusal_takes_one_round_trip(autojump_clock: MockClock) -> None:
    """With latency, the answer to a SYN comes after a round trip."""
    network = MemoryNetwork(latency=0.25)
    network.host(SERVER)

    assert ("ECONNREFUSED", 0.5) == await outcome(lambda: network.host(CLIENT).connect(PLACE))


async def test_bound_is_not_listening(autojump_clock: MockClock) -> None:
    """A port that is bound, and does not listen yet or any more, refuses."""
    network = MemoryNetwork()
    transport = network.host(SERVER).transport(80)
    transport.edge = lambda: None
    await transport.bind()
    before = await outcome(lambda: network.host(CLIENT).connect(PLACE))
    transport.close()

    assert ("ECONNREFUSED", 0.0) == before
    assert ("ECONNREFUSED", 0.0) == await outcome(lambda: network.host(CLIENT).connect(PLACE))


async def test_other_family_is_unreachable(autojump_clock: MockClock) -> None:
    """An IPv4 host has no way to an IPv6 one."""
    network = MemoryNetwork()
    network.host("2001:db8::1")

    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at
        await network.host(CLIENT).connect(("2001:db8::1", 80))
    assert errno.ENETUNREACH == caught.value.errno


async def test_syn_is_repeated_as_linux_does(autojump_clock: MockClock) -> None:
    """A SYN that nobody answers is sent at 0, 1, 2, 3, 4, 5, 7, 11, 19, 35 and 67 s."""
    network = MemoryNetwork()
    trace: list[float] = []
    network.on_segment = lambda segment: trace.append(segment.at)
    await outcome(lambda: network.host(CLIENT).connect(PLACE))

    assert trace == LINUX_SYNS


async def test_handshake_on_the_wire(autojump_clock: MockClock) -> None:
    """A handshake is SYN, SYN-ACK and ACK, each after the latency; then there is a request."""
    async with scene(latency=0.25) as at:
        at.record()
        client = at.open()
        early = (client.state, at.transport.next_request())
        await client.established()
        asking = at.transport.next_request()
        await trio.sleep(0.3)

        assert (TcpState.SYN_SENT, None) == early
        assert asking is None
        assert [(SYN, 0.0), (SYN_ACK, 0.25), (ACK, 0.5)] == [(s.kind, s.at) for s in at.trace]
        assert client.local_address == at.request().remote_address
        assert TcpState.ESTABLISHED == client.state


async def test_addresses_are_each_others(autojump_clock: MockClock) -> None:
    """The client's and the request's addresses mirror each other, in both families."""
    for server, client in ((SERVER, CLIENT), ("2001:db8::1", "2001:db8::2")):
        network = MemoryNetwork()
        transport = network.host(server).transport(80)
        transport.edge = lambda: None
        await transport.bind()
        transport.listen(transport.pump_readiness(lambda *_: None))
        stream = await network.host(client).connect(transport.local_addresses[0])
        request = transport.next_request()
        assert request is not None

        assert (stream.local_address, stream.remote_address) == (
            request.remote_address,
            request.local_address,
        )
        assert transport.local_addresses[0] == stream.remote_address
        transport.close()


# --- After the handshake: the backlog --------------------------------------------------


async def test_full_backlog_drops_syns_and_the_client_tries_again(
    autojump_clock: MockClock,
) -> None:
    """
    While as many connections wait as may, a SYN gets no answer; its sender repeats it and gets
    through as soon as there is room.
    """
    async with scene(backlog=2) as at:
        at.record()
        clients = [at.open() for _ in range(3)]
        states = [client.state for client in clients]
        depth = at.transport.queue_depth()
        await trio.sleep(2.5)
        at.request()
        await clients[2].established()

        assert [TcpState.ESTABLISHED, TcpState.ESTABLISHED, TcpState.SYN_SENT] == states
        assert (2, 2) == depth
        assert 3.0 == trio.current_time()
        assert [0.0, 0.0, 3.0] == at.sent(SYN_ACK)


async def test_backlog_that_fills_during_the_handshake(autojump_clock: MockClock) -> None:
    """
    A client whose ACK finds the backlog full is connected for its own part; SYN-ACK is
    repeated until there is room, and what it sent meanwhile arrives then.
    """
    async with scene(backlog=2, latency=0.1) as at:
        at.open()
        await trio.sleep(1)
        first, second = at.open(), at.open()
        await first.established()
        await second.established()
        await second.send_all(b"hello")
        await trio.sleep(5)
        depth = at.transport.queue_depth()
        at.request()
        at.request()
        await trio.sleep(5)
        request = at.request()

        assert (2, 2) == depth
        assert (b"hello", False) == request.peek(5)
        assert second.local_address == request.remote_address


async def test_syn_ack_is_repeated_as_linux_does(autojump_clock: MockClock) -> None:
    """A SYN-ACK that nobody acknowledges is sent at 0, 1, 3, 7, 15 and 31 s, and then no more."""
    async with scene() as at:
        at.record()
        at.network.latency = 1.0
        at.open()
        await trio.sleep(0.5)
        at.network.host(CLIENT).unplug()
        await trio.sleep(200)

        assert LINUX_SYN_ACKS == [when - 1.0 for when in at.sent(SYN_ACK)]


async def test_half_open_connections_have_a_bound(autojump_clock: MockClock) -> None:
    """No more handshakes are under way than connections may wait."""
    async with scene(backlog=2) as at:
        at.network.latency = 1.0
        at.record()
        for _ in range(5):
            at.open()
        await trio.sleep(1.1)

        assert [1.0, 1.0] == at.sent(SYN_ACK)


# --- Before the handshake --------------------------------------------------------------


async def test_syn_ack_is_withheld(autojump_clock: MockClock) -> None:
    """Until the verdict nothing is sent: the request is there, the client waits."""
    async with scene(point=BEFORE) as at:
        at.record()
        client = at.open()
        request, keeper = at.watched()
        await trio.sleep(30)

        assert TcpState.SYN_SENT == client.state
        assert [] == at.sent(*SegmentKind, by=SERVER)
        assert None is at.transport.next_request()
        assert [] == keeper.told
        assert client.local_address == request.remote_address


async def test_approving_is_answering(autojump_clock: MockClock) -> None:
    """Without latency the handshake is over when ``approve()`` returns, which says so."""
    async with scene(point=BEFORE) as at:
        at.record()
        client = at.open()
        request, keeper = at.watched()
        is_there = request.approve()
        channel = request.accept()
        await client.established()
        await client.send_all(b"hello")

        assert is_there
        assert [] == keeper.told
        assert b"hello" == channel.recv(10)
        assert [SYN, SYN_ACK, ACK] == [segment.kind for segment in at.trace][:3]


async def test_approving_with_latency_is_told_later(autojump_clock: MockClock) -> None:
    """With latency ``approve()`` says "not yet", and the keeper is told when it is over."""
    async with scene(point=BEFORE, latency=0.5) as at:
        client = at.open()
        await trio.sleep(0.6)
        request, keeper = at.watched()
        is_there = request.approve()
        with pytest.raises(RuntimeError):
            request.accept()
        await client.established()
        early = list(keeper.told)
        await trio.sleep(0.6)
        request.accept()

        assert not is_there
        assert [] == early
        assert ["established"] == keeper.told


async def test_established_before_anybody_watched_is_told(autojump_clock: MockClock) -> None:
    """Who watches an approved request after its handshake is told of it, but not at once."""
    async with scene(point=BEFORE, latency=0.5) as at:
        at.open()
        await trio.sleep(0.6)
        request = at.request()
        request.approve()
        await trio.sleep(1)
        keeper = Keeper()
        request.watch_end(at.readiness, keeper)
        at_once = list(keeper.told)
        await trio.testing.wait_all_tasks_blocked()

        assert [] == at_once
        assert ["established"] == keeper.told


async def test_repeated_syn_is_absorbed(autojump_clock: MockClock) -> None:
    """However often a SYN comes again, it is one request."""
    async with scene(point=BEFORE) as at:
        at.record()
        at.open()
        _, keeper = at.watched()
        await trio.sleep(50)

        assert LINUX_SYNS[:-1] == at.sent(SYN)
        assert (None, 1) == (at.transport.next_request(), at.edges)
        assert [] == keeper.told


async def test_syn_repeated_after_the_verdict_is_answered_again(autojump_clock: MockClock) -> None:
    """When SYN-ACK is lost, the SYN that comes again gets another one."""
    async with scene(point=BEFORE) as at:
        client = at.open()
        request, keeper = at.watched()
        at.network.loss = 1.0
        request.approve()
        at.network.loss = 0.0
        at.record()
        await client.established()
        await trio.testing.wait_all_tasks_blocked()

        assert 1.0 == trio.current_time()
        assert [1.0] == at.sent(SYN_ACK)
        assert ["established"] == keeper.told


async def test_refusing_before_the_handshake(autojump_clock: MockClock) -> None:
    """A request that is reset before the handshake refuses the client's connect()."""
    async with scene(point=BEFORE) as at:
        at.record()
        client = at.open()
        at.request().reset()

        with pytest.raises(ConnectionRefusedError):
            await client.established()
        assert [SYN, RST] == [segment.kind for segment in at.trace]


async def test_finish_before_the_handshake_refuses(autojump_clock: MockClock) -> None:
    """There is no FIN before the handshake: the client is refused."""
    async with scene(point=BEFORE) as at:
        client = at.open()
        at.request().finish()

        with pytest.raises(ConnectionRefusedError):
            await client.established()


async def test_silence_before_the_handshake(autojump_clock: MockClock) -> None:
    """
    A silenced client hears nothing, is no new request when it asks again, and gives up; the
    next client from there is a request as any other.
    """
    async with scene(point=BEFORE) as at:
        at.record()
        client = at.open()
        is_silent = at.request().silence()
        with pytest.raises(TimeoutError):
            await client.established()
        answers = at.sent(*SegmentKind, by=SERVER)
        none = at.transport.next_request()
        at.open()

        assert is_silent
        assert 131.0 == trio.current_time()
        assert [] == answers
        assert None is none
        assert at.request().remote_address != client.local_address


async def test_late_syn_of_a_refused_client_is_refused_again(autojump_clock: MockClock) -> None:
    """A SYN that was on its way when its request was refused is no new request."""
    async with scene(point=BEFORE, latency=2.0) as at:
        at.record()
        client = at.open()
        await trio.sleep(2.5)
        at.request().reset()
        with pytest.raises(ConnectionRefusedError):
            await client.established()
        await trio.sleep(5)

        assert 4.5 == trio.current_time() - 5
        assert None is at.transport.next_request()
        assert [2.5, 3.0, 4.0, 5.0, 6.0] == at.sent(RST, by=SERVER)


async def test_late_syn_of_a_connection_that_was_is_dropped(autojump_clock: MockClock) -> None:
    """A SYN that arrives after its connection has come and gone is no new request."""
    async with scene(point=BEFORE) as at:
        at.network.latency = 5.0
        client = at.open()
        await trio.sleep(1.5)
        at.network.latency = 0.1
        await trio.sleep(2)
        request = at.request() if at.transport.has_more() else None
        await trio.sleep(3)
        request = request or at.request()
        request.approve()
        await trio.sleep(1)
        request.accept().close()
        await client.aclose()
        at.record()
        await trio.sleep(10)

        assert None is at.transport.next_request()
        assert [] == at.sent(SYN_ACK)


# --- The peer leaves before the verdict ------------------------------------------------


def resets(client: MemoryStream) -> None:
    """It sends RST."""
    client.reset()


def vanishes(client: MemoryStream) -> None:
    """It loses its power."""
    client.vanish()


def abandons(client: MemoryStream) -> None:
    """Its program has given up."""
    client.abandon()


@pytest.mark.parametrize(
    ("leave", "expected"),
    [
        (resets, (PeerEnd.RESET, 0.5)),
        (vanishes, (PeerEnd.SILENT, 3.5)),
        (abandons, (PeerEnd.SILENT, 3.5)),
    ],
)
async def test_peer_that_leaves_while_held(
    autojump_clock: MockClock,
    leave: Callable[[MemoryStream], None],
    expected: tuple[PeerEnd, float],
) -> None:
    """A reset is told at once; that no SYN comes any more, 3.5 s after the only one."""
    async with scene(point=BEFORE) as at:
        client = at.open()
        request, keeper = at.watched()
        await trio.sleep(0.5)
        leave(client)
        await trio.sleep(100)

        assert [expected] == list(zip(keeper.told, keeper.at, strict=True))
        assert (expected[0] is PeerEnd.RESET) == request.was_reset()
        assert not request.approve()


async def test_heartbeat_allows_twice_the_longest_gap(autojump_clock: MockClock) -> None:
    """A client last heard at 5 and at 7 s is missed at 12 s: after twice 2 s, and 1 s."""
    async with scene(point=BEFORE) as at:
        client = at.open()
        _, keeper = at.watched()
        await trio.sleep(8)
        client.vanish()
        await trio.sleep(3.5)
        early = list(keeper.told)
        await trio.sleep(1)

        assert [] == early
        assert [PeerEnd.SILENT] == keeper.told


async def test_silent_client_that_was_only_unlucky_asks_anew(autojump_clock: MockClock) -> None:
    """A client whose SYNs were lost is taken for gone; the next one is a new request."""
    async with scene(point=BEFORE) as at:
        client = at.open()
        request, keeper = at.watched()
        at.network.host(CLIENT).unplug()
        await trio.sleep(4.5)
        at.network.host(CLIENT).plug_in()
        request.reset()
        await trio.sleep(1.1)
        again = at.request()
        again.approve()
        await client.established()

        assert [PeerEnd.SILENT] == keeper.told
        assert request.serial_number != again.serial_number
        assert request.remote_address == again.remote_address


async def test_client_that_asks_anew_from_its_port(autojump_clock: MockClock) -> None:
    """
    A new SYN from the same port ends nothing, since anybody could have sent it: it is dropped
    until the old one's client is missed, and the next repeat is a new request.
    """
    async with scene(point=BEFORE) as at:
        client = at.open()
        request, keeper = at.watched()
        client.abandon()
        at.come_from(client)
        again = at.open()
        await trio.sleep(3.4)
        early = (list(keeper.told), at.transport.has_more())
        await trio.sleep(1)

        assert client.local_address == again.local_address
        assert ([], False) == early
        assert [PeerEnd.SILENT] == keeper.told
        assert request is not at.request()


async def test_syn_that_the_network_duplicates_shortens_no_wait(autojump_clock: MockClock) -> None:
    """Of two SYNs that come together nothing follows for when the next one is due."""
    async with scene(point=BEFORE) as at:
        client = at.open()
        _, keeper = at.watched()
        await trio.sleep(7.2)  # the last two SYNs were 2 s apart
        client.vanish()
        endpoint = at.endpoint_of(client)
        syn = (endpoint.peer_key, SegmentKind.SYN, endpoint.sending.una, 0, 0, b"")
        at.carrier.outbox += [syn, syn]
        at.carrier.flush()
        await trio.sleep(4.9)
        early = list(keeper.told)
        await trio.sleep(0.2)

        assert [] == early
        assert [PeerEnd.SILENT] == keeper.told


async def abandoned_meanwhile(client: MemoryStream) -> None:
    """The client gives up, which nobody hears."""
    client.abandon()
    await trio.lowlevel.checkpoint()


async def test_approved_client_that_asks_anew_from_its_port(autojump_clock: MockClock) -> None:
    """
    A new SYN from the same port ends no approved request, as anybody can send one. The client ends
    it, which resets the SYN-ACK that it knows nothing of; its next SYN is a request.
    """
    async with scene(point=BEFORE, latency=0.5) as at:
        client = at.open()
        await trio.sleep(0.6)
        request, keeper = at.watched()
        request.approve()
        client.abandon()
        at.come_from(client)
        again = at.open()
        await trio.sleep(0.6)
        when_asked = list(keeper.told)
        none = at.transport.next_request()
        await trio.sleep(1.0)

        assert client.local_address == again.local_address
        assert [] == when_asked
        assert None is none
        assert [PeerEnd.RESET] == keeper.told
        assert request.serial_number != at.request().serial_number


async def test_approving_an_abandoned_client(autojump_clock: MockClock) -> None:
    """SYN-ACK for a client that has given up is answered with RST, which is told afterwards."""
    async with scene(point=BEFORE) as at:
        at.record()
        client = at.open()
        request, keeper = at.watched()
        client.abandon()
        is_there = request.approve()
        at_once = list(keeper.told)
        await trio.testing.wait_all_tasks_blocked()

        assert not is_there
        assert [SYN, SYN_ACK, RST] == [segment.kind for segment in at.trace]
        assert [] == at_once
        assert [PeerEnd.RESET] == keeper.told


async def test_approving_an_abandoned_client_with_latency(autojump_clock: MockClock) -> None:
    """The RST that answers SYN-ACK is told when it arrives."""
    async with scene(point=BEFORE, latency=0.5) as at:
        client = at.open()
        await trio.sleep(0.6)
        request, keeper = at.watched()
        client.abandon()
        request.approve()
        await trio.sleep(0.9)
        early = list(keeper.told)
        await trio.sleep(0.2)

        assert [] == early
        assert [PeerEnd.RESET] == keeper.told


async def test_approving_a_client_that_vanished(autojump_clock: MockClock) -> None:
    """Yes to nobody is said at 0, 1, 3, 7, 15 and 31 s, and given up at 63 s."""
    async with scene(point=BEFORE) as at:
        at.record()
        client = at.open()
        request, keeper = at.watched()
        client.vanish()
        is_there = request.approve()
        await trio.sleep(62.9)
        early = list(keeper.told)
        await trio.sleep(0.2)

        assert not is_there
        assert LINUX_SYN_ACKS == at.sent(SYN_ACK)
        assert [] == early
        assert [PeerEnd.SILENT] == keeper.told


async def test_reset_of_an_approved_request(autojump_clock: MockClock) -> None:
    """An approved request may be reset while its handshake goes on: the client is refused."""
    async with scene(point=BEFORE, latency=0.5) as at:
        client = at.open()
        await trio.sleep(0.6)
        request = at.request()
        at.network.loss = 1.0
        request.approve()
        at.network.loss = 0.0
        request.reset()

        with pytest.raises(ConnectionRefusedError):
            await client.established()


async def test_peer_that_left_before_it_was_watched(autojump_clock: MockClock) -> None:
    """What is true already when somebody begins to watch is told, though not from inside."""
    async with scene(point=BEFORE) as at:
        client = at.open()
        client.reset()
        _, keeper = at.watched()
        at_once = list(keeper.told)
        await trio.testing.wait_all_tasks_blocked()

        assert [] == at_once
        assert [PeerEnd.RESET] == keeper.told


async def test_client_that_was_silent_before_it_was_watched(autojump_clock: MockClock) -> None:
    """The heartbeat is judged by when the SYNs came, not by when somebody began to watch."""
    async with scene(point=BEFORE) as at:
        at.open().vanish()
        await trio.sleep(60)
        _, keeper = at.watched()
        await trio.sleep(0.1)

        assert [PeerEnd.SILENT] == keeper.told


async def test_nothing_is_told_when_nobody_watches(autojump_clock: MockClock) -> None:
    """After ``unwatch_end()``, or an answer, nothing is told, and no timer is left."""

    def unwatch(request: MemoryRequest) -> None:
        request.unwatch_end()

    def reset(request: MemoryRequest) -> None:
        request.reset()

    def silence(request: MemoryRequest) -> None:
        request.silence()

    async with scene(point=BEFORE) as at:
        for answer in (unwatch, reset, silence):
            client = at.open()
            request, keeper = at.watched()
            answer(request)
            client.vanish()
            await trio.sleep(10)

            assert [] == keeper.told
            assert 0 == at.carrier.timers.due


async def test_syns_beyond_the_backlog_are_dropped_before_the_handshake(
    autojump_clock: MockClock,
) -> None:
    """Before the handshake, too, no more requests wait to be taken than may."""
    async with scene(point=BEFORE, backlog=2) as at:
        for _ in range(3):
            at.open()
        waiting = [at.request().remote_address.port for _ in range(2)]
        none = at.transport.next_request()
        await trio.sleep(1.1)

        assert (2, 2) == (len(waiting), len({*waiting}))
        assert None is none
        assert at.request().remote_address.port not in waiting


# --- The client's side -----------------------------------------------------------------


async def test_cancelled_connect_is_abandoned(autojump_clock: MockClock) -> None:
    """Cancelling connect() sends nothing, stops the SYNs, and frees the port."""
    async with scene(point=BEFORE) as at:
        at.record()
        with trio.move_on_after(1.5):
            await at.network.host(CLIENT).connect(PLACE)
        _, keeper = at.watched()
        await trio.sleep(20)

        assert [0.0, 1.0] == at.sent(*SegmentKind)
        assert [PeerEnd.SILENT] == keeper.told


async def test_closing_while_connecting_abandons(autojump_clock: MockClock) -> None:
    """``aclose()`` of a stream that is not connected sends nothing; who waits for it is told."""
    async with scene(point=BEFORE) as at:
        at.record()
        client = at.open()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await client.established()

            await trio.testing.wait_all_tasks_blocked()
            await client.aclose()

        assert [SYN] == [segment.kind for segment in at.trace]
        assert TcpState.CLOSED == client.state


async def test_sending_waits_for_the_connection(autojump_clock: MockClock) -> None:
    """``send_all`` and ``send_eof`` on a stream that is connecting wait until it is connected."""
    async with scene(point=BEFORE) as at:
        client = at.open()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                await client.send_all(b"hello")
                await client.send_eof()

            await trio.testing.wait_all_tasks_blocked()
            request = at.request()
            request.approve()

        assert (b"hello", True) == request.peek(9)


async def test_waiting_for_room_waits_for_the_connection(autojump_clock: MockClock) -> None:
    """``wait_send_all_might_not_block()`` waits until there is a connection to send on."""
    async with scene(latency=0.25) as at:
        await at.open().wait_send_all_might_not_block()

        assert 0.5 == trio.current_time()


async def test_failed_connection_breaks_who_sends(autojump_clock: MockClock) -> None:
    """A stream that was refused is broken, with the refusal as the cause."""
    network = MemoryNetwork()
    network.host(SERVER)
    client = network.host(CLIENT).open_connection(PLACE)

    with pytest.raises(trio.BrokenResourceError) as sending:
        await client.send_all(b"hello")
    with pytest.raises(trio.BrokenResourceError) as receiving:
        await client.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await client.send_eof()
    for caught in (sending, receiving):
        assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    with pytest.raises(ConnectionRefusedError):
        await client.established()


async def test_two_tasks_cannot_wait_for_one_connection(autojump_clock: MockClock) -> None:
    """One task at a time waits for the connection or sends; the other is told so."""
    async with scene(point=BEFORE) as at:
        client = at.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.established)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await client.established()
            with pytest.raises(trio.BusyResourceError):
                await client.send_eof()
            at.request().approve()


async def test_old_server_side_is_discovered(autojump_clock: MockClock) -> None:
    """
    A server that still has a connection from a port which a client uses anew is told so, and
    the client gets through with its next SYN.
    """
    async with scene() as at:
        first, channel = await at.pair()
        first.vanish()
        at.come_from(first)
        second = await at.network.host(CLIENT).connect(PLACE)

        assert first.local_address == second.local_address
        assert 1.0 == trio.current_time()
        with pytest.raises(ConnectionResetError):
            channel.recv(1)


# --- What an inspector sees ------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "client"), [(SERVER, CLIENT), ("2001:db8::1", "2001:db8::2")], ids=["ipv4", "ipv6"]
)
async def test_syn_can_be_read_before_the_handshake(
    autojump_clock: MockClock, server: str, client: str
) -> None:
    """A request has its SYN, as on a real network; there are no options in memory."""
    network = MemoryNetwork()
    transport = network.host(server).transport(80)
    seen: list[Syn] = []

    def _inspect(request: ConnectionRequest) -> InspectAction:
        assert request.syn is not None
        assert InspectPoint.BEFORE_HANDSHAKE is request.inspect_point
        seen.append(request.syn)
        return InspectAction.ACCEPT

    async with open_listening_socket(
        transport=transport, inspect=_inspect, inspect_point=InspectPoint.BEFORE_HANDSHAKE
    ):
        stream = await network.host(client).connect((server, 80))

    (syn,) = seen
    assert (stream.local_address, stream.remote_address) == (syn.source, syn.destination)
    assert (65535, 64, (), b"") == (syn.window, syn.hop_limit, syn.options, syn.payload)


async def test_there_is_no_syn_after_the_handshake(autojump_clock: MockClock) -> None:
    """A request that appears after the handshake has none, and says so."""
    network = MemoryNetwork()
    seen: list[object] = []

    def _inspect(request: ConnectionRequest) -> InspectAction:
        seen.extend((request.syn, request.inspect_point))
        return InspectAction.ACCEPT

    async with open_listening_socket(
        transport=network.host(SERVER).transport(80), inspect=_inspect
    ) as listening:
        await network.host(CLIENT).connect(PLACE)
        await listening.accept()

    assert [None, InspectPoint.AFTER_HANDSHAKE] == seen
