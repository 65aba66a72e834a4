"""Connection requests from listening sockets."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_wsk.transports
from tests.helpers.blocking_peers import connected, fate_of
from tests.helpers.portable_peers import owning
from tests.helpers.scarcity import named_descriptors, no_more_descriptors
from tests.helpers.support import PATIENCE
from trio_wsk._engine.choice import task_readiness
from trio_wsk._engine.epoll_readiness import EpollReadiness
from trio_wsk._vocabulary.errors import InvalidDeviceStateError, SocketClosedError
from trio_wsk.transports import PortableTransport
from trio_wsk.transports._contract import NoDescriptorsError, PeerFaultError, TransportFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.helpers.portable_peers import Owner


@pytest.fixture(params=["edges", "levels"])
async def owner(request: pytest.FixtureRequest) -> AsyncIterator[Owner]:
    """Own a transport on one address, with either kind of readiness."""
    transport = PortableTransport.tcp(0, host="127.0.0.1")
    async with owning(transport, edge_triggered=request.param == "edges") as owner:
        yield owner


async def queue_up(owner: Owner, count: int, stack: ExitStack) -> list[socket.socket]:
    """Connect so many peers; return when the kernel has them all in its queues."""
    addresses = owner.transport.local_addresses
    peers = [
        stack.enter_context(connected(addresses[number % len(addresses)]))
        for number in range(count)
    ]
    with trio.fail_after(PATIENCE):
        while (owner.transport.queue_depth() or (count, 0))[0] < count:
            await trio.lowlevel.checkpoint()
    return peers


# --- Requests ---------------------------------------------------------------------------------


async def test_idle_transport_has_nothing(owner: Owner) -> None:
    """Asked once, a transport nobody has connected to is known to have no more."""
    assert owner.transport.has_more()
    assert None is owner.transport.next_request()
    assert not owner.transport.has_more()
    assert 0 == owner.edges


async def test_edge_says_when_to_ask_again(owner: Owner) -> None:
    """After None the next connection is announced, once for a burst, and again after it."""
    for burst in (1, 5, 1):
        assert None is owner.transport.next_request()
        edges = owner.edges
        with ExitStack() as stack:
            for _ in range(burst):
                stack.enter_context(connected(owner.address))
            for _ in range(burst):
                (await owner.request()).reset()

            assert owner.edges > edges


async def test_edge_is_not_repeated_while_there_is_more(owner: Owner) -> None:
    """Who has been told asks until there is no more; until then nothing more is said."""
    assert None is owner.transport.next_request()
    with ExitStack() as stack:
        await queue_up(owner, 3, stack)
        await owner.edge()
        await trio.testing.wait_all_tasks_blocked()
        await queue_up(owner, 3, stack)
        await trio.testing.wait_all_tasks_blocked()

        assert 1 == owner.edges
        assert owner.transport.has_more()

        for _ in range(6):
            (await owner.request()).reset()


async def test_each_connection_is_one_request(owner: Owner) -> None:
    """A burst is handed out completely, each peer once, in the order of the queue."""
    with ExitStack() as stack:
        peers = await queue_up(owner, 50, stack)

        requests = [await owner.request() for _ in peers]

        assert [peer.getsockname() for peer in peers] == [
            request.remote_address.sockaddr for request in requests
        ]
        assert None is owner.transport.next_request()

        for request in requests:
            request.reset()


async def test_listening_sockets_take_turns() -> None:
    """A flood on one address does not keep those who came to another one waiting."""
    transport = PortableTransport.tcp(0, host=["127.0.0.1", "127.0.0.2", "127.0.0.3"])
    async with owning(transport) as owner:
        with ExitStack() as stack:
            await queue_up(owner, 9, stack)

            requests = [await owner.request() for _ in range(9)]

            hosts = [request.local_address.host for request in requests]
            assert [{hosts[0], hosts[1], hosts[2]}] * 3 == [
                set(hosts[turn : turn + 3]) for turn in (0, 3, 6)
            ]
            assert 3 == len(set(hosts))

            for request in requests:
                request.reset()


async def test_socket_without_connections_does_not_hide_another() -> None:
    """None means that no socket has anything."""
    transport = PortableTransport.tcp(0, host=["127.0.0.1", "127.0.0.2"])
    async with owning(transport) as owner:
        for address in transport.local_addresses:
            with connected(address):
                request = await owner.request()

                assert address == request.local_address

                request.reset()


# --- Failures ---------------------------------------------------------------------------------


def fail_once(transport: PortableTransport, code: int) -> None:
    """Let the next accept fail, and the one after it be real."""
    (source,) = transport._sources  # noqa: SLF001 - the real thing, to be wrapped
    accept = source.accept

    def fail() -> Any:
        source.accept = accept
        raise OSError(code, os.strerror(code))

    source.accept = fail


async def test_fault_of_one_peer_is_told_and_the_next_is_fine(owner: Owner) -> None:
    """A connection that died in the queue is reported as its own fault."""
    with connected(owner.address):
        fail_once(owner.transport, errno.ECONNABORTED)

        with pytest.raises(PeerFaultError) as caught:
            owner.transport.next_request()

        assert errno.ECONNABORTED == caught.value.error.errno
        assert caught.value.error is caught.value.__cause__
        assert owner.transport.has_more()
        (await owner.request()).reset()


@pytest.mark.parametrize("nothing", [None, (0, bytes(14))])
async def test_connection_without_an_address_is_a_fault_of_its_peer(
    owner: Owner, nothing: Any
) -> None:
    """Some kernels give none when the peer has gone: it is closed, and the next one is fine."""
    (source,) = owner.transport._sources  # noqa: SLF001 - the real thing, to be wrapped
    accept = source.accept

    def accept_nobody() -> Any:
        source.accept = accept
        fd, _ = accept()
        return fd, nothing

    with connected(owner.address) as gone, connected(owner.address):
        before = named_descriptors()
        source.accept = accept_nobody

        with pytest.raises(PeerFaultError, match="no address"):
            owner.transport.next_request()

        assert before == named_descriptors()
        assert "fin" == fate_of(gone)
        (await owner.request()).reset()


async def test_listening_socket_that_fails_says_so(owner: Owner) -> None:
    """A socket that listens no more is nobody else's fault: the transport has failed."""
    owner.transport.public_sockets()[0].shutdown(socket.SHUT_RDWR)

    with pytest.raises(TransportFailedError, match="Invalid argument") as caught:
        owner.transport.next_request()

    assert errno.EINVAL == caught.value.error.errno


