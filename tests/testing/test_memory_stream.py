"""The client's stream on the network in memory, and the server's channel at its other end."""

from __future__ import annotations

import errno
import itertools
import socket
from typing import TYPE_CHECKING, Final

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.memory_peers import AFTER, BEFORE, CLIENT, PLACE, SERVER, scene
from trio_wsk import Connection, open_listening_socket
from trio_wsk.testing import MemoryNetwork, SegmentKind, TcpState
from trio_wsk.testing._segments import RECEIVE_BUFFER
from trio_wsk.testing._sending import SEND_BUFFER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from trio.testing import MockClock

    from trio_wsk._vocabulary.verdict import InspectPoint
    from trio_wsk.testing import MemoryHost, MemoryStream
    from trio_wsk.testing._channel import MemoryChannel
    from trio_wsk.testing._memory_request import MemoryRequest

RST: Final = SegmentKind.RST
FIN: Final = SegmentKind.FIN


# --- Trio's contract -------------------------------------------------------------------


@pytest.mark.parametrize("latency", [0.0, 0.01])
@pytest.mark.parametrize("first", ["client", "server"])
async def test_pair_keeps_trios_contract(
    latency: float, first: str, autojump_clock: MockClock
) -> None:
    """A client's stream and an accepted connection are streams as Trio wants them."""
    network = MemoryNetwork(latency=latency)
    transport = network.host(SERVER).transport(80)
    async with open_listening_socket(transport=transport) as listening:

        async def make() -> tuple[MemoryStream | Connection, MemoryStream | Connection]:
            client = await network.host(CLIENT).connect(PLACE)
            connection = await listening.accept()
            return (client, connection) if first == "client" else (connection, client)

        async def make_clogged() -> tuple[MemoryStream | Connection, MemoryStream | Connection]:
            pair = await make()
            with trio.move_on_after(1):
                await pair[0].send_all(bytes(RECEIVE_BUFFER + SEND_BUFFER + 1))
            with trio.move_on_after(1):
                await pair[1].send_all(bytes(RECEIVE_BUFFER + SEND_BUFFER + 1))
            return pair

        await trio.testing.check_half_closeable_stream(make, make_clogged)


# --- States ----------------------------------------------------------------------------


async def test_states_of_who_closes_first(autojump_clock: MockClock) -> None:
    """Who closes first goes through FIN-WAIT-1 and FIN-WAIT-2 to TIME-WAIT."""
    async with scene(latency=0.2) as at:
        client, server = await at.pair()
        await client.send_eof()
        states = [client.state]
        await trio.sleep(0.5)
        states.append(client.state)
        server.close()
        await trio.sleep(0.3)
        states.append(client.state)

        assert [TcpState.FIN_WAIT_1, TcpState.FIN_WAIT_2, TcpState.TIME_WAIT] == states


async def test_states_of_who_closes_last(autojump_clock: MockClock) -> None:
    """Who closes after its peer goes through CLOSE-WAIT and LAST-ACK to CLOSED."""
    async with scene(latency=0.2) as at:
        client, server = await at.pair()
        server.close()
        await trio.sleep(0.3)
        states = [client.state]
        await client.send_eof()
        states.append(client.state)
        await trio.sleep(0.5)
        states.append(client.state)

        assert [TcpState.CLOSE_WAIT, TcpState.LAST_ACK, TcpState.CLOSED] == states


async def test_states_of_a_simultaneous_close(autojump_clock: MockClock) -> None:
    """When both close at once, both go through CLOSING to TIME-WAIT."""
    async with scene(latency=0.2) as at:
        client, server = await at.pair()
        await client.send_eof()
        server.close()
        await trio.sleep(0.3)
        states = [client.state, server.endpoint.state]
        await trio.sleep(0.2)
        states += [client.state, server.endpoint.state]

        assert [TcpState.CLOSING] * 2 + [TcpState.TIME_WAIT] * 2 == states


async def test_time_wait_answers_a_fin_that_comes_again(autojump_clock: MockClock) -> None:
    """When the last ACK is lost, the FIN comes again and is acknowledged from TIME-WAIT."""
    async with scene(latency=0.2) as at:
        client, server = await at.pair()
        await client.send_eof()
        await trio.sleep(0.5)
        server.close()
        await trio.sleep(0.1)
        at.network.loss = 1.0
        await trio.sleep(0.2)
        at.network.loss = 0.0
        states = [client.state, server.endpoint.state]
        await trio.sleep(5)

        assert [TcpState.TIME_WAIT, TcpState.LAST_ACK] == states
        assert TcpState.CLOSED == server.endpoint.state


