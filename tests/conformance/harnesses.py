"""Harnesses for the transports that there are."""

from __future__ import annotations

import os
import socket
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from tests.helpers.support import connect, reset
from trio_wsk import Address, InspectPoint
from trio_wsk._engine import choice as _choice
from trio_wsk.testing import MemoryNetwork, MemoryStream, MemoryTransport, TransportHarness
from trio_wsk.transports import LinuxTransport, PortableTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.helpers.namespaces import Namespace
    from trio_wsk.transports import Transport


class SocketHarness(TransportHarness[trio.SocketStream]):
    """The portable transport, whichever its sockets are."""

    can_fail_accept = True

    def __init__(self) -> None:
        self.tells_end_behind_data = _choice.HAVE_EPOLL
        # Trio's own waits look every 100 ms.
        self.quiet_seconds = 0.02 if _choice.HAVE_EPOLL else 0.15

    @abstractmethod
    def transport(self) -> PortableTransport:
        """Make one."""

    async def connect(self, address: Address) -> trio.SocketStream:
        """Connect a client."""
        return await connect(address)

    def reset(self, client: trio.SocketStream) -> None:
        """Close a client with a reset."""
        reset(client)

    def address_of(self, client: trio.SocketStream) -> Address | None:
        """Return where the client is at; most Unix clients have no name."""
        sock = client.socket
        return Address.from_sockaddr(sock.family, sock.getsockname())

    def fail_accept(self, transport: Transport, error: OSError) -> None:
        """Let the next accept fail, and the one after it be real."""
        assert isinstance(transport, PortableTransport)
        (source,) = transport._sources  # noqa: SLF001 - the real thing, to be wrapped
        accept = source.accept

        def fail() -> Any:
            source.accept = accept
            raise error

        source.accept = fail


class TcpHarness(SocketHarness):
    """TCP, on the loopback."""

    def __init__(self, host: str) -> None:
        super().__init__()
        self.host = host

    def transport(self) -> PortableTransport:
        """Listen on any port."""
        return PortableTransport.tcp(0, host=self.host)


class UnixHarness(SocketHarness):
    """Unix sockets, which know no reset."""

    has_reset = False

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def transport(self) -> PortableTransport:
        """Listen on a path that is free."""
        handle, path = tempfile.mkstemp(dir=self.folder)
        os.close(handle)
        Path(path).unlink()
        return PortableTransport.unix(path)


class AdoptingHarness(SocketHarness):
    """A socket that listens already."""

    def transport(self) -> PortableTransport:
        """Adopt a socket of IPv4."""
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        return PortableTransport.adopt([sock])


class LinuxHarness(TransportHarness[trio.SocketStream]):
    """Inspection before the handshake; clients are here, or at the other end of a cable."""

    inspect_point = InspectPoint.BEFORE_HANDSHAKE
    can_come_again = True
    # A client that has fallen silent is missed when its second SYN has not come.
    patience = 20.0

    def __init__(self, host: str, there: Namespace | None) -> None:
        self.host = host
        self.there = there

    def transport(self) -> LinuxTransport:
        """Listen on any port."""
        return LinuxTransport.tcp(0, host=self.host)

    async def connect(self, address: Address) -> trio.SocketStream:
        """Connect a client."""
        return await self._connect(address)

    async def connect_from(self, source: Address, address: Address) -> trio.SocketStream:
        """Connect a client from another one's address, whose socket is closed."""
        return await self._connect(address, source)

    async def _connect(self, address: Address, source: Address | None = None) -> trio.SocketStream:
        if self.there is not None:
            sock = trio.socket.from_stdlib_socket(self.there.socket(address.family))
        else:
            sock = trio.socket.socket(address.family)
        try:
            if source is not None:
                await sock.bind(source.sockaddr)
            await sock.connect(address.sockaddr)
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    def reset(self, client: trio.SocketStream) -> None:
        """Close a client with a reset."""
        reset(client)

    def address_of(self, client: trio.SocketStream) -> Address | None:
        """Return where the client is at."""
        sock = client.socket
        return Address.from_sockaddr(sock.family, sock.getsockname())


class MemoryHarness(TransportHarness[MemoryStream]):
    """The network in memory, at either inspect point."""

    can_come_again = True
    can_fail_accept = True

    def __init__(self, inspect_point: InspectPoint, *, latency: float = 0.0) -> None:
        self.inspect_point = inspect_point
        # On the virtual clock: longer than anybody asks again.
        self.patience = 1000.0
        self.quiet_seconds = 5.0
        self.network = MemoryNetwork(latency=latency)
        self.server = self.network.host("192.0.2.1")
        self.client = self.network.host("192.0.2.2")

    def transport(self) -> Transport:
        """Listen on any port."""
        return self.server.transport(0)

    async def connect(self, address: Address) -> MemoryStream:
        """Connect a client."""
        return await self.client.connect(address)

    async def connect_from(self, source: Address, address: Address) -> MemoryStream:
        """Connect a client from another one's port."""
        self.client._ports.next = source.port  # noqa: SLF001 - chance would take long
        return await self.client.connect(address)

    def reset(self, client: MemoryStream) -> None:
        """Close a client with a reset."""
        client.reset()

    def address_of(self, client: MemoryStream) -> Address | None:
        """Return where the client is at."""
        return client.local_address

    def fail_accept(self, transport: Transport, error: OSError) -> None:
        """Have the network make accept fail."""
        assert isinstance(transport, MemoryTransport)
        transport.fail_next(error)


SOCKET_HARNESSES: dict[str, Callable[[Path], SocketHarness]] = {
    "tcp4": lambda _: TcpHarness("127.0.0.1"),
    "tcp6": lambda _: TcpHarness("::1"),
    "unix": UnixHarness,
    "adopted": lambda _: AdoptingHarness(),
}
