"""Supervisors, and the service manager that has started them: real processes, a real socket."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import trio

from tests.helpers.service_manager import managing
from tests.helpers.supervised import APP, ON_LINUX, ask, connected, gone, supervised

pytestmark = ON_LINUX

ON = ("--host", "127.0.0.1", "--port", "0")

TELLS_TOO = """
import socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
    manager.sendto(b"WORKER=1", "notify")
"""


async def test_life_is_told(tmp_path: Path) -> None:
    """
    The manager hears that all is ready when all workers serve and not before; that new workers are
    being started, with the time, and that they serve; why they don't, if not; and that all ends.
    What the watchdog waits for comes all the time, and workers know nothing of all that.
    """
    app = tmp_path / "app.py"
    app.write_text(APP + TELLS_TOO, "utf-8")
    with managing(tmp_path) as manager:
        environment = manager.environment(WATCHDOG_USEC="100000")
        async with supervised(
            tmp_path, "app:who", *ON, "--workers", "2", environment=environment
        ) as server:
            ready = await manager.hears("READY")

            assert 2 == len(manager.heard("WORKER"))
            port = await server.port()
            for pid in server.workers():
                assert "NOTIFY_SOCKET" not in variables_of(pid)
            assert f"listening on 127.0.0.1:{port}; 2 workers" == ready["STATUS"]
            lately = (await manager.hears("WATCHDOG"))["STATUS"]
            assert f"{ready['STATUS']}; 0 connections open" == lately

            before = time.monotonic_ns() // 1000
            server.send(signal.SIGHUP)
            reloading = await manager.hears("RELOADING")

            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            assert lately == (await manager.hears("READY"))["STATUS"]
            await server.line("reloaded: ")

            app.write_text("1 / 0\n", "utf-8")
            server.send(signal.SIGHUP)

            await manager.hears("RELOADING")
            assert (await manager.hears("READY"))["STATUS"].startswith(
                f"{ready['STATUS']}; not reloaded: app:who: ZeroDivisionError: division by zero;"
            )

            server.send(signal.SIGTERM)

            assert (await manager.hears("STOPPING"))["STATUS"].startswith("draining; 2 workers")
            assert 0 == await server.ends()
            assert [] == manager.hear_all()
            assert 3 == len(manager.heard("READY"))


async def test_worker_that_hangs_keeps_the_watchdog_waiting(tmp_path: Path) -> None:
    """
    The watchdog hears nothing for as long as one of the workers does not answer, and the operator
    which one that is; how many connections are open is all of them.
    """
    soon = "import sys, trio_wsk._supervisor.steering as it; it.PATIENCE = 1.0\n"
    program = soon + "from trio_wsk.__main__ import main; sys.exit(main(sys.argv[1:]))"
    with managing(tmp_path) as manager:
        async with supervised(
            tmp_path,
            *("app:echo", *ON, "--workers", "2"),
            environment=manager.environment(WATCHDOG_USEC="100000"),
            before=program,
        ) as server:
            port = await server.port()
            with connected(port), connected(port):
                while not (await manager.hears("STATUS"))["STATUS"].endswith("2 connections open"):
                    pass
                stopped = server.workers()[0]
                os.kill(stopped, signal.SIGSTOP)
                try:
                    said = await manager.hears("STATUS")
                    while not said["STATUS"].endswith(" does not answer"):
                        said = await manager.hears("STATUS")
                finally:
                    os.kill(stopped, signal.SIGCONT)

                assert "WATCHDOG" not in said
                assert "1" == (await manager.hears("WATCHDOG"))["WATCHDOG"]


async def test_successor_is_the_main_process(tmp_path: Path) -> None:
    """
    When a new supervisor takes over, the old one names it to the manager, which listens to nobody
    else, and says nothing more; only then the new one speaks. It answers for the watchdog.
    """
    with managing(tmp_path) as manager:
        environment = manager.environment(WATCHDOG_USEC="100000")
        async with supervised(
            tmp_path, "app:who", *ON, "--workers", "1", environment=environment
        ) as server:
            await manager.hears("READY")
            server.send(signal.SIGUSR2)
            successor = int((await manager.hears("MAINPID"))["MAINPID"])
            try:
                assert "1" == (await manager.hears("READY"))["READY"]
                assert 0 == await server.ends()
                assert "1" == (await manager.hears("WATCHDOG"))["WATCHDOG"]
                assert "WATCHDOG_PID" not in variables_of(successor)
            finally:
                os.kill(successor, signal.SIGTERM)
            await manager.hears("STOPPING")
            await gone(successor)
    assert 1 == len(manager.heard("STOPPING"))


@pytest.mark.parametrize("kind", ["port", "path"])
async def test_queue_survives_its_supervisor(kind: str, tmp_path: Path) -> None:
    """
    A supervisor that is killed, with its worker, leaves its queues to the manager that keeps their
    descriptors; who waits in one of them is served by the next supervisor, which is passed them.
    """
    place = [*ON] if kind == "port" else ["--path", "s"]
    arguments = ["serve", "app:who", *place, "--workers", "1"]
    with managing(tmp_path) as manager:
        environment = manager.environment(FDSTORE="8")
        async with supervised(tmp_path, *arguments[1:], environment=environment) as server:
            kept = await manager.hears("FDSTORE")

            assert "0" == kept["FDPOLL"]
            address: int | str = str(tmp_path / "s")
            if kind == "port":
                address = await server.port()
            (worker,) = server.workers()
            os.kill(worker, signal.SIGSTOP)
            async with await waiting(address) as client:
                server.send(signal.SIGKILL)
                os.kill(worker, signal.SIGKILL)
                await server.ends()
                how = manager.passing("-m", "trio_wsk")
                async with supervised(
                    tmp_path,
                    *arguments[1:],
                    environment=environment,
                    how=how,
                    pass_fds=[fd for _, fd in manager.kept],
                ) as successor:
                    await successor.line("listening on ")

                    assert b"first\n" == (await client.receive_some()).split()[1] + b"\n"
                    assert (await ask(address)).endswith(" first")
                    assert 1 == len(manager.kept)

                    successor.send(signal.SIGTERM)
                    assert 0 == await successor.ends()
                    assert (kind == "path") == (tmp_path / "s").exists()


async def test_store_keeps_what_it_can_and_no_other_place(tmp_path: Path) -> None:
    """
    Sockets of another place, which the manager has kept from before, are forgotten. If it keeps
    fewer than there are, as many as it can are kept, and how many to ask for is said.
    """
    with managing(tmp_path) as manager:
        manager.kept.append(("trio-wsk-another-0", listening()))
        async with supervised(
            tmp_path,
            *("app:who", *ON, "--workers", "2"),
            environment=manager.environment(FDSTORE="1"),
            how=manager.passing("-m", "trio_wsk"),
            pass_fds=[fd for _, fd in manager.kept],
        ) as server:
            forgotten = await manager.hears("FDSTOREREMOVE")

            assert {"FDSTOREREMOVE": "1", "FDNAME": "trio-wsk-another-0"} == forgotten
            assert [] == manager.kept

            complaint = await server.line("the service manager keeps 1 sockets of 2; ")

            assert complaint.endswith("FileDescriptorStoreMax=2 keeps all")
            assert "FDSTORE" in manager.next()
            assert "READY" in manager.next()


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
@pytest.mark.parametrize("kind", ["port", "path"])
async def test_place_of_what_is_forgotten_is_free(
    kind: str, workers: list[str], tmp_path: Path
) -> None:
    """
    What the manager has kept for other options may listen where the service is to listen now. It
    is forgotten, and when the manager has done so the service takes the place: also one that has
    no workers any more, and is nobody who could take it over.
    """
    fd, place = left_from_before(kind, tmp_path)
    with managing(tmp_path) as manager:
        manager.kept.append(("trio-wsk-another-0", fd))
        async with supervised(
            tmp_path,
            *("app:who", *place, *workers),
            environment=manager.environment(FDSTORE="8"),
            how=manager.passing("-m", "trio_wsk"),
            pass_fds=[fd],
        ) as server:
            await manager.hears("FDSTOREREMOVE")
            await server.line("listening on ")

            assert await ask(int(place[-1]) if kind == "port" else str(tmp_path / "s"))


def left_from_before(kind: str, folder: Path) -> tuple[int, list[str]]:
    """Listen as a supervisor before did; return the descriptor, and the options for the place."""
    if kind == "port":
        fd = listening()
        return fd, ["--host", "127.0.0.1", "--port", str(port_of(fd))]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / "s"))
        sock.listen()
        return sock.detach(), ["--path", "s"]


async def test_many_named_sockets_are_served_by_all_workers(tmp_path: Path) -> None:
    """
    Sockets that the manager has opened are served by all workers, each by its name or all of them;
    those are not among them that a supervisor has had it keep.
    """
    with managing(tmp_path) as manager:
        manager.kept += [(name, listening()) for name in ("web", "trio-wsk-old-0", "admin")]
        web, _, admin = [port_of(fd) for _, fd in manager.kept]
        how = manager.passing("-m", "trio_wsk")
        numbers = [fd for _, fd in manager.kept]
        for names, ports in ([], [web, admin]), (["--socket-name", "admin,web"], [admin, web]):
            async with supervised(
                tmp_path, "app:who", *names, "--workers", "2", how=how, pass_fds=numbers
            ) as server:
                where = ", ".join(f"127.0.0.1:{port}" for port in ports)

                assert f"{where}, with 2 workers" == await server.line("listening on ")

                for port in ports:
                    first, second = await asked_twice(port)

                    assert {first, second} == {*server.workers()}


async def asked_twice(port: int) -> tuple[int, int]:
    """Ask who serves, and then who does so while that one can't."""
    first = int((await ask(port)).split()[0])
    os.kill(first, signal.SIGSTOP)
    try:
        return first, int((await ask(port)).split()[0])
    finally:
        os.kill(first, signal.SIGCONT)


def listening() -> int:
    """Return the descriptor of a socket that listens."""
    return socket.create_server(("127.0.0.1", 0)).detach()


def port_of(fd: int) -> int:
    """Return where it listens."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        return int(sock.getsockname()[1])


def variables_of(pid: int) -> set[str]:
    """Name what a process has found in its environment."""
    lines = Path(f"/proc/{pid}/environ").read_text("utf-8").split("\0")
    return {line.partition("=")[0] for line in lines}


async def waiting(address: int | str) -> trio.abc.Stream:
    """Have a client wait in the queue, with its request."""
    if isinstance(address, int):
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", address)
    else:
        stream = await trio.open_unix_socket(address)
    await stream.send_all(b"?")
    return stream
