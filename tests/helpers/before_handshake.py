"""What the tests of inspection before the handshake share: networks, clients that wait, the wire.

`opened` gives a listening socket on one of five networks, whose inspector is watched as that of
`inspecting`; `everywhere` has the same done on all five at once, which is for what takes time. A
`Client` has asked for a connection, and knows what became of it; `Stage.capture` has all that
went over the wire.
"""

from __future__ import annotations

import errno
import socket
from contextlib import asynccontextmanager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
import trio

from tests.helpers.gated import SYN_SENT
from tests.helpers.inspecting import PEND, Desk, Silent
from tests.helpers.namespaces import HERE, cabled_namespaces
from tests.helpers.support import PATIENCE, until
from tests.helpers.wire import MUTE, Capture, exchange, mute, scoped, send_segment
from trio_wsk import (
    Address,
    InspectPoint,
    ListenDispatch,
    open_listening_socket,
    serve,
    serve_events,
)
from trio_wsk.observers import RequestPended
from trio_wsk.transports import LinuxTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from tests.helpers.namespaces import Namespace
    from tests.helpers.wire import Segment
    from trio_wsk import Connection, ConnectionRequest, InspectAction, Server, Verdict

NETWORKS: Final = ("loopback4", "loopback6", "cable4", "cable6", "link-local")
"""The networks by name: the last one is a cable, too."""

CABLES: Final = NETWORKS[2:]

each_network = pytest.mark.parametrize("network", NETWORKS)
"""Run a test on each network, in its own namespaces: `in_own_namespace` comes below it."""

each_cable = pytest.mark.parametrize("network", CABLES)

SYN_ONLY: Final = ("client SYN",)
HANDSHAKE: Final = ("client SYN", "server SYN,ACK", "client ACK")
REFUSAL: Final = ("client SYN", "server RST,ACK")

# ------------------------------------------------------------------------------- networks


@attrs.frozen
class Network:
    """A way between a client and a server."""

    name: str
    """One of `NETWORKS`."""
    host: str
    """Where the server listens; a link-local address without its interface."""
    interface: str
    """That of the server, to be captured."""
    there: Namespace | None = None
    """Where the clients are; None: where the server is."""
    mute: str = ""
    """A host on the cable that gets answers and does not react to them; it is made by `mute`."""

    @property
    def place(self) -> str:
        """What to listen on, as ``open_listening_socket(host=...)`` has it."""
        return f"{self.host}%{self.interface}" if self.scope_id else self.host

    @property
    def scope_id(self) -> int:
        """The number of the server's interface, if addresses have one here."""
        is_scoped = self.host.startswith("fe80")
        return socket.if_nametoindex(self.interface) if is_scoped else 0

    def at_client(self) -> Any:
        """Enter the namespace that the clients are in."""
        return nullcontext() if self.there is None else self.there.entered()

    def from_client(self, address: Address) -> Address:
        """Return one of our addresses as the clients have it."""
        return address if self.there is None else scoped(address, self.there)

    def peer(self, port: int) -> Address:
        """Return an address of the mute host's."""
        return Address.tcp(self.mute, port, self.scope_id)


@contextmanager
def networks() -> Iterator[dict[str, Network]]:
    """Lay a cable, and return all networks by their names. The server's end is where we are."""
    with cabled_namespaces() as (_, there):
        mute()
        found = [
            Network("loopback4", "127.0.0.1", "lo"),
            Network("loopback6", "::1", "lo"),
            *(
                Network(name, host, "veth0", there, absent)
                for name, host, absent in zip(CABLES, HERE, MUTE, strict=True)
            ),
        ]
        yield {network.name: network for network in found}


async def everywhere(
    body: Callable[[Network], Awaitable[None]], names: Sequence[str] = NETWORKS
) -> None:
    """Run this on networks at once; what it fails with says on which one."""

    async def _run(network: Network) -> None:
        try:
            await body(network)
        except AssertionError as error:
            raise AssertionError(f"on {network.name}: {error}") from error

    with networks() as all_of_them:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(_run, all_of_them[name])


# -------------------------------------------------------------------------------- clients


