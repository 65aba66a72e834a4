"""Requests that another transport wraps: what holds of them is in the contract alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.support import PATIENCE, connect, reset, until
from trio_wsk import (
    ConnectionDispatch,
    EventMask,
    InspectAction,
    ListenDispatch,
    open_listening_socket,
)
from trio_wsk.transports import PortableTransport, TransportRequest

if TYPE_CHECKING:
    from trio_wsk import Address, Connection
    from trio_wsk.transports import Channel, Readiness, RequestKeeper, Watch
    from trio_wsk.transports._socket_request import SocketRequest

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")


class Wrapped(TransportRequest):
    """Another transport's request: it has its number, and the keeper is told of the inner one."""

    def __init__(self, inner: SocketRequest, watched: list[Channel]) -> None:
        self._inner = inner
        self._watched = watched

    @property
    def serial_number(self) -> int:
        """The inner one's."""
        return self._inner.serial_number

    @property
    def local_address(self) -> Address:
        """The inner one's."""
        return self._inner.local_address

    @property
    def remote_address(self) -> Address:
        """The inner one's."""
        return self._inner.remote_address

    def accept(self) -> Channel:
        """Accept it."""
        return self._inner.accept()

    def reset(self) -> None:
        """Reset it."""
        self._inner.reset()

    def was_reset(self) -> bool:
        """Ask it."""
        return self._inner.was_reset()

    def watch_end(self, readiness: Readiness, keeper: RequestKeeper) -> None:
        """Have it tell by itself."""
        self._inner.watch_end(readiness, keeper)

    def unwatch_end(self) -> None:
        """Have it tell no more."""
        self._inner.unwatch_end()

    def watch(self, channel: Channel) -> Watch:
        """Take note that somebody asked."""
        self._watched.append(channel)
        return self._inner.watch(channel)


class Wrapping(PortableTransport):
    """The portable transport, with its requests wrapped."""

    watched: list[Channel]

    def next_request(self) -> TransportRequest | None:  # type: ignore[override]  # no longer its own
        """Wrap the next one."""
        request = super().next_request()
        return None if request is None else Wrapped(request, self.watched)


@pytest.fixture
def transport() -> Wrapping:
    """Make one."""
    wrapping = Wrapping.tcp(0, host="127.0.0.1")
    assert isinstance(wrapping, Wrapping)
    wrapping.watched = []
    return wrapping


async def test_leaving_of_a_wrapped_peer_is_noticed_while_it_is_parked(
    transport: Wrapping,
) -> None:
    """Who a request is, its number says, whichever object tells of it."""
    with trio.fail_after(PATIENCE):
        async with open_listening_socket(
            transport=transport, inspect=lambda _: InspectAction.ACCEPT
        ) as listening:
            client = await connect(listening.local_addresses[0])
            await until(lambda: listening.statistics().parked)
            reset(client)
            await until(lambda: not listening.statistics().parked)

            assert {"reset": 1} == listening.statistics().aborted


async def test_watch_is_asked_for_unless_the_request_says_that_it_need_not_be(
    transport: Wrapping,
) -> None:
    """A transport may wait for its channels in a way of its own, though they have descriptors."""

    def receive(connection: Connection, data: bytes) -> None:
        connection.send_nowait(data)

    dispatch = ConnectionDispatch(receive=receive)
    with trio.fail_after(PATIENCE):
        async with open_listening_socket(
            transport=transport, dispatch=ListenDispatch(accept=lambda _: dispatch)
        ) as listening:
            listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
            async with await connect(listening.local_addresses[0]) as client:
                await client.send_all(b"x")
                assert b"x" == await client.receive_some()

    assert 1 == len(transport.watched)
