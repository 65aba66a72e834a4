"""What goes wrong before the handshake: killed processes, others' rules, cookies, full queues.

Whatever happens, nobody gets in unasked, and nothing stays behind in the kernel.
"""

from __future__ import annotations

import codecs
import errno
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.gated import (
    ACK,
    LOOPBACK,
    PATIENCE,
    RST,
    SYN,
    SYN_SENT,
    queues,
    state_of,
    tables_of,
)
from tests.helpers.inspecting import ACCEPT, PEND, REJECT, inspecting
from tests.helpers.namespaces import HERE, cabled_namespaces, in_own_namespace
from tests.helpers.support import open_descriptors, until
from tests.helpers.wire import (
    MUTE,
    Capture,
    counted,
    exchange,
    mute,
    send_in_fragments,
    send_segment,
    syn_cookies,
)
from trio_wsk import (
    Address,
    ConnectionRequest,
    InspectPoint,
    InspectPointError,
    InvalidParameterError,
    Status,
    open_listening_socket,
)
from trio_wsk._vocabulary.verdict import AbortReason
from trio_wsk.transports import LinuxTransport
from trio_wsk.transports._spare import SpareDescriptor
from trio_wsk.transports.linux._expressions import DROP, segment_to, verdict
from trio_wsk.transports.linux._gatekeeper import gatekeeper_here
from trio_wsk.transports.linux._messages import CREATE, Change, be32, nested, text
from trio_wsk.transports.linux._netlink import NETFILTER, NetlinkSocket
from trio_wsk.transports.linux._nfqueue import Queue
from trio_wsk.transports.linux._numbered import likely_numbers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from typing_extensions import Self

    from tests.helpers.inspecting import Desk

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

BEFORE = InspectPoint.BEFORE_HANDSHAKE
HOST = LOOPBACK[0]
ANY_IPV4 = "0.0.0.0"  # noqa: S104 - in a namespace of its own
ALL_TABLES, IPV4 = 0, 2

NFTABLES = 10
NEW_TABLE, DELETE_TABLE, NEW_CHAIN, NEW_RULE = 0, 2, 3, 6

both_families = pytest.mark.parametrize("host", LOOPBACK)


# --------------------------------------------------------------------------------- the stage


@asynccontextmanager
async def gated(inspect: Any = PEND, port: int | None = 0, **options: Any) -> AsyncIterator[Desk]:
    """Open a listening socket that inspects before the handshake, without hurry."""
    options.setdefault("inspect_timeout", 100.0)
    async with inspecting(inspect, port, inspect_point=BEFORE, **options) as desk:
        yield desk


class Clients:
    """Clients that connect without waiting, and are closed in the end."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def make(self, family: int = socket.AF_INET) -> socket.socket:
        """Make one that connects later."""
        client = self._stack.enter_context(socket.socket(family))
        client.settimeout(0)
        return client

    def connect(self, address: Address, count: int = 1) -> list[socket.socket]:
        """Have so many send their SYNs, which by now are wherever they go."""
        clients = [self.make(address.family) for _ in range(count)]
        for client in clients:
            begin(client, address)
        return clients

    def one(self, address: Address) -> socket.socket:
        """Have one send its SYN."""
        return self.connect(address)[0]


def begin(client: socket.socket, address: Address) -> None:
    """Have a client send its SYN."""
    code = client.connect_ex(address.sockaddr)
    assert code in {0, errno.EINPROGRESS}, errno.errorcode[code]


async def answer_to(client: socket.socket) -> str:
    """Wait for the answer to a SYN, and name it; "" for success."""
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.wait_writable(client)
    code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return errno.errorcode[code] if code else ""


async def answers_to(clients: list[socket.socket]) -> set[str]:
    """Wait for all answers, and name each kind once."""
    return {await answer_to(client) for client in clients}


async def is_reset(client: socket.socket) -> bool:
    """Wait for the end of a connection, and say whether it was a reset."""
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.wait_readable(client)
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    return False


def place_of(desk: Desk) -> Address:
    """Return where a desk listens."""
    return desk.listening.local_addresses[0]


def address_of(client: socket.socket) -> Address:
    """Return where a client is."""
    return Address.from_sockaddr(client.family, client.getsockname())


def senders(requests: list[ConnectionRequest]) -> list[Address]:
    """Return whose requests these are."""
    return [request.remote_address for request in requests]


async def pended(desk: Desk, count: int = 1) -> None:
    """Wait until so many wait for their verdict."""
    await desk.when(lambda: len(desk.listening.pending_inspections) == count)


async def take(desk: Desk, count: int = 1) -> list[Address]:
    """Accept so many connections, close them, and return whose they were."""
    taken = []
    with trio.fail_after(PATIENCE):
        for _ in range(count):
            async with await desk.listening.accept() as connection:
                taken.append(connection.remote_address)
    return taken


def transport_of(desk: Desk) -> dict[str, int]:
    """Return what the transport has counted."""
    return dict(desk.statistics().transport)


def nothing_is_left() -> bool:
    """Whether there is neither a table nor a queue in this namespace."""
    return not tables_of(ALL_TABLES) and not queues()


class Other:
    """Another process in this namespace: it runs one of this module's functions."""

    def __init__(self, function: Callable[..., object], *words: object) -> None:
        call = f"it.{function.__name__}(*{[str(word) for word in words]!r})"
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-W", "error", "-c", f"import {__name__} as it; {call}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            encoding="utf-8",
        )

    def hear(self) -> str:
        """Wait for what it says next, and meanwhile do nothing else."""
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], PATIENCE)[0], "it says nothing"
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        """Give it no chance to clean up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.kill()


def pend_all(host: str, count: str) -> None:
    """Listen, say where, pend whoever comes, and say when so many have."""

    async def _serve() -> None:
        async with gated(host=host) as desk:
            say(place_of(desk))
            await pended(desk, int(count))
            say("pended")
            await trio.sleep_forever()

    trio.run(_serve)


def say(what: object) -> None:
    """Print a line for whoever started us."""
    print(what, flush=True)  # noqa: T201 - a program


class Firewall:
    """Somebody else's table: one chain with a hook, before ours, which drops what it is told to."""

    def __init__(self, priority: int = 0) -> None:
        self._socket = NetlinkSocket(NETFILTER)
        self._name = text(1, "firewall")
        self._hook = nested(4, be32(1, 1), be32(2, priority))  # input
        self._make()

    def _make(self) -> None:
        chain = self._name + text(3, "input") + self._hook + text(7, "filter")
        self._batch(
            Change("make a table", NEW_TABLE, CREATE, IPV4, self._name),
            Change("make a chain", NEW_CHAIN, CREATE, IPV4, chain),
        )

    def reload(self) -> None:
        """Take the table away, and make it anew."""
        self.remove()
        self._make()

    def _batch(self, *steps: Change) -> None:
        self._socket.batch(NFTABLES, steps)

    def drop(self, place: Address) -> None:
        """Drop what comes for an address."""
        drop = nested(4, *segment_to(place, of_flags=0, flags=0), verdict(DROP))
        rule = self._name + text(2, "input") + drop
        self._batch(Change("make a rule", NEW_RULE, CREATE, IPV4, rule))

    def remove(self) -> None:
        """Take the table away, and with it the chain with a hook."""
        self._batch(Change("delete a table", DELETE_TABLE, 0, IPV4, self._name))

    def flush_ruleset(self) -> None:
        """Do what ``nft flush ruleset`` does, with that program if there is one."""
        nft = shutil.which("nft")
        if nft is not None:
            subprocess.run([nft, "flush", "ruleset"], check=True)  # noqa: S603 - as its user would
        self._batch(Change("flush the ruleset", DELETE_TABLE, 0, ALL_TABLES, b""))

    def close(self) -> None:
        """Let go; what was made stays."""
        self._socket.close()


