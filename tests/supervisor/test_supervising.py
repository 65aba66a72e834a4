"""Supervisors and workers: real processes, real signals."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
import trio

from tests.helpers.supervised import ON_LINUX, ask, connected, gone, supervised

pytestmark = ON_LINUX

ON = ("--host", "127.0.0.1", "--port", "0")


def said(client: socket.socket) -> bool:
    """Whether what a client says comes back."""
    client.sendall(b"hello")
    return client.recv(5) == b"hello"


async def test_ends_when_all_have_finished(tmp_path: Path) -> None:
    """
    SIGTERM drains the workers: who is open is served on, and when nobody is left all processes have
    ended, with status 0. The supervisor serves nobody itself, and a worker has only the sockets
    that it needs.
    """
    async with supervised(tmp_path, "app:echo", *ON, "--workers", "2") as server:
        port = await server.port()
        workers = server.workers()

        assert 2 == len(workers)
        assert [1, 1] == [listening_sockets(pid, port) for pid in workers]

        with connected(port) as client:
            assert said(client)

            server.send(signal.SIGTERM)

            assert "open connections are given 30 s to finish" == await server.line("draining: ")
            assert said(client)

        assert 0 == await server.ends()
        for pid in workers:
            await gone(pid)


def listening_sockets(pid: int, port: int) -> int:
    """Count the sockets of a process that listen on a port, by the kernel's own table."""
    inodes = {
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]
        if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"
    }
    targets = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return len([each for each in targets if each.strip("socket:[]") in inodes])


async def test_changes_that_are_asked_for_in_the_end_are_not_made(tmp_path: Path) -> None:
    """Neither SIGHUP nor SIGUSR2 disturbs a drain, or changes the status with which it ends."""
    async with supervised(tmp_path, "app:echo", *ON, "--workers", "1") as server:
        with connected(await server.port()) as client:
            assert said(client)

            server.send(signal.SIGTERM)
            await server.line("draining: ")
            server.send(signal.SIGHUP)
            server.send(signal.SIGUSR2)

            assert said(client)

        assert 0 == await server.ends()


async def test_second_signal_aborts(tmp_path: Path) -> None:
    """A second signal resets what is open; the status is that of who was killed by it."""
    async with supervised(tmp_path, "app:echo", *ON, "--workers", "1") as server:
        with connected(await server.port()) as client:
            assert said(client)

            server.send(signal.SIGINT)
            await server.line("draining")
            server.send(signal.SIGTERM)

            assert 128 + signal.SIGTERM == await server.ends()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


async def test_worker_that_is_killed_leaves_its_queue(tmp_path: Path) -> None:
    """
    Who waits in the queue of a worker that is killed is served by its successor: here all of them,
    since the worker was stopped before it could take any.
    """
    async with supervised(tmp_path, "app:echo", *ON, "--workers", "1") as server:
        port = await server.port()
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        clients = [connected(port) for _ in range(20)]
        os.kill(worker, signal.SIGKILL)

        assert f"(process {worker}) was killed by SIGKILL; it is started again" == (
            await server.line("worker 1 ")
        )
        for client in clients:
            with client:
                assert await trio.to_thread.run_sync(said, client)


async def test_signal_to_all_processes_loses_nobody(tmp_path: Path) -> None:
    """
    If all processes are told to end at once, as service managers do, those who wait in the queues
    are served before they do.
    """
    async with supervised(tmp_path, "app:echo", *ON, "--workers", "1") as server:
        port = await server.port()
        (worker,) = server.workers()
        os.kill(worker, signal.SIGSTOP)
        clients = [connected(port) for _ in range(20)]
        os.kill(worker, signal.SIGTERM)
        server.send(signal.SIGTERM)
        await server.line("draining: ")
        os.kill(worker, signal.SIGCONT)

        for client in clients:
            with client:
                assert await trio.to_thread.run_sync(said, client)
        assert 0 == await server.ends()


