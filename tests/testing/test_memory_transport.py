"""The transport of the network in memory: binding, answers, ends, first octets and faults."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.helpers.memory_peers import AFTER, BEFORE, CLIENT, PLACE, SERVER, Keeper, scene
from trio_wsk import (
    Address,
    BindError,
    InvalidDeviceStateError,
    InvalidParameterError,
    SocketClosedError,
    Status,
    open_listening_socket,
)
from trio_wsk._engine.trio_readiness import TrioReadiness
from trio_wsk._vocabulary.verdict import CloseStyle
from trio_wsk.testing import MemoryNetwork, SegmentKind
from trio_wsk.transports._contract import (
    NoDescriptorsError,
    PeerEnd,
    PeerFaultError,
    TransportFailedError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from trio_wsk import Connection
    from trio_wsk._vocabulary.verdict import InspectPoint
    from trio_wsk.testing import MemoryStream

settled = trio.testing.wait_all_tasks_blocked


# --- Binding ---------------------------------------------------------------------------


async def test_port_is_had_by_one(autojump_clock: MockClock) -> None:
    """A second transport on a port fails to bind, and is closed; the first one's end frees it."""
    host = MemoryNetwork().host(SERVER)
    first, second, third = (host.transport(80) for _ in range(3))
    await first.bind()
    with pytest.raises(BindError, match=r"192\.0\.2\.1:80") as caught:
        await second.bind()
    first.close()
    first.close()
    await third.bind()

    assert errno.EADDRINUSE == caught.value.errno
    assert Status.ADDRESS_ALREADY_EXISTS == caught.value.status
    assert PLACE == third.local_addresses[0].sockaddr
    with pytest.raises(SocketClosedError):
        await second.bind()


async def test_port_zero_chooses_one_that_is_free(autojump_clock: MockClock) -> None:
    """Port 0 takes another port each time, and clients don't come from it."""
    host = MemoryNetwork().host(SERVER)
    first, second = host.transport(), host.transport()
    await first.bind()
    await second.bind()
    ports = [*first.local_addresses, *second.local_addresses]
    client = host.open_connection((SERVER, 1))

    assert 2 == len({address.port for address in ports})
    assert client.local_address not in ports
    assert [None, None] == [each.queue_depth() for each in (first, second)]


async def test_cancelled_bind_closes(autojump_clock: MockClock) -> None:
    """A transport whose ``bind()`` is cancelled is closed, and has no port."""
    host = MemoryNetwork().host(SERVER)
    transport = host.transport(80)
    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.bind()

    assert [] == transport.local_addresses
    with pytest.raises(SocketClosedError):
        await transport.bind()
    await host.transport(80).bind()


async def test_calls_at_the_wrong_time(autojump_clock: MockClock) -> None:
    """Binding or listening twice, listening unbound and inspecting too late are told so."""
    transport = MemoryNetwork().host(SERVER).transport(80)
    transport.edge = lambda: None
    readiness = transport.pump_readiness(lambda *_: None)
    with pytest.raises(InvalidDeviceStateError):
        transport.listen(readiness)
    await transport.bind()
    with pytest.raises(InvalidDeviceStateError):
        await transport.bind()
    transport.listen(readiness)
    with pytest.raises(InvalidDeviceStateError):
        transport.listen(readiness)
    with pytest.raises(InvalidDeviceStateError):
        transport.inspect_at(BEFORE)
    transport.close()
    with pytest.raises(SocketClosedError):
        transport.listen(readiness)


@pytest.mark.parametrize(
    "call",
    [
        lambda network: network.host("localhost"),
        lambda network: network.host(SERVER).transport(70000),
        lambda network: network.host(SERVER).transport("80"),
        lambda network: network.host(SERVER).transport(80, backlog=0),
        lambda network: network.host(SERVER).open_connection(("nowhere", 80)),
        lambda network: network.host(SERVER).open_connection((SERVER, -1)),
        lambda network: network.host(SERVER).open_connection(Address.unix("/run/x.sock")),
        lambda network: setattr(network, "latency", -1),
        lambda network: setattr(network, "latency", float("nan")),
        lambda network: setattr(network, "loss", 1.5),
    ],
)
def test_wrong_arguments(call: Callable[[Any], object]) -> None:
    """An argument that can't be right is refused at once."""
    with pytest.raises(InvalidParameterError):
        call(MemoryNetwork())


