"""Binding TCP."""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.portable_peers import owning
from tests.helpers.scarcity import named_descriptors
from trio_wsk._engine.choice import task_readiness
from trio_wsk._vocabulary.errors import BindError, InvalidParameterError
from trio_wsk._vocabulary.status import Status
from trio_wsk.transports import PortableTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from trio_wsk._vocabulary.addresses import Address

# For documentation only (RFC 5737).
NOT_OURS = "203.0.113.113"
OURS_ALONE = "127.83.7.9"
"""An address of the loopback interface where nobody else has any port."""

IP_LOCAL_PORT_RANGE = 51  # Linux 6.3; `socket` has no name for it

UNPRIVILEGED_FROM = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text("ascii"))


def hosts_of(addresses: Sequence[Address]) -> set[str]:
    """Return the addresses without their ports."""
    return {str(address.host) for address in addresses}


def link_local_address() -> tuple[str, str, int]:
    """Return a link-local address of this machine, its interface and that one's number."""
    lines = Path("/proc/net/if_inet6").read_text("ascii").splitlines()
    for digits, number, _, scope, _, interface in map(str.split, lines):
        if scope == "20":
            return str(ip_address(bytes.fromhex(digits))), interface, int(number, 16)
    pytest.skip("no interface here has a link-local address")


class Resolver(trio.abc.HostnameResolver):
    """The real resolver, but for some names."""

    def __init__(self, names: dict[str, Sequence[str]]) -> None:
        self._names = names

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # noqa: A002 - its name in Trio
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Look the name up, first among ours."""
        name = None if host is None else host.decode("ascii")
        await trio.lowlevel.checkpoint()
        if name is not None and name in self._names and not self._names[name]:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found: list[Any] = []
        for each in [name] if name is None else self._names.get(name, [name]):
            found += socket.getaddrinfo(each, port, family, type, proto, flags)
        return found

    async def getnameinfo(
        self, sockaddr: tuple[str, int] | tuple[str, int, int, int], flags: int
    ) -> tuple[str, str]:
        """Nobody asks."""
        raise NotImplementedError


def wrap_socket(
    monkeypatch: pytest.MonkeyPatch,
    *,
    create: Callable[[int], None] = lambda family: None,
    bind: Callable[[Any], Any] = lambda sockaddr: sockaddr,
) -> None:
    """Make real sockets, after asking whether, and bind them, after asking where."""

    class WrappedSocket(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **keywords: Any) -> None:
            create(family)
            super().__init__(family, *arguments, **keywords)

        def bind(self, sockaddr: Any, /) -> None:
            super().bind(bind(sockaddr))

    monkeypatch.setattr(socket, "socket", WrappedSocket)


def without_ipv6(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take IPv6 away, as a kernel without it does, or one where it is switched off."""

    def create(family: int) -> None:
        if code == errno.EAFNOSUPPORT and family == socket.AF_INET6:
            raise OSError(code, os.strerror(code))

    def bind(sockaddr: Any) -> Any:
        if ":" in sockaddr[0]:
            raise OSError(code, os.strerror(code))
        return sockaddr

    wrap_socket(monkeypatch, create=create, bind=bind)


# --- Arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["8000", True, 80.0, None])
def test_port_that_is_no_number_is_refused(port: Any) -> None:
    """The message has the value and a right call, before anything is bound."""
    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.tcp(port)

    assert f"port={port!r} is no number; write port=8000" in str(caught.value)


@pytest.mark.parametrize("port", [-1, 65536])
def test_port_out_of_range_is_refused(port: int) -> None:
    """The message has the value and the range."""
    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.tcp(port)

    assert f"port={port} is no TCP port: they go from 1 to 65535" in str(caught.value)


@pytest.mark.parametrize(
    "host", [7, b"127.0.0.1", ip_address("127.0.0.1"), ["127.0.0.1", None], {"127.0.0.1"}]
)
def test_host_that_is_no_text_is_refused(host: Any) -> None:
    """The message has the value and the right forms."""
    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.tcp(0, host=host)

    assert f"host={host!r} is neither text nor a list of texts" in str(caught.value)
    assert "write host='127.0.0.1'" in str(caught.value)


