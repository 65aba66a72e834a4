"""The examples are started, talked to and stopped: in this process, and as programs."""

from __future__ import annotations

import io
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.examples import example
from tests.helpers.namespaces import in_own_namespace
from tests.helpers.places import EXAMPLES
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, connect, connect_now, fate_of, read_to_end, reset, until
from trio_wsk._engine import choice as _choice
from trio_wsk.observers import CallbackFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from trio_wsk import Address
    from trio_wsk.observers import Record

ECHOES = ["echo", "echo_events"]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a SYN")
over_both = pytest.mark.usefixtures("readiness")


@asynccontextmanager
async def running(name: str, **options: object) -> AsyncIterator[Any]:
    """Run an example's main() in a nursery; its end must leave no descriptor behind."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(partial(example(name).main, port=0, **options))
            nursery.cancel_scope.cancel()


async def receive_until(client: trio.SocketStream, end: bytes) -> bytes:
    """Receive until what has come ends so."""
    received = b""
    with trio.fail_after(PATIENCE):
        while not received.endswith(end):
            data = await client.receive_some()
            assert data, received
            received += data
    return received


# --- echo, echo_events ---------------------------------------------------------------------------


@over_both
@pytest.mark.parametrize("name", ECHOES)
async def test_echo_sends_back_all_and_finishes(name: str) -> None:
    """What was sent comes back, all of it; then the server finishes because the client did."""
    message = bytes(range(256)) * 4096
    back = bytearray()

    async with running(name) as server:
        client = await connect(server.local_addresses[0])
        async with client, trio.open_nursery() as nursery:

            async def send() -> None:
                await client.send_all(message)
                await client.send_eof()

            nursery.start_soon(send)
            async for data in client:
                back += data

    assert message == back


@over_both
@pytest.mark.parametrize("name", ECHOES)
async def test_echo_outlives_a_client_that_resets(name: str) -> None:
    """After one client's reset the next one is served."""
    async with running(name) as server:
        rude = await connect(server.local_addresses[0])
        await rude.send_all(b"anything")
        reset(rude)
        async with await connect(server.local_addresses[0]) as client:
            await client.send_all(b"hello")

            assert b"hello" == await receive_until(client, b"hello")


async def fill(client: trio.SocketStream) -> int:
    """Send until nothing has gone for a while; return how many octets have."""
    sent = 0
    chunk = bytes(65536)
    client.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 65536)
    while sent < 1 << 26:
        with trio.move_on_after(0.5) as scope:
            sent += await client.socket.send(chunk)
        if scope.cancelled_caught:
            break
    return sent


@over_both
@pytest.mark.parametrize("name", ECHOES)
async def test_echo_stalls_a_client_that_does_not_read(name: str) -> None:
    """
    A client that sends and doesn't read can't send for ever: the server stops receiving from
    it. When it reads at last, everything comes back, and the server goes on.
    """
    async with running(name) as server, await connect(server.local_addresses[0]) as client:
        sent = await fill(client)

        assert sent < 1 << 26

        received = 0
        with trio.fail_after(PATIENCE):
            while received < sent:
                received += len(await client.receive_some())
        await client.send_all(b"end")

        assert b"end" == await receive_until(client, b"end")


@over_both
@pytest.mark.parametrize("name", ECHOES)
async def test_echo_lets_go_of_a_client_that_resets_while_it_is_stalled(name: str) -> None:
    """A client that was stalled and then resets leaves no descriptor behind."""
    async with running(name) as server:
        _choice.task_readiness()  # shared by all awaited connections of a run, until it ends
        before = open_descriptors()
        client = await connect(server.local_addresses[0])
        await fill(client)
        reset(client)
        await until(lambda: open_descriptors() == before)


@over_both
async def test_echo_turns_away_whom_it_has_no_room_for() -> None:
    """Beyond its most connections a client is reset; when one has left, the next is taken."""
    async with running("echo_events", most=2) as server:
        address = server.local_addresses[0]
        first, second = await connect(address), await connect(address)
        for client in (first, second):
            await client.send_all(b"hello")

            assert b"hello" == await receive_until(client, b"hello")

        third = connect_now(address)

        assert "reset" == await fate_of(third)

        await first.send_eof()

        assert b"" == await read_to_end(first)

        async with await connect(address) as fourth:
            await fourth.send_all(b"hello")

            assert b"hello" == await receive_until(fourth, b"hello")
        for client in (first, second, third):
            await client.aclose()


async def test_echo_opens_another_listening_socket_when_one_fails() -> None:
    """The failure of the listening socket is told, and the next one listens at the same port."""
    said = io.StringIO()
    with redirect_stdout(said):
        async with running("echo_events") as server:
            address = server.local_addresses[0]
            server.socket.shutdown(socket.SHUT_RDWR)
            await until(lambda: said.getvalue().count("Echoing on port") == 2)
            async with await connect(address) as client:
                await client.send_all(b"hello")

                assert b"hello" == await receive_until(client, b"hello")

    assert "has failed (Invalid argument); opening another one" in said.getvalue()