def test_same_address_is_the_same_host() -> None:
    """A host is known by its address, however that is spelled."""
    network = MemoryNetwork()

    assert network.host("2001:db8::1") is network.host("2001:0db8:0::0001")
    assert "2001:db8::1" == network.host("2001:0db8:0::0001").address


async def test_all_ports_can_be_taken(autojump_clock: MockClock) -> None:
    """When every port of a client has a connection to a place, the next attempt says so."""
    host = MemoryNetwork().host(CLIENT)
    streams = [host.open_connection(PLACE) for _ in range(60999 - 32768 + 1)]
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at
        host.open_connection(PLACE)
    host.open_connection((SERVER, 81))
    streams[7].abandon()

    assert errno.EADDRNOTAVAIL == caught.value.errno
    assert 32775 == host.open_connection(PLACE).local_address.port


# --- Requests --------------------------------------------------------------------------


async def test_edge_comes_when_there_is_something_again(autojump_clock: MockClock) -> None:
    """The owner is told when something comes after there was nothing, not of each request."""
    async with scene() as at:
        at.open()
        at.open()
        once = at.edges
        at.request()
        at.request()
        at.open()

        assert (1, 2) == (once, at.edges)
        assert at.transport.has_more()
        at.request()
        assert not at.transport.has_more()


@pytest.mark.parametrize("point", [AFTER, BEFORE])
async def test_close_styles(point: InspectPoint, autojump_clock: MockClock) -> None:
    """After the handshake peers can be turned away in every way; before it, not by FIN."""
    async with scene(point=point) as at:
        styles = at.transport.close_styles()

    before = {CloseStyle.RESET, CloseStyle.SILENT}
    assert styles == (before if point is BEFORE else {*CloseStyle})


async def test_reset_after_the_handshake(autojump_clock: MockClock) -> None:
    """A connection that is reset was there: its client is reset, not refused."""
    async with scene() as at:
        client = at.open()
        at.request().reset()

        await client.established()
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


async def test_finish_after_the_handshake(autojump_clock: MockClock) -> None:
    """``finish()`` is FIN, and no reset, also when the client has sent something."""
    async with scene() as at:
        client = at.open()
        await client.send_all(b"hello")
        at.record()
        at.request().finish()
        end = await client.receive_some()
        await client.aclose()

        assert b"" == end
        assert [] == at.sent(SegmentKind.RST)


async def test_finish_of_a_connection_that_was_reset(autojump_clock: MockClock) -> None:
    """Finishing what the peer has reset does nothing."""
    async with scene() as at:
        client = at.open()
        client.reset()
        request = at.request()
        at.record()
        request.finish()
        request.reset()

        assert [] == at.trace


async def test_silence_after_the_handshake(autojump_clock: MockClock) -> None:
    """A silenced connection sends nothing any more, whatever its client does."""
    async with scene() as at:
        clients = [at.open() for _ in range(3)]
        at.record()
        silent = [at.request().silence() for _ in clients]
        await clients[0].send_all(b"hello?")
        await clients[1].aclose()
        clients[2].reset()
        await trio.sleep(2000)

        assert [True, True, True] == silent
        assert [] == at.sent(*SegmentKind, by=SERVER)
        with pytest.raises(trio.BrokenResourceError):
            await clients[0].receive_some()


async def test_silenced_port_can_be_used_for_a_new_connection(autojump_clock: MockClock) -> None:
    """A new SYN from a silenced client's port is a new connection."""
    async with scene() as at:
        client = at.open()
        at.request().silence()
        client.vanish()
        at.come_from(client)
        again = at.open()
        request = at.request()

        assert client.local_address == again.local_address == request.remote_address


async def test_accepting_is_final(autojump_clock: MockClock) -> None:
    """After ``accept()`` the keeper hears nothing of the connection."""
    async with scene() as at:
        client = at.open()
        request, keeper = at.watched()
        request.unwatch_end()
        assert request.approve()
        request.accept()
        client.reset()
        await settled()

        assert [] == keeper.told


async def test_abort_resets(autojump_clock: MockClock) -> None:
    """``abort()`` resets an accepted connection; a closed one is left alone."""
    async with scene() as at:
        client = at.open()
        request = at.request()
        channel = request.accept()
        at.record()
        request.abort(channel)
        request.abort(channel)

        assert [SegmentKind.RST] == [segment.kind for segment in at.trace]
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


