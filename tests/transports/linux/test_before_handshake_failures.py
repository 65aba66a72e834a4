"""What goes wrong before the handshake: killed processes, slow machines, neighbours.

Whatever happens, nobody gets in unasked, and nothing stays behind in the kernel.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.foreign import foreign
from tests.helpers.gated import LOOPBACK, RST, SYN, queues, tables_of
from tests.helpers.gated_clients import (
    ANSWERED,
    REFUSED,
    Clients,
    address_of,
    answer_to,
    answers_to,
    begin,
    gated,
    is_reset,
    nothing_is_left,
    pended,
    place_of,
    senders,
    take,
    transport_of,
)
from tests.helpers.inspecting import ACCEPT, PEND, REJECT
from tests.helpers.namespaces import HERE, cabled_namespaces, in_own_namespace
from tests.helpers.scarcity import no_more_descriptors
from tests.helpers.support import PATIENCE, until
from tests.helpers.wire import MUTE, Capture, mute, send_segment
from trio_wsk import Address, InspectPoint, InspectPointError, Status
from trio_wsk._vocabulary.verdict import AbortReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN"),
    pytest.mark.usefixtures("no_leak_in_all"),
]

BEFORE = InspectPoint.BEFORE_HANDSHAKE
HOST = LOOPBACK[0]
ALL_TABLES = 0
both_families = pytest.mark.parametrize("host", LOOPBACK)


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


def gaps(capture: Capture, client: socket.socket) -> list[str]:
    """Write what a client has sent and got, its repeats in one."""
    lines = capture.exchange(address_of(client))
    return [line for before, line in zip(["", *lines], lines, strict=False) if line != before]


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


@in_own_namespace
async def test_without_descriptors_approved_connections_wait() -> None:
    """With "backoff", who was approved waits in the kernel until there are descriptors again."""
    with Clients() as clients:
        many = [clients.make() for _ in range(5)]
        async with gated(ACCEPT) as desk:
            with no_more_descriptors():
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
            with no_more_descriptors():
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
                with no_more_descriptors():
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


# ------------------------------------------------------------------------------ a real client


@in_own_namespace
async def test_curl_is_refused_at_once() -> None:
    """curl, which knows nothing of us, is told "connection refused" in answer to its first SYN."""
    program = foreign("curl")
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