def gaps(capture: Capture, client: socket.socket) -> list[str]:
    """Write what a client has sent and got, its repeats in one."""
    lines = capture.exchange(address_of(client))
    return [line for before, line in zip(["", *lines], lines, strict=False) if line != before]


ANSWERED = ["client SYN", "server SYN,ACK", "client ACK"]
REFUSED = ["client SYN", "server RST,ACK"]


# ------------------------------------------------------------------------------ whose it was


@both_families
@in_own_namespace
async def test_killed_process_leaves_nothing_and_lets_nobody_in(host: str) -> None:
    """
    Killed with 20 requests pended, a process leaves no table, no rule and no queue; nobody has
    come in; and another one that listens there at once is asked by all of them.
    """
    with Clients() as clients, Other(pend_all, host, 20) as other:
        address = Address.parse(other.hear())
        with Capture("lo", address.port) as capture:
            waiting = clients.connect(address, 20)

            assert "pended" == other.hear()
            assert (1, 1) == (len(tables_of(ALL_TABLES)), len(queues().splitlines()))

            other.kill()

            assert nothing_is_left()

            async with gated(ACCEPT, address.port, host=host) as desk:
                assert {"client SYN"} == set(capture.exchange())
                assert {""} == await answers_to(waiting)

                came = await take(desk, 20)

                assert {address_of(client) for client in waiting} == {*came}
                assert {*came} == {*senders(desk.asked)}
                assert 20 == desk.statistics().inspected
                assert [ANSWERED] * 20 == [gaps(capture, client)[:3] for client in waiting]


# --------------------------------------------------------------------------- others' rules


@both_families
@in_own_namespace
async def test_flushed_ruleset_does_not_open_the_gate(host: str) -> None:
    """After ``nft flush ruleset`` by somebody else whoever comes is still asked about."""
    with Clients() as clients, closing(Firewall()) as firewall:
        async with gated(REJECT, host=host) as desk:
            ours = tables_of(ALL_TABLES)
            firewall.flush_ruleset()

            assert ["firewall"] == [name for name in ours if name not in tables_of(ALL_TABLES)]
            assert "ECONNREFUSED" == await answer_to(clients.one(place_of(desk)))
            assert 1 == desk.statistics().inspected


@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
@in_own_namespace
async def test_requests_outlive_that_the_kernel_drops_their_packets(answer: Any) -> None:
    """
    Who removes a chain with a hook has the kernel drop all that is held. The requests are still
    pended, and what they are answered is said to their next SYN; nobody is asked again.
    """
    with Clients() as clients, closing(Firewall()) as firewall:
        async with gated() as desk:
            with Capture("lo", place_of(desk).port) as capture:
                client = clients.one(place_of(desk))
                await pended(desk)
                firewall.remove()
                status = desk.complete(desk.asked[0], answer)

                assert Status.SUCCESS == status
                assert ("" if answer is ACCEPT else "ECONNREFUSED") == await answer_to(client)
                if answer is ACCEPT:
                    assert [address_of(client)] == await take(desk)

                lines = ["client SYN", *(ANSWERED[:2] if answer is ACCEPT else REFUSED)]
                assert lines == capture.exchange(address_of(client))[:3]
                assert 1 == transport_of(desk)["verdicts_late"]
                assert 1 == len(desk.asked)