async def test_connection_is_no_socket(autojump_clock: MockClock) -> None:
    """A connection in memory has no socket, and says so as an attribute that is missing."""
    network = MemoryNetwork()
    async with open_listening_socket(transport=network.host(SERVER).transport(80)) as listening:
        await network.host(CLIENT).connect(PLACE)
        connection = await listening.accept()

        with pytest.raises(AttributeError):
            _ = connection.socket
        with pytest.raises(AttributeError):
            _ = listening.socket
        connection.abort()


# --- The peer leaves -------------------------------------------------------------------


async def fin(client: MemoryStream) -> None:
    """FIN."""
    await client.send_eof()


async def closes(client: MemoryStream) -> None:
    """FIN, too: nobody can tell."""
    await client.aclose()


async def data_and_fin(client: MemoryStream) -> None:
    """FIN after data."""
    await client.send_all(b"x")
    await client.send_eof()


async def rst(client: MemoryStream) -> None:
    """RST."""
    client.reset()
    await trio.lowlevel.checkpoint()


async def data_and_rst(client: MemoryStream) -> None:
    """RST behind data."""
    await client.send_all(b"x")
    client.reset()


async def data(client: MemoryStream) -> None:
    """Data."""
    await client.send_all(b"x")


async def fin_and_rst(client: MemoryStream) -> None:
    """FIN, then RST."""
    await client.send_eof()
    client.reset()


async def vanishes(client: MemoryStream) -> None:
    """Nothing: there is nothing to hear."""
    client.vanish()
    await trio.lowlevel.checkpoint()


LEAVINGS = [
    (fin, [PeerEnd.FIN]),
    (closes, [PeerEnd.FIN]),
    (data_and_fin, [PeerEnd.FIN_AFTER_DATA]),
    (rst, [PeerEnd.RESET]),
    (data_and_rst, [PeerEnd.RESET]),
    (fin_and_rst, [PeerEnd.FIN, PeerEnd.RESET]),
    (data, []),
    (vanishes, []),
]


@pytest.mark.parametrize("point", [AFTER, BEFORE])
@pytest.mark.parametrize("latency", [0.0, 0.1])
@pytest.mark.parametrize(("leave", "expected"), LEAVINGS)
async def test_end_is_told(
    leave: Callable[[MemoryStream], Awaitable[None]],
    expected: list[PeerEnd],
    latency: float,
    point: InspectPoint,
    autojump_clock: MockClock,
) -> None:
    """After the handshake every way of leaving is told as what it is, and as it goes further."""
    async with scene(latency=latency, point=point) as at:
        client = at.open()
        await trio.sleep(0.5)
        request, keeper = at.watched()
        request.approve()
        await client.established()
        await trio.sleep(0.5)
        keeper.told.clear()
        await leave(client)
        await trio.sleep(100)

        assert expected == keeper.told
        assert (PeerEnd.RESET in expected) == request.was_reset()


@pytest.mark.parametrize(("leave", "expected"), LEAVINGS)
async def test_end_that_was_before_watching_is_told(
    leave: Callable[[MemoryStream], Awaitable[None]],
    expected: list[PeerEnd],
    autojump_clock: MockClock,
) -> None:
    """What has become of the peer already is told when somebody watches, but a moment later."""
    async with scene() as at:
        await leave(at.open())
        _, keeper = at.watched()
        at_once = list(keeper.told)
        await settled()

        assert [] == at_once
        assert expected[-1:] == keeper.told


async def test_end_that_goes_further_meanwhile_is_told_once(autojump_clock: MockClock) -> None:
    """When a FIN that is to be told becomes a reset before it is, the reset is told, once."""
    async with scene() as at:
        client = at.open()
        await client.send_eof()
        _, keeper = at.watched()
        client.reset()
        await settled()

        assert [PeerEnd.RESET] == keeper.told


async def test_end_is_told_without_a_pump(autojump_clock: MockClock) -> None:
    """An owner with a readiness of another kind is told all the same, a moment later."""
    async with scene() as at:
        client = at.open()
        client.reset()
        request, keeper = at.request(), Keeper()
        request.watch_end(TrioReadiness(None), keeper)
        at_once = list(keeper.told)
        await trio.sleep(0.1)

        assert [] == at_once
        assert [PeerEnd.RESET] == keeper.told


