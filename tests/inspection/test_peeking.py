"""Conditional accept over real sockets: inspectors that look at first octets."""

from __future__ import annotations

import codecs
import random
import select
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT, inspecting
from tests.helpers.support import PATIENCE, fate_of, is_waiting, read_to_end, reset, until
from tests.helpers.undecided import leave
from trio_wsk import AbortReason, ConnectionRequest, Status
from trio_wsk.observers import CallbackFailed

if TYPE_CHECKING:
    from pathlib import Path

    from trio_wsk import InspectAction

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"

# What resolves names needs this codec, and looks for it once. The ordinary user that some tests
# are for a while may not be allowed to read root's own Python.
codecs.lookup("idna")


@pytest.fixture
def knows_resets(place: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Unix sockets don't."""
    if "path" in place and request.getfixturevalue("how") == "reset":
        pytest.skip("a Unix socket has no reset")


async def test_peek_leaves_the_octets_for_who_takes_the_connection(place: dict[str, Any]) -> None:
    """As often as one likes, and with any count: the connection reads them from the first."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        assert b"he" == await request.peek(2)
        assert b"hello" == await request.peek(5)
        assert b"h" == await request.peek(1)

        return ACCEPT

    async with inspecting(inspect, **place) as desk:
        desk.client(b"hello, world")
        connection = await desk.listening.accept()

        assert b"hello, world" == await connection.receive_some()

        connection.close()


class Steps(trio.abc.Instrument):
    """Counts how often each task of a run had its turn."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Count."""
        self.of[task.name] = self.of.get(task.name, 0) + 1


async def test_peek_waits_for_more_without_spinning(place: dict[str, Any]) -> None:
    """Octets that come one by one wake it once each; between them nobody has anything to do."""
    steps = Steps()
    peeked = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction:
        assert b"0123456789" == await request.peek(10)

        peeked.set()
        return ACCEPT

    async with inspecting(inspect, **place) as desk:
        client, _ = await desk.ask()
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(steps)
        for octet in b"0123456789":
            assert not peeked.is_set()

            await client.send_all(bytes([octet]))
            await wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE):
            await peeked.wait()
        trio.lowlevel.remove_instrument(steps)

        assert steps.of["trio_wsk: Desk"] <= 10
        assert steps.of.get("trio_wsk: pump", 0) <= 15

        await desk.when(lambda: desk.statistics().parked)


@pytest.mark.parametrize("sent", [b"", b"two"])
@pytest.mark.usefixtures("tells_fin_behind_data")
async def test_peek_returns_what_there_is_when_the_peer_has_finished(
    sent: bytes, place: dict[str, Any], readiness: str
) -> None:
    """Fewer octets than asked for say that no more will come; none, that none ever came."""
    peeked: list[bytes] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        peeked.append(await request.peek(100))
        peeked.append(await request.peek(100))
        return ACCEPT

    async with inspecting(inspect, abort_on_half_close=False, **place) as desk:
        client, _ = await desk.ask(sent)
        await wait_all_tasks_blocked()

        assert [] == peeked

        await client.send_eof()
        connection = await desk.listening.accept()

        assert [sent, sent] == peeked
        assert sent == await read_to_end(connection)

        connection.close()


@pytest.mark.parametrize("sent", [b"", b"two"])
@pytest.mark.usefixtures("tells_fin_behind_data")
async def test_peek_sees_an_end_that_came_before_it(sent: bytes, readiness: str) -> None:
    """Also if the peer had finished before anybody was asked."""
    peeked: list[bytes] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        peeked.append(await request.peek(100))
        return ACCEPT

    async with inspecting(inspect, abort_on_half_close=False) as desk:
        desk.listening.pause()
        desk.client(sent).socket.shutdown(socket.SHUT_WR)
        desk.listening.resume()
        await desk.when(lambda: desk.statistics().parked)

        assert [sent] == peeked


async def test_peer_that_resets_while_it_is_peeked_at_is_gone() -> None:
    """The inspector is cancelled where it waits, unread octets or not."""
    async with inspecting(lambda request: request.peek(100)) as desk:
        for count in range(1, 3):
            client, request = await desk.ask(b"x" * (count - 1))
            await wait_all_tasks_blocked()
            reset(client)
            await desk.aborted(count)
            await wait_all_tasks_blocked()

            assert request.cancel_scope.cancelled_caught

        assert {"reset": 2} == dict(desk.statistics().aborted)
        assert [] == desk.told(CallbackFailed)