async def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    """
    Workers notice that nobody supervises them: they serve who is open to the end, and then end
    themselves. Nobody listens any more.
    """
    async with supervised(tmp_path, "app:echo", *ON, "--workers", "2") as server:
        port = await server.port()
        workers = server.workers()
        with connected(port) as client:
            assert said(client)

            server.send(signal.SIGKILL)
            await server.ends()

            assert await trio.to_thread.run_sync(said, client)

        for pid in workers:
            await gone(pid)
        with pytest.raises(ConnectionRefusedError):
            connected(port)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["app:nobody", *ON], "the handler: app has no 'nobody'"),
        (["broken:who", *ON], "broken:who: ZeroDivisionError: division by zero"),
        (["exiting:who", *ON], "ended with status 7"),
    ],
)
async def test_workers_that_can_not_start_are_told_of(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    """If the first workers don't start there is no loop: the reason is told, and the status 1."""
    (tmp_path / "broken.py").write_text("1 / 0\n", "utf-8")
    (tmp_path / "exiting.py").write_text("raise SystemExit(7)\n", "utf-8")
    async with supervised(tmp_path, *arguments, "--workers", "2") as server:
        assert complaint in complaint + await server.line(complaint)
        assert 1 == await server.ends()


async def test_reload_that_fails_changes_nothing(tmp_path: Path) -> None:
    """
    If the new code can't be imported, or the new configuration is wrong or wants another place, the
    log says why and the old workers go on; once it is right it is reloaded.
    """
    config = tmp_path / "a.toml"
    right = 'handler = "app:who"\nhost = "127.0.0.1"\nport = 0\nworkers = 1\n'
    config.write_text(right, "utf-8")
    async with supervised(tmp_path, "--config", "a.toml") as server:
        port = await server.port()
        before = await ask(port)
        failed = "not reloaded, the workers from before go on: "
        for wrong, complaint in [
            (right.replace("app:who", "app:whom"), "line 1: app has no 'whom'"),
            (right.replace("workers = 1", "workers = 0"), "line 4: workers is a count"),
            (right.replace("port = 0", "port = 1"), "the place to listen at is another one now"),
        ]:
            config.write_text(wrong, "utf-8")
            server.send(signal.SIGHUP)

            assert complaint in await server.line(failed)
            assert before == await ask(port)

        config.write_text(right.replace("workers = 1", "workers = 2"), "utf-8")
        app = tmp_path / "app.py"
        app.write_text(app.read_text("utf-8").replace('"first"', '"the second"'), "utf-8")
        server.send(signal.SIGHUP)

        assert "2 workers took over; those before finish" == await server.line("reloaded: ")
        assert (await ask(port)).endswith(" the second")


@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGHUP, "reloaded: "), (signal.SIGUSR2, "the new supervisor, ")]
)
async def test_who_takes_over_is_told_when_nobody_else_takes(
    number: int, line: str, tmp_path: Path
) -> None:
    """
    That others took over is said when the workers from before have left the queues. One that hangs
    can't say that it has: that is said instead, after some time. (Here after no time.)
    """
    soon = "import sys, trio_wsk._supervisor.generation as it; it._LEAVE = 0.1; "
    program = soon + "from trio_wsk.__main__ import main; sys.exit(main(sys.argv[1:]))"
    async with supervised(tmp_path, "app:who", *ON, "--workers", "1", before=program) as server:
        port = await server.port()
        (hanging,) = server.workers()
        os.kill(hanging, signal.SIGSTOP)
        server.send(number)

        said = await server.line(line)

        assert said.endswith("finish; worker 1 of them does not answer")
        if number == signal.SIGUSR2:
            os.kill(int(said.removeprefix("process ").partition(",")[0]), signal.SIGTERM)
        else:
            assert said.startswith("1 worker took over; ")
            assert await ask(port)
        os.kill(hanging, signal.SIGCONT)
        await gone(hanging)


async def test_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    """If a new supervisor can't take over, the old one goes on, and says so."""
    async with supervised(tmp_path, "app:who", *ON, "--workers", "1") as server:
        port = await server.port()
        before = await ask(port)
        (tmp_path / "app.py").rename(tmp_path / "gone.py")
        server.send(signal.SIGUSR2)

        assert "it ended with status 1" == await server.line(
            "not replaced, this supervisor goes on: "
        )
        assert before == await ask(port)


async def test_upgrade_leaves_the_path(tmp_path: Path) -> None:
    """
    A new supervisor takes over a Unix socket: the old one ends and leaves the path where it is, and
    the new one removes it when it ends.
    """
    path = tmp_path / "s"
    async with supervised(tmp_path, "app:who", "--path", str(path), "--workers", "1") as server:
        await server.line("listening on ")
        before = await ask(str(path))
        server.send(signal.SIGUSR2)
        line = await server.line("the new supervisor, process ")
        successor = int(line.partition(",")[0])
        try:
            assert 0 == await server.ends()
            assert before != await ask(str(path))
        finally:
            os.kill(successor, signal.SIGTERM)
        await gone(successor)

        assert not path.exists()


async def test_before_the_handshake_takes_one_process(tmp_path: Path) -> None:
    """Inspection before the handshake is refused with workers, with the reason."""
    arguments = ["--inspect", "app:who", "--inspect-point", "before-handshake"]
    async with supervised(tmp_path, "app:who", *ON, *arguments, "--workers", "2") as server:
        await server.line("--inspect-point: inspect_point is after-handshake with workers: ")

        assert 2 == await server.ends()


async def test_service_that_flaps_ends(tmp_path: Path) -> None:
    """
    A worker that crashes again and again is told of once, and is the end of the service with the
    reason: no loop. (Here after three crashes, so that nobody has to wait.)
    """
    few = "import sys, trio_wsk._supervisor.restarts as restarts; restarts.TRIES = 3; "
    program = few + "from trio_wsk.__main__ import main; sys.exit(main(sys.argv[1:]))"
    async with supervised(tmp_path, "app:die", *ON, "--workers", "1", before=program) as server:
        port = await server.port()
        for _ in range(3):
            await trio.to_thread.run_sync(kill_by_connecting, port)

        last = await server.line("worker 1 has crashed 3 times in a row: the last one ")

        assert last.endswith("ended with status 3")
        assert 1 == await server.ends()
        assert 1 == len([line for line in server.heard if "is started again" in line])


def kill_by_connecting(port: int) -> None:
    """Have the worker end itself, as soon as there is one."""
    with connected(port) as client:
        client.sendall(b"x")
        try:
            client.recv(1)
        except ConnectionResetError:
            pass
