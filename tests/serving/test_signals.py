"""Servers that signals end, in a program with a main of its own: `open_server(..., signals=)`."""

from __future__ import annotations

import math
import signal
import socket
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGTERM, SIGUSR1
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_wsk
from tests.helpers.scarcity import open_descriptors
from tests.helpers.support import PATIENCE, connect_now, fate_of, until
from tests.listening.test_ctrl_c import Interrupter
from trio_wsk import Connection, ConnectionDispatch, ListenDispatch, open_server, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from trio_wsk import Server

HOST = "127.0.0.1"


async def echo(stream: trio.abc.HalfCloseableStream) -> None:
    """Send everything back."""
    while data := await stream.receive_some():
        await stream.send_all(data)


async def served(server: Server) -> trio.SocketStream:
    """Connect, and be served."""
    client = connect_now(server.local_addresses[0])
    await said(client, b"a")
    return client


async def said(client: trio.SocketStream, octet: bytes) -> None:
    """Say something, and hear it again."""
    await client.send_all(octet)

    assert octet == await client.receive_some()


async def was_reset(client: trio.SocketStream) -> bool:
    """Read to the end, and close; tell whether the server has reset it."""
    async with client:
        return await fate_of(client) == "reset"


@contextmanager
def noted(number: int) -> Iterator[list[int]]:
    """Have a signal noted by a handler, which is the one before a server's."""
    heard: list[int] = []
    before = signal.signal(number, lambda number, _: heard.append(number))
    try:
        yield heard
    finally:
        signal.signal(number, before)


