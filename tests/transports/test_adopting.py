"""Listening on sockets that somebody else has made."""

from __future__ import annotations

import inspect
import os
import socket
import ssl
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.helpers.blocking_peers import await_event, connected, fate_of
from tests.helpers.portable_peers import owning
from tests.helpers.scarcity import named_descriptors
from tests.helpers.support import PATIENCE
from trio_wsk import (
    InspectPoint,
    ListenDispatch,
    WskError,
    open_listening_socket,
    open_server,
    serve,
    serve_events,
)
from trio_wsk._engine.choice import task_readiness
from trio_wsk._vocabulary.addresses import Address
from trio_wsk._vocabulary.errors import BindError, InvalidParameterError
from trio_wsk._vocabulary.status import Status
from trio_wsk.transports import PortableTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_wsk import Connection

    Make = Callable[[ExitStack], socket.socket]


def listening() -> socket.socket:
    """Make a socket that listens."""
    return socket.create_server(("127.0.0.1", 0))


def bound() -> socket.socket:
    """Make a socket that is bound and does not listen."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@contextmanager
def connected_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect two TCP sockets."""
    with listening() as server, socket.create_connection(server.getsockname(), PATIENCE) as peer:
        yield peer, server.accept()[0]


# --- What is taken ----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [listening, bound])
@pytest.mark.parametrize("kind", [lambda sock: sock, trio.socket.from_stdlib_socket, os.dup])
async def test_bound_socket_of_any_kind_is_taken(make: Any, kind: Any) -> None:
    """
    A socket, a Trio socket or the number of a descriptor, listening or only bound: it
    answers, and it is closed with the transport.
    """
    before = named_descriptors()
    with make() as sock:
        address = Address.from_sockaddr(socket.AF_INET, sock.getsockname())
        given = os.dup(sock.fileno()) if kind is os.dup else kind(sock)

        async with owning(PortableTransport.adopt([given])) as owner:
            assert address == owner.address
            with connected(address) as peer:
                (await owner.request()).reset()

                assert "reset" == fate_of(peer)

    assert before == named_descriptors()


async def test_all_sockets_are_taken() -> None:
    """Several sockets are one transport with several addresses, in their order."""
    sockets = [listening(), bound(), listening()]
    names = [sock.getsockname() for sock in sockets]

    async with owning(PortableTransport.adopt(sockets)) as owner:
        assert names == [address.sockaddr for address in owner.transport.local_addresses]


async def test_peer_of_a_socket_for_both_families_has_one_address() -> None:
    """
    An IPv4 peer of a socket that listens on ``::`` for both families has its IPv4 address, and
    has connected to one, as if the socket were IPv4's; an IPv6 peer has its own.
    """
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    port = both.getsockname()[1]
    async with owning(PortableTransport.adopt([both])) as owner:
        for host in ("127.0.0.1", "::1"):
            with connected(Address.tcp(host, port)) as peer:
                request = await owner.request()

                assert Address.tcp(host, port) == request.local_address
                assert (
                    Address.from_sockaddr(peer.family, peer.getsockname()) == request.remote_address
                )

                request.reset()


async def test_connection_that_waits_already_is_delivered() -> None:
    """What was queued before the socket was adopted is asked for without an edge."""
    sock = listening()
    with socket.create_connection(sock.getsockname(), PATIENCE) as peer:
        await_event(sock)
        transport = PortableTransport.adopt([sock])
        await transport.bind()
        transport.listen(task_readiness())

        assert transport.has_more()
        request = transport.next_request()
        assert request is not None
        assert peer.getsockname() == request.remote_address.sockaddr

        request.reset()
        transport.close()


def test_trio_socket_is_empty_afterwards() -> None:
    """A descriptor has one owner, and that is the transport."""
    sock = trio.socket.from_stdlib_socket(listening())

    transport = PortableTransport.adopt([sock])

    assert -1 == sock.fileno()

    transport.close()


def test_descriptor_is_not_for_children() -> None:
    """What a service manager has left open across exec goes no further."""
    with listening() as sock:
        fd = os.dup(sock.fileno())
        os.set_inheritable(fd, True)  # noqa: FBT003

        transport = PortableTransport.adopt([fd])

        assert not os.get_inheritable(fd)

        transport.close()