@pytest.mark.parametrize("host", ["", [], ["127.0.0.1", ""], "a\0b"])
def test_host_that_names_nothing_is_refused(host: Any) -> None:
    """An empty name does not mean "everywhere"; the message says what does."""
    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.tcp(0, host=host)

    assert f"host={host!r} names no host" in str(caught.value)
    assert "host=None" in str(caught.value)


@pytest.mark.parametrize(
    "option",
    [(1, 2), [1, 2, 3], (1, 2, "3"), ("1", 2, 3), (1, 2, None), (1, True, 3), 7],
)
def test_socket_option_of_the_wrong_shape_is_refused(option: Any) -> None:
    """The message has the value and a right call."""
    with pytest.raises(InvalidParameterError) as caught:
        PortableTransport.tcp(0, socket_options=[option])

    assert f"socket_options has {option!r}" in str(caught.value)
    assert "write socket_options=[(socket.SOL_SOCKET, " in str(caught.value)


def test_wrong_backlog_is_refused() -> None:
    """The backlog is checked before anything is bound."""
    with pytest.raises(InvalidParameterError, match="backlog=-1 "):
        PortableTransport.tcp(0, backlog=-1)


def test_reuse_port_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without SO_REUSEPORT says so at once."""
    monkeypatch.delattr(socket, "SO_REUSEPORT")

    with pytest.raises(InvalidParameterError, match="reuse_port=True can't be had"):
        PortableTransport.tcp(0, reuse_port=True)


def test_making_a_transport_takes_nothing() -> None:
    """Until bind, nothing is open that would have to be closed."""
    before = named_descriptors()

    PortableTransport.tcp(0)

    assert before == named_descriptors()


# --- Addresses ----------------------------------------------------------------------------


async def test_both_families_have_one_port() -> None:
    """With port 0 and no host, IPv4 and IPv6 listen on the same port, and both answer."""
    async with owning(PortableTransport.tcp(0)) as owner:
        v4, v6 = sorted(owner.transport.local_addresses, key=lambda address: address.family)

        assert ("0.0.0.0", "::") == (str(v4.host), str(v6.host))  # noqa: S104 - what host=None means
        assert v4.port == v6.port != 0

        for family, host in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]:
            with socket.socket(family) as peer:
                peer.connect((host, v4.port))
                request = await owner.request()
                assert host == str(request.local_address.host)
                request.reset()


async def test_several_hosts_have_one_port() -> None:
    """With port 0 and several hosts, the kernel's choice for the first holds for all."""
    hosts = ["127.0.0.1", "127.0.0.2", "::1"]
    async with owning(PortableTransport.tcp(0, host=hosts)) as owner:
        addresses = owner.transport.local_addresses

        assert set(hosts) == hosts_of(addresses)
        assert 1 == len({address.port for address in addresses})


async def test_address_that_is_named_twice_is_bound_once() -> None:
    """Hosts that stand for the same address share its socket."""
    trio.socket.set_custom_hostname_resolver(Resolver({"me": ["127.0.0.1"]}))

    async with owning(PortableTransport.tcp(0, host=["127.0.0.1", "me", "127.0.0.1"])) as owner:
        assert {"127.0.0.1"} == hosts_of([owner.address])


async def test_name_may_stand_for_both_families() -> None:
    """All addresses of a name are listened on."""
    trio.socket.set_custom_hostname_resolver(Resolver({"me": ["127.0.0.1", "::1"]}))

    async with owning(PortableTransport.tcp(0, host="me")) as owner:
        assert {"127.0.0.1", "::1"} == hosts_of(owner.transport.local_addresses)


async def test_ipv6_socket_is_ipv6_only() -> None:
    """IPv4 peers do not come in as ``::ffff:127.0.0.1``."""
    async with owning(PortableTransport.tcp(0, host="::")) as owner:
        (sock,) = owner.transport.public_sockets()

        assert 1 == sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


async def test_link_local_address_is_bound_on_its_interface() -> None:
    """The scope is taken from the host, and is in the address that is bound."""
    host, interface, number = link_local_address()

    async with owning(PortableTransport.tcp(0, host=f"{host}%{interface}")) as owner:
        assert (host, number) == (str(owner.address.host), owner.address.scope_id)