@in_own_namespace
async def test_peer_that_left_is_missed_when_the_kernel_drops_its_packet() -> None:
    """Approved when the kernel had dropped its SYN, who does not send another one has left."""
    with Clients() as clients, closing(Firewall()) as firewall:
        async with gated() as desk:
            client = clients.one(place_of(desk))
            await pended(desk)
            client.close()
            firewall.remove()
            desk.complete(desk.asked[0], ACCEPT)

            assert AbortReason.SILENT is (await desk.aborted()).reason
            assert 1 == transport_of(desk)["verdicts_late"]


@pytest.mark.parametrize("age", ["older", "newer"])
@pytest.mark.parametrize(
    "priority", [0, 10, 50], ids=["nft and iptables", "firewalld", "iptables' security"]
)
@in_own_namespace
async def test_host_firewall_comes_first(priority: int, age: str) -> None:
    """
    A SYN that a rule of the host's drops is no request, until the rule has gone; whichever
    firewall has made it, and whether that was started before us or reloaded since.
    """
    with Clients() as clients, closing(Firewall(priority)) as firewall:
        async with gated(ACCEPT) as desk:
            if age == "newer":
                firewall.reload()
            firewall.drop(place_of(desk))
            client = clients.one(place_of(desk))
            await wait_all_tasks_blocked()

            assert (SYN_SENT, 0, 0) == (
                state_of(client),
                len(desk.asked),
                transport_of(desk)["held"],
            )

            firewall.remove()

            assert "" == await answer_to(client)
            assert [address_of(client)] == await take(desk) == senders(desk.asked)


# ----------------------------------------------------------------------------- SYN cookies


@in_own_namespace
async def test_first_fragment_without_all_headers_gets_no_answer() -> None:
    """
    An IPv6 SYN whose first fragment ends among the extension headers is no SYN yet when it could
    be held, and would be one when the kernel has put it together: it is dropped and counted.
    """
    with cabled_namespaces() as (_, there):
        mute(MUTE[1])
        async with gated(PEND, host=HERE[1]) as desk:
            (address,) = desk.listening.local_addresses
            with Capture("veth0", address.port) as capture, there.entered():
                send_in_fragments(Address.tcp(MUTE[1], 1000), address, 1000)
                await until(lambda: desk.statistics().transport["truncated"])
                send_segment(Address.tcp(MUTE[1], 1001), address, SYN, 1000)
                await desk.when(lambda: desk.asked)
                await wait_all_tasks_blocked()

                assert [1001] == [request.remote_address.port for request in desk.asked]
                assert ["client SYN"] == [
                    line for line in exchange(capture.segments()) if "SYN" in line
                ]


@in_own_namespace
async def test_fragments_with_all_headers_pass() -> None:
    """Datagrams in fragments, to the same address and port, go on their way."""
    with cabled_namespaces() as (_, there):
        async with gated(PEND, host=HERE[1]) as desk:
            (address,) = desk.listening.local_addresses
            with (
                closing(socket.socket(address.family, socket.SOCK_DGRAM)) as receiver,
                closing(there.socket(address.family, socket.SOCK_DGRAM)) as sender,
            ):
                receiver.bind(address.sockaddr)
                receiver.settimeout(PATIENCE)
                sender.sendto(bytes(5000), address.sockaddr)

                assert 5000 == len(receiver.recv(9000))
                assert 0 == desk.statistics().transport["truncated"]


@both_families
@in_own_namespace
async def test_cookies_let_nobody_in_unasked(host: str) -> None:
    """
    With a cookie for everybody, nobody is answered before the verdict, and who is let in is known
    by his addresses and not asked about again.
    """
    syn_cookies()
    with Clients() as clients:
        async with gated(host=host) as desk:
            with Capture("lo", place_of(desk).port) as capture:
                good, bad = clients.connect(place_of(desk), 2)
                await pended(desk, 2)

                assert {"client SYN"} == set(capture.exchange())

                by_address = {request.remote_address: request for request in desk.asked}
                desk.complete(by_address[address_of(bad)], REJECT)
                desk.complete(by_address[address_of(good)], ACCEPT)

                assert ("", "ECONNREFUSED") == (await answer_to(good), await answer_to(bad))
                assert [address_of(good)] == await take(desk)
                assert 1 == counted("SyncookiesRecv")
                assert (2, 0) == (len(desk.asked), transport_of(desk)["strangers"])


@in_own_namespace
async def test_slow_peer_with_a_cookie_is_asked_about_again() -> None:
    """
    The kernel does not know whom it has sent a cookie: his request is over. When he comes back
    with it all the same he is a new request, after the handshake, which has no SYN.
    """
    with cabled_namespaces() as (_, there):
        mute()
        syn_cookies()
        async with gated(host=HERE[0]) as desk:
            address, peer = place_of(desk), Address.tcp(MUTE[0], 1111)
            with Capture("veth0", address.port) as capture:
                with there.entered():
                    send_segment(peer, address, SYN, 1000)
                await desk.when(lambda: desk.asked)
                desk.complete(desk.asked[0], ACCEPT)
                answer = (await capture.expect(*ANSWERED[:2]))[-1]

                assert AbortReason.SILENT is (await desk.aborted()).reason

                with there.entered():
                    number = answer.sequence_number + 1
                    send_segment(peer, address, ACK, 1001, acknowledgement=number)
                await desk.when(lambda: len(desk.asked) == 2)
                request = desk.asked[1]

                assert (peer, None) == (request.remote_address, request.syn)
                assert InspectPoint.AFTER_HANDSHAKE is request.inspect_point
                assert Status.SUCCESS is desk.complete(request, REJECT)
                await capture.expect(*ANSWERED, "server RST,ACK")