@pytest.fixture(autouse=True)
def _signals_are_put_back() -> Iterator[None]:
    """Each test leaves signals to whom it has found them with."""
    numbers = (SIGINT, SIGTERM, SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield

    assert before == [signal.getsignal(number) for number in numbers]


async def test_signal_drains_and_leaves_the_block() -> None:
    """
    A signal drains the server; meanwhile the block's body goes on. Then the body is cancelled, the
    block is left as if it had come to its end, and signals are what they were before.
    """
    after: list[int] = []
    with noted(SIGTERM) as noticed, trio.fail_after(PATIENCE):
        async with open_server(echo, 0, host=HOST, grace=math.inf, signals=[SIGTERM]) as server:
            client = await served(server)
            signal.raise_signal(SIGTERM)
            await server.listening.draining.wait()
            await said(client, b"b")
            await client.send_eof()
            await trio.sleep_forever()
        after.append(server.statistics().served)
        signal.raise_signal(SIGTERM)

        assert b"" == await client.receive_some()

        await client.aclose()

    assert ([1], [SIGTERM]) == (after, noticed)


async def test_second_signal_aborts() -> None:
    """A second signal resets what is open, within any grace; a third is what it was before."""
    with noted(SIGTERM) as noticed, trio.fail_after(PATIENCE):
        async with open_server(
            echo, 0, host=HOST, grace=math.inf, signals=[SIGTERM, SIGUSR1]
        ) as server:
            client = await served(server)
            signal.raise_signal(SIGTERM)
            await server.listening.draining.wait()
            await said(client, b"b")
            signal.raise_signal(SIGUSR1)

            assert [] == noticed

            signal.raise_signal(SIGTERM)
            await trio.sleep_forever()

        assert await was_reset(client)

    assert [SIGTERM] == noticed


async def test_signals_that_come_at_once_are_two() -> None:
    """Two signals before anybody has had a turn drain and abort."""
    with trio.fail_after(PATIENCE):
        async with open_server(
            echo, 0, host=HOST, grace=math.inf, signals=[SIGTERM, SIGUSR1]
        ) as server:
            client = await served(server)
            signal.raise_signal(SIGTERM)
            signal.raise_signal(SIGUSR1)
            await trio.sleep_forever()

        assert await was_reset(client)


async def test_all_servers_of_a_process_hear_a_signal() -> None:
    """One signal drains every server that was opened with it, in whichever order they end."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            hearing = partial(serve, echo, 0, host=HOST, grace=math.inf, signals=[SIGTERM])
            first = await nursery.start(hearing)
            second = await nursery.start(hearing)
            deaf = await nursery.start(partial(serve, echo, 0, host=HOST, grace=math.inf))
            clients = [await served(first), await served(second)]
            signal.raise_signal(SIGTERM)
            await first.listening.draining.wait()
            await second.listening.draining.wait()

            assert not deaf.listening.draining.is_set()

            for client in clients:
                await client.send_eof()

                assert b"" == await client.receive_some()

                await client.aclose()
            deaf.abort()


async def test_callbacks_are_told_of_a_signals_drain() -> None:
    """`serve_events` returns, too, when its connections have finished after a signal."""

    def accept(_: Connection) -> ConnectionDispatch:
        return ConnectionDispatch(closed=lambda *_: None)

    def drain(connection: Connection) -> None:
        connection.disconnect(data=b"bye")

    dispatch = ListenDispatch(accept=accept, drain=drain)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                lambda task_status: trio_wsk.serve_events(
                    dispatch, 0, host=HOST, signals=[SIGTERM], task_status=task_status
                )
            )
            client = connect_now(server.local_addresses[0])
            await until(lambda: server.statistics().open_connections)
            signal.raise_signal(SIGTERM)

            assert b"bye" == await client.receive_some()

            await client.aclose()


async def test_signal_in_a_drain_is_the_first() -> None:
    """
    While the server is drained by somebody else, one signal changes nothing, and the block is left
    when that drain is over; another one aborts.
    """
    with trio.fail_after(PATIENCE):
        async with (
            trio.open_nursery() as nursery,
            open_server(echo, 0, host=HOST, grace=math.inf, signals=[SIGTERM]) as server,
        ):
            client = await served(server)
            nursery.start_soon(server.drain)
            await server.listening.draining.wait()
            signal.raise_signal(SIGTERM)
            await said(client, b"b")
            signal.raise_signal(SIGTERM)
            await trio.sleep_forever()

        assert await was_reset(client)


async def test_second_signal_ends_the_drain_of_a_block_that_is_left() -> None:
    """Signals are heard until the block has been left, by its body's end, too."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def send_signals(server: Server, client: trio.SocketStream) -> None:
                await server.listening.draining.wait()
                await said(client, b"b")
                signal.raise_signal(SIGTERM)
                await said(client, b"c")
                signal.raise_signal(SIGTERM)

            async with open_server(echo, 0, host=HOST, grace=math.inf, signals=[SIGTERM]) as server:
                client = await served(server)
                nursery.start_soon(send_signals, server, client)

        assert await was_reset(client)


async def test_own_cancellation_of_the_body_is_its_own() -> None:
    """A body that a scope around the block has cancelled is no end by signal."""
    with trio.CancelScope() as scope:
        async with open_server(echo, 0, host=HOST, signals=[SIGTERM]):
            scope.cancel()
            await trio.sleep_forever()

    assert scope.cancelled_caught


async def test_bodys_error_comes_out_bare() -> None:
    """A body that fails while a signal's drain goes on ends the server, with its own error."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with open_server(echo, 0, host=HOST, grace=math.inf, signals=[SIGTERM]) as server:
            client = await served(server)
            signal.raise_signal(SIGTERM)
            await server.listening.draining.wait()
            raise ZeroDivisionError

    assert await was_reset(client)


async def test_signal_that_comes_too_late_goes_to_whom_it_went_before() -> None:
    """One that nobody could be told of any more, as the block is left, is not lost."""
    with noted(SIGTERM) as noticed:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with open_server(echo, 0, host=HOST, signals=[SIGTERM]):
                signal.raise_signal(SIGTERM)
                raise ZeroDivisionError

        assert [SIGTERM] == noticed


async def test_signal_that_is_ignored_stays_ignored() -> None:
    """What a shell has its background jobs ignore ends no server."""
    before = signal.signal(SIGINT, signal.SIG_IGN)
    try:
        async with open_server(echo, 0, host=HOST, signals=[SIGINT, SIGTERM]) as server:
            signal.raise_signal(SIGINT)
            client = await served(server)

            assert not server.listening.draining.is_set()

            await client.aclose()
        assert signal.SIG_IGN is signal.getsignal(SIGINT)
    finally:
        signal.signal(SIGINT, before)


async def test_handler_that_is_put_back_late_passes_signals_on() -> None:
    """
    Who has replaced our handler inside the block, and puts it back after it, has the signal's
    earlier handler called by it.
    """
    with noted(SIGTERM) as noticed:
        async with open_server(echo, 0, host=HOST, signals=[SIGTERM]):
            ours = signal.signal(SIGTERM, signal.SIG_IGN)
        signal.signal(SIGTERM, ours)
        signal.raise_signal(SIGTERM)

        assert [SIGTERM] == noticed

        signal.signal(SIGTERM, ours)
        async with open_server(echo, 0, host=HOST, signals=[SIGTERM]):
            signal.raise_signal(SIGTERM)
            await trio.sleep_forever()
        signal.raise_signal(SIGTERM)

        assert [SIGTERM] == noticed[1:]


async def test_signals_in_a_thread_are_refused() -> None:
    """Outside of the main thread no signal is heard; it is said at once, and nothing stays open."""
    sock = socket.create_server((HOST, 0))

    def opened() -> None:
        trio.run(lambda: serve(echo, sockets=[sock], signals=[SIGTERM]))

    with pytest.raises(RuntimeError, match="or give it signals="):
        await trio.to_thread.run_sync(opened)

    assert -1 == sock.fileno()


class InterruptServing(Interrupter):
    """Sends SIGINT before one line of the room of servers."""

    def start(self, frame: FrameType, event: str, argument: object) -> Any:
        """Follow what is called there."""
        is_there = Path(frame.f_code.co_filename).parent.name == "_serving"
        return super().start(frame, event, argument) if is_there else None


class Aborting(trio.TaskStatus[trio_wsk.Server]):
    """Who is told that a server has started, and ends it."""

    def started(self, value: trio_wsk.Server | None = None) -> None:
        """End it."""
        assert value is not None
        value.abort()


def test_ctrl_c_leaves_nothing() -> None:
    """
    Whichever line of a server Ctrl-C comes in, while a server that hears it is opened, listens, or
    ends: it ends the server, or goes on as a KeyboardInterrupt if that did not hear it. No
    descriptor is left, and Ctrl-C is Trio's again.
    """
    traced = sys.gettrace()
    before = open_descriptors()
    ways: set[bool] = set()
    interrupter = InterruptServing(0)
    while interrupter.seen >= interrupter.at:
        interrupter = InterruptServing(interrupter.at + 1)

        async def run(interrupter: InterruptServing = interrupter) -> None:
            sys.settrace(interrupter.start)
            try:
                await serve(echo, 0, host=HOST, signals=[SIGINT], task_status=Aborting())
            finally:
                sys.settrace(traced)

        is_interrupted = False
        try:
            trio.run(run)
        except KeyboardInterrupt:
            is_interrupted = True
        finally:
            sys.settrace(traced)

        assert before == open_descriptors(), f"at line {interrupter.at}"
        assert signal.default_int_handler is signal.getsignal(SIGINT)

        ways.add(is_interrupted)

    assert interrupter.at > 100
    assert {True, False} == ways