async def test_adopted_socket_is_non_blocking() -> None:
    """Whatever its timeout was, accepting from it never waits."""
    sock = listening()
    sock.settimeout(5)
    async with owning(PortableTransport.adopt([sock])):
        assert 0 == sock.gettimeout()


async def test_bind_is_a_checkpoint() -> None:
    """Binding gives other tasks their turn."""
    transport = PortableTransport.adopt([bound()])
    with trio.testing.assert_checkpoints():
        await transport.bind()

    transport.close()


async def test_cancelled_bind_closes_what_is_owned() -> None:
    """A transport that could not start does not leak what it was given."""
    sock = bound()
    transport = PortableTransport.adopt([sock])

    with trio.CancelScope() as scope:
        scope.cancel()
        await transport.bind()

    assert -1 == sock.fileno()


async def test_path_of_an_adopted_socket_stays(tmp_path: Path) -> None:
    """Whoever has made a Unix path removes it."""
    path = tmp_path / "app.sock"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(bytes(path))

    async with owning(PortableTransport.adopt([sock])) as owner:
        assert Address.unix(path) == owner.address

    assert path.is_socket()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
async def test_abstract_name_is_taken() -> None:
    """A socket that has named itself (autobind) is bound."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")

    async with owning(PortableTransport.adopt([sock])) as owner:
        assert (owner.address.path or "").startswith("\0")


async def test_backlog_is_for_sockets_that_do_not_listen_yet() -> None:
    """A socket that listens keeps its owner's backlog."""
    given = [bound(), socket.create_server(("127.0.0.1", 0), backlog=11)]

    async with owning(PortableTransport.adopt(given, backlog=7)) as owner:
        assert (0, 7 + 11) == owner.transport.queue_depth()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is known to do so")
async def test_options_are_set_before_listening_or_on_each_connection() -> None:
    """
    A socket that we set listening is tuned once; one that listens already is left as it
    is, since others may share it, and its connections are tuned one by one.
    """
    nodelay = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
    for sock, inherits in [(bound(), 1), (listening(), 0)]:
        async with owning(PortableTransport.adopt([sock])) as owner:
            assert inherits == sock.getsockopt(*nodelay)

            with connected(owner.address):
                request = await owner.request()
                channel = request.accept()
                assert 1 == channel.getsockopt(*nodelay)

                channel.close()


async def test_socket_that_can_not_listen_is_named() -> None:
    """
    Two sockets may be bound to a port while neither listens; the one that listens second
    gets a BindError that names the address.
    """
    loser, winner = socket.socket(), socket.socket()
    for sock in (loser, winner):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    loser.bind(("127.0.0.1", 0))
    winner.bind(loser.getsockname())
    transport = PortableTransport.adopt([loser])
    await transport.bind()
    (address,) = transport.local_addresses
    with winner:
        winner.listen()

        with pytest.raises(BindError, match=f"cannot listen on {address}: ") as caught:
            transport.listen(task_readiness())

    assert Status.ADDRESS_ALREADY_EXISTS is caught.value.status
    assert -1 == loser.fileno()


# --- What is refused --------------------------------------------------------------------------


def unbound(stack: ExitStack) -> socket.socket:
    """A socket that is nowhere."""
    return socket.socket()


def unbound_unix(stack: ExitStack) -> socket.socket:
    """A Unix socket without a name."""
    return socket.socket(socket.AF_UNIX)


def datagram(stack: ExitStack) -> socket.socket:
    """A UDP socket."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def connected_one(stack: ExitStack) -> socket.socket:
    """A TCP connection."""
    peer, accepted = stack.enter_context(connected_pair())
    stack.enter_context(accepted)
    return peer


def socketpair(stack: ExitStack) -> socket.socket:
    """One end of a pair."""
    one, other = socket.socketpair()
    stack.enter_context(other)
    return one


def vsock(stack: ExitStack) -> socket.socket:
    """A stream socket of another family."""
    try:
        return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    except OSError:
        pytest.skip("this kernel has no AF_VSOCK")


def tls(stack: ExitStack) -> socket.socket:
    """A listening socket with TLS on top."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    return context.wrap_socket(listening(), server_side=True)