@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
@in_own_namespace
async def test_cookie_from_before_the_gate_gets_nobody_in_unasked(answer: Any) -> None:
    """Who was sent a cookie before there was a gate is asked about when he comes back with it."""
    with cabled_namespaces() as (_, there):
        mute()
        syn_cookies()
        listening = socket.create_server((HERE[0], 0))
        address = Address.from_sockaddr(listening.family, listening.getsockname())
        peer = Address.tcp(MUTE[0], 1111)
        with Capture("veth0", address.port) as capture:
            with there.entered():
                send_segment(peer, address, SYN, 1000)
            number = (await capture.expect(*ANSWERED[:2]))[-1].sequence_number + 1
            async with gated(answer, None, sockets=[listening]) as desk:
                with there.entered():
                    send_segment(peer, address, ACK, 1001, acknowledgement=number)
                await desk.when(lambda: desk.asked)
                (request,) = desk.asked

                assert (None, InspectPoint.AFTER_HANDSHAKE) == (request.syn, request.inspect_point)
                if answer is ACCEPT:
                    assert [peer] == await take(desk)
                    assert "server FIN,ACK" in capture.exchange()
                else:
                    await capture.expect(*ANSWERED, "server RST,ACK")


# ------------------------------------------------------------------------------- strangers


@in_own_namespace
async def test_connections_of_an_adopted_socket_are_asked_about() -> None:
    """
    Connections that an adopted socket has had before it had a gate are requests after the
    handshake; who is rejected is reset.
    """
    listening = socket.create_server((HOST, 0))
    address = Address.from_sockaddr(listening.family, listening.getsockname())
    with Clients() as clients:
        good, bad = clients.connect(address, 2)
        wanted = address_of(good)
        async with gated(
            lambda request: ACCEPT if request.remote_address == wanted else REJECT,
            None,
            sockets=[listening],
        ) as desk:
            assert [address_of(good)] == await take(desk)
            assert await is_reset(bad)
            assert {InspectPoint.AFTER_HANDSHAKE} == {each.inspect_point for each in desk.asked}
            assert {None} == {request.syn for request in desk.asked}
            assert (2, 0) == (transport_of(desk)["strangers"], transport_of(desk)["held"])

            new = clients.one(address)

            assert "ECONNREFUSED" == await answer_to(new)
            assert address_of(new) == desk.asked[-1].remote_address
            assert desk.asked[-1].syn is not None


@in_own_namespace
async def test_too_many_strangers_are_reset() -> None:
    """While one stranger is asked about, 128 wait; the others are reset, and nobody is let in."""
    listening = socket.create_server((HOST, 0), backlog=200)
    address = Address.from_sockaddr(listening.family, listening.getsockname())
    with Clients() as clients:
        strangers = clients.connect(address, 150)
        async with gated(PEND, None, sockets=[listening], max_pending=1) as desk:
            await until(lambda: sum(map(has_ended, strangers)) == 21)
            counted = transport_of(desk)

            assert (129, 21) == (counted["strangers"], counted["strangers_reset"])
            assert 1 == len(desk.asked)
        assert [True] * 150 == [await is_reset(stranger) for stranger in strangers]


def has_ended(client: socket.socket) -> bool:
    """Whether there is an end to read, or an error."""
    return bool(select.select([client], [], [], 0)[0])


# --------------------------------------------------------------------------- full queues


def small_queue(*, fail_open: bool = False, **limits: Any) -> None:
    """Give this run a gatekeeper whose queue has these limits, for the next listening socket."""
    gatekeeper_here(fail_open=fail_open, make_queue=partial(Queue, **limits))


@in_own_namespace
async def test_full_queue_lets_nobody_in_unasked() -> None:
    """
    What a full queue has no room for is dropped and counted. These clients try again, and
    are asked about as the others were.
    """
    small_queue(max_length=4)
    with Clients() as clients:
        is_open = False
        async with gated(lambda _: ACCEPT if is_open else PEND) as desk:
            with Capture("lo", place_of(desk).port) as capture:
                many = clients.connect(place_of(desk), 12)
                await pended(desk, 4)

                assert 8 == transport_of(desk)["queue_lost"]
                assert {"client SYN"} == set(capture.exchange())

                is_open = True
                for request in desk.asked[:4]:
                    desk.complete(request, ACCEPT)
                assert {""} == await answers_to(many)
                came = await take(desk, 12)

                assert sorted(map(str, map(address_of, many))) == sorted(map(str, came))
                assert {*came} == {*senders(desk.asked)}
                assert 12 == len(desk.asked)
                assert 8 <= transport_of(desk)["queue_lost"]