async def test_time_wait_ends_without_a_timer(autojump_clock: MockClock) -> None:
    """What is in TIME-WAIT goes after a minute, when somebody else gets there; no timer waits."""
    async with scene(latency=0.1) as at:
        carrier = at.carrier
        for _ in range(2):
            client, server = await at.pair()
            await client.aclose()
            await trio.sleep(0.5)
            server.close()
            await trio.sleep(70)

            assert (1, 0) == (len(carrier.ends), carrier.timers.due)


async def test_port_in_time_wait_can_be_used_again(autojump_clock: MockClock) -> None:
    """A SYN for what is in TIME-WAIT at the server makes a new connection (RFC 6191)."""
    async with scene(latency=0.1) as at:
        client, server = await at.pair()
        server.close()
        await trio.sleep(0.5)
        await client.aclose()
        await trio.sleep(0.5)
        state = server.endpoint.state
        port = client.local_address.port
        at.network.host(CLIENT)._ports.next = port  # noqa: SLF001 - chance would take long
        again, channel = await at.pair()
        await again.send_all(b"again")
        await trio.sleep(0.5)

        assert TcpState.TIME_WAIT == state
        assert client.local_address == again.local_address
        assert b"again" == channel.recv(10)


async def test_nothing_is_left_of_a_connection(autojump_clock: MockClock) -> None:
    """Without latency, a connection that both have closed leaves nothing behind."""
    async with scene() as at:
        client, server = await at.pair()
        await client.aclose()
        server.close()

        assert {} == at.carrier.ends
        assert 0 == at.carrier.timers.due


# --- Resets ----------------------------------------------------------------------------


async def test_data_before_a_reset_can_be_read(autojump_clock: MockClock) -> None:
    """Octets that came before a reset are read first, then the reset, once, then b""."""
    async with scene() as at:
        client, server = await at.pair()
        await client.send_all(b"hello")
        client.reset()

        assert b"hello" == server.recv(10)
        with pytest.raises(ConnectionResetError):
            server.recv(10)
        assert b"" == server.recv(10)
        with pytest.raises(BrokenPipeError):
            server.send(b"x")


async def test_reset_told_to_who_sends(autojump_clock: MockClock) -> None:
    """Whoever asks first is told of the reset; then sending gives EPIPE."""
    async with scene() as at:
        client, server = await at.pair()
        client.reset()

        with pytest.raises(ConnectionResetError):
            server.send(b"x")
        with pytest.raises(BrokenPipeError):
            server.send(b"x")


async def test_reset_after_fin(autojump_clock: MockClock) -> None:
    """After the peer's FIN a reset breaks sending only: what comes is b"", as before."""
    async with scene() as at:
        client, server = await at.pair()
        await client.send_eof()
        client.reset()

        assert b"" == server.recv(10)
        with pytest.raises(BrokenPipeError):
            server.send(b"x")


async def test_closing_with_unread_octets_resets(autojump_clock: MockClock) -> None:
    """A close that loses octets says so: RST instead of FIN."""
    async with scene() as at:
        client, server = await at.pair()
        await client.send_all(b"unread")
        at.record()
        server.close()

        assert [RST] == [segment.kind for segment in at.trace]
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.receive_some()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_sending_to_a_closed_peer(autojump_clock: MockClock) -> None:
    """The first octets for a peer that has closed are sent and answered with RST; then EPIPE."""
    async with scene() as at:
        client, server = await at.pair()
        await client.aclose()
        at.record()
        sent = server.send(b"hello")

        assert 5 == sent
        assert [SegmentKind.DATA, RST] == [segment.kind for segment in at.trace]
        with pytest.raises(BrokenPipeError):
            server.send(b"hello")


async def test_reset_of_a_stream_is_final(autojump_clock: MockClock) -> None:
    """A stream that has reset is closed for its owner; doing it again does nothing."""
    async with scene() as at:
        client, _ = await at.pair()
        at.record()
        client.reset()
        client.reset()
        client.vanish()
        client.abandon()
        await client.aclose()

        assert [RST] == [segment.kind for segment in at.trace]
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await client.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await client.established()


