"""The control socket of a supervisor, and of one process: real processes, asked as users ask."""

from __future__ import annotations

import os
import signal
import stat
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.helpers.programs import LONG
from tests.helpers.supervised import ON_LINUX, Supervised, connected, gone, supervised
from tests.helpers.supervised import ask as ask_who
from tests.test_command_line import command
from trio_wsk.control import ControlError, ask_control

pytestmark = ON_LINUX

ON = ("--host", "127.0.0.1", "--port", "0", "--control", "c")

RULED = """
from trio_wsk.inspectors import Penalties, Rules

rules = Rules(Penalties())
"""


async def ask(server: Supervised, command: str, **arguments: object) -> Any:
    """Ask a server that listens."""
    with trio.fail_after(LONG):
        return await ask_control(server.folder / "c", command, **arguments)


async def counts(server: Supervised) -> tuple[int, int]:
    """Return how many connections were accepted, and are open, in all workers together."""
    counted = (await ask(server, "statistics"))["server"]
    return counted["listening"]["accepted"], counted["open_connections"]


async def test_workers_are_steered_as_one(tmp_path: Path) -> None:
    """
    Counts are those of all workers, lists say whose they are, one worker is asked by its number,
    and a connection is aborted where it is. What is changed is changed in each worker. A worker
    that is replaced has its number no more, until it has finished. Draining ends the service.
    """
    async with supervised(tmp_path, "app:echo", *ON, "--workers", "2") as server:
        port = await server.port()

        assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o600

        with connected(port) as first, connected(port) as second:
            for client in (first, second):
                client.sendall(b"x")
                await trio.to_thread.run_sync(client.recv, 1)

            assert (2, 2) == await counts(server)

            listed = await ask(server, "connections")

            assert 2 == listed["open"]

            workers = await ask(server, "workers")

            assert [1, 2] == [each["worker"] for each in workers]
            assert {*server.workers()} == {each["process"] for each in workers}
            assert 2 == sum(each["statistics"]["server"]["open_connections"] for each in workers)

            whose = listed["connections"][0]
            alone = await ask(server, "connections", worker=whose["worker"])

            assert whose["remote_address"] in {
                each["remote_address"] for each in alone["connections"]
            }
            with pytest.raises(ControlError, match="abort takes worker"):
                await ask(server, "abort", id=whose["id"])
            await ask(server, "abort", worker=whose["worker"], id=whose["id"])

            assert 1 == (await ask(server, "connections"))["open"]

            await ask(server, "pause")

            assert {"paused"} == {
                each["statistics"]["server"]["listening"]["state"]
                for each in await ask(server, "workers")
            }
            await ask(server, "resume")

            with pytest.raises(ControlError, match="there is no worker 3, but 1, 2"):
                await ask(server, "pause", worker=3)
            with pytest.raises(ControlError, match="drain takes no arguments with workers"):
                await ask(server, "drain", grace=1)
            with pytest.raises(ControlError, match="there is no command 'dance', but statistics"):
                await ask(server, "dance")

            server.send(signal.SIGHUP)
            await server.line("reloaded: ")
            finishing = {each["worker"] for each in await ask(server, "workers")}

            assert {3, 4} < finishing

            await ask(server, "pause")  # those that finish are no obstacle

        assert None is await ask(server, "drain")
        assert 0 == await server.ends()
    assert not (tmp_path / "c").exists()


async def test_worker_that_hangs_is_named(tmp_path: Path) -> None:
    """
    A worker that does not answer holds up nobody for longer than its time (here no time at all): it
    is named, the list says that it has not answered, and the others can be asked.
    """
    soon = "import sys, trio_wsk._supervisor.steering as it; it.PATIENCE = float(sys.argv.pop()); "
    program = soon + "from trio_wsk.__main__ import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["app:echo", *ON, "--workers", "2"]
    async with supervised(tmp_path, *arguments, "0.5", before=program) as server:
        await server.port()
        workers = {each["worker"]: each["process"] for each in await ask(server, "workers")}
        os.kill(workers[1], signal.SIGSTOP)

        with pytest.raises(ControlError, match=r"^worker 1 has not answered within 0\.5 s$"):
            await ask(server, "statistics")
        listed = await ask(server, "workers")

        assert None is listed[0]["statistics"]
        os.kill(workers[1], signal.SIGKILL)
        await server.line("worker 1 ")


async def test_new_supervisor_takes_the_control_socket_over(tmp_path: Path) -> None:
    """After an upgrade the same socket asks the workers of the new supervisor."""
    async with supervised(tmp_path, "app:echo", *ON, "--workers", "1") as server:
        await server.port()
        (before,) = await ask(server, "workers")
        server.send(signal.SIGUSR2)
        line = await server.line("the new supervisor, process ")
        successor = int(line.partition(",")[0])
        try:
            assert 0 == await server.ends()

            (after,) = await ask(server, "workers")

            assert before["process"] != after["process"]
        finally:
            os.kill(successor, signal.SIGTERM)
        await gone(successor)

        assert not (tmp_path / "c").exists()


async def test_hostile_clients_hurt_nobody(tmp_path: Path) -> None:
    """
    A line that is no request, one that is huge, and a client that says nothing: others are
    answered, and the workers serve.
    """
    async with supervised(tmp_path, "app:who", *ON, "--workers", "1") as server:
        port = await server.port()
        stalling = await trio.open_unix_socket(str(tmp_path / "c"))
        await stalling.send_all(b'{"command": ')
        for said, answer in [
            (b"hello\n", b"that is no JSON"),
            (b"[" * 4000 + b"\n", b"that is no JSON"),
            (b"x" * 100_000, b"a line has 4096 octets at most"),
            (b'{"command": "statistics", "worker": [1]}\n', b"statistics takes worker, a number"),
            (b'{"command": "connections", "most": "all"}\n', b"connections takes most, a number"),
        ]:
            stream = await trio.open_unix_socket(str(tmp_path / "c"))
            async with stream:
                try:
                    await stream.send_all(said)
                except trio.BrokenResourceError:
                    pass  # it has had enough
                with trio.fail_after(LONG):
                    assert answer in await stream.receive_some()

        assert await ask_who(port)
        assert 1 == (await counts(server))[0]
        await stalling.aclose()


async def test_one_process_is_steered(tmp_path: Path) -> None:
    """
    Without workers the same commands are done in the one process, which has the penalties of its
    rules; the socket is there when the server listens.
    """
    (tmp_path / "ruled.py").write_text(RULED, "utf-8")
    async with supervised(tmp_path, "app:echo", *ON, "--inspect", "ruled:rules") as server:
        port = await server.port()
        with connected(port) as client:
            client.sendall(b"x")
            await trio.to_thread.run_sync(client.recv, 1)

            assert (1, 1) == await counts(server)
            assert 0 == (await ask(server, "penalties"))["penalized"]

        assert {"finished", "reset"} == {*await ask(server, "drain")}
        assert 0 == await server.ends()


async def test_control_socket_that_can_not_be_had_is_told(tmp_path: Path) -> None:
    """Where the path can't be had nothing is served: one line says so, and the status is 1."""
    for workers in ([], ["--workers", "1"]):
        arguments = ["serve", "app:echo", "--port", "0", "--control", "no/where", *workers]
        (tmp_path / "app.py").write_text("async def echo(stream): pass\n", "utf-8")
        status, _, errors = await trio.to_thread.run_sync(partial(command, tmp_path, *arguments))

        assert 1 == status
        assert "no/where" in errors
        assert 1 == errors.count("\n")