@in_own_namespace
async def test_full_buffer_lets_nobody_in_unasked() -> None:
    """
    What the queue's receive buffer has no room for is dropped and counted. These clients
    try again, and are asked about as the others were.
    """
    small_queue(receive_buffer=8192)
    with Clients() as clients:
        async with gated(ACCEPT) as desk:
            many = clients.connect(place_of(desk), 30)

            assert {""} == await answers_to(many)

            came = await take(desk, 30)
            counted = transport_of(desk)

            assert {address_of(client) for client in many} == {*came} == {*senders(desk.asked)}
            assert 30 == len(desk.asked)
            assert 1 <= counted["queue_overruns"] <= counted["queue_lost"]


@pytest.mark.parametrize("limits", [{"max_length": 4}, {"receive_buffer": 1}])
@in_own_namespace
async def test_open_on_failure_asks_after_the_handshake(limits: dict[str, int]) -> None:
    """
    With ``fail_open`` who can't be held is answered by the kernel, and asked about afterwards:
    nobody is delivered unasked, and who is rejected then is reset.
    """
    small_queue(fail_open=True, **limits)

    def _inspect(request: ConnectionRequest) -> Any:
        return PEND if request.inspect_point is BEFORE else REJECT

    with Clients() as clients:
        transport = LinuxTransport.tcp(0, host=HOST, fail_open=True)
        async with gated(_inspect, None, transport=transport) as desk:
            many = clients.connect(place_of(desk), 30)
            await desk.when(lambda: len(desk.asked) == 30)
            late = {
                request.remote_address
                for request in desk.asked
                if request.inspect_point is InspectPoint.AFTER_HANDSHAKE
            }
            counted = transport_of(desk)

            assert 0 < len(late) < 30
            assert 30 == len({*senders(desk.asked)})
            assert (len(late), 30 - len(late)) == (counted["strangers"], counted["held"])
            for client in many:
                if address_of(client) in late:
                    assert await is_reset(client)
                else:
                    assert SYN_SENT == state_of(client)


@in_own_namespace
async def test_limit_drops_what_exceeds_it_before_anybody_is_asked() -> None:
    """
    SYNs above ``most_syns_per_second`` are dropped by the kernel and counted; their senders try
    again and get in.
    """
    with Clients() as clients:
        transport = LinuxTransport.tcp(0, host=HOST, most_syns_per_second=2)
        async with gated(ACCEPT, None, transport=transport) as desk:
            many = clients.connect(place_of(desk), 6)

            assert {""} == await answers_to(many)
            assert {address_of(client) for client in many} == {*await take(desk, 6)}
            assert 6 == len(desk.asked) == transport_of(desk)["held"]
            assert 1 <= transport_of(desk)["limited"]


# ------------------------------------------------------------------------------ slow machines


@in_own_namespace
async def test_reset_that_a_flood_of_them_has_hidden_is_missed_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    The kernel tells of so many resets and no more. Nobody gets in for that: who has reset, and was
    not heard, sends no SYN any more either, and is aborted as silent.
    """
    monkeypatch.setattr("trio_wsk.transports.linux._rules.RESETS_PER_SECOND", 1)
    with cabled_namespaces() as (_, there):
        mute(MUTE[0])
        async with gated(PEND, host=HERE[0]) as desk:
            (address,) = desk.listening.local_addresses
            with there.entered():
                send_segment(Address.tcp(MUTE[0], 1000), address, SYN, 1000)
                await desk.when(lambda: desk.listening.pending_inspections)
                while not desk.statistics().transport["resets_unheard"]:
                    send_segment(Address.tcp(MUTE[0], 2000), address, RST, 1)
                send_segment(Address.tcp(MUTE[0], 1000), address, RST, 1001)
            aborted = await desk.aborted()

            assert AbortReason.SILENT is aborted.reason


@in_own_namespace
async def test_stalled_run_does_not_take_the_living_for_dead() -> None:
    """
    A run that stood still for longer than a client may be silent hears first what was said
    meanwhile; only who has really left is aborted.
    """
    with Clients() as clients:
        async with gated() as desk:
            living = clients.connect(place_of(desk), 3)
            dead = clients.one(place_of(desk))
            await pended(desk, 4)
            gone = address_of(dead)
            dead.close()
            time.sleep(5)  # noqa: ASYNC251 - the stall is what is tested
            aborted = await desk.aborted()

            assert (gone, AbortReason.SILENT) == (aborted.remote_address, aborted.reason)
            assert {address_of(client) for client in living} == {
                *senders([*desk.listening.pending_inspections.values()])
            }

            for request in [*desk.listening.pending_inspections.values()]:
                assert Status.SUCCESS is desk.complete(request, ACCEPT)

            assert {""} == await answers_to(living)
            assert {address_of(client) for client in living} == {*await take(desk, 3)}
            assert 1 == len(desk.aborts)


@contextmanager
def no_descriptors(but: int = 0) -> Iterator[None]:
    """Have this process out of descriptors, but for so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(map(int, os.listdir("/proc/self/fd"))) + 1 + but  # noqa: PTH208 - they are numbers
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        spare = SpareDescriptor()
        kept = []
        while spare.keep():
            stack.callback(spare.give_up)
            kept.append(spare)
            spare = SpareDescriptor()
        for spare in kept[len(kept) - but :]:
            spare.give_up()
        yield


