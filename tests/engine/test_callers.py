"""Calls from outside the Trio run that something lives in are refused, before anything changes."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.helpers.pairs import open_pair
from tests.helpers.support import PATIENCE, connect, connect_now, read_to_end, until
from trio_wsk import (
    Connection,
    ConnectionDispatch,
    ConnectionRequest,
    EventMask,
    InspectAction,
    Irp,
    ListenDispatch,
    ListeningSocket,
    Server,
    open_listening_socket,
    open_server,
    serve,
    serve_events,
)
from trio_wsk._connection.public_socket import PublicSocket
from trio_wsk.inspectors import ProxyHeader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


class Stage:
    """A server with one connection that a handler holds, and one request that is pended."""

    server: Server
    connection: Connection
    request: ConnectionRequest
    irp: Irp[int]

    def __init__(self) -> None:
        self.go_on = trio.Event()

    def inspect(self, request: ConnectionRequest) -> InspectAction:
        """Let the first one through."""
        self.request = request
        return InspectAction.PEND if hasattr(self, "connection") else InspectAction.ACCEPT

    async def handle(self, connection: Connection) -> None:
        """Hold the connection, then show that it works."""
        self.connection = connection
        self.irp = connection.queue_send(b"hello ")
        await self.go_on.wait()
        await connection.send_all(b"world")

    def calls(self) -> dict[str, Callable[[], object]]:
        """Name everything that can be called, with a call of it."""
        listening, connection = self.server.listening, self.connection
        buffer = bytearray(1)
        dispatch = ConnectionDispatch(receive=lambda *_: None)
        return {
            "server.abort": self.server.abort,
            "server.drain": self.server.drain,
            "listening.accept": listening.accept,
            "listening.accept_nowait": listening.accept_nowait,
            "listening.aclose": listening.aclose,
            "listening.disable_event": partial(listening.disable_event, EventMask.ACCEPT),
            "listening.disable_event_nowait": partial(
                listening.disable_event_nowait, EventMask.ACCEPT
            ),
            "listening.enable_events": partial(listening.enable_events, EventMask.RECEIVE),
            "listening.inspect_complete": partial(
                listening.inspect_complete, self.request.inspect_id, InspectAction.REJECT
            ),
            "listening.pause": listening.pause,
            "listening.queue_accept": listening.queue_accept,
            "listening.queue_connect": partial(listening.queue_connect, HOST, 80),
            "listening.refuse": listening.refuse,
            "listening.resume": listening.resume,
            "connection.abort": connection.abort,
            "connection.aclose": connection.aclose,
            "connection.close": connection.close,
            "connection.disable_event": partial(connection.disable_event, EventMask.RECEIVE),
            "connection.disable_event_nowait": partial(
                connection.disable_event_nowait, EventMask.RECEIVE
            ),
            "connection.disconnect": connection.disconnect,
            "connection.enable_events": partial(
                connection.enable_events, EventMask.RECEIVE, dispatch
            ),
            "connection.more": connection.more,
            "connection.queue_send": partial(connection.queue_send, b"x"),
            "connection.receive_into": partial(connection.receive_into, buffer),
            "connection.receive_some": connection.receive_some,
            "connection.resume_receive": connection.resume_receive,
            "connection.send_all": partial(connection.send_all, b"x"),
            "connection.send_eof": connection.send_eof,
            "connection.send_eof_nowait": connection.send_eof_nowait,
            "connection.send_nowait": partial(connection.send_nowait, b"x"),
            "connection.socket": lambda: connection.socket,
            "connection.send_proxy_header": partial(
                connection.send_proxy_header, ProxyHeader.local()
            ),
            "connection.wait_send_all_might_not_block": connection.wait_send_all_might_not_block,
            "irp.cancel": self.irp.cancel,
            "irp.wait": self.irp.wait,
            "request.at_end": partial(self.request.at_end, print),
            "request.peek": partial(self.request.peek, 1),
        }

    def picture(self) -> object:
        """Say how things are."""
        return (
            self.server.statistics(),
            self.connection.closed,
            self.irp.status,
            repr(self.request),
            self.connection._rare is None,  # noqa: SLF001 - nothing has been noted there
        )


ONLY_READ = {
    "Connection": {
        "closed",
        "draining",
        "facts",
        "ideal_send_backlog",
        "idle_seconds",
        "inspect_id",
        "listening",
        "local_address",
        "octets_received",
        "octets_sent",
        "octets_unsent",
        "opened_at",
        "peer_credentials",
        "remote_address",
        "state",
        "tls",
        "transport_local_address",
        "transport_remote_address",
    },
    "ConnectionRequest": {
        "cancel_scope",  # which is Trio's, and has Trio's own guards
        "context",
        "deadline",
        "facts",
        "inspect_id",
        "inspect_point",
        "listening",
        "local_address",
        "peer_credentials",
        "remote_address",
        "stage",
        "syn",
        "transport_local_address",
        "transport_remote_address",
    },
    "Irp": {"information", "on_completion", "outcome", "status"},
    "ListeningSocket": {
        "draining",
        "inspect_point",
        "local_addresses",
        "pending_inspections",
        "socket",
        "sockets",
        "statistics",
    },
    "Server": {"connections", "local_addresses", "statistics"},
}
"""What changes nothing and wakes nobody, and so can be looked at from anywhere."""

NAMES = {
    "Connection": "connection",
    "ConnectionRequest": "request",
    "Irp": "irp",
    "ListeningSocket": "listening",
    "Server": "server",
}


@asynccontextmanager
async def on_stage() -> AsyncIterator[Stage]:
    """Set the stage; see in the end that everything is as it was, and works."""
    stage = Stage()
    async with open_server(stage.handle, 0, host=HOST, inspect=stage.inspect, grace=0) as server:
        stage.server = server
        first = await connect(server.local_addresses[0])
        await until(lambda: hasattr(stage, "irp"))
        second = await connect(server.local_addresses[0])
        await until(lambda: server.statistics().listening.pending)
        before = stage.picture()
        yield stage

        assert before == stage.picture()

        stage.go_on.set()

        assert b"hello world" == await read_to_end(first)

        await first.aclose()
        await second.aclose()


async def _awaited(call: Callable[[], object]) -> None:
    made = call()
    if isinstance(made, Coroutine):
        await made


def in_no_run(call: Callable[[], object]) -> None:
    """Call it, and start what is to be awaited."""
    made = call()
    if isinstance(made, Coroutine):
        made.send(None)


def in_asyncio(call: Callable[[], object]) -> None:
    """Call it under asyncio."""
    asyncio.run(_awaited(call))


def in_another_run(call: Callable[[], object]) -> None:
    """Call it in a Trio run of its own."""
    trio.run(_awaited, call)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (in_no_run, r"outside the Trio run;.*from_thread\.run_sync\({name}"),
        (in_asyncio, r"outside the Trio run \(under asyncio.*from_thread\.run_sync\({name}"),
        (in_another_run, r"another Trio run.*run_sync_soon\({name}"),
    ],
)
async def test_call_from_elsewhere_is_refused_and_changes_nothing(
    where: Callable[[Callable[[], object]], None], says: str
) -> None:
    """
    Another thread, asyncio in it, another Trio run in it: whatever is called there is refused by
    name, and all goes on as if it had not been.
    """
    async with on_stage() as stage:
        for name, call in stage.calls().items():
            with pytest.raises(RuntimeError, match=says.format(name=name.replace(".", r"\."))):
                await trio.to_thread.run_sync(where, call)

            assert not stage.connection.closed, name


ENDS: dict[str, tuple[int, ...]] = {"close": (), "detach": (), "shutdown": (socket.SHUT_RDWR,)}
"""What a public socket does by itself, and with what; all else is Trio's."""