async def test_answers_from_within_are_fine(autojump_clock: MockClock) -> None:
    """Whoever is told that the peer has left may reset its request at once."""

    class Resetting(Keeper):
        def peer_ended(self, request: Any, end: PeerEnd) -> None:
            super().peer_ended(request, end)
            request.reset()

    async with scene() as at:
        for leave, expected in LEAVINGS[:5]:
            client = at.open()
            keeper = Resetting()
            at.request().watch_end(at.readiness, keeper)
            await leave(client)

            assert expected == keeper.told
        assert {} == at.carrier.ends


# --- First octets ----------------------------------------------------------------------


async def test_peeking_leaves_the_octets(autojump_clock: MockClock) -> None:
    """``peek()`` shows what has come, up to the count, and whether that is all; it stays."""
    async with scene() as at:
        client = at.open()
        request, _ = at.watched()
        none = request.peek(2)
        await client.send_all(b"hello")
        some = request.peek(2)
        await client.send_eof()
        all_of_it = request.peek(100)

        assert [(b"", False), (b"he", False), (b"hello", True)] == [none, some, all_of_it]
        assert b"hello" == request.accept().recv(100)


async def test_peeking_at_a_broken_connection(autojump_clock: MockClock) -> None:
    """When the peer has reset, ``peek()`` says so, also where octets are left."""
    async with scene() as at:
        client = at.open()
        request, _ = at.watched()
        await client.send_all(b"hello")
        client.reset()

        with pytest.raises(PeerFaultError) as caught:
            request.peek(3)
        assert errno.ECONNRESET == caught.value.error.errno


async def test_peeking_before_the_handshake(autojump_clock: MockClock) -> None:
    """Before the handshake there is nothing to peek at, nor to wait for."""
    async with scene(point=BEFORE) as at:
        at.open()
        request, _ = at.watched()

        with pytest.raises(InvalidDeviceStateError):
            request.peek(1)
        with pytest.raises(InvalidDeviceStateError):
            await request.wait_for_more()
        with pytest.raises(InvalidDeviceStateError):
            request.accept()


@pytest.mark.parametrize("event", [data, fin, rst])
async def test_waiting_for_more(
    event: Callable[[MemoryStream], Awaitable[None]], autojump_clock: MockClock
) -> None:
    """``wait_for_more()`` returns when something happens, and at once if it has since ``peek``."""
    async with scene() as at:
        for is_early in (True, False):
            client = at.open()
            request, _ = at.watched()
            request.peek(1)
            if is_early:
                await event(client)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(request.wait_for_more)
                if not is_early:
                    await settled()
                    assert nursery.child_tasks
                    await event(client)


async def test_waiting_for_more_ends_with_watching(autojump_clock: MockClock) -> None:
    """When the request is not watched any more, nobody waits for more of it."""
    async with scene() as at:
        at.open()
        request, _ = at.watched()
        request.peek(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.wait_for_more)
            nursery.start_soon(request.wait_for_more)
            await settled()
            request.unwatch_end()
        with trio.testing.assert_checkpoints():
            await request.wait_for_more()


# --- Faults ----------------------------------------------------------------------------


async def test_peers_fault_takes_its_connection_with_it(autojump_clock: MockClock) -> None:
    """ECONNABORTED and its like are one connection's: it is gone, and the next one is fine."""
    async with scene() as at:
        first, second = at.open(), at.open()
        at.transport.fail_next(errno.ECONNABORTED)
        with pytest.raises(PeerFaultError) as caught:
            at.transport.next_request()

        assert errno.ECONNABORTED == caught.value.error.errno
        assert second.local_address == at.request().remote_address
        with pytest.raises(trio.BrokenResourceError):
            await first.receive_some()


async def test_lack_of_descriptors_leaves_peers_queued(autojump_clock: MockClock) -> None:
    """EMFILE and its like leave everybody where they are, as often as they are asked for."""
    async with scene() as at:
        client = at.open()
        at.transport.fail_next(errno.EMFILE, OSError(errno.ENFILE, "too many"))
        for number in (errno.EMFILE, errno.ENFILE):
            with pytest.raises(NoDescriptorsError) as caught:
                at.transport.next_request()
            assert number == caught.value.error.errno

        assert client.local_address == at.request().remote_address


