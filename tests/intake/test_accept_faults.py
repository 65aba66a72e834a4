"""Errors of accept(2) that are called the peer's, and come again and again."""

from __future__ import annotations

import errno
import socket
import sys
import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock

from tests.helpers.namespaces import in_own_namespace
from tests.helpers.seccomp import knows_this_machine, refuse
from tests.helpers.support import FaultyTransport, connect_now, until
from trio_wsk import Connection, InspectAction, InspectPoint, Status, open_listening_socket
from trio_wsk.observers import AcceptBackoffEnded, AcceptBackoffStarted
from trio_wsk.transports._contract import FAULTS_IN_A_ROW, NoDescriptorsError, PeerFaultError

if TYPE_CHECKING:
    from collections.abc import Callable

HOST = "127.0.0.1"

QUIET_SECONDS = 5.0
"""On the clock that jumps when nobody has anything to do: who spins never gets there."""

only_linux = pytest.mark.skipif(
    sys.platform != "linux" or not knows_this_machine(),
    reason="a filter of system calls is Linux's, and has to know their numbers",
)


def without_accept(body: Callable[[], Any]) -> None:
    """Run an async function where accept(2) is forbidden, on a clock that jumps."""
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            refuse("accept4", errno.EPERM)
            trio.run(body, clock=MockClock(autojump_threshold=0.02))
        except BaseException as error:  # noqa: BLE001 - for the thread that waits
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in outcome:
        raise error


async def wait_in_vain(**options: Any) -> None:
    """Have a client knock where accept(2) is forbidden; see what that costs."""
    told: list[object] = []

    def observe(record: object) -> None:
        told.append(record)

    observe.records = {AcceptBackoffStarted, AcceptBackoffEnded}  # type: ignore[attr-defined]  # a function takes any
    async with open_listening_socket(0, host=HOST, observers=[observe], **options) as listening:
        irp = listening.queue_accept()
        (address,) = listening.local_addresses
        with closing(socket.socket()) as client:
            client.settimeout(0)
            client.connect_ex(address.sockaddr)
            await trio.sleep(QUIET_SECONDS)

            counted = listening.statistics()

            assert Status.PENDING is irp.status
            assert 1 == counted.accept_backoffs
            assert {"EPERM"} == set(counted.accept_errors)
            assert FAULTS_IN_A_ROW <= counted.accept_errors["EPERM"] <= FAULTS_IN_A_ROW + 40
            assert [("EPERM", "backoff")] == [
                (each.errno_name, each.policy)
                for each in told
                if isinstance(each, AcceptBackoffStarted)
            ]


@only_linux
@pytest.mark.parametrize("policy", ["backoff", "shed", "raise"])
def test_forbidden_accept_is_waited_out(policy: Any) -> None:
    """
    A security module that forbids accept(2) uses up no connection: after some errors in a row we
    wait, as without descriptors, and the log says so. No policy sheds or fails for it.
    """
    without_accept(partial(wait_in_vain, on_no_descriptors=policy))


@only_linux
@in_own_namespace
def test_forbidden_accept_is_waited_out_before_the_handshake() -> None:
    """So it is where connections are accepted that were approved before the handshake."""
    without_accept(
        partial(
            wait_in_vain,
            inspect=lambda _: InspectAction.ACCEPT,
            inspect_point=InspectPoint.BEFORE_HANDSHAKE,
        )
    )


def faulty() -> FaultyTransport:
    """Make a transport that fails as it is told to."""
    transport = FaultyTransport.tcp(0, host=HOST)

    assert isinstance(transport, FaultyTransport)
    return transport


def faults(number: int, code: int = errno.ECONNABORTED) -> list[PeerFaultError]:
    """Make errors of peers."""
    return [PeerFaultError(OSError(code, "what the system says")) for _ in range(number)]


async def test_accepting_goes_on_after_many_faults(autojump_clock: MockClock) -> None:
    """When a connection comes out at last, it is taken, and the end of the bad time is told."""
    told: list[object] = []
    transport = faulty()
    async with open_listening_socket(transport=transport, observers=[told.append]) as listening:
        transport.faults.extend(faults(FAULTS_IN_A_ROW + 2))
        client = connect_now(listening.local_addresses[0])
        connection = await listening.accept()
        ends = [each for each in told if isinstance(each, AcceptBackoffEnded)]

        assert [(3, 0)] == [(each.attempts, each.shed) for each in ends]
        assert {"ECONNABORTED": FAULTS_IN_A_ROW + 2} == dict(listening.statistics().accept_errors)

        connection.abort()
        await client.aclose()


async def test_faults_with_connections_between_them_are_peers(autojump_clock: MockClock) -> None:
    """However many there are: each connection that comes out says that accepting works."""
    transport = faulty()
    async with open_listening_socket(transport=transport) as listening:
        taken: list[Connection] = []
        for _ in range(3):
            transport.faults.extend([*faults(FAULTS_IN_A_ROW - 1), None])
            client = connect_now(listening.local_addresses[0])
            taken.append(await listening.accept())
            await client.aclose()

        assert 0 == listening.statistics().accept_backoffs

        for connection in taken:
            connection.abort()


async def test_fault_while_shedding_does_not_spin(autojump_clock: MockClock) -> None:
    """Out of descriptors, an error of the connection that was to be shed is no peer that was."""
    transport = faulty()
    async with open_listening_socket(transport=transport, on_no_descriptors="shed") as listening:
        shortage = NoDescriptorsError(OSError(errno.EMFILE, "what the system says"))
        client = connect_now(listening.local_addresses[0])
        transport.faults.extend([shortage, *faults(1, errno.EPERM)] * 10_000)
        irp = listening.queue_accept()
        await trio.sleep(QUIET_SECONDS)

        assert Status.PENDING is irp.status
        assert 0 == listening.statistics().shed
        assert listening.statistics().accept_errors["EMFILE"] <= 40

        transport.faults.clear()
        await until(lambda: irp.status is not Status.PENDING)

        assert irp.information is not None

        irp.information.abort()
        await client.aclose()