# --- chat ----------------------------------------------------------------------------------------


async def join(address: Address) -> tuple[trio.SocketStream, str]:
    """Join the chat; return the client and the name that it is known by."""
    client = await connect(address)
    host, port = client.socket.getsockname()[:2]
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    welcome = await receive_until(client, b"\n")

    assert welcome.startswith(f"* welcome, {name}; here are ".encode())

    return client, name


@over_both
async def test_chat_hands_on_to_all_others() -> None:
    """What one says all others hear, once, with the name; and who comes and goes is told."""
    async with running("chat") as server:
        anna, anna_name = await join(server.local_addresses[0])
        ben, ben_name = await join(server.local_addresses[0])

        assert f"* {ben_name} has come\n".encode() == await receive_until(anna, b"\n")

        await anna.send_all(b"hello\nthe\x1b[2Jre\r\n")

        heard = f"{anna_name}: hello\n{anna_name}: the[2Jre\n".encode()
        assert heard == await receive_until(ben, b"re\n")

        await anna.send_eof()

        assert b"" == await anna.receive_some()
        assert f"* {anna_name} has left\n".encode() == await receive_until(ben, b"\n")

        await anna.aclose()
        await ben.aclose()


@over_both
async def test_chat_lets_go_of_who_reads_too_slowly() -> None:
    """A client that doesn't read is reset when its outbox is full; the others don't wait for it."""
    async with running("chat") as server:
        slow, slow_name = await join(server.local_addresses[0])
        slow.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
        fast, _ = await join(server.local_addresses[0])
        line = b"x" * 900 + b"\n"
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:

                async def talk() -> None:
                    while True:
                        await fast.send_all(line * 10)

                nursery.start_soon(talk)

                assert f"* {slow_name} has left\n".encode() == await receive_until(fast, b"\n")

                nursery.cancel_scope.cancel()

        assert "reset" == await fate_of(slow)

        await slow.aclose()
        await fast.aclose()


@over_both
async def test_chat_ends_a_line_without_end() -> None:
    """A client that sends a line that is too long is let go of."""
    async with running("chat") as server:
        client, _ = await join(server.local_addresses[0])
        await client.send_all(b"x" * 100_000)
        await fate_of(client)
        await client.aclose()


# --- conditional_accept ---------------------------------------------------------------------------


async def connect_from(host: str, address: Address) -> trio.SocketStream:
    """Connect from one of the machine's own addresses; return when the kernel has answered."""
    sock = trio.socket.socket(address.family)
    try:
        await sock.bind((host, 0))
        await sock.connect(address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def ipv4(server: trio_wsk.Server) -> Address:
    """Where the server listens, of its addresses the one of the family that all machines have."""
    (address,) = (each for each in server.local_addresses if each.family == socket.AF_INET)
    return address


def name_of(client: trio.SocketStream) -> str:
    """How a server's log calls the client."""
    host, port = client.socket.getsockname()
    return f"{host}:{port}"


@over_both
async def test_conditional_accept_lets_in_who_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """A peer that is on the list is welcomed after its look-up, and served."""
    async with running("conditional_accept", lookup_seconds=0.01) as server:
        client = await connect_from("127.0.0.1", ipv4(server))
        async with client:
            assert b"Welcome.\n" == await receive_until(client, b"\n")

            await client.send_all(b"hello\n")

            assert b"hello\n" == await receive_until(client, b"\n")
            assert f"{name_of(client)} is let in\n" in capsys.readouterr().out


@over_both
async def test_conditional_accept_sends_away_who_is_not_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A peer that is not on the list is told so, and then nothing more; also if it has talked."""
    async with running("conditional_accept", lookup_seconds=0.01) as server:
        client = await connect_from("127.0.0.2", ipv4(server))
        async with client:
            await client.send_all(b"let me in\n")

            assert b"You are not on the list.\n" == await read_to_end(client)
            assert f"{name_of(client)} is sent away: not-listed\n" in capsys.readouterr().out
            assert {"not-listed": 1} == server.statistics().listening.rejected


@over_both
@pytest.mark.parametrize(
    ("leave", "how"), [(reset, "reset"), (lambda client: client.socket.close(), "fin")]
)
async def test_conditional_accept_tells_who_leaves_during_the_look_up(
    leave: Callable[[trio.SocketStream], None], how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A peer that leaves during its look-up is reported at once, by name, and the look-up ends
    with it: its descriptor is free again, long before the service would have answered.
    """
    async with running("conditional_accept", lookup_seconds=3600) as server:
        await trio.testing.wait_all_tasks_blocked()
        before = open_descriptors()
        client = await connect_from("127.0.0.1", ipv4(server))
        name = name_of(client)
        await until(lambda: server.statistics().listening.pending)
        leave(client)
        await until(lambda: server.statistics().listening.aborted)
        await until(lambda: open_descriptors() == before)

        assert f"{name} is gone: {how}\n" in capsys.readouterr().out
        assert {how: 1} == server.statistics().listening.aborted


async def test_conditional_accept_reports_a_list_that_fails() -> None:
    """An answer that is no answer rejects the peer, and names the trouble."""
    module = example("conditional_accept")
    reports: list[Record] = []
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as service:
        await service.bind(("127.0.0.1", 0))
        inspect = partial(module.inspect, service.getsockname())
        async with trio_wsk.open_server(
            module.greet, 0, host="127.0.0.1", inspect=inspect, observers=[reports.append]
        ) as server:
            async with await connect(ipv4(server)) as client:
                asked, asker = await service.recvfrom(512)
                number = int.from_bytes(asked[:2], "big")
                other = (number ^ 1).to_bytes(2, "big")
                await service.sendto(other + struct.pack("!5H", 0x8183, 1, 0, 0, 0), asker)
                await service.sendto(asked[:2] + struct.pack("!5H", 0x8182, 1, 0, 0, 0), asker)

                assert "reset" == await fate_of(client)

            (failure,) = (each for each in reports if isinstance(each, CallbackFailed))

            assert "the list can't be asked: 0x8182" == str(failure.error)
            assert {"inspector-failed": 1} == server.statistics().listening.rejected


# --- before_the_handshake -------------------------------------------------------------------------


@contextmanager
def keyboard() -> Iterator[tuple[int, int]]:
    """Make something to type on: where it is read, and where it is written."""
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@asynccontextmanager
async def waiting_from(host: str, address: Address) -> AsyncIterator[tuple[str, trio.Event]]:
    """Have a client connect meanwhile; give its name, and what is set when it is let in."""
    let_in = trio.Event()
    with trio.socket.socket() as sock:
        await sock.bind((host, 0))

        async def _connect() -> None:
            await sock.connect(address.sockaddr)
            let_in.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_connect)
            yield "{}:{}".format(*sock.getsockname()), let_in
            nursery.cancel_scope.cancel()