async def test_without_descriptors_the_connection_waits(owner: Owner) -> None:
    """The request stays in the queue, is asked for without an edge, and comes later."""
    with ExitStack() as stack:
        (peer,) = await queue_up(owner, 1, stack)
        with no_more_descriptors():
            for _ in range(2):
                with pytest.raises(NoDescriptorsError) as caught:
                    owner.transport.next_request()

                assert errno.EMFILE == caught.value.error.errno
                assert owner.transport.has_more()

        request = owner.transport.next_request()

        assert request is not None
        assert peer.getsockname() == request.remote_address.sockaddr

        request.reset()


# --- Shedding ---------------------------------------------------------------------------------


async def test_shedding_resets_the_oldest_with_the_descriptor_set_aside(owner: Owner) -> None:
    """Out of descriptors, peers can be told at least; one after the other, in order."""
    with ExitStack() as stack:
        peers = await queue_up(owner, 2, stack)
        with no_more_descriptors(but=1):
            assert owner.transport.keep_spare()
            with pytest.raises(NoDescriptorsError):
                owner.transport.next_request()

            for peer in peers:
                assert owner.transport.shed()
                assert "reset" == fate_of(peer)

            assert not owner.transport.shed()


async def test_shedding_needs_a_spare(owner: Owner) -> None:
    """A transport that was not told to set a descriptor aside sheds nobody."""
    with ExitStack() as stack:
        await queue_up(owner, 1, stack)

        assert not owner.transport.shed()

        (await owner.request()).reset()


async def test_spare_that_is_not_to_be_had_is_no_error(owner: Owner) -> None:
    """keep_spare says whether there is one; later, shed finds out for itself."""
    with ExitStack() as stack:
        (peer,) = await queue_up(owner, 1, stack)
        with no_more_descriptors():
            assert not owner.transport.keep_spare()
            assert not owner.transport.shed()

        assert owner.transport.shed()
        assert "reset" == fate_of(peer)