class Client:
    """Somebody who has asked for a connection, and waits.

    Args:
      network: Where he is.
      target: The listening socket's address, as the server has it.
      prepare: Called with his socket before it asks.
    """

    def __init__(
        self,
        network: Network,
        target: Address,
        prepare: Callable[[socket.socket], object] | None = None,
    ) -> None:
        self.network = network
        with network.at_client():
            self.socket = socket.socket(target.family)
        try:
            self.socket.settimeout(0)
            if prepare is not None:
                prepare(self.socket)
            code = self.socket.connect_ex(network.from_client(target).sockaddr)
            assert code in {0, errno.EINPROGRESS}, errno.errorcode[code]
        except BaseException:
            self.socket.close()
            raise
        self.address = network_address(network, self.socket)
        """Where he is, as the server sees it."""
        self._stream: trio.SocketStream | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether he has had no answer."""
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)
        return info[0] == SYN_SENT

    async def outcome(self) -> str:
        """Wait for what comes of it: ``connected``, or the name of an error: ``ECONNREFUSED``."""
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.wait_writable(self.socket)
        code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return errno.errorcode[code] if code else "connected"

    async def connected(self) -> trio.SocketStream:
        """Wait until he is connected, and return the connection."""
        outcome = await self.outcome()

        assert "connected" == outcome, outcome
        return self.stream

    async def refused(self) -> None:
        """Wait until he is refused."""
        outcome = await self.outcome()

        assert "ECONNREFUSED" == outcome, outcome

    @property
    def stream(self) -> trio.SocketStream:
        """The connection; from now on it has the socket."""
        if self._stream is None:
            self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(self.socket))
        return self._stream

    def close(self) -> None:
        """Give up, or close the connection. Idempotent."""
        if self._stream is not None:
            self._stream.socket.close()
        self.socket.close()


def network_address(network: Network, sock: socket.socket) -> Address:
    """Return a client's address as the server has it."""
    address = Address.from_sockaddr(sock.family, sock.getsockname())
    return Address.tcp(str(address.host), address.port, network.scope_id)


# ---------------------------------------------------------------------------------- stage


class Stage(Desk):
    """A listening socket before which requests are inspected, and the wire to it."""

    def __init__(
        self,
        inspect: Callable[[ConnectionRequest], Any] | InspectAction | Verdict,
        network: Network,
    ) -> None:
        super().__init__(inspect)
        self.network = network
        self.capture: Capture
        """What went over the wire since the socket was opened."""
        self.clients: list[Client] = []
        """Those who came, in order."""

    @property
    def address(self) -> Address:
        """Where we listen; if that is everywhere, where clients of this network find us."""
        address = self.listening.local_addresses[0]
        assert address.host is not None
        if address.host.is_unspecified:
            return Address.tcp(self.network.host, address.port, self.network.scope_id)
        return address

    def arrive(self, prepare: Callable[[socket.socket], object] | None = None) -> Client:
        """Have somebody ask for a connection, without waiting; he is closed in the end."""
        client = Client(self.network, self.address, prepare)
        self.clients.append(client)
        return client

    async def inspected(
        self, prepare: Callable[[socket.socket], object] | None = None
    ) -> tuple[Client, ConnectionRequest]:
        """Have somebody ask, and wait until the inspector was asked about him."""
        count = len(self.asked)
        client = self.arrive(prepare)
        await self.when(lambda: len(self.asked) > count)
        return client, self.asked[count]

    async def held(
        self, prepare: Callable[[socket.socket], object] | None = None
    ) -> tuple[Client, ConnectionRequest]:
        """Have somebody ask whom the inspector pends."""
        client, request = await self.inspected(prepare)
        inspect_id = request.inspect_id
        await self.when(
            lambda: inspect_id in {each.inspect_id for each in self.told(RequestPended)}
        )
        return client, request

    async def admitted(
        self, prepare: Callable[[socket.socket], object] | None = None
    ) -> tuple[Client, ConnectionRequest]:
        """Have somebody ask who is let through, and waits for somebody to take the connection."""
        count = self.statistics().parked
        client, request = await self.inspected(prepare)
        await client.connected()
        await until(lambda: self.statistics().parked > count)
        return client, request

    def send(self, source: Address, flags: int, sequence: int, **more: Any) -> None:
        """Have the clients' end of the network send us a segment of our own making.

        The arguments are those of `send_segment`; the numbers wrap.
        """
        target = self.network.from_client(self.address)
        with self.network.at_client():
            send_segment(source, target, flags, sequence % (1 << 32), **more)

    def number_of(self, client: Client) -> int:
        """Return the initial sequence number of a client's."""
        return self.segments(client)[0].sequence_number

    def all_segments(self) -> list[Segment]:
        """Return everything that went over the wire up to now.

        Who listens on another network may have the same port: what is his is left out.
        """
        here = self.address
        return [each for each in self.capture.segments() if here in {each.source, each.destination}]

    def segments(self, client: Client | Address | None = None) -> list[Segment]:
        """Return what went over the wire up to now, to and from one client or all.

        A SYN that is sent again is left out: how often it is, depends on how long all takes.
        """
        address = client.address if isinstance(client, Client) else client
        found: list[Segment] = []
        seen = set()
        for segment in self.all_segments():
            who = (segment.source, segment.sequence_number)
            if address is not None and address not in {segment.source, segment.destination}:
                continue
            if segment.flags != "SYN" or who not in seen:
                found.append(segment)
            if segment.flags == "SYN":
                seen.add(who)
        return found

    def exchange(self) -> list[str]:
        """Write what `all_segments` returns, a line each."""
        return exchange(self.all_segments())

    def story(self, client: Client | Address | None = None) -> list[str]:
        """Write what `segments` returns, a line each."""
        return exchange(self.segments(client))

    async def until(self, condition: Callable[[list[Segment]], object], what: str) -> list[Segment]:
        """Wait until a condition holds for `all_segments`, and return them; see `Capture.until`."""
        await self.capture.until(lambda _: condition(self.all_segments()), what)
        return self.all_segments()

    async def expect(self, *lines: str, client: Client | Address | None = None) -> list[Segment]:
        """Wait for so much of a story; there must be these lines and no others.

        Raises:
          AssertionError: There are others, or not so many in time.
        """
        what = f"story of {len(lines)} segments"
        await self.until(lambda _: len(self.segments(client)) >= len(lines), what)
        segments = self.segments(client)
        found = exchange(segments)

        assert list(lines) == found, f"{found}, and not {list(lines)}"
        return segments

    async def check_queue(self) -> None:
        """Wait until the kernel holds the SYNs of those who have no verdict, and no others.

        An ordinary user may not read that, and is content.
        """
        waiting = len(self.listening.pending_inspections) + (self.statistics().backlog or 0)
        with trio.move_on_after(PATIENCE):
            while held_by_kernel() not in {waiting, None}:  # noqa: ASYNC110 - nobody is told
                await trio.sleep(0.001)
        held = held_by_kernel()

        assert held in {waiting, None}, f"{held} SYNs are held, and {waiting} have no verdict"

    def close_clients(self) -> None:
        """Close what is left of them."""
        super().close_clients()
        for client in self.clients:
            client.close()


