"""A server, and the service manager that has started it: a real socket, and what it is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM, SIGUSR1, raise_signal

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.programs import running_python
from tests.helpers.service_manager import Manager, managing
from tests.helpers.support import PATIENCE, connect
from trio_wsk import Connection, Server, notify_service_manager, open_server
from trio_wsk._serving.notifying import PERIOD

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "recv_fds"), reason="there are no Unix sockets that carry descriptors"
)

HOST = "127.0.0.1"


async def hold(connection: Connection) -> None:
    """Serve until the client has finished."""
    while await connection.more():
        await connection.send_all(await connection.receive_some())


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    """Run a service manager that has started this very process."""
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    with managing(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
        yield manager


def counted(connections: str, server: Server) -> str:
    """Return the line that an operator sees."""
    return f"listening on {server.local_addresses[0]}; {connections} open"


async def test_server_is_ready_and_stops(
    manager: Manager, autojump_clock: trio.testing.MockClock
) -> None:
    """
    The manager is told that the server is ready, and that it stops when it drains; meanwhile how
    many connections are open, when that has changed. Without a watchdog it is told no more.
    """
    async with trio.open_nursery() as nursery, open_server(hold, 0, host=HOST) as server:
        nursery.start_soon(notify_service_manager, server)
        await trio.testing.wait_all_tasks_blocked()

        assert {"READY": "1", "STATUS": counted("0 connections", server)} == manager.next()

        client = await connect(server.local_addresses[0])
        await client.send_all(b"a")
        assert b"a" == await client.receive_some()
        await trio.sleep(3 * PERIOD)

        assert {"STATUS": counted("1 connection", server)} == manager.next()

        nursery.start_soon(server.drain)
        assert b"" == await client.receive_some()
        await client.aclose()

    assert {"STOPPING": "1", "STATUS": "draining; 1 connection open"} == manager.next()
    assert [] == manager.hear_all()


async def test_watchdog_hears_while_the_loop_goes_round(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """The watchdog is told twice in its time, by a task: who blocks the loop keeps it from that."""
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    async with trio.open_nursery() as nursery, open_server(hold, 0, host=HOST) as server:
        nursery.start_soon(notify_service_manager, server)
        await trio.sleep(0.5)
        for _ in range(10):
            await trio.sleep(1)
            manager.hear_all()

    manager.until("STOPPING")
    assert 10 == len(manager.heard("WATCHDOG"))


async def test_somebody_else_s_watchdog_is_left_alone(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """A watchdog that waits for another process is told nothing."""
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    async with trio.open_nursery() as nursery, open_server(hold, 0, host=HOST) as server:
        nursery.start_soon(notify_service_manager, server)
        await trio.sleep(3)

    manager.until("STOPPING")
    assert [] == manager.heard("WATCHDOG")


async def test_drain_with_nobody_open_is_told(manager: Manager) -> None:
    """A drain that is over at once was told of, also by the body that a signal has cancelled."""
    for _ in range(20):
        async with open_server(hold, 0, host=HOST, signals=[SIGUSR1]) as server:
            raise_signal(SIGUSR1)
            await notify_service_manager(server)

        assert "READY" in manager.next()
        assert "STOPPING" in manager.next()


async def test_server_that_is_aborted_is_waited_for(manager: Manager) -> None:
    """The call returns when the server has ended, however."""
    async with open_server(hold, 0, host=HOST) as server, trio.open_nursery() as nursery:
        nursery.start_soon(notify_service_manager, server)
        await trio.testing.wait_all_tasks_blocked()
        server.abort()

    assert "READY" in manager.next()


async def test_without_manager_it_waits_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody wants to be told, the call waits for the server's end in the same way."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    async with open_server(hold, 0, host=HOST) as server, trio.open_nursery() as nursery:
        nursery.start_soon(notify_service_manager, server)
        await trio.testing.wait_all_tasks_blocked()
        assert 1 == len(nursery.child_tasks)
        nursery.start_soon(server.drain)


async def test_manager_that_is_gone_is_no_error(manager: Manager) -> None:
    """A manager that goes away is told nothing more, and the server goes on."""
    async with trio.open_nursery() as nursery, open_server(hold, 0, host=HOST) as server:
        manager.close()
        nursery.start_soon(notify_service_manager, server)
        await trio.testing.wait_all_tasks_blocked()
        async with await connect(server.local_addresses[0]) as client:
            await client.send_all(b"a")
            assert b"a" == await client.receive_some()


async def test_busy_manager_is_waited_for(manager: Manager) -> None:
    """If the manager's queue is full, what is told waits until it reads; nothing is lost."""
    manager.fill_up()
    async with trio.open_nursery() as nursery, open_server(hold, 0, host=HOST) as server:
        nursery.start_soon(notify_service_manager, server)
        await trio.testing.wait_all_tasks_blocked()
        lines = await manager.hears("READY")

    assert counted("0 connections", server) == lines["STATUS"]


@pytest.mark.parametrize(
    ("variable", "value", "complaint"),
    [
        ("NOTIFY_SOCKET", "notify", "NOTIFY_SOCKET='notify' is no path, and no abstract name"),
        ("NOTIFY_SOCKET", "@", "NOTIFY_SOCKET='@' is no path, and no abstract name"),
        ("WATCHDOG_USEC", "soon", "WATCHDOG_USEC='soon' is no number"),
        ("FDSTORE", "-1", "FDSTORE='-1' is no number"),
    ],
)
async def test_variable_that_makes_no_sense_is_told_of(
    variable: str,
    value: str,
    complaint: str,
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A manager that contradicts itself is an error that shows how."""
    monkeypatch.setenv(variable, value)
    async with open_server(hold, 0, host=HOST) as server:
        with pytest.raises(trio_wsk.InvalidParameterError) as caught:
            await notify_service_manager(server)

    assert complaint == str(caught.value)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_run_tells_by_itself(kind: str, tmp_path: Path) -> None:
    """A program that ends in `run` needs nothing more: not for a path, not for an abstract name."""
    program = "import trio_wsk\nasync def work(c): await c.more()\n"
    program += "trio_wsk.run(work, 0, host='127.0.0.1')"
    address = None if kind == "path" else f"@trio-wsk-test-{os.getpid()}"
    with (
        managing(tmp_path, address) as manager,
        running_python("-c", program, environment=manager.environment()) as server,
    ):
        where = server.next_error().removeprefix("listening on ")

        assert f"listening on {where}; 0 connections open" == manager.until("READY")["STATUS"]

        server.process.send_signal(SIGTERM)

        assert "draining; 0 connections open" == manager.until("STOPPING")["STATUS"]
        assert 0 == server.process.wait(PATIENCE)


def test_call_from_elsewhere_is_refused() -> None:
    """Outside of the server's Trio run there is nobody to wait for."""

    async def opened() -> Server:
        async with open_server(hold, 0, host=HOST) as server:
            return server

    server = trio.run(opened)
    with pytest.raises(RuntimeError, match="notify_service_manager"):
        notify_service_manager(server).send(None)
