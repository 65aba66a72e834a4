"""The gatekeeper: one queue and its rules for all doors of a run, and the task that reads it."""

from __future__ import annotations

import errno
import math
import socket
import sys
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.gated import LOOPBACK, SYN, SYN_SENT, Gated, queues, state_of, tables_of
from tests.helpers.inspecting import ACCEPT, PEND, inspecting
from tests.helpers.namespaces import HERE, cabled_namespaces, in_own_namespace, own_namespace
from tests.helpers.support import PATIENCE, connect, until
from tests.helpers.wire import packet_of, send_segment
from trio_wsk import Address, InspectPoint, open_listening_socket
from trio_wsk.transports import LinuxTransport
from trio_wsk.transports.linux._entry import Act
from trio_wsk.transports.linux._gatekeeper import Gatekeeper, gatekeeper_here
from trio_wsk.transports.linux._netlink import KernelRefusedError
from trio_wsk.transports.linux._nfqueue import Packet, Queue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

    from trio_wsk.transports._syn import Key, Syn
    from trio_wsk.transports.linux._nftables import Gate

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has packet queues"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

HOST = LOOPBACK[0]
ALL_TABLES = 0

both_families = pytest.mark.parametrize("host", LOOPBACK)


class Bell:
    """A door that notes what it is told, and answers every SYN alike."""

    gate: Gate

    def __init__(self, gatekeeper: Gatekeeper, act: Act | None = Act.REJECT) -> None:
        self.gatekeeper = gatekeeper
        self.act = act
        """What is done with SYNs; None: they are held."""
        self.next_due = math.inf
        self.told: list[str] = []
        self.packets: list[Packet] = []
        self.late: list[int] = []
        self.resets: list[int] = []
        self.failure: OSError | None = None

    def on_syn(self, syn: Syn, packet: Packet, now: float) -> None:
        """Answer, if there is an answer."""
        self.told.append("syn")
        self.packets.append(packet)
        if self.act is not None:
            self.gatekeeper.answer(packet.packet_id, packet.mark, self.act)

    def on_reset(self, key: Key, sequence_number: int, now: float) -> None:
        """Take note."""
        self.resets.append(sequence_number)

    def on_late(self, packet_ids: Collection[int], now: float) -> None:
        """Take note."""
        self.late += packet_ids

    def do_due(self, now: float, most: int) -> None:
        """Take note; nothing more is due."""
        self.told.append("due")
        self.next_due = math.inf

    def fail(self, error: OSError) -> None:
        """Take note."""
        self.failure = error

    async def heard(self, count: int) -> None:
        """Wait until so many SYNs have come."""
        await until(lambda: len(self.packets) >= count)