async def test_lost_reset_is_found_out(autojump_clock: MockClock) -> None:
    """A reset that is lost is found out when the other side sends something."""
    async with scene() as at:
        client, server = await at.pair()
        at.network.loss = 1.0
        client.reset()
        at.network.loss = 0.0
        server.send(b"hello")

        with pytest.raises(ConnectionResetError):
            server.recv(1)


# --- Without a word --------------------------------------------------------------------


async def test_peer_of_a_vanished_client_gives_up(autojump_clock: MockClock) -> None:
    """
    Nothing comes from a client that has vanished; who sends to it repeats that 15 times, ever
    more slowly, and then is told ETIMEDOUT.
    """
    async with scene() as at:
        client, server = await at.pair()
        at.record()
        client.vanish()
        server.send(b"are you there?")
        await trio.sleep(2000)

        assert [] == at.sent(*SegmentKind, by=CLIENT)
        assert 16 == len(at.trace)
        with pytest.raises(TimeoutError):
            server.recv(1)


async def test_unplugged_host_is_caught_up_with(autojump_clock: MockClock) -> None:
    """What was sent to and from a host without its cable arrives when it has it again."""
    async with scene() as at:
        client, server = await at.pair()
        host = at.network.host(CLIENT)
        host.unplug()
        await client.send_all(b"from the client")
        server.send(b"from the server")
        await trio.sleep(10)
        early = at.endpoint_of(client).receiving.unread + server.endpoint.receiving.unread
        host.plug_in()
        await trio.sleep(60)

        assert 0 == early
        assert b"from the server" == await client.receive_some()
        assert b"from the client" == server.recv(100)


async def test_what_is_on_its_way_to_an_unplugged_host_is_lost(autojump_clock: MockClock) -> None:
    """Segments that arrive at a host without its cable are lost; they are sent again."""
    async with scene(latency=0.3) as at:
        client, server = await at.pair()
        await client.send_all(b"hello")
        await trio.sleep(0.1)
        at.network.host(SERVER).unplug()
        await trio.sleep(0.5)
        at.network.host(SERVER).plug_in()
        early = server.endpoint.receiving.unread
        await trio.sleep(5)

        assert 0 == early
        assert b"hello" == server.recv(10)


async def test_orphan_is_given_up_earlier(autojump_clock: MockClock) -> None:
    """What was sent before closing is repeated 8 times for nobody's sake, and forgotten."""
    async with scene() as at:
        client, server = await at.pair()
        client.vanish()
        at.record()
        server.send(b"farewell")
        server.close()
        await trio.sleep(2000)

        assert 8 == len(at.sent(SegmentKind.DATA)) - 1
        assert 0 == at.carrier.timers.due
        assert TcpState.CLOSED == server.endpoint.state


# --- Room ------------------------------------------------------------------------------


async def test_buffers_are_bounded(autojump_clock: MockClock) -> None:
    """
    A channel takes what the peer's receive buffer and its own send buffer hold, 64 KiB each,
    and then would block; when the peer has read, there is room again.
    """
    async with scene() as at:
        client, server = await at.pair()
        taken = sum(server.send(bytes(8192)) for _ in range(16))
        with pytest.raises(BlockingIOError):
            server.send(b"x")
        got = 0
        while got < taken:
            got += len(await client.receive_some(5000))
        more = server.send(bytes(100))

        assert 2 * 65536 == taken
        assert 100 == more


@pytest.mark.parametrize("loss", [0.0, 0.2])
async def test_closed_window_opens_again(loss: float, autojump_clock: MockClock) -> None:
    """A sender that was out of room goes on when its peer has read, even if that news is lost."""
    async with scene(seed=3) as at:
        client, server = await at.pair()
        total = 300_000

        async def send() -> None:
            await client.send_all(bytes(total))
            await client.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            at.network.loss = loss
            got = 0
            while True:
                data = (
                    server.recv(7000)
                    if server.endpoint.receiving.unread or server.endpoint.receiving.is_finished
                    else None
                )
                if data == b"":
                    break
                got += len(data or b"")
                await trio.sleep(1)

        assert total == got