@pytest.mark.parametrize("where", [in_no_run, in_asyncio, in_another_run])
@pytest.mark.parametrize("end", ENDS)
async def test_public_socket_is_not_closed_from_elsewhere(
    where: Callable[[Callable[[], object]], None], end: str
) -> None:
    """It is the connection's descriptor, and so is its guard."""
    async with open_pair() as (connection, client):
        call = partial(getattr(connection.socket, end), *ENDS[end])
        with pytest.raises(RuntimeError, match=rf"connection\.socket\.{end}"):
            await trio.to_thread.run_sync(where, call)
        await connection.send_all(b"still here")

        assert b"still here" == await client.receive_some()


@pytest.mark.parametrize("where", [in_no_run, in_asyncio, in_another_run])
@pytest.mark.parametrize("end", ENDS)
async def test_public_listening_socket_is_not_closed_from_elsewhere(
    where: Callable[[Callable[[], object]], None], end: str
) -> None:
    """The same for a listening socket: who waits in accept() goes on, and is served."""
    async with open_listening_socket(0, host=HOST) as listening, trio.open_nursery() as nursery:
        accepted: list[Connection] = []

        @nursery.start_soon
        async def accept() -> None:
            accepted.append(await listening.accept())

        await trio.testing.wait_all_tasks_blocked()
        call = partial(getattr(listening.socket, end), *ENDS[end])
        with pytest.raises(RuntimeError, match=rf"listening\.socket\.{end}"):
            await trio.to_thread.run_sync(where, call)

        assert "listening" in repr(listening)
        assert 1 == listening.statistics().queued_accepts

        async with await connect(listening.local_addresses[0]):
            await until(lambda: accepted)
            await accepted[0].aclose()