async def test_failed_transport_stays_failed(autojump_clock: MockClock) -> None:
    """EBADF and its like are for good; nothing can be shed then."""
    async with scene() as at:
        at.open()
        at.transport.keep_spare()
        at.transport.fail_next(errno.EBADF)
        for _ in range(2):
            with pytest.raises(TransportFailedError):
                at.transport.next_request()

        assert not at.transport.shed()


async def test_failing_with_nobody_there(autojump_clock: MockClock) -> None:
    """The next call fails, whether somebody waits or not; it is not announced."""
    async with scene() as at:
        at.transport.fail_next(errno.EPROTO)

        assert (0, False) == (at.edges, at.transport.has_more())
        with pytest.raises(PeerFaultError):
            at.transport.next_request()
        assert None is at.transport.next_request()


@pytest.mark.parametrize("point", [AFTER, BEFORE])
async def test_shedding(point: InspectPoint, autojump_clock: MockClock) -> None:
    """``shed()`` resets the oldest that waits, once a spare is kept."""
    async with scene(point=point) as at:
        first, second = at.open(), at.open()
        results = [at.transport.shed(), at.transport.keep_spare(), at.transport.shed()]
        depth = at.transport.queue_depth()
        results += [at.transport.shed(), at.transport.shed()]

        assert [False, True, True, True, False] == results
        assert (1, 128) == depth
        for client in (first, second):
            with pytest.raises((trio.BrokenResourceError, ConnectionRefusedError)):
                await (client.established() if point is BEFORE else client.receive_some())


# --- Closing ---------------------------------------------------------------------------


async def test_closing_resets_the_queue(autojump_clock: MockClock) -> None:
    """Closing resets whom nobody has taken; those that were taken are their owner's."""
    async with scene() as at:
        taken, waiting = at.open(), at.open()
        request = at.request()
        at.transport.close()
        channel = request.accept()
        channel.send(b"hello")

        assert b"hello" == await taken.receive_some()
        assert None is at.transport.next_request()
        assert None is at.transport.queue_depth()
        with pytest.raises(trio.BrokenResourceError):
            await waiting.receive_some()


async def test_closing_before_the_handshake_refuses_all(autojump_clock: MockClock) -> None:
    """Before the handshake closing refuses everybody who has no answer, also who was taken."""
    async with scene(point=BEFORE) as at:
        clients = [at.open(), at.open()]
        request, keeper = at.watched()
        at.transport.close()
        is_there = request.approve()
        request.reset()
        await trio.sleep(50)

        assert not is_there
        assert [] == keeper.told
        for client in clients:
            with pytest.raises(ConnectionRefusedError):
                await client.established()


async def test_closing_lets_an_approved_handshake_go_on(autojump_clock: MockClock) -> None:
    """What was approved is its owner's, also when the listening socket closes."""
    async with scene(point=BEFORE) as at:
        at.network.latency = 0.2
        client = at.open()
        await trio.sleep(0.3)
        request, keeper = at.watched()
        request.approve()
        at.transport.close()
        await client.established()
        await trio.sleep(0.3)

        assert ["established"] == keeper.told
        request.accept().close()


async def test_closing_during_a_handshake(autojump_clock: MockClock) -> None:
    """A client whose handshake is under way is connected for its own part, and then reset."""
    async with scene(latency=0.2) as at:
        client = at.open()
        await trio.sleep(0.3)
        at.transport.close()
        await client.established()

        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()


# --- With a listening socket -----------------------------------------------------------


async def test_awaited_connection_outlives_the_block(autojump_clock: MockClock) -> None:
    """A connection that was awaited works when its listening block, and its pump, are gone."""
    network = MemoryNetwork(latency=0.1)
    async with open_listening_socket(transport=network.host(SERVER).transport(80)) as listening:
        client = await network.host(CLIENT).connect(PLACE)
        connection = await listening.accept()
        got: list[bytes] = []

        async def receive(connection: Connection) -> None:
            got.append(await connection.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, connection)
        await trio.sleep(1)
        await client.send_all(b"hello")
        nursery.start_soon(connection.send_all, bytes(300_000))
        answer = 0
        while answer < 300_000:
            answer += len(await client.receive_some())

    assert [b"hello"] == got
    await connection.aclose()
    await client.aclose()