async def test_spare_that_somebody_else_has_taken_is_had_back_later(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    If a descriptor is opened between our closing the spare and accepting, shedding fails
    without a loss, and works again when there is one.
    """
    taken = []
    really_close = os.close

    def close_and_take(fd: int) -> None:
        really_close(fd)
        taken.append(os.open(os.devnull, os.O_RDONLY))

    with ExitStack() as stack:
        (peer,) = await queue_up(owner, 1, stack)
        with no_more_descriptors(but=1):
            assert owner.transport.keep_spare()
            with monkeypatch.context() as patch:
                patch.setattr(os, "close", close_and_take)
                assert not owner.transport.shed()
            assert not owner.transport.shed()

            really_close(taken.pop())

            assert owner.transport.shed()
            assert "reset" == fate_of(peer)


async def test_error_while_shedding_is_no_peer_that_was_shed(owner: Owner) -> None:
    """It may have left the queue, or it may not: who sheds on and on would never wait."""
    assert owner.transport.keep_spare()
    with connected(owner.address):
        fail_once(owner.transport, errno.ECONNABORTED)

        assert not owner.transport.shed()
        assert owner.transport.has_more()
        assert owner.transport.shed()


async def test_failure_of_the_listening_socket_is_not_sheds_to_tell(owner: Owner) -> None:
    """The next accept says so."""
    assert owner.transport.keep_spare()
    owner.transport.public_sockets()[0].shutdown(socket.SHUT_RDWR)

    assert not owner.transport.shed()

    with pytest.raises(TransportFailedError, match="Invalid argument"):
        owner.transport.next_request()


# --- What can be looked at ----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
async def test_queue_depth_is_that_of_all_sockets() -> None:
    """How many wait and how many may is added up over the addresses."""
    transport = PortableTransport.tcp(0, host=["127.0.0.1", "127.0.0.2"], backlog=5)

    assert None is transport.queue_depth()

    async with owning(transport) as owner:
        assert (0, 10) == transport.queue_depth()

        with ExitStack() as stack:
            await queue_up(owner, 3, stack)

            assert (3, 10) == transport.queue_depth()

    assert None is transport.queue_depth()


async def test_queue_depth_of_a_unix_socket_is_unknown(tmp_path: Path) -> None:
    """No number is better than half of one."""
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(os.fspath(tmp_path / "app.sock"))

    async with owning(PortableTransport.adopt([socket.create_server(("", 0)), unix])) as owner:
        assert None is owner.transport.queue_depth()


def test_closes_after_its_run_has_ended() -> None:
    """Nobody waits on its public sockets any more, and there is no Trio left to be told."""

    async def bind() -> PortableTransport:
        transport = PortableTransport.tcp(0, host="127.0.0.1")
        await transport.bind()
        transport.public_sockets()
        return transport

    transport = trio.run(bind)
    transport.close()

    with socket.create_server(transport.local_addresses[0].sockaddr):
        pass  # the port is free again


async def test_public_sockets_are_the_listening_ones() -> None:
    """They have the names that are bound, are made once, and close with the transport."""
    async with owning(PortableTransport.tcp(0)) as owner:
        sockets = owner.transport.public_sockets()

        assert sockets is owner.transport.public_sockets()
        assert [address.sockaddr for address in owner.transport.local_addresses] == [
            sock.getsockname() for sock in sockets
        ]

    assert {-1} == {sock.fileno() for sock in sockets}
    assert not owner.transport.public_sockets()


async def test_who_waits_on_a_public_socket_is_told_that_it_closes() -> None:
    """Closing under a task that waits wakes it, as Trio's own sockets do."""
    async with (
        owning(PortableTransport.tcp(0, host="127.0.0.1")) as owner,
        trio.open_nursery() as n,
    ):

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(owner.transport.public_sockets()[0])

        n.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        owner.transport.close()


async def test_transport_says_where_it_is() -> None:
    """Its representation has the addresses, once there are some."""
    transport = PortableTransport.tcp(0, host="127.0.0.1")
    assert "<PortableTransport on nothing yet>" == repr(transport)

    async with owning(transport) as owner:
        assert f"<PortableTransport on 127.0.0.1:{owner.address.port}>" == repr(transport)


def test_transport_is_at_home_in_the_public_package() -> None:
    """A traceback names the place to import it from."""
    assert "trio_wsk.transports" == PortableTransport.__module__
    assert {"PortableTransport", "listen_fds"} <= set(trio_wsk.transports.__all__)


# --- Its life -----------------------------------------------------------------------------------


async def test_closing_resets_who_waits(owner: Owner) -> None:
    """A connection that nobody has accepted ends with the listening socket."""
    with ExitStack() as stack:
        (peer,) = await queue_up(owner, 1, stack)

        owner.transport.close()

        assert "reset" == fate_of(peer)


async def test_closed_transport_has_nothing(owner: Owner) -> None:
    """No request, no edge, no address lost; and closing again does nothing."""
    addresses = list(owner.transport.local_addresses)
    with connected(owner.address):
        edges = owner.edges
        owner.transport.close()
        await trio.testing.wait_all_tasks_blocked()

        assert not owner.transport.has_more()
        assert None is owner.transport.next_request()
        assert edges == owner.edges

    owner.transport.close()

    assert addresses == owner.transport.local_addresses


@pytest.mark.parametrize("is_bound", [False, True])
async def test_transport_that_never_listened_closes_without_a_trace(*, is_bound: bool) -> None:
    """Nothing is left open, in whichever state it was."""
    before = named_descriptors()
    transport = PortableTransport.tcp(0)
    if is_bound:
        await transport.bind()
        transport.keep_spare()

    transport.close()

    assert before == named_descriptors()


async def test_bound_transport_takes_no_connections() -> None:
    """Bind and listen are two steps: until the second, peers are refused."""
    transport = PortableTransport.tcp(0, host="127.0.0.1")
    await transport.bind()
    (address,) = transport.local_addresses

    with pytest.raises(ConnectionRefusedError):
        connected(address)
    assert not transport.has_more()
    assert None is transport.next_request()

    transport.close()


async def test_transport_is_bound_once(owner: Owner) -> None:
    """Binding again is the caller's mistake, and changes nothing."""
    with pytest.raises(InvalidDeviceStateError, match="bound already"):
        await owner.transport.bind()

    connected(owner.address).close()


async def test_transport_listens_once_after_it_is_bound(owner: Owner) -> None:
    """Listening unbound, or twice, is the caller's mistake."""
    with pytest.raises(InvalidDeviceStateError, match="listens once, after it is bound"):
        PortableTransport.tcp(0).listen(task_readiness())
    with pytest.raises(InvalidDeviceStateError, match="listens once, after it is bound"):
        owner.transport.listen(task_readiness())

    connected(owner.address).close()


async def test_closed_transport_stays_closed() -> None:
    """What was closed can't be bound, and what was bound and closed can't listen."""
    unbound, bound = PortableTransport.tcp(0), PortableTransport.tcp(0)
    await bound.bind()
    unbound.close()
    bound.close()

    with pytest.raises(SocketClosedError):
        await unbound.bind()
    with pytest.raises(SocketClosedError):
        bound.listen(task_readiness())


class SlowResolver(trio.abc.HostnameResolver):
    """A resolver that answers when it is told to."""

    def __init__(self, may_answer: trio.Event) -> None:
        self._may_answer = may_answer

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - its name in Trio
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Wait, and find ourselves."""
        await self._may_answer.wait()
        return [*socket.getaddrinfo("127.0.0.1", port, type=type, flags=flags)]

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        """Nobody asks."""
        raise NotImplementedError


async def test_closing_while_binding_leaves_nothing() -> None:
    """What bind gets after the close is given back."""
    before = named_descriptors()
    closed = trio.Event()
    trio.socket.set_custom_hostname_resolver(SlowResolver(closed))
    transport = PortableTransport.tcp(0, host="slow")

    async def bind() -> None:
        with pytest.raises(SocketClosedError):
            await transport.bind()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(bind)
        await trio.testing.wait_all_tasks_blocked()
        transport.close()
        closed.set()

    assert before == named_descriptors()


async def test_transport_that_can_not_be_watched_is_closed() -> None:
    """If its owner's readiness refuses the sockets, nothing goes on listening."""
    transport = PortableTransport.tcp(0, host="127.0.0.1")
    await transport.bind()
    (sock,) = transport.public_sockets()
    readiness = EpollReadiness()
    readiness.close()

    with pytest.raises(ValueError, match="closed epoll"):
        transport.listen(readiness)

    assert -1 == sock.fileno()


async def test_sources_wait_for_a_connection_that_comes_later(owner: Owner) -> None:
    """A connection that comes while its owner sleeps is announced by an edge."""
    assert None is owner.transport.next_request()
    with connected(owner.address) as peer:
        await owner.edge()
        request = owner.transport.next_request()

        assert request is not None
        assert peer.getsockname() == request.remote_address.sockaddr

        request.reset()