@in_own_namespace
async def test_without_descriptors_approved_connections_wait() -> None:
    """With "backoff", who was approved waits in the kernel until there are descriptors again."""
    with Clients() as clients:
        many = [clients.make() for _ in range(5)]
        async with gated(ACCEPT) as desk:
            with no_descriptors():
                for client in many:
                    begin(client, place_of(desk))

                assert {""} == await answers_to(many)

                await until(lambda: desk.statistics().accept_backoffs)
                counted = desk.statistics()

                assert (5, 0) == (counted.pending, counted.delivered["accept"] + counted.parked)
                assert 1 <= counted.accept_errors["EMFILE"]

            assert {address_of(client) for client in many} == {*await take(desk, 5)}
            assert {} == desk.statistics().aborted

            another = clients.one(place_of(desk))

            assert [address_of(another)] == await take(desk)
            assert (1, 6) == (desk.statistics().accept_backoffs, len(desk.asked))


@in_own_namespace
async def test_without_descriptors_approved_connections_are_shed() -> None:
    """With "shed", who was approved is reset, and his request has left by itself."""
    with Clients() as clients:
        many = [clients.make() for _ in range(5)]
        async with gated(ACCEPT, on_no_descriptors="shed") as desk:
            with no_descriptors():
                for client in many:
                    begin(client, place_of(desk))

                assert [True] * 5 == [await is_reset(client) for client in many]
                await desk.aborted(5)

                counted = desk.statistics()

                assert {"silent": 5} == counted.aborted
                assert (5, 0) == (counted.shed, counted.pending)

            another = clients.one(place_of(desk))

            assert [address_of(another)] == await take(desk)


@in_own_namespace
async def test_without_descriptors_the_block_raises_if_asked_to() -> None:
    """With "raise" the block ends with the error, and takes its rules along."""
    with Clients() as clients:
        client = clients.make()
        with pytest.raises(OSError, match="Too many") as raised:  # noqa: PT012 - the block raises
            async with gated(ACCEPT, on_no_descriptors="raise") as desk:
                with no_descriptors():
                    begin(client, place_of(desk))
                    await trio.sleep_forever()

        assert errno.EMFILE == raised.value.errno
        assert await is_reset(client)
        assert nothing_is_left()


@in_own_namespace
async def test_listening_socket_that_stops_listening_refuses_who_waits() -> None:
    """
    If somebody shuts the listening socket down the block ends with the error; who is pended is
    refused, and nothing is left.
    """
    with Clients() as clients:
        with pytest.raises(OSError, match="Invalid argument") as raised:  # noqa: PT012 - the block raises
            async with gated() as desk:
                client = clients.one(place_of(desk))
                await pended(desk)
                desk.listening.socket.shutdown(socket.SHUT_RDWR)
                await trio.sleep_forever()

        assert (errno.EINVAL, 1) == (raised.value.errno, desk.failures)
        assert "ECONNREFUSED" == await answer_to(client)
        assert nothing_is_left()


# --------------------------------------------------------------------- several at a time


@in_own_namespace
async def test_listening_sockets_share_a_queue_and_do_not_disturb_each_other() -> None:
    """
    Listening sockets of a run share one queue. One that opens or closes leaves the SYNs of another
    where they are: its approval is answered by the SYN-ACK, and not after one more SYN.
    """
    with Clients() as clients:
        async with gated() as first:
            client = clients.one(place_of(first))
            await pended(first)
            async with gated(host="::1") as second, gated(ACCEPT) as third:
                refused = clients.one(place_of(second))
                await pended(second)

                assert 1 == len(queues().splitlines())
                assert [address_of(clients.one(place_of(third)))] == await take(third)

            assert "ECONNREFUSED" == await answer_to(refused)
            with Capture("lo", place_of(first).port) as capture:
                assert Status.SUCCESS is first.complete(first.asked[0], ACCEPT)
                await capture.expect(*ANSWERED[1:])
            assert [address_of(client)] == await take(first)
            assert 0 == transport_of(first)["verdicts_late"]
            assert 1 == len(queues().splitlines())

        assert nothing_is_left()


@in_own_namespace
async def test_run_can_have_gates_again_and_again() -> None:
    """When the last listening socket of a run has closed the next one starts anew."""
    with Clients() as clients:
        for _ in range(3):
            async with gated(ACCEPT) as desk:
                client = clients.one(place_of(desk))

                assert [address_of(client)] == await take(desk)

            assert nothing_is_left()


@in_own_namespace
async def test_address_can_be_inspected_once() -> None:
    """Two listening sockets can't both inspect one address; the first one is not disturbed."""
    with Clients() as clients:
        async with gated() as desk:
            client = clients.one(place_of(desk))
            await pended(desk)
            same = desk.listening.socket.dup()
            with pytest.raises(InspectPointError, match=f"inspects {place_of(desk)} already"):
                async with gated(None, None, sockets=[same]):
                    pass

            assert Status.SUCCESS is desk.complete(desk.asked[0], ACCEPT)
            assert "" == await answer_to(client)
            assert [address_of(client)] == await take(desk)
            assert 0 == transport_of(desk)["verdicts_late"]


@in_own_namespace
async def test_socket_for_both_families_has_both_inspected() -> None:
    """An adopted socket for ``::`` that takes IPv4 as well is asked about both."""
    listening = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    port = listening.getsockname()[1]
    with Clients() as clients:
        wanted: set[Address] = set()
        async with gated(
            lambda request: ACCEPT if request.remote_address in wanted else REJECT,
            None,
            sockets=[listening],
        ) as desk:
            for host in LOOPBACK:
                bad = clients.one(Address.tcp(host, port))

                assert "ECONNREFUSED" == await answer_to(bad)

                good = clients.make(bad.family)
                good.bind((host, 0))
                wanted.add(address_of(good))
                begin(good, Address.tcp(host, port))

                assert "" == await answer_to(good)
                assert [address_of(good)] == await take(desk)
            assert (4, 0) == (len(desk.asked), transport_of(desk)["strangers"])