def held_by_kernel() -> int | None:
    """Return how many packets wait for a verdict in this namespace; None if that can't be read."""
    try:
        table = Path("/proc/thread-self/net/netfilter/nfnetlink_queue").read_text("ascii")
    except PermissionError:
        return None
    return sum(int(line.split()[2]) for line in table.splitlines())


@asynccontextmanager
async def opened(
    network: str | Network,
    inspect: Callable[[ConnectionRequest], Any] | InspectAction | Verdict = PEND,
    **options: Any,
) -> AsyncIterator[Stage]:
    """Open a listening socket that inspects before the handshake, and look at its wire.

    In the end what holds of every story is checked, as `inspecting` does; and, on a network of its
    own, that the kernel holds no SYN that has had its answer.

    Args:
      network: One of `networks`; or its name, and then it is made.
      inspect: The inspector: a function, or an answer that it always gives.
      options: See `options_for`.
    """
    with _on(network) as where:
        stage = Stage(inspect, where)
        given = options_for(stage, **options)
        try:
            async with open_listening_socket(**given) as stage.listening:
                with Capture(where.interface, stage.address.port) as stage.capture:
                    yield stage
                    stage.check()
                    if isinstance(network, str):  # else others may use the queue, too
                        await stage.check_queue()
                    await stage.listening.aclose()
                    stage.check_in_the_end()
        finally:
            stage.close_clients()
    stage.check_in_the_end()


@asynccontextmanager
async def serving(
    network: str | Network,
    what: Callable[[Connection], Awaitable[object]] | Callable[[Connection], Any],
    inspect: Callable[[ConnectionRequest], Any] | InspectAction | Verdict = PEND,
    *,
    way: str = "serve",
    **options: Any,
) -> AsyncIterator[tuple[Stage, Server]]:
    """Have a server behind an inspector, which is drained or aborted by the test.

    Args:
      network: As for `opened`.
      what: The handler; or, for ``"serve_events"``, the accept callback.
      inspect: The inspector.
      way: ``"serve"`` or ``"serve_events"``.
      options: See `options_for`.
    """
    with _on(network) as where:
        stage = Stage(inspect, where)
        if way == "serve_events":
            given = options_for(stage, accept=what, **options)
            start = partial(serve_events, given.pop("dispatch"), given.pop("port"), **given)
        else:
            given = options_for(stage, **options)
            start = partial(serve, what, given.pop("port"), **given)
        try:
            async with trio.open_nursery() as nursery:
                server: Server = await nursery.start(start)
                stage.listening = server.listening
                with Capture(where.interface, stage.address.port) as stage.capture:
                    yield stage, server
                nursery.cancel_scope.cancel()
        finally:
            stage.close_clients()
    stage.check_in_the_end()


@contextmanager
def _on(network: str | Network) -> Iterator[Network]:
    if isinstance(network, Network):
        yield network
    else:
        with networks() as found:
            yield found[network]


def options_for(
    stage: Stage, *, gate: Mapping[str, Any] | None = None, accept: Any = None, **options: Any
) -> dict[str, Any]:
    """Return what a listening socket or a server is opened with.

    Args:
      stage: Whose inspector and abort callback are to be called.
      gate: Options of `LinuxTransport.tcp`.
      accept: The accept callback.
      options: Those of `open_listening_socket`. There are ten seconds for a verdict unless they
        say something else.
    """
    place: dict[str, Any] = {"port": 0, "host": stage.network.place}
    if gate is not None:
        place = {"port": None, "transport": LinuxTransport.tcp(0, host=place["host"], **gate)}
    return {
        **place,
        "dispatch": ListenDispatch(
            inspect=stage, abort=stage.abort, failed=stage.failed, accept=accept
        ),
        "inspect_point": InspectPoint.BEFORE_HANDSHAKE,
        "inspect_timeout": 10,
        "observers": [stage.observe, Silent()],
        **options,
    }