async def test_stalled_reader_is_probed_and_not_given_up(autojump_clock: MockClock) -> None:
    """On a network that loses segments a closed window is probed, for as long as it takes."""
    async with scene(seed=1) as at:
        client, server = await at.pair()
        sent = at.fill(client)
        at.network.loss = 0.2
        await trio.sleep(20_000)
        state = client.state
        at.network.loss = 0.0
        got = 0
        for _ in range(10):
            got += len(server.recv(65536)) if server.endpoint.receiving.unread else 0
            await trio.sleep(200)

        assert TcpState.ESTABLISHED == state
        assert sent == got


async def test_no_timer_for_a_stalled_reader_where_nothing_is_lost(
    autojump_clock: MockClock,
) -> None:
    """Where nothing can be lost, a peer that doesn't read keeps no timer going."""
    async with scene() as at:
        client, _ = await at.pair()
        at.fill(client)

        assert 0 == at.carrier.timers.due


async def test_small_pieces_that_wait_travel_together(autojump_clock: MockClock) -> None:
    """Octets that were sent one by one while there was no room fill segments afterwards."""
    async with scene() as at:
        client, server = await at.pair()
        server.send(bytes(RECEIVE_BUFFER))
        for _ in range(2000):
            server.send(b"x")
        at.record()
        await client.receive_some()
        await trio.testing.wait_all_tasks_blocked()

        sizes = [segment.size for segment in at.trace if segment.size]
        assert 2000 == sum(sizes)
        assert 3 >= len(sizes)


# --- The channel -----------------------------------------------------------------------


async def test_channel_is_shaped_like_a_socket(autojump_clock: MockClock) -> None:
    """Peeking leaves octets, ``recv_into`` fills a buffer, and there is no descriptor."""
    async with scene() as at:
        client, server = await at.pair()
        await client.send_all(b"hello world")
        buffer = bytearray(5)

        assert b"he" == server.recv(2, socket.MSG_PEEK)
        assert 5 == server.recv_into(buffer)
        assert b"hello" == buffer
        assert 2 == server.recv_into(buffer, 2)
        assert b" wllo" == buffer
        assert b"orld" == server.recv(100)
        assert -1 == server.fileno()
        assert 0 == server.send(b"")
        with pytest.raises(BlockingIOError):
            server.recv(1)


async def test_closed_channel_is_a_bad_descriptor(autojump_clock: MockClock) -> None:
    """After ``close()``, which may be repeated, everything else gives EBADF."""
    async with scene() as at:
        _, server = await at.pair()
        server.close()
        server.close()

        calls: list[Callable[[], object]] = [
            lambda: server.recv(1),
            lambda: server.send(b"x"),
            lambda: server.shutdown(socket.SHUT_WR),
        ]
        for call in calls:
            with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at
                call()
            assert errno.EBADF == caught.value.errno


async def test_shutdown(autojump_clock: MockClock) -> None:
    """``SHUT_WR`` sends FIN once, and octets can't be sent after it; ``SHUT_RD`` does nothing."""
    async with scene() as at:
        client, server = await at.pair()
        at.record()
        server.shutdown(socket.SHUT_RD)
        server.shutdown(socket.SHUT_WR)
        server.shutdown(socket.SHUT_WR)
        with pytest.raises(BrokenPipeError):
            server.send(b"x")
        await client.send_all(b"still")
        await client.aclose()

        assert b"still" == server.recv(10)
        assert [0.0, 0.0] == at.sent(FIN)
        with pytest.raises(OSError) as caught:  # noqa: PT011 - its number is looked at
            server.shutdown(socket.SHUT_WR)
        assert errno.ENOTCONN == caught.value.errno


