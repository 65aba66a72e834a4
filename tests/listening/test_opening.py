"""The listening socket: where it is opened, and what its arguments may not be."""

from __future__ import annotations

import errno
import math
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.listening import Taker, close_all, opened
from tests.helpers.support import connect, fate_of
from trio_wsk import Connection, EventMask, ListeningSocket, Status, open_listening_socket

if TYPE_CHECKING:
    from pathlib import Path

    from trio_wsk.observers import Observer

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


# --- Called wrongly ---------------------------------------------------------------------------


async def test_calls_from_a_thread_are_refused() -> None:
    """Calls from outside the Trio run raise RuntimeError and show the right one."""
    async with opened(dispatch=Taker().dispatch) as listening:
        irp = listening.queue_accept()
        for name, call in (
            ("listening.queue_accept", listening.queue_accept),
            ("listening.accept_nowait", listening.accept_nowait),
            ("listening.enable_events", partial(listening.enable_events, EventMask.ACCEPT)),
            ("listening.pause", listening.pause),
            ("listening.refuse", listening.refuse),
            (
                "listening.disable_event_nowait",
                partial(listening.disable_event_nowait, EventMask.ACCEPT),
            ),
        ):
            with pytest.raises(RuntimeError, match=rf"from_thread.run_sync\({name}\)"):
                await trio.to_thread.run_sync(call)
        with pytest.raises(RuntimeError):
            await trio.to_thread.run_sync(irp.cancel)

        assert Status.PENDING is irp.status
        assert 1 == listening.statistics().queued_accepts

        def pause_properly() -> None:
            trio.from_thread.run_sync(listening.pause)

        await trio.to_thread.run_sync(pause_properly)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 65536}, "65536"),
        ({"port": -1}, "-1"),
        ({"port": "http"}, "'http'"),
        ({"port": None}, "nothing is not enough"),
        ({"port": 0, "path": "/x"}, r"port=0 and path='/x'"),
        ({"port": None, "path": "/x", "host": "::1"}, "path= doesn't go with host"),
        ({"port": 0, "mode": 0o600}, "port= doesn't go with mode"),
        ({"port": 0, "max_parked": -1}, "-1"),
        ({"port": 0, "max_parked": "many"}, "'many'"),
        ({"port": 0, "on_no_descriptors": "panic"}, "'panic'"),
        ({"port": 0, "dispatch": Taker()}, r"ListenDispatch\(accept=...\)"),
        ({"port": 0, "observers": 7}, "7"),
        ({"port": 0, "observers": ["log"]}, "'log'"),
        ({"port": 0, "backlog": -3}, "-3"),
        ({"port": 0, "host": ""}, "''"),
    ],
)
async def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    """A wrong argument is an InvalidParameterError that shows it, before anything is opened."""
    with pytest.raises(trio_wsk.InvalidParameterError, match=message):
        async with open_listening_socket(**options):
            raise AssertionError("it was opened")


async def test_address_that_cannot_be_had() -> None:
    """A host that doesn't resolve and an address in use give a BindError that names them."""
    with pytest.raises(trio_wsk.BindError, match=r"no-such-host\.invalid"):
        async with open_listening_socket(0, host="no-such-host.invalid"):
            raise AssertionError("it was opened")
    async with opened() as listening:
        port = listening.local_addresses[0].port
        with pytest.raises(trio_wsk.BindError, match=f"127.0.0.1:{port}") as caught:
            async with open_listening_socket(port, host=HOST):
                raise AssertionError("it was opened")

    assert Status.ADDRESS_ALREADY_EXISTS is caught.value.status
    assert errno.EADDRINUSE == caught.value.errno


async def test_socket_that_is_no_listening_one() -> None:
    """A connected or datagram socket among `sockets` is refused by name, and closed."""
    with pytest.raises(trio_wsk.InvalidParameterError, match=r"DGRAM|datagram|stream"):
        async with open_listening_socket(sockets=[socket.socket(type=socket.SOCK_DGRAM)]):
            raise AssertionError("it was opened")


async def test_event_without_its_callback() -> None:
    """Enabling an event without a callback, or no event at all, shows the right call."""
    async with opened() as listening:
        with pytest.raises(
            trio_wsk.InvalidParameterError, match=r"dispatch=ListenDispatch\(accept=...\)"
        ):
            listening.enable_events(EventMask.ACCEPT)
        with pytest.raises(trio_wsk.InvalidParameterError, match="EventMask"):
            listening.enable_events(EventMask(0))
        with pytest.raises(trio_wsk.InvalidParameterError, match=r"connection\.disable_event"):
            listening.disable_event_nowait(EventMask.RECEIVE)
        with pytest.raises(trio_wsk.InvalidParameterError):
            await listening.disable_event(EventMask.ACCEPT | EventMask.RECEIVE)