@pytest.mark.parametrize("how", ["reset", "fin", "close"])
@pytest.mark.usefixtures("knows_resets")
async def test_peek_may_be_the_first_to_know_of_an_end(how: str, place: dict[str, Any]) -> None:
    """What the kernel says when it is asked counts as well as what it tells by itself."""
    client: trio.SocketStream

    async def inspect(request: ConnectionRequest) -> InspectAction:
        leave(client, how)
        await request.peek(1)
        pytest.fail("there is nobody to look at")

    async with inspecting(inspect, **place) as desk:
        client = desk.client()
        await desk.aborted()
        await wait_all_tasks_blocked()

        assert {"reset" if how == "reset" else "fin": 1} == dict(desk.statistics().aborted)
        assert [] == desk.told(CallbackFailed)


@pytest.mark.parametrize("way", ["reset", "deadline", "close"])
async def test_peek_outside_of_the_scope_raises_when_the_request_is_over(
    way: str, readiness: str
) -> None:
    """Who isn't cancelled is told: the peer has left, or was sent away."""
    errors: list[trio_wsk.ConnectionBrokenError] = []
    timeout = 0.05 if way == "deadline" else 10

    async def work(request: ConnectionRequest) -> None:
        with pytest.raises(trio_wsk.ConnectionBrokenError) as caught:
            await request.peek(100)
        errors.append(caught.value)

    async with (
        trio.open_nursery() as nursery,
        inspecting(PEND, inspect_timeout=timeout) as desk,
    ):
        client, request = await desk.pended(b"x")
        nursery.start_soon(work, request)
        await wait_all_tasks_blocked()
        if way == "reset":
            reset(client)
        elif way == "close":
            await desk.listening.aclose()
        await desk.aborted()
        await until(lambda: errors)
        with pytest.raises(trio_wsk.ConnectionBrokenError, match="is over"):
            await request.peek(1)

    assert Status.CONNECTION_ABORTED is errors[0].status


async def test_peek_waits_no_longer_than_the_deadline() -> None:
    """A peer that dribbles has no more time than one that keeps still."""
    async with inspecting(lambda request: request.peek(100), inspect_timeout=0.05) as desk:
        _, request = await desk.ask(b"x")

        assert AbortReason.TIMED_OUT is (await desk.aborted()).reason

        await wait_all_tasks_blocked()

        assert request.cancel_scope.cancelled_caught


@pytest.mark.parametrize("rcvbuf", [None, 16384], ids=["default", "the-least"])
async def test_most_that_can_be_peeked_at_octet_by_octet(rcvbuf: int | None) -> None:
    """
    TCP's receive buffer holds as many octets as can be asked for, each in a segment of its own,
    if SO_RCVBUF says 32768 at least (which is twice of what it was set to).
    """
    content = bytes(range(256)) * 64
    looks: list[bytes] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        looks.append(await request.peek(len(content)))
        return ACCEPT

    async with inspecting(inspect, inspect_timeout=10 * PATIENCE) as desk:
        if rcvbuf is not None:
            desk.listening.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        client, _ = await desk.ask()
        await send_by_octets(client, content)
        await desk.when(lambda: desk.statistics().parked)

        assert [content] == looks


async def test_peek_on_a_unix_socket_has_room_for_so_many_pieces(tmp_path: Path) -> None:
    """
    250 pieces can be looked at, however small they are. Who asks for more than there is room
    for is not shown fewer, as if they were all: the peer has its time, and no longer.
    """
    content = bytes(range(250))
    looks: list[bytes] = []

    async def work(request: ConnectionRequest) -> None:
        looks.append(await request.peek(len(content)))
        looks.append(await request.peek(512))

    async with (
        inspecting(PEND, port=None, path=tmp_path / "s") as desk,
        trio.open_nursery() as nursery,
    ):
        client, request = await desk.pended()
        nursery.start_soon(work, request)
        await send_by_octets(client, content)
        await until(lambda: looks)
        nursery.start_soon(send_by_octets, client, content)
        await until(lambda: not select.select([], [client.socket], [], 0)[1])  # it can send no more
        await wait_all_tasks_blocked()

        assert [content] == looks

        nursery.cancel_scope.cancel()