@in_own_namespace
async def test_whole_machine_is_inspected() -> None:
    """``host=None`` has both families inspected, on one port, at any address."""
    with Clients() as clients:
        async with gated(REJECT, host=None) as desk:
            for host in (*LOOPBACK, "127.0.0.9"):
                client = clients.one(Address.tcp(host, place_of(desk).port))

                assert "ECONNREFUSED" == await answer_to(client)
            assert 3 == len(desk.asked)


@in_own_namespace
async def test_processes_do_not_collide() -> None:
    """
    Two processes have queues and tables of their own. When one is killed the kernel drops what
    the other one holds, whose client is answered all the same.
    """
    with Clients() as clients, Other(pend_all, HOST, 1) as other:
        theirs = clients.one(Address.parse(other.hear()))
        async with gated() as desk:
            ours = clients.one(place_of(desk))
            await pended(desk)

            assert "pended" == other.hear()
            assert 2 == len(queues().splitlines())
            assert 2 == len(set(tables_of(ALL_TABLES)))

            other.kill()
            desk.complete(desk.asked[0], ACCEPT)

            assert ("", "ECONNREFUSED") == (await answer_to(ours), await answer_to(theirs))
            assert [address_of(ours)] == await take(desk)
            assert 1 == len(desk.asked)


@in_own_namespace
def test_runs_in_threads_do_not_collide() -> None:
    """Two Trio runs in two threads have a queue each, and each has its own clients."""
    assert "" == queues()  # an ordinary user may not read that

    both_listen, both_are_done = threading.Barrier(2), threading.Barrier(2)
    finished: list[int] = []

    async def _serve() -> None:
        with Clients() as clients:
            async with gated(ACCEPT) as desk:
                both_listen.wait(PATIENCE)
                client = clients.one(place_of(desk))

                assert [address_of(client)] == await take(desk)
                assert 2 == len(queues().splitlines())

                both_are_done.wait(PATIENCE)
                finished.append(len(desk.asked))

    threads = [threading.Thread(target=trio.run, args=[_serve]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [1, 1] == finished
    assert nothing_is_left()


# ------------------------------------------------------------------------ where it can't be had


@pytest.fixture
def free_port() -> int:
    """Find a port that nobody has."""
    codecs.lookup("idna")  # imported late, and perhaps from where root only may read
    with socket.create_server((HOST, 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@pytest.mark.usefixtures("no_leak")
async def test_missing_capability_is_named(free_port: int, ordinary_user: None) -> None:
    """
    Without the right to it the error says which step failed and what is needed; the port is free
    again.
    """
    wanted = r"before the handshake: could not use the kernel's packet queues: .*CAP_NET_ADMIN"
    with pytest.raises(InspectPointError, match=wanted):
        async with gated(ACCEPT, free_port):
            pass

    with socket.create_server((HOST, free_port)):
        pass


@in_own_namespace
async def test_too_few_descriptors_are_named_and_leave_nothing() -> None:
    """
    With too few descriptors there is no listening socket, whichever step needs the next one; the
    error says what there is too little of, and nothing is left.
    """
    before = open_descriptors()
    refused = []
    for count in range(20):
        try:
            with no_descriptors(but=count):
                async with gated(ACCEPT):
                    break
        except (InspectPointError, OSError) as error:
            refused.append(type(error))

            assert "Too many open files" in str(error)  # noqa: PT017 - of many the last works
        await wait_all_tasks_blocked()  # the task ends that reads SYNs
        assert (before, True) == (open_descriptors(), nothing_is_left())

    assert 3 <= refused.count(InspectPointError)
    assert len(refused) < 20


@in_own_namespace
async def test_taken_queue_numbers_are_named() -> None:
    """If others have all the numbers that are tried the error says so, and nothing is left."""
    with ExitStack() as stack:
        for number in likely_numbers():
            stack.callback(Queue(numbers=[number]).close)
        with pytest.raises(InspectPointError, match=r"bind any of 64 packet queues.*other proc"):
            async with gated(ACCEPT):
                pass

    assert nothing_is_left()


async def test_unix_sockets_have_no_handshake() -> None:
    """A path can't be inspected before the handshake, nor can a Unix socket that is adopted."""
    with pytest.raises(InspectPointError, match="Unix socket's: it has no handshake"):
        async with gated(ACCEPT, None, path="\0trio_wsk-no-handshake"):
            pass
    listening = socket.socket(socket.AF_UNIX)
    listening.bind("\0trio_wsk-no-handshake")
    with pytest.raises(InspectPointError, match="is a Unix socket: it has no handshake"):
        async with gated(ACCEPT, None, sockets=[listening]):
            pass


async def test_port_can_not_be_shared() -> None:
    """``reuse_port=True`` is refused, and the error says what to do instead."""
    with pytest.raises(InvalidParameterError, match="have one process inspect"):
        async with gated(ACCEPT, reuse_port=True):
            pass


@pytest.mark.parametrize(
    ("level", "option", "value", "says"),
    [
        (socket.SOL_SOCKET, socket.SO_REUSEPORT, 1, "may be shared"),
        (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0", "is bound to one device"),
    ],
    ids=["shared", "one device"],
)
@in_own_namespace
async def test_adopted_socket_whose_syns_are_not_its_own_is_refused(
    level: int, option: int, value: Any, says: str
) -> None:
    """A gate holds what comes to an address, and others would have a part of it."""
    listening = socket.socket()
    listening.setsockopt(level, option, value)
    listening.bind((HOST, 0))
    with pytest.raises(InspectPointError, match=says):
        async with gated(ACCEPT, None, sockets=[listening]):
            pass

    assert nothing_is_left()


@pytest.mark.parametrize("inspect", [None, lambda _: ACCEPT])
async def test_transport_wants_to_be_asked_for_what_it_does(inspect: Any) -> None:
    """`LinuxTransport` without the inspect point that it has is refused, inspector or not."""
    listening = socket.create_server((HOST, 0))
    transport = LinuxTransport.adopt([listening])
    with pytest.raises(InspectPointError, match=r"give inspect_point=InspectPoint\.BEFORE"):
        async with open_listening_socket(transport=transport, inspect=inspect):
            pass

    assert -1 == listening.fileno()


@pytest.mark.parametrize("rate", [0, -1, 1.5, True, "1", 1 << 32])
def test_rate_is_checked(rate: Any) -> None:
    """A limit that is no rate is refused at once."""
    with pytest.raises(InvalidParameterError, match="is no rate; write"):
        LinuxTransport.tcp(0, most_syns_per_second=rate)
    with closing(socket.create_server((HOST, 0))) as listening:
        with pytest.raises(InvalidParameterError, match="is no rate; write"):
            LinuxTransport.adopt([listening], most_syns_per_second=rate)

        assert -1 == listening.fileno()


# ----------------------------------------------------------------------- what forged SYNs cost


@in_own_namespace
async def test_peers_that_never_answer_do_not_take_the_room_of_others() -> None:
    """What was approved has had its verdict: ``max_pending`` doesn't count it any more."""
    with cabled_namespaces() as (_, there):
        mute(MUTE[0])
        async with gated(ACCEPT, host=HERE[0], max_pending=3) as desk:
            (address,) = desk.listening.local_addresses
            with there.entered():
                for port in range(2000, 2003):
                    send_segment(Address.tcp(MUTE[0], port), address, SYN, 1000)
            await until(lambda: desk.statistics().approved == 3)
            with closing(there.socket(socket.AF_INET)) as client:
                client.settimeout(0)
                client.connect_ex(address.sockaddr)
                connection = await desk.listening.accept()
                connection.abort()

            assert 3 == desk.statistics().pending


@in_own_namespace
async def test_syn_on_a_connection_that_somebody_has_is_missed_soon() -> None:
    """
    A forged SYN with another number, on a connection that is there, gets in and leads to nothing:
    the kernel has that connection, but not for this request.
    """
    with cabled_namespaces() as (_, there):
        async with gated(ACCEPT, host=HERE[0]) as desk:
            (address,) = desk.listening.local_addresses
            with closing(there.socket(socket.AF_INET)) as client:
                client.settimeout(0)
                client.connect_ex(address.sockaddr)
                connection = await desk.listening.accept()
                with there.entered():
                    send_segment(Address.tcp(*client.getsockname()), address, SYN, 0x12345678)
                await until(lambda: desk.statistics().aborted)
                await connection.send_all(b"still there")
                client.settimeout(PATIENCE)

                assert b"still there" == client.recv(100)

                connection.abort()

            assert {"silent": 1} == dict(desk.statistics().aborted)
            assert 0 == desk.statistics().pending


@in_own_namespace
async def test_counters_outlive_the_listening_socket() -> None:
    """What the queue and the rules had counted can be read when they have gone."""
    async with gated(REJECT, host=HOST) as desk:
        with Clients() as clients:
            assert "ECONNREFUSED" == await answer_to(clients.one(place_of(desk)))

        before = transport_of(desk)
        await desk.listening.aclose()

        assert 1 == before["held"]
        assert before == transport_of(desk)


@in_own_namespace
async def test_neighbour_that_closes_makes_nobody_miss_the_time() -> None:
    """What a closing listening socket reads for another is due as if the task had read it."""
    with Clients() as clients:
        async with gated(PEND, host=HOST) as desk:
            async with gated(PEND, host=HOST) as neighbour:
                client = clients.make()
                client.connect_ex(desk.listening.local_addresses[0].sockaddr)
                neighbour.listening._close()  # noqa: SLF001 - before anybody else has a turn
            client.close()
            await until(lambda: desk.statistics().aborted)

            assert {"silent": 1} == dict(desk.statistics().aborted)


# ------------------------------------------------------------------------------ a real client


@in_own_namespace
async def test_curl_is_refused_at_once() -> None:
    """curl, which knows nothing of us, is told "connection refused" in answer to its first SYN."""
    program = shutil.which("curl")
    if program is None:
        missing = pytest.fail if "CI" in os.environ else pytest.skip
        missing("curl is not installed")
    async with gated(REJECT) as desk:
        with Capture("lo", place_of(desk).port) as capture:
            command = [program, "-v", "--noproxy", "*", "--max-time", str(PATIENCE)]
            # This thread starts it, since it is in the right namespace.
            with subprocess.Popen(  # noqa: ASYNC220, S603 - as a user would
                [*command, f"http://{place_of(desk)}/"],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
            ) as process:
                assert process.stdout is not None
                await capture.expect(*REFUSED)
                said = process.stdout.read()

            assert (7, 1) == (process.returncode, len(desk.asked)), said
            assert "connection refused" in said.lower()
            assert REFUSED == capture.exchange()