async def test_completion_routine_that_is_no_plain_function() -> None:
    """An async completion routine is refused when the accept is queued, and nothing is queued."""

    async def routine(irp: object) -> None:
        pass

    async with opened() as listening:
        with pytest.raises(trio_wsk.InvalidParameterError, match="plain function"):
            listening.queue_accept(on_completion=routine)
        with pytest.raises(trio_wsk.InvalidParameterError, match="7"):
            listening.queue_accept(on_completion=7)  # type: ignore[arg-type]  # on purpose

        assert 0 == listening.statistics().queued_accepts


# --- Places -----------------------------------------------------------------------------------


async def _talks(listening: ListeningSocket) -> None:
    for address in listening.local_addresses:
        client = await connect(address)
        connection = await listening.accept()
        await client.send_all(b"x")

        assert b"x" == await connection.receive_some()

        await close_all(connection, client)


@pytest.mark.parametrize("host", [HOST, "::1", None, ["127.0.0.1", "::1"], "localhost"])
async def test_tcp(host: Any) -> None:
    """TCP over IPv4, IPv6, both, and one port for all."""
    async with open_listening_socket(0, host=host) as listening:
        assert 1 == len({address.port for address in listening.local_addresses})

        await _talks(listening)


async def test_unix(tmp_path: Path) -> None:
    """A Unix socket's path is there while the block lasts, with its mode."""
    path = tmp_path / "socket"
    async with opened(None, path=path, mode=0o600) as listening:
        assert 0o600 == path.stat().st_mode & 0o777

        await _talks(listening)
    assert not path.exists()


async def test_adopted_sockets() -> None:
    """Sockets that exist already are listened on, and closed with the block."""
    bound = socket.socket()
    bound.bind((HOST, 0))
    async with opened(None, sockets=[bound], backlog=5) as listening:
        await _talks(listening)
    with pytest.raises(OSError, match="refused"):
        await connect(listening.local_addresses[0])


async def test_public_socket_and_trios_helper() -> None:
    """`.socket` is the listening socket, so Trio's helper for listeners connects to it."""
    async with opened() as listening:
        assert listening.local_addresses[0].sockaddr == listening.socket.getsockname()

        client = await trio.testing.open_stream_to_socket_listener(listening)  # type: ignore[arg-type]  # it looks at .socket alone
        connection = await listening.accept()
        await close_all(connection, client)


async def test_it_is_a_listener() -> None:
    """trio.serve_listeners runs on it, and `async with listening` closes it."""
    served = trio.Event()

    async def handler(stream: Connection) -> None:
        async with stream:
            await stream.send_all(await stream.receive_some())
        served.set()

    async with opened() as listening, trio.open_nursery() as nursery:
        assert isinstance(listening, trio.abc.Listener)

        nursery.start_soon(trio.serve_listeners, handler, [listening])
        client = await connect(listening.local_addresses[0])
        await client.send_all(b"x")

        assert b"x" == await client.receive_some()

        await served.wait()
        await client.aclose()
        nursery.cancel_scope.cancel()
    async with opened() as listening:
        async with listening:
            pass
        with pytest.raises(trio_wsk.SocketClosedError):
            listening.accept_nowait()


async def test_attributes() -> None:
    """What one can look at: context, repr, draining, the first statistics."""
    async with opened(context="mine") as listening:
        assert "mine" == listening.context
        assert f"{HOST}:{listening.local_addresses[0].port}" in repr(listening)
        assert not listening.draining.is_set()
        counted = listening.statistics()
        assert (0, {}, 0, math.inf) == (counted.accepted, counted.dropped, counted.parked, math.inf)


async def test_observers_hear_of_arrivals() -> None:
    """Each arrival and each drop is one record."""
    told: list[object] = []
    observer: Observer = told.append
    async with opened(observers=[observer]) as listening:
        listening.refuse()
        client = await connect(listening.local_addresses[0])

        assert "reset" == await fate_of(client)
        assert ["ConnectionAccepted", "ConnectionDropped"] == [type(each).__name__ for each in told]

        await client.aclose()