async def send_by_octets(client: trio.SocketStream, content: bytes) -> None:
    """Send each octet by itself."""
    if client.socket.family != socket.AF_UNIX:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for octet in content:
        await client.socket.send(bytes([octet]))


async def test_most_that_can_be_peeked_at() -> None:
    """As much as that, in pieces of another size than the buffer's."""
    content = bytes(range(256)) * 80

    async def inspect(request: ConnectionRequest) -> InspectAction:
        assert content[:16384] == await request.peek(16384)

        return ACCEPT

    async with inspecting(inspect) as desk:
        client, _ = await desk.ask()
        for start in range(0, len(content), 1000):
            await client.send_all(content[start : start + 1000])
        await desk.when(lambda: desk.statistics().parked)


@pytest.mark.parametrize("count", [0, -1, 16385, "1", None, 1.0])
async def test_peek_with_another_count_is_refused(count: Any) -> None:
    """The message has the range, and the request is not harmed."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended(b"x")
        with pytest.raises(trio_wsk.InvalidParameterError, match=f"1 to 16384, not {count!r}"):
            await request.peek(count)

        assert b"x" == await request.peek(1)


async def test_one_task_at_a_time_peeks() -> None:
    """The second one is told so, and the first goes on."""
    peeked: list[bytes] = []

    async def work(request: ConnectionRequest) -> None:
        peeked.append(await request.peek(2))

    async with inspecting(PEND) as desk, trio.open_nursery() as nursery:
        client, request = await desk.pended(b"a")
        nursery.start_soon(work, request)
        await wait_all_tasks_blocked()
        with pytest.raises(trio_wsk.SocketBusyError):
            await request.peek(1)
        await client.send_all(b"b")
        await until(lambda: peeked)

        assert [b"ab"] == peeked
        assert b"ab" == await request.peek(2)


@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
async def test_peek_after_the_verdict_is_refused(answer: InspectAction) -> None:
    """Then the octets are whoever's has the connection; also for who was already waiting."""
    errors: list[BaseException] = []

    async def work(request: ConnectionRequest) -> None:
        with pytest.raises(trio_wsk.InvalidDeviceStateError, match="peek before") as caught:
            await request.peek(2)
        errors.append(caught.value)

    async with inspecting(PEND) as desk, trio.open_nursery() as nursery:
        _, request = await desk.pended(b"a")
        nursery.start_soon(work, request)
        await wait_all_tasks_blocked()
        desk.complete(request, answer)
        with pytest.raises((trio_wsk.InvalidDeviceStateError, trio_wsk.SocketBusyError)):
            await request.peek(1)
        if answer is ACCEPT:
            connection = await desk.listening.accept()

            assert b"a" == await connection.receive_some()

            connection.close()
        await until(lambda: errors)
        with pytest.raises(trio_wsk.InvalidDeviceStateError, match="peek before"):
            await request.peek(1)


async def test_peek_is_a_checkpoint_and_can_be_cancelled() -> None:
    """Always a checkpoint; cancelled, it has taken nothing and can be called again."""
    async with inspecting(PEND) as desk:
        client, request = await desk.pended(b"a")
        with trio.testing.assert_checkpoints():
            assert b"a" == await request.peek(1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await request.peek(1)

        assert scope.cancelled_caught

        assert await is_waiting(request.peek, 2)

        await client.send_all(b"b")

        assert b"ab" == await request.peek(2)

        desk.complete(request, ACCEPT)
        connection = await desk.listening.accept()

        assert b"ab" == await connection.receive_some()

        connection.close()


async def test_many_peek_at_once() -> None:
    """Each waits for its own peer's octets, and all of them in the same epoll."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        return ACCEPT if await request.peek(3) == b"yes" else REJECT

    async with inspecting(inspect) as desk:
        clients = [(await desk.ask())[0] for _ in range(60)]
        order = list(range(60))
        random.Random(0).shuffle(order)  # noqa: S311 - it should be different, not secret
        for index in order:
            await clients[index].send_all(b"yes" if index % 2 else b"no!")
        await desk.when(lambda: not desk.statistics().pending)

        assert 30 == desk.statistics().parked == desk.statistics().rejected["rejected"]

        for client in clients[::2]:
            assert "reset" == await fate_of(client)