# --- Whatever happens ------------------------------------------------------------------


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario on the virtual clock."""
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@given(
    pieces=st.lists(st.binary(max_size=4000), max_size=12),
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=6),
    latency=st.sampled_from([0.0, 0.001, 0.3, 2.0]),
    loss=st.sampled_from([0.0, 0.05, 0.2]),
    seed=st.integers(0, 1000),
    answer=st.integers(0, 200_000),
)
def test_any_chunking_delivers_the_same_octets(
    pieces: list[bytes],
    sizes: list[int],
    latency: float,
    loss: float,
    seed: int,
    answer: int,
) -> None:
    """
    However octets are cut into calls, and however late and unreliable the network is, they
    arrive once, in order, both ways, and then the end.
    """

    async def main() -> None:
        async with scene(seed=seed, latency=latency) as at:
            client, server = await at.pair()
            at.network.loss = loss
            got = bytearray()

            async def send() -> None:
                for piece in pieces:
                    await client.send_all(piece)
                await client.send_eof()

            received = 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                nursery.start_soon(_read, server, itertools.cycle(sizes), got)
                nursery.start_soon(_write, server, answer)
                while data := await client.receive_some():
                    received += len(data)

            assert b"".join(pieces) == bytes(got)
            assert answer == received

    run(main)


async def _read(channel: MemoryChannel, sizes: Iterator[int], got: bytearray) -> None:
    """Read to the end, in pieces of these sizes at most."""
    while True:
        while not (channel.endpoint.receiving.unread or channel.endpoint.receiving.is_finished):  # noqa: ASYNC110 - channels are polled
            await trio.sleep(0.01)
        data = channel.recv(next(sizes))
        got.extend(data)
        if not data:
            return


async def _write(channel: MemoryChannel, left: int) -> None:
    """Send so many octets, then FIN."""
    while left:
        taken = channel.endpoint.put(bytes(min(left, 30_000)))
        channel.endpoint.carrier.flush()
        left -= taken
        await trio.sleep(0.05)
    channel.shutdown(socket.SHUT_WR)


ACTIONS: Final = ("send", "eof", "reset", "vanish", "abandon", "close", "wait", "unplug", "plug")
ANSWERS: Final = ("nothing", "accept", "reset", "finish", "silence")


@given(
    point=st.sampled_from([BEFORE, AFTER]),
    clients=st.lists(
        st.tuples(st.sampled_from(ANSWERS), st.lists(st.sampled_from(ACTIONS), max_size=6)),
        min_size=1,
        max_size=4,
    ),
    latency=st.sampled_from([0.0, 0.2, 1.5]),
    loss=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 1000),
)
def test_any_order_of_actions_ends(
    point: InspectPoint,
    clients: list[tuple[str, list[str]]],
    latency: float,
    loss: float,
    seed: int,
) -> None:
    """
    Whatever clients and their server do, in whatever order, nothing raises, every wait ends
    when both sides have left, and no timer is left in the end.
    """

    async def main() -> None:
        async with scene(point=point, latency=latency, loss=loss, seed=seed) as at:
            channels: list[MemoryChannel] = []
            kept: list[MemoryRequest] = []
            for answer, actions in clients:
                client = at.open()
                host = at.network.host(CLIENT)
                await trio.sleep(3)
                kept += _answer(at.transport.next_request(), answer, channels)
                for action in actions:
                    await _act(client, host, action)
                host.plug_in()
                await client.aclose()
            await trio.sleep(70)
            while at.transport.has_more():
                at.request().reset()
            for request in kept:
                request.reset()
            for channel in channels:
                channel.close()
            await trio.sleep(5000)

            assert 0 == at.carrier.timers.due

    run(main)


def _answer(
    request: MemoryRequest | None, answer: str, channels: list[MemoryChannel]
) -> list[MemoryRequest]:
    """Answer a request, or return it for later."""
    if request is None:
        return []
    if answer == "nothing" or (answer == "accept" and not request.approve()):
        return [request]
    if answer == "accept":
        channels.append(request.accept())
    elif answer == "finish":
        request.finish()
    elif answer == "silence":
        request.silence()
    else:
        request.reset()
    return []


async def _act(client: MemoryStream, host: MemoryHost, action: str) -> None:
    acts: dict[str, Callable[[], object]] = {
        "reset": client.reset,
        "vanish": client.vanish,
        "abandon": client.abandon,
        "unplug": host.unplug,
        "plug": host.plug_in,
    }
    waits: dict[str, Callable[[], Awaitable[object]]] = {
        "send": lambda: client.send_all(b"hello"),
        "eof": client.send_eof,
        "close": client.aclose,
        "wait": client.receive_some,
    }
    if action in acts:
        acts[action]()
        return
    with trio.move_on_after(2):
        try:
            await waits[action]()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