async def test_link_local_address_without_interface_says_how_to_name_one() -> None:
    """The kernel's "invalid argument" is explained."""
    host, _, _ = link_local_address()

    with pytest.raises(BindError) as caught:
        await PortableTransport.tcp(0, host=host).bind()

    assert f"host='{host}%eth0'" in str(caught.value)


async def test_bind_is_a_checkpoint() -> None:
    """Binding gives other tasks their turn, also when there is no name to look up."""
    transport = PortableTransport.tcp(0, host="127.0.0.1")
    with trio.testing.assert_checkpoints():
        await transport.bind()

    transport.close()


# --- One port for several addresses ---------------------------------------------------------


async def test_port_that_another_address_has_taken_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    When the kernel's choice of port is taken on another of the addresses, another port is
    chosen, and nothing of the first attempt is left.
    """
    with socket.create_server(("127.0.0.2", 0)) as taken:
        unlucky = iter([taken.getsockname()[1]] * 3)
        before = named_descriptors()
        wrap_socket(
            monkeypatch,
            bind=lambda to: (to[0], next(unlucky, 0)) if to == (OURS_ALONE, 0) else to,
        )
        transport = PortableTransport.tcp(0, host=[OURS_ALONE, "127.0.0.2"])
        await transport.bind()

        assert [] == list(unlucky)
        assert 2 == len(named_descriptors() - before)
        one, other = transport.local_addresses
        assert one.port == other.port != taken.getsockname()[1]

        transport.close()


async def test_search_for_a_common_port_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """After ten ports that are taken somewhere it is an error, and nothing is left."""
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        attempts = []

        def unlucky(sockaddr: Any) -> Any:
            if sockaddr == (OURS_ALONE, 0):
                attempts.append(port)
                return (OURS_ALONE, port)
            return sockaddr

        before = named_descriptors()
        wrap_socket(monkeypatch, bind=unlucky)

        with pytest.raises(BindError) as caught:
            await PortableTransport.tcp(0, host=[OURS_ALONE, "127.0.0.2"]).bind()

        assert errno.EADDRINUSE == caught.value.errno
        assert f"127.0.0.2:{port}" in str(caught.value)
        assert [port] * 10 == attempts
        assert before == named_descriptors()


async def test_other_errors_are_no_reason_to_search_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another port would not mend, as an address that nobody here has, is an error at once."""
    attempts = []

    def bind(sockaddr: Any) -> Any:
        attempts.append(sockaddr[0])
        return sockaddr

    wrap_socket(monkeypatch, bind=bind)

    with pytest.raises(BindError) as caught:
        await PortableTransport.tcp(0, host=[OURS_ALONE, "192.0.2.1"]).bind()

    assert errno.EADDRNOTAVAIL == caught.value.errno
    assert [OURS_ALONE, "192.0.2.1"] == attempts


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL], ids=errno.errorcode.get)
@pytest.mark.parametrize("host", [None, "localhost"])
async def test_machine_without_ipv6_listens_on_ipv4(
    host: str | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a name, or no host at all, stands for both families, one of them is enough."""
    without_ipv6(code, monkeypatch)
    trio.socket.set_custom_hostname_resolver(Resolver({"localhost": ["::1", "127.0.0.1"]}))

    async with owning(PortableTransport.tcp(0, host=host)) as owner:
        assert socket.AF_INET == owner.address.family


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL], ids=errno.errorcode.get)
@pytest.mark.parametrize("host", ["::1", ["127.0.0.1", "::1"]], ids=str)
async def test_ipv6_address_that_was_asked_for_must_be_had(
    host: str | list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address that its owner has written out is not left out silently."""
    without_ipv6(code, monkeypatch)
    before = named_descriptors()

    with pytest.raises(BindError, match=r"cannot listen on \[::1\]:") as caught:
        await PortableTransport.tcp(0, host=host).bind()

    assert code == caught.value.errno
    assert before == named_descriptors()


# --- What the machine refuses -----------------------------------------------------------------


async def test_port_that_is_taken_names_the_address_and_the_ways_out() -> None:
    """Who starts a server twice reads what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        before = named_descriptors()

        with pytest.raises(BindError) as caught:
            await PortableTransport.tcp(port, host="127.0.0.1").bind()

        assert errno.EADDRINUSE == caught.value.errno
        assert Status.ADDRESS_ALREADY_EXISTS is caught.value.status
        assert f"127.0.0.1:{port}: Address already in use" in str(caught.value)
        assert "reuse_port=True" in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)
        assert before == named_descriptors()


async def test_failure_at_one_address_gives_the_others_back() -> None:
    """All addresses are bound, or none."""
    before = named_descriptors()

    with pytest.raises(BindError) as caught:
        await PortableTransport.tcp(0, host=["127.0.0.1", NOT_OURS]).bind()

    assert Status.INVALID_ADDRESS_COMPONENT is caught.value.status
    assert f"{NOT_OURS}:" in str(caught.value)
    assert "this machine has no such address" in str(caught.value)
    assert before == named_descriptors()


async def test_race_for_a_port_is_lost_at_listen() -> None:
    """
    Two sockets may be bound to a port while neither listens; the one that listens
    second gets a BindError then, and is closed.
    """
    loser = PortableTransport.tcp(0, host="127.0.0.1")
    await loser.bind()
    (address,) = loser.local_addresses
    winner = PortableTransport.tcp(address.port, host="127.0.0.1")
    async with owning(winner):
        (sock,) = loser.public_sockets()
        with pytest.raises(BindError, match=f"cannot listen on {address}: .*in use") as caught:
            loser.listen(task_readiness())

        assert Status.ADDRESS_ALREADY_EXISTS is caught.value.status
        assert -1 == sock.fileno()


async def test_host_that_does_not_resolve_is_named() -> None:
    """The resolver's error comes as a BindError with host, port and a right call."""
    trio.socket.set_custom_hostname_resolver(Resolver({"no.such.host": []}))

    with pytest.raises(BindError) as caught:
        await PortableTransport.tcp(8000, host="no.such.host").bind()

    assert Status.NOT_FOUND is caught.value.status
    assert "cannot listen on no.such.host:8000: Name or service not known" in str(caught.value)
    assert "host='127.0.0.1'" in str(caught.value)
    assert isinstance(caught.value.__cause__, socket.gaierror)


async def test_host_that_can_not_be_a_name_is_named() -> None:
    """What can't even be asked for in the DNS does not come as a UnicodeError."""
    host = "ü" * 100

    with pytest.raises(
        BindError, match=f"cannot listen on {host}:8000: no name of a host"
    ) as caught:
        await PortableTransport.tcp(8000, host=host).bind()

    assert Status.NOT_FOUND is caught.value.status


@pytest.mark.skipif(UNPRIVILEGED_FROM <= 80, reason="port 80 is free for all here")
@pytest.mark.usefixtures("ordinary_user")
async def test_privileged_port_says_what_it_needs() -> None:
    """Who may not have port 80 reads what is missing."""
    with pytest.raises(BindError, match="CAP_NET_BIND_SERVICE") as caught:
        await PortableTransport.tcp(80, host="127.0.0.1").bind()

    assert Status.ACCESS_DENIED is caught.value.status


async def test_cancelled_bind_takes_nothing() -> None:
    """Cancelling the wait for the resolver leaves nothing open."""
    before = named_descriptors()

    with trio.CancelScope() as scope:
        scope.cancel()
        await PortableTransport.tcp(0, host="127.0.0.1").bind()

    assert scope.cancelled_caught
    assert before == named_descriptors()


# --- Ports that the kernel chose ---------------------------------------------------------------


def only_port(port: int) -> tuple[int, int, bytes]:
    """Make the option that leaves the kernel one port to choose (Linux 6.3), or skip the test."""
    option = (socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=I", port << 16 | port))
    with socket.socket() as sock:
        try:
            sock.setsockopt(*option)
        except OSError as error:
            pytest.skip(f"no IP_LOCAL_PORT_RANGE: {error.strerror}")
    return option


@pytest.mark.parametrize("reuse_port", [True, False])
@pytest.mark.parametrize(
    ("number", "listens"),
    [(socket.SO_REUSEPORT, True), (socket.SO_REUSEPORT, False), (socket.SO_REUSEADDR, False)],
)
async def test_port_that_the_kernel_chose_is_nobody_elses(
    number: int, *, listens: bool, reuse_port: bool
) -> None:
    """
    With ``port=0`` no address joins a stranger who has the port that was chosen for another
    one, and would share it: another port is chosen, or it is an error.
    """
    with socket.socket(socket.AF_INET6) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, number, 1)
        stranger.bind(("::1", 0))
        if listens:
            stranger.listen()
        port = stranger.getsockname()[1]
        before = named_descriptors()

        with pytest.raises(BindError) as caught:
            await PortableTransport.tcp(
                0,
                host=[OURS_ALONE, "::1"],
                reuse_port=reuse_port,
                socket_options=[only_port(port)],
            ).bind()

        assert errno.EADDRINUSE == caught.value.errno
        assert f"[::1]:{port}" in str(caught.value)
        assert before == named_descriptors()


@pytest.mark.parametrize("host", [None, "127.0.0.1", ["127.0.0.1", "::1"]])
async def test_port_that_the_kernel_chose_can_be_shared_on_purpose(host: Any) -> None:
    """Who names the port afterwards, and says reuse_port as well, shares it on each address."""
    first = PortableTransport.tcp(0, host=host, reuse_port=True)
    await first.bind()
    first.listen(task_readiness())
    port = first.local_addresses[0].port
    second = PortableTransport.tcp(port, host=host, reuse_port=True)
    await second.bind()
    second.listen(task_readiness())

    assert first.local_addresses == second.local_addresses

    first.close()
    second.close()


@pytest.mark.parametrize("port", [0, 8123])
async def test_reuse_is_the_owners_who_sets_it(port: int) -> None:
    """An owner's SO_REUSEADDR is in force, whether the kernel chooses the port or they do."""
    values = {}
    for given, options in (
        ("none", []),
        ("owner's", [(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)]),
    ):
        transport = PortableTransport.tcp(port, host=OURS_ALONE, socket_options=options)
        await transport.bind()
        (sock,) = transport.public_sockets()
        values[given] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        transport.close()

    assert {"none": 1, "owner's": 0} == values


# --- Socket options ---------------------------------------------------------------------------


async def test_options_are_set_before_the_socket_is_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that decides about binding is in force by then."""
    option = (socket.SOL_SOCKET, socket.SO_PRIORITY, 3)
    transport = PortableTransport.tcp(0, host="127.0.0.1", socket_options=[option])
    await transport.bind()
    (sock,) = transport.public_sockets()

    assert 3 == sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY)

    transport.close()


async def test_owners_options_win() -> None:
    """What we set by ourselves can be undone: options are set in order, ours first."""
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, value) for value in (1, 0)]
    transport = PortableTransport.tcp(0, host="127.0.0.1", socket_options=options)
    await transport.bind()
    (sock,) = transport.public_sockets()

    assert 0 == sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    transport.close()


async def test_ipv6_option_is_for_ipv6_sockets() -> None:
    """An IPv6 option does not keep a transport from listening on IPv4 as well."""
    option = (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, (7).to_bytes(4, "little"))
    transport = PortableTransport.tcp(0, socket_options=[option])
    await transport.bind()
    hops = {
        sock.family: sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
        for sock in transport.public_sockets()
        if sock.family == socket.AF_INET6
    }

    assert 2 == len(transport.local_addresses)
    assert {socket.AF_INET6: 7} == hops

    transport.close()


async def test_option_that_the_kernel_refuses_is_named() -> None:
    """The message says which of the options it was."""
    before = named_descriptors()

    with pytest.raises(BindError, match=r"socket_options has \(1, 9999, 1\)") as caught:
        await PortableTransport.tcp(
            0, host="127.0.0.1", socket_options=[(socket.SOL_SOCKET, 9999, 1)]
        ).bind()

    assert Status.NOT_SUPPORTED is caught.value.status
    assert before == named_descriptors()


async def test_port_can_be_shared_if_all_say_so() -> None:
    """With reuse_port two transports listen on one port."""
    first = PortableTransport.tcp(0, host="127.0.0.1", reuse_port=True)
    async with owning(first) as owner:
        port = owner.address.port
        second = PortableTransport.tcp(port, host="127.0.0.1", reuse_port=True)
        async with owning(second) as other:
            assert owner.address == other.address


async def test_port_is_not_shared_with_who_did_not_say_so() -> None:
    """reuse_port is no way to take somebody's port; the message says what is missing."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        transport = PortableTransport.tcp(port, host="127.0.0.1", reuse_port=True)

        with pytest.raises(BindError, match="must set SO_REUSEPORT too"):
            await transport.bind()