@contextmanager
def bound(host: str = HOST, port: int = 0) -> Iterator[Address]:
    """Listen, and say where."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as sock:
        yield Address.from_sockaddr(family, sock.getsockname())


@asynccontextmanager
async def door(
    host: str = HOST, act: Act | None = Act.REJECT, **options: Any
) -> AsyncIterator[tuple[Bell, Address]]:
    """Have a door before a listening socket."""
    with bound(host) as place:
        gatekeeper = gatekeeper_here(fail_open=False, **options)
        bell = Bell(gatekeeper, act)
        gatekeeper.add(bell, [place], None)
        try:
            yield bell, place
        finally:
            gatekeeper.remove(bell)
        await wait_all_tasks_blocked()  # its task ends


@contextmanager
def asking(place: Address) -> Iterator[socket.socket]:
    """Have a client ask for a connection, without waiting."""
    with socket.socket(place.family) as client:
        client.settimeout(0)
        code = client.connect_ex(place.sockaddr)

        assert errno.EINPROGRESS == code

        yield client


async def is_refused(client: socket.socket) -> bool:
    """Wait for the answer."""
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.wait_writable(client)
    return client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


def nothing_is_left() -> bool:
    """Whether there is neither a table nor a queue in this namespace."""
    return not tables_of(ALL_TABLES) and not queues()


# ------------------------------------------------------------------------------- who shares


@in_own_namespace
async def test_doors_of_a_run_share_a_gatekeeper() -> None:
    """All doors have the same gatekeeper; it ends with the last one, and the next is another."""
    async with door() as (first, place), door("::1") as (second, other_place):
        assert first.gatekeeper is second.gatekeeper
        assert repr(first.gatekeeper) == f"<Gatekeeper of {first.gatekeeper.queue!r}>"
        assert first.gatekeeper.is_taken(place)
        assert first.gatekeeper.is_taken(other_place)
        assert not first.gatekeeper.is_taken(Address.tcp(HOST, 1))
        assert 1 == len(queues().splitlines())
    assert nothing_is_left()
    async with door() as (third, place):
        assert first.gatekeeper is not third.gatekeeper
        with asking(place) as client:
            assert await is_refused(client)


@in_own_namespace
async def test_each_namespace_has_its_own_gatekeeper() -> None:
    """A run whose thread goes to another network namespace has a gatekeeper for each."""
    async with door() as (here, place):
        with own_namespace():
            async with door() as (there, other_place):
                assert here.gatekeeper is not there.gatekeeper
                assert 1 == len(queues().splitlines())
                with asking(other_place) as client:
                    assert await is_refused(client)
            assert nothing_is_left()
        with asking(place) as client:
            assert await is_refused(client)

    assert (1, 1) == (len(here.packets), len(there.packets))


@in_own_namespace
async def test_one_port_is_inspected_in_two_namespaces() -> None:
    """
    A run can have the same port inspected in two network namespaces, and each socket has its
    own clients.
    """
    options: dict[str, Any] = {"inspect_point": InspectPoint.BEFORE_HANDSHAKE}
    with cabled_namespaces() as (_, there):
        async with inspecting(ACCEPT, host=HERE[0], **options) as here:
            place = here.listening.local_addresses[0]
            with there.entered():
                port = place.port
                async with inspecting(ACCEPT, port, host=HOST, **options) as other:
                    async with await connect(other.listening.local_addresses[0]):
                        await (await other.listening.accept()).aclose()
                    async with await connect(place):  # over the cable
                        await (await here.listening.accept()).aclose()

                    assert (1, 1) == (len(here.asked), len(other.asked))


@in_own_namespace
async def test_open_on_failure_has_a_gatekeeper_of_its_own() -> None:
    """What is to happen to SYNs that can't be held is a property of the queue."""
    closed = gatekeeper_here(fail_open=False)
    async with door() as (bell, _):
        with bound() as place:
            gatekeeper = gatekeeper_here(fail_open=True)
            other = Bell(gatekeeper)
            gatekeeper.add(other, [place], None)

            assert (closed, False) == (bell.gatekeeper, closed is gatekeeper)
            assert 2 == len(queues().splitlines())

            with asking(place) as client:
                assert await is_refused(client)
            gatekeeper.remove(other)
            await wait_all_tasks_blocked()

        assert 1 == len(queues().splitlines())


@in_own_namespace
async def test_refused_first_door_leaves_nothing() -> None:
    """If the kernel refuses the first door there is no gatekeeper any more."""
    gatekeeper = gatekeeper_here(fail_open=False)
    with pytest.raises(KernelRefusedError, match="limit SYNs by a rule"):
        gatekeeper.add(Bell(gatekeeper), [Address.tcp(HOST, 1)], 0)

    assert nothing_is_left()

    async with door() as (bell, place):
        assert gatekeeper is not bell.gatekeeper
        with asking(place) as client:
            assert await is_refused(client)


@in_own_namespace
async def test_refused_second_door_leaves_the_first() -> None:
    """If the kernel refuses another door, those that there are go on, with what they hold."""
    async with door(act=None) as (bell, place):
        with asking(place) as client:
            await bell.heard(1)
            with pytest.raises(KernelRefusedError, match="limit SYNs by a rule"):
                bell.gatekeeper.add(Bell(bell.gatekeeper), [Address.tcp(HOST, 1)], 0)
            bell.gatekeeper.answer(bell.packets[0].packet_id, 0, Act.REJECT)

            assert await is_refused(client)
            assert [] == bell.late


@in_own_namespace
def test_end_of_the_run_is_the_end_of_the_rules() -> None:
    """A door that nobody takes away ends with its run."""

    async def _forget() -> None:
        transport = LinuxTransport.tcp(0, host=HOST)
        transport.inspect_at(InspectPoint.BEFORE_HANDSHAKE)
        await transport.bind()
        transports.append(transport)

        assert 1 == len(tables_of(ALL_TABLES))

    transports: list[LinuxTransport] = []
    trio.run(_forget)

    assert nothing_is_left()

    transports[0].close()  # and nothing is left to be done in the kernel


# --------------------------------------------------------------------------- strange packets