@linux_only
@in_own_namespace
async def test_before_the_handshake_lets_friends_in() -> None:
    """A friend is let in without a question, welcomed, and served."""
    with keyboard() as (reading, _):
        async with (
            running("before_the_handshake", keyboard=reading) as server,
            await connect_from("127.0.0.1", ipv4(server)) as client,
        ):
            assert b"Welcome.\n" == await receive_until(client, b"\n")

            await client.send_all(b"hello\n")

            assert b"hello\n" == await receive_until(client, b"\n")


@linux_only
@in_own_namespace
async def test_before_the_handshake_refuses_who_is_unwanted() -> None:
    """Who is unwanted has no connection, and nobody is asked."""
    with keyboard() as (reading, _), redirect_stdout(io.StringIO()) as said:
        async with running("before_the_handshake", keyboard=reading) as server:
            with pytest.raises(ConnectionRefusedError):
                await connect_from("127.0.0.3", ipv4(server))

            assert {"unwanted": 1} == server.statistics().listening.rejected

    assert "wants to connect" not in said.getvalue()


async def _is_refused(address: Address) -> None:
    with pytest.raises(ConnectionRefusedError):
        await connect_from("127.0.0.2", address)


@linux_only
@in_own_namespace
async def test_before_the_handshake_asks_about_strangers() -> None:
    """
    Strangers wait in ``connect()``; one question is asked at a time, and who is let in is
    connected then, who is not is refused. What was typed before a question is no answer to it.
    """
    with keyboard() as (reading, writing), redirect_stdout(io.StringIO()) as said:
        async with running("before_the_handshake", keyboard=reading) as server:
            async with waiting_from("127.0.0.2", ipv4(server)) as (name, let_in):
                question = f"{name} wants to connect. Let it in (y or n)?\n"
                await until(lambda: said.getvalue().endswith(question))

                assert not let_in.is_set()

                os.write(writing, b"y\n")
                with trio.fail_after(PATIENCE):
                    await let_in.wait()

            os.write(writing, b"y\n")  # for nobody
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_is_refused, ipv4(server))
                await until(lambda: said.getvalue().count("wants to connect") == 2)
                os.write(writing, b"n\n")

            assert {"turned-away": 1} == server.statistics().listening.rejected


@linux_only
@in_own_namespace
async def test_before_the_handshake_misses_who_gives_up() -> None:
    """Who leaves before the answer is gone when the SYN should have come again and has not."""
    with keyboard() as (reading, _), redirect_stdout(io.StringIO()) as said:
        async with running("before_the_handshake", keyboard=reading) as server:
            async with waiting_from("127.0.0.2", ipv4(server)) as (name, _):
                await until(lambda: server.statistics().listening.pending)
            await until(lambda: server.statistics().listening.aborted)

    assert said.getvalue().endswith(f"{name} is gone: silent\n")