REFUSED = pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (unbound, "is not bound; call its bind() first"),
        (unbound_unix, "is not bound; call its bind() first"),
        (datagram, "socket.socket(socket.AF_INET, socket.SOCK_STREAM)"),
        (connected_one, "is connected; what is wanted is the socket that accepted it"),
        (socketpair, "is connected; what is wanted is the socket that accepted it"),
        (vsock, "is neither a TCP nor a Unix socket"),
        (tls, "is more than a socket, and what it adds would be lost"),
    ],
)


@REFUSED
def test_socket_that_can_give_no_connections_is_refused(make: Make, complaint: str) -> None:
    """The message says which one it is and what is wrong; all that were given are closed."""
    with ExitStack() as stack:
        good, wrong, also_good = listening(), make(stack), trio.socket.from_stdlib_socket(bound())
        name = repr(wrong)

        with pytest.raises(InvalidParameterError) as caught:
            PortableTransport.adopt([good, wrong, also_good])

        assert f"sockets[1], which is {name}, " in str(caught.value)
        assert complaint in str(caught.value)
        assert [-1, -1, -1] == [sock.fileno() for sock in (good, wrong, also_good)]


@REFUSED
def test_descriptor_that_can_give_no_connections_is_refused(make: Make, complaint: str) -> None:
    """A number is looked at as closely; it is closed as well. (TLS is not in a descriptor.)"""
    if make is tls:
        return
    before = named_descriptors()
    with ExitStack() as stack:
        fd = make(stack).detach()

        with pytest.raises(InvalidParameterError) as caught:
            PortableTransport.adopt([fd])

        assert f"sockets[0], which is {fd}, " in str(caught.value)
        assert complaint in str(caught.value)

    assert before == named_descriptors()


def test_closed_socket_is_refused() -> None:
    """The message says that it is closed."""
    sock = listening()
    sock.close()

    with pytest.raises(InvalidParameterError, match=r"sockets\[0\], .*, is closed"):
        PortableTransport.adopt([sock])


def test_descriptor_of_a_file_is_refused_and_stays_open() -> None:
    """What is no socket was never ours to close."""
    fd = os.open(os.devnull, os.O_RDONLY)

    with pytest.raises(InvalidParameterError, match="is no descriptor of a socket: Socket op"):
        PortableTransport.adopt([fd])

    os.close(fd)


def test_descriptor_that_is_not_open_is_refused() -> None:
    """A number that nobody has opened is named."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)

    with pytest.raises(
        InvalidParameterError,
        match=rf"sockets\[0\], which is {fd}, is no descriptor of a socket: Bad file descriptor",
    ):
        PortableTransport.adopt([fd])


@pytest.mark.parametrize("number", [-1, -7])
def test_negative_number_is_refused(number: int) -> None:
    """-1 is what a closed socket calls itself."""
    with pytest.raises(InvalidParameterError, match="is closed"):
        PortableTransport.adopt([number])


@pytest.mark.parametrize("thing", ["sock", None, True, 3.0])
def test_what_is_no_socket_is_refused(thing: Any) -> None:
    """The message has the value and a right call; what else was given is closed."""
    sock = listening()

    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.adopt([thing, sock])

    assert f"sockets[0], which is {thing!r}, is neither a socket nor the" in str(caught.value)
    assert "write sockets=[sock]" in str(caught.value)
    assert -1 == sock.fileno()


@pytest.mark.parametrize("sockets", [[], (), "sock", None, 3, {1}])
def test_what_is_no_list_of_sockets_is_refused(sockets: Any) -> None:
    """No sockets at all are a mistake, and so is a socket without a list."""
    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.adopt(sockets)

    assert f"sockets={sockets!r} is no list of sockets; write sockets=[sock]" in str(caught.value)


@pytest.mark.parametrize("again", [lambda sock: sock, socket.socket.fileno])
def test_socket_that_is_given_twice_is_refused(again: Callable[[socket.socket], Any]) -> None:
    """Two owners of a descriptor would close it twice."""
    sock = listening()

    with pytest.raises(InvalidParameterError, match=r"sockets\[1\], .* is in the list twice"):
        PortableTransport.adopt([sock, again(sock)])

    assert -1 == sock.fileno()


def test_wrong_backlog_closes_what_was_given() -> None:
    """The sockets are the transport's whatever else is wrong."""
    sock = listening()

    with pytest.raises(InvalidParameterError, match="backlog=-1 "):
        PortableTransport.adopt([sock], backlog=-1)

    assert -1 == sock.fileno()