@both_families
@in_own_namespace
async def test_packets_in_bad_order_are_dropped_and_counted(host: str) -> None:
    """A packet that seems a SYN to the rules and can't be read as one is nobody's."""
    async with door(host) as (bell, place):
        source = Address.tcp(host, 4321)
        for offset in (0x40, 0xF0):  # less than a header, and more than the packet
            packet = bytearray(packet_of(source, place, SYN))
            packet[(20 if host == HOST else 40) + 12] = offset
            with socket.socket(place.family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                raw.sendto(packet, (host, 0))
        with asking(place) as client:
            assert await is_refused(client)

        assert (2, 1) == (bell.gatekeeper.not_syns, len(bell.packets))


@in_own_namespace
async def test_syns_of_a_door_that_has_gone_are_dropped_and_counted() -> None:
    """What was queued for a door and is read when it is closed is dropped; it will come again."""
    async with door() as (bell, _):
        gatekeeper = bell.gatekeeper
        with bound() as place:
            gone = Bell(gatekeeper)
            gatekeeper.add(gone, [place], None)
            with asking(place) as client:
                gatekeeper.remove(gone)
                await until(lambda: gatekeeper.unclaimed)

                assert (1, []) == (gatekeeper.unclaimed, gone.packets)
                assert SYN_SENT == state_of(client)


@in_own_namespace
async def test_losses_are_counted_over_all_doors() -> None:
    """What a full queue has lost is told for all doors, also when one of them has gone."""
    async with door(make_queue=partial(Queue, max_length=1)) as (bell, place):
        gatekeeper = bell.gatekeeper
        with bound() as other_place:
            gone = Bell(gatekeeper)
            gatekeeper.add(gone, [other_place], None)
            for count in (1, 2, 3):
                with asking(other_place) as client:
                    assert await is_refused(client)
                    assert count == len(gone.packets)
            gatekeeper.remove(gone)
        with asking(place), asking(place), asking(place):
            assert 2 == gatekeeper.lost() - 1  # the one that is queued has not been read

            await bell.heard(1)

            assert 2 == gatekeeper.lost()


@in_own_namespace
async def test_what_has_come_can_be_read_before_its_turn() -> None:
    """Reading ahead hands over the SYNs that are in the queue, at once."""
    async with door() as (bell, place):
        with asking(place) as client:
            bell.gatekeeper.read_ahead()

            assert 1 == len(bell.packets)
            assert await is_refused(client)


@in_own_namespace
async def test_doors_are_told_of_late_answers() -> None:
    """Answers to packets that the kernel has dropped meanwhile are told, by the packets' ids."""
    async with door(act=None) as (bell, place):
        with asking(place), asking(place):
            await bell.heard(2)
            with Gated("::1"):
                pass  # whose rules go, and with them all that is held
            for packet in bell.packets:
                bell.gatekeeper.answer(packet.packet_id, packet.mark, Act.ACCEPT)
            await until(lambda: bell.late)

            assert [1, 2] == sorted(bell.late)
            assert 2 == bell.gatekeeper.queue.late_verdicts


# --------------------------------------------------------------------------------- the clock


def ask_by_hand(place: Address, number: int) -> None:
    """Send a SYN from an address that nobody has a socket at."""
    host, port = divmod(number, 60_000)
    send_segment(Address.tcp(f"127.1.0.{1 + host}", 1024 + port), place, SYN, number)


@in_own_namespace
async def test_packets_come_before_the_clock() -> None:
    """What is due waits until all SYNs have been read that had come by then."""
    async with door(act=Act.DROP) as (bell, place):
        bell.next_due = 0.0
        for number in range(200):
            ask_by_hand(place, number)
        await until(lambda: "due" in bell.told)

        assert ["syn"] * 200 == bell.told[: bell.told.index("due")]


@in_own_namespace
async def test_answers_that_come_late_do_not_hide_packets() -> None:
    """The clock waits for SYNs that are in the queue behind word of answers that were late."""
    async with door(act=None) as (bell, place):
        for number in range(100):
            ask_by_hand(place, number)
        await bell.heard(100)
        with Gated("::1"):
            pass
        bell.gatekeeper.hold_back()
        for packet in bell.packets:
            bell.gatekeeper.answer(packet.packet_id, packet.mark, Act.DROP)
        bell.gatekeeper.flush()
        bell.told.clear()
        bell.next_due = 0.0
        for number in range(200, 300):
            ask_by_hand(place, number)
        await until(lambda: "due" in bell.told)

        assert ["syn"] * 100 == bell.told[: bell.told.index("due")]
        assert 100 == len(bell.late)


class Echo(Bell):
    """A door that has another SYN come for each, so that the queue is never empty."""

    place: Address
    number = 1000

    def on_syn(self, syn: Syn, packet: Packet, now: float) -> None:
        """Have another one come."""
        super().on_syn(syn, packet, now)
        if "due" not in self.told:
            self.number += 1
            ask_by_hand(self.place, self.number)


@in_own_namespace
async def test_flood_does_not_stop_the_clock() -> None:
    """If SYNs never end, what is due is done all the same, a few seconds later."""
    with bound() as place:
        gatekeeper = gatekeeper_here(fail_open=False)
        bell = Echo(gatekeeper, Act.DROP)
        bell.place = place
        gatekeeper.add(bell, [place], None)
        bell.next_due = 0.0
        start = trio.current_time()
        for number in range(200):
            ask_by_hand(place, number)
        await until(lambda: "due" in bell.told)

        assert 3 <= trio.current_time() - start

        gatekeeper.remove(bell)
        await wait_all_tasks_blocked()


# ------------------------------------------------------------------------------- after the end


@in_own_namespace
async def test_closed_gatekeeper_does_nothing_and_raises_nothing() -> None:
    """Who still has it after the end can ask and answer in vain."""
    async with door() as (bell, place):
        gatekeeper = bell.gatekeeper
    gatekeeper.answer(1, 0, Act.ACCEPT)
    gatekeeper.read_ahead()
    gatekeeper.wake_at(0.0)
    gatekeeper.unwatch(0)

    assert gatekeeper.is_there(place, Address.tcp(HOST, 1)) is None
    assert 0 == gatekeeper.lost()


@in_own_namespace
async def test_kernel_is_asked_for_connections() -> None:
    """A connection is there, or it is not; of a link-local address without a scope nobody knows."""
    async with door(act=Act.ACCEPT) as (bell, place), await connect(place) as client:
        remote = Address.from_sockaddr(place.family, client.socket.getsockname())

        assert bell.gatekeeper.is_there(place, remote) is True
        assert bell.gatekeeper.is_there(place, Address.tcp(HOST, 1)) is False
    async with door("::1") as (bell, place):
        assert bell.gatekeeper.is_there(place, Address.tcp("fe80::1", 1)) is None


# ------------------------------------------------------------------------------------ failure


class FailingQueue(Queue):
    """The real one, which can't be read any more once it is told so."""

    has_failed = False

    def receive(self, most: int = 64) -> list[Packet]:
        """Fail, or do what the real one does."""
        if FailingQueue.has_failed:
            raise KernelRefusedError("read from netlink", errno.EIO)
        return super().receive(most)


@in_own_namespace
async def test_all_doors_are_told_that_the_kernel_is_silent() -> None:
    """If the queue can't be read any more each door is told; the next has another gatekeeper."""
    FailingQueue.has_failed = False
    async with door(make_queue=FailingQueue) as (first, place), door("::1") as (second, _):
        FailingQueue.has_failed = True
        with asking(place):
            await until(lambda: second.failure)

            assert first.failure is not None
            assert first.failure is second.failure
            assert errno.EIO == first.failure.errno
            assert "could not read from netlink" in str(first.failure)

        FailingQueue.has_failed = False
        for _ in range(2):
            async with door(LOOPBACK[1]) as (third, third_place):
                assert third.gatekeeper is not first.gatekeeper
                with asking(third_place) as client:
                    assert await is_refused(client)


@in_own_namespace
async def test_block_ends_when_the_kernel_is_silent() -> None:
    """
    A listening socket whose SYNs can't be read fails; its inspector is told, who waits is
    refused, and nothing is left behind.
    """
    FailingQueue.has_failed = False
    gatekeeper_here(fail_open=False, make_queue=FailingQueue)
    failures = []
    with pytest.raises(OSError, match="could not read") as raised:  # noqa: PT012 - the block raises
        async with inspecting(
            PEND, inspect_point=InspectPoint.BEFORE_HANDSHAKE, inspect_timeout=60
        ) as desk:
            place = desk.listening.local_addresses[0]
            with asking(place) as client, asking(place) as another:
                await desk.when(lambda: len(desk.asked) == 2)
                FailingQueue.has_failed = True
                with asking(place):
                    try:
                        await trio.sleep_forever()
                    finally:
                        with trio.CancelScope(shield=True):
                            failures += [await is_refused(client), await is_refused(another)]

    assert ([True, True], 1) == (failures, desk.failures)
    assert errno.EIO == raised.value.errno
    assert nothing_is_left()


@in_own_namespace
async def test_paused_listening_socket_does_not_spin_when_the_kernel_is_silent() -> None:
    """Who does not listen to the news costs nothing until he does."""
    FailingQueue.has_failed = False
    gatekeeper_here(fail_open=False, make_queue=FailingQueue)
    turns = Turns()
    with pytest.raises(OSError, match="could not read"):  # noqa: PT012 - the block raises
        async with open_listening_socket(
            0, host=HOST, inspect=lambda _: PEND, inspect_point=InspectPoint.BEFORE_HANDSHAKE
        ) as listening:
            listening.pause()
            FailingQueue.has_failed = True
            with asking(listening.local_addresses[0]):
                await wait_all_tasks_blocked()
                trio.lowlevel.add_instrument(turns)
                await trio.sleep(0.1)
                trio.lowlevel.remove_instrument(turns)
                listening.resume()
                await trio.sleep_forever()

    assert turns.count < 10


class Turns(trio.abc.Instrument):
    """Counts how often Trio goes round its loop."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        """Count."""
        self.count += 1