# --- As programs ---------------------------------------------------------------------------------

# What is imported late could be where root only may read.
WITHOUT_RIGHTS = """
import codecs, os, pkgutil, sys
import trio_wsk.observers
codecs.lookup("idna")
sys.argv = sys.argv[1:]
with open(sys.argv[0]) as file:
    program = compile(file.read(), sys.argv[0], "exec")
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
exec(program, {"__name__": "__main__"})
"""


@contextmanager
def started_here(name: str) -> Iterator[subprocess.Popen[str]]:
    """Start an example in the network namespace that this thread is in."""
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, str(EXAMPLES / f"{name}.py"), "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    with process:
        try:
            yield process
        finally:
            process.kill()  # which does nothing if it has ended


@asynccontextmanager
async def started(name: str) -> AsyncIterator[tuple[trio.Process, int]]:
    """Start an example as a reader does; give the process, and the port that it tells."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), "0"]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    check=False,
                )
            )
            assert process.stdout is not None
            said = b""
            while not said.endswith(b"\n"):
                said += await process.stdout.receive_some()
            command_line, port = said.decode().rsplit(maxsplit=1)

            assert command_line.endswith("nc localhost")

            try:
                yield process, int(port)
            finally:
                nursery.cancel_scope.cancel()


async def ended(process: trio.Process) -> tuple[int, str]:
    """Wait for a program's end; return its code, and what it said since it was asked last."""
    assert process.stdout is not None
    said = b""
    async for data in process.stdout:
        said += data
    return await process.wait(), said.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ECHOES)
async def test_echo_program_ends_quietly_on_a_signal(name: str, number: signal.Signals) -> None:
    """``python examples/echo.py 0`` says where to talk to it, echoes, and ends without a word."""
    async with started(name) as (process, port):
        client = await trio.open_tcp_stream("localhost", port)
        await client.send_all(b"hello\n")

        assert b"hello\n" == await receive_until(client, b"\n")

        process.send_signal(number)

        assert (0, "") == await ended(process)

        await client.aclose()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_conditional_accept_program_ends_on_a_signal(number: signal.Signals) -> None:
    """It says where to talk to it, what becomes of its peers, and ends without another word."""
    async with started("conditional_accept") as (process, port):
        client = await trio.open_tcp_stream("127.0.0.1", port)
        name = name_of(client)
        reset(client)
        assert process.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            said += await process.stdout.receive_some()

        assert said.decode().endswith(f" s: {name} is gone: reset\n")

        process.send_signal(number)

        assert (0, "") == await ended(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_chat_program_drains_on_a_signal(number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM has everybody told, finished in good order, and the program end well."""
    async with started("chat") as (process, port):
        client = await trio.open_tcp_stream("localhost", port)
        await receive_until(client, b"\n")
        process.send_signal(number)

        assert b"* the room closes, good-bye\n" == await receive_until(client, b"\n")
        assert b"" == await client.receive_some()
        assert (0, "Good-bye.\n") == await ended(process)

        await client.aclose()


@linux_only
@in_own_namespace
def test_before_the_handshake_program_ends_on_a_signal() -> None:
    """It says where to come to, asks, does as it is told, and ends without another word."""
    with started_here("before_the_handshake") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said, port = process.stdout.readline().rsplit(maxsplit=1)

        assert said.endswith("Try: nc -s 127.0.0.2 127.0.0.1")

        with socket.socket() as client:
            client.bind(("127.0.0.2", 0))
            client.settimeout(0)
            client.connect_ex(("127.0.0.1", int(port)))
            name = "{}:{}".format(*client.getsockname())

            assert f"{name} wants to connect. Let it in (y or n)?\n" == process.stdout.readline()

            process.stdin.write("y\n")
            process.stdin.flush()
            client.settimeout(10)

            assert b"Welcome.\n" == client.makefile("rb").readline()

        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=30)

        assert (0, f"{name} is let in\n") == (process.returncode, rest)


@linux_only
def test_before_the_handshake_program_says_what_it_lacks() -> None:
    """Without the capability it ends with an error that names it, and says what to do."""
    program = str(EXAMPLES / "before_the_handshake.py")
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", WITHOUT_RIGHTS, program, "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
        encoding="utf-8",
    )
    first, error, *_, last = done.stderr.splitlines()

    assert (1, "") == (done.returncode, done.stdout)
    assert "Nobody can be asked before the handshake here:" == first
    assert "this takes CAP_NET_ADMIN" in error
    assert last.endswith(f"sh -c 'ip link set lo up && exec {sys.executable} {program} 0'")
