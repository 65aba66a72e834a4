"""What the tests of the portable transport share: an owner for it, peers, and scarcity."""

from __future__ import annotations

import os
import resource
import select
import socket
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from trio_wsk._engine.epoll_readiness import EpollReadiness
from trio_wsk._engine.trio_readiness import TrioReadiness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from trio_wsk._vocabulary.addresses import Address
    from trio_wsk.transports import PeerEnd, PortableTransport, Readiness, TransportRequest
    from trio_wsk.transports._socket_request import SocketRequest

PATIENCE: Final = 30
"""Seconds that a blocking peer waits before it calls the test a failure."""


class Owner:
    """What a listening block is to its transport: it waits for edges and takes requests."""

    def __init__(self, transport: PortableTransport, readiness: Readiness) -> None:
        self.transport = transport
        self.readiness = readiness
        self.edges = 0
        """How often the transport has said that there may be something."""
        self._edge = trio.Event()
        transport.edge = self._on_edge

    def _on_edge(self) -> None:
        self.edges += 1
        self._edge.set()

    @property
    def address(self) -> Address:
        """The address that is bound, of a transport that has one."""
        (address,) = self.transport.local_addresses
        return address

    async def request(self) -> SocketRequest:
        """Return the next request, waiting for it as a pump would."""
        with trio.fail_after(PATIENCE):
            while (request := self.transport.next_request()) is None:
                await self.edge()
        return request

    async def edge(self) -> None:
        """Wait for the next edge, or the last one that nobody has waited for."""
        with trio.fail_after(PATIENCE):
            await self._edge.wait()
        self._edge = trio.Event()


class Keeper:
    """Who keeps a request, and writes down what it is told of its peer's end."""

    def __init__(self) -> None:
        self.told: list[PeerEnd] = []
        """The ways in which the peer has left, in order."""
        self.is_calling = False
        """Set it around a call, to have being told from inside of it fail."""
        self._is_told = trio.Event()

    def peer_ended(self, request: TransportRequest, end: PeerEnd) -> None:
        """Write it down."""
        assert not self.is_calling, "told from inside a call"
        assert end not in self.told, "told twice"

        self.told.append(end)
        self._is_told.set()

    def established(self, request: TransportRequest) -> None:
        """Never called: the kernel has shaken hands before there is a request."""
        raise AssertionError

    def watch(self, request: TransportRequest, readiness: Readiness) -> None:
        """Ask to be told."""
        self.is_calling = True
        request.watch_end(readiness, self)
        self.is_calling = False

    async def is_told(self, end: PeerEnd) -> None:
        """Wait until this is the last that was told."""
        with trio.fail_after(PATIENCE):
            while self.told[-1:] != [end]:
                await self._is_told.wait()
                self._is_told = trio.Event()


@asynccontextmanager
async def owning(
    transport: PortableTransport, *, edge_triggered: bool = True
) -> AsyncIterator[Owner]:
    """Bind the transport, let it listen, and close it at the end."""
    async with trio.open_nursery() as nursery:
        readiness: Readiness = (
            EpollReadiness() if edge_triggered else TrioReadiness(nursery.start_soon)
        )
        owner = Owner(transport, readiness)
        try:
            await transport.bind()
            transport.listen(readiness)
            nursery.start_soon(_drive, readiness)
            yield owner
        finally:
            transport.close()
            nursery.cancel_scope.cancel()
    readiness.close()


async def _drive(readiness: Readiness) -> None:
    while True:
        await readiness.park()
        readiness.poll()


def connected(address: Address) -> socket.socket:
    """Connect a blocking socket; on this machine the kernel answers without anybody's help."""
    peer = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        peer.settimeout(PATIENCE)
        peer.connect(address.sockaddr)
    except BaseException:
        peer.close()
        raise
    return peer


def await_readable(sock: socket.socket) -> None:
    """Block until there is something to read or to accept."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)


def leave_with_reset(peer: socket.socket) -> None:
    """Close a peer's socket so that the other side gets a reset."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


def fate_of(peer: socket.socket) -> str:
    """Say how the server has ended it, which is waited for."""
    try:
        while peer.recv(1 << 16):
            pass
    except ConnectionResetError:
        return "reset"
    return "end"


@contextmanager
def no_more_descriptors(*, but: int = 0) -> Iterator[None]:
    """Let this process open so many more descriptors and not one further (EMFILE).

    The limit is one on numbers: what is open stays open, and all numbers below are taken.
    """
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    try:
        while fillers[-1] <= highest:
            fillers.append(os.open(os.devnull, os.O_RDONLY))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + but, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    finally:
        for filler in fillers:
            os.close(filler)


def open_descriptors() -> set[str]:
    """Return what this process has open, apart from what looking needs."""
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a Path has more to it than a number
        try:
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")  # noqa: PTH115
        except FileNotFoundError:
            pass  # the listing's own
    return found