# --- What is adopted when opening fails -------------------------------------------------------

WRONG: dict[str, Any] = {
    "port": 0,
    "host": "127.0.0.1",
    "path": "/tmp/app.sock",  # noqa: S108 - never made
    "mode": 0o600,
    "transport": PortableTransport.tcp(0),
    "backlog": -1,
    "reuse_port": True,
    "socket_options": [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
    "dispatch": 42,
    "inspect": 42,
    "inspect_point": InspectPoint.BEFORE_HANDSHAKE,  # which needs an inspector
    "inspect_timeout": -1,
    "max_pending": -1,
    "max_parked": -1,
    "overflow": "no policy",
    "abort_on_half_close": 42,
    "on_no_descriptors": "no policy",
    "observers": [42],
    "no_such_option": 42,
}
WRONG_OF_SERVERS: dict[str, Any] = {
    "max_connections": 0,
    "grace": -1,
    "ssl_context": 42,
    "handshake_timeout": -1,
    "on_handler_error": "no policy",
}


async def leave(connection: Connection) -> None:
    """Do nothing."""


def accept(connection: Connection) -> Status:
    """Take it, and do nothing."""
    return Status.SUCCESS


async def open_it(**options: Any) -> None:
    """Open a listening socket."""
    async with open_listening_socket(**options):
        raise AssertionError


async def open_a_server(**options: Any) -> None:
    """Open a server."""
    async with open_server(leave, **options):
        raise AssertionError


async def serve_it(**options: Any) -> None:
    """Serve."""
    await serve(leave, **options)
    raise AssertionError


async def serve_its_events(**options: Any) -> None:
    """Serve with callbacks."""
    options.setdefault("dispatch", ListenDispatch(accept=accept))
    await serve_events(**options)
    raise AssertionError


MISTAKES = [
    pytest.param(call, name, value, id=f"{call.__name__}-{name}")
    for call, wrong in [
        # Python itself refuses what a function has no name for, before there is any of ours.
        (open_it, {name: value for name, value in WRONG.items() if name != "no_such_option"}),
        (open_a_server, WRONG | WRONG_OF_SERVERS),
        (serve_it, WRONG | WRONG_OF_SERVERS | {"task_status": 42}),
        (serve_its_events, WRONG | {"task_status": 42}),
    ]
    for name, value in wrong.items()
]


def test_every_argument_is_among_those_that_may_be_wrong() -> None:
    """The next test knows all options there are."""
    options = {*inspect.signature(open_listening_socket).parameters}

    assert options - {"sockets", "context"} == {*WRONG} - {"no_such_option"}


@pytest.mark.parametrize("kind", [lambda sock: sock, trio.socket.from_stdlib_socket, os.dup])
@pytest.mark.parametrize(("call", "name", "value"), MISTAKES)
async def test_sockets_are_closed_whichever_argument_is_wrong(
    call: Any, name: str, value: Any, kind: Any
) -> None:
    """
    What was given belongs to the listening socket, so that it is closed when this can't be
    opened, whatever is wrong, and wherever that is found out.
    """
    before = named_descriptors()
    sock = listening()
    given = os.dup(sock.fileno()) if kind is os.dup else kind(sock)

    with pytest.raises((WskError, TypeError)):
        await call(sockets=[given], **{name: value})

    if kind is os.dup:
        sock.close()

    assert before == named_descriptors()


async def test_transport_is_closed_whichever_argument_is_wrong() -> None:
    """So is a transport, with the sockets that it has adopted."""
    before = named_descriptors()
    for call in (open_it, open_a_server, serve_it):
        transport = PortableTransport.adopt([listening()])

        with pytest.raises(WskError):
            await call(transport=transport, max_parked=-1)

    assert before == named_descriptors()


async def test_sockets_stay_the_callers_until_the_block_is_entered() -> None:
    """Making the block and never entering it takes nothing."""
    with listening() as sock:
        open_listening_socket(sockets=[sock])
        open_server(leave, sockets=[sock])

        assert sock.fileno() >= 0