async def test_every_call_is_guarded_or_only_reads() -> None:
    """The calls of the test above are all that there are."""
    async with on_stage() as stage:
        called = set(stage.calls())

    there = {
        f"{NAMES[kind.__name__]}.{name}"
        for kind in (Connection, ConnectionRequest, Irp, ListeningSocket, Server)
        for name, member in inspect.getmembers(kind)
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, property))
        and name not in ONLY_READ[kind.__name__]
    }

    assert there - {"connection.on_edges"} == called  # that is for its readiness to call

    of_sockets = {
        name
        for name, member in vars(PublicSocket).items()
        if not name.startswith("_") and inspect.isfunction(member)
    }

    assert of_sockets == set(ENDS)


async def test_threads_call_through_trio() -> None:
    """What the message says is what works."""
    async with on_stage() as stage:
        await trio.to_thread.run_sync(trio.from_thread.run_sync, stage.server.listening.pause)
        await trio.to_thread.run_sync(trio.from_thread.run_sync, stage.server.listening.resume)
        token = trio.lowlevel.current_trio_token()

        def hand_over() -> None:
            token.run_sync_soon(stage.connection.resume_receive)

        await trio.to_thread.run_sync(trio.run, _awaited, hand_over)


def test_hosts_turn_is_not_the_guests() -> None:
    """
    Where asyncio hosts the Trio run in the same thread, its own turns are outside of it: what
    would be woken there is not.
    """
    refused: list[str] = []

    async def host() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        staged: list[Stage] = []
        go_on: list[trio.Event] = []
        tokens: list[trio.lowlevel.TrioToken] = []

        async def guest() -> None:
            async with on_stage() as stage:
                go_on.append(trio.Event())
                tokens.append(trio.lowlevel.current_trio_token())
                staged.append(stage)
                await go_on[0].wait()

        trio.lowlevel.start_guest_run(
            guest,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=done.set_result,
            host_uses_signal_set_wakeup_fd=True,
        )
        while not staged:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.001)
        for name, call in staged[0].calls().items():
            # What is awaited most is left to Trio itself, which is there in the same moment.
            with pytest.raises(RuntimeError, match=r"under asyncio|from async context"):
                in_no_run(call)
            refused.append(name)
        tokens[0].run_sync_soon(go_on[0].set)
        (await done).unwrap()

    asyncio.run(asyncio.wait_for(host(), PATIENCE))

    assert refused


async def nothing(_: object) -> None:
    """Handle nobody."""


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (partial(open_listening_socket, 0, host=HOST), "open_listening_socket"),
        (partial(open_server, nothing, 0, host=HOST), "a server"),
        (partial(serve, nothing, 0, host=HOST), "a server"),
        (
            partial(serve_events, ListenDispatch(accept=lambda _: None), 0, host=HOST),  # type: ignore[arg-type,return-value]  # nobody comes
            "a server",
        ),
    ],
)
def test_nothing_is_opened_outside_of_trio(start: Callable[[], Any], what: str) -> None:
    """Under asyncio, and under nothing, it says that Trio is missing and how to have it."""

    async def main() -> None:
        opening = start()
        if isinstance(opening, Coroutine):
            await opening
        else:
            async with opening:
                pass

    with pytest.raises(RuntimeError, match=rf"{what}.*\(under asyncio.*trio\.run"):
        asyncio.run(main())
    with pytest.raises(RuntimeError, match=rf"{what}.*outside of a Trio run: .*trio\.run"):
        main().send(None)


@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("has_waited", [False, True])
def test_who_has_outlived_the_run_can_still_be_ended(end: str, *, has_waited: bool) -> None:
    """Nobody can race with it any more: a connection that was kept is closed from anywhere."""

    async def main() -> tuple[Connection, trio.SocketStream]:
        async with open_listening_socket(0, host=HOST) as listening:
            client = connect_now(listening.local_addresses[0])
            connection = await listening.accept()
            if has_waited:
                with trio.move_on_after(0.001):
                    await connection.receive_some()
            return connection, client

    connection, client = trio.run(main)
    with pytest.raises(RuntimeError, match="from outside the Trio run"):
        connection.send_nowait(b"x")
    getattr(connection, end)()

    assert connection.closed

    with client.socket:
        pass
