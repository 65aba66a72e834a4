"""Checks of channels: the octets of an accepted request, and how they are waited for.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import trio
import trio.testing

from trio_wsk._engine.readiness import ENDED, READ, WRITE

from ._checks import check
from ._visitor import now, pattern

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._stage import Stage
    from ._visitor import Visitor

__all__ = [
    "abort_resets",
    "arming_tells_what_is_true",
    "backlog_is_a_count",
    "channel_carries_octets",
    "channel_closes",
    "channel_never_waits",
    "channel_peeks",
    "channel_pushes_back",
    "channel_says_when_its_peer_finishes",
    "channel_says_when_its_peer_resets",
    "closing_the_watch_ends_waits",
    "edges_come_to_the_sink",
    "short_reads_are_what_they_are_said_to_be",
    "shutdown_is_a_half_close",
    "traffic_is_counted",
    "traffic_is_timed",
    "waiting_loses_nothing",
]


@check()
async def channel_never_waits(stage: Stage) -> None:
    """recv() and recv_into() of a channel without data raise BlockingIOError."""
    await stage.listen()
    channel = (await stage.connection()).channel
    calls = {
        "recv(1)": lambda: channel.recv(1),
        "recv(1, MSG_PEEK)": lambda: channel.recv(1, socket.MSG_PEEK),
        "recv_into(bytearray(1))": lambda: channel.recv_into(bytearray(1)),
    }
    for name, call in calls.items():
        got = now(call)
        assert got is None, f"{name} returned {got!r} although nothing was sent"


@check()
async def channel_carries_octets(stage: Stage) -> None:
    """Octets come through in both directions, as they are and in their order."""
    await stage.listen()
    visitor = await stage.connection()
    data = bytes(range(256)) * 64
    await visitor.peer.send(data)
    received = await visitor.receive(len(data) - 5)
    buffer = bytearray(16)
    await stage.until(
        lambda: len(now(lambda: visitor.channel.recv(16, socket.MSG_PEEK)) or b"") == 5,  # noqa: PLR2004 - those that are left
        "the last octets that the peer has sent did not come",
    )
    count = visitor.channel.recv_into(buffer)
    assert data == received + buffer[:count], "what came is not what the peer has sent"
    await visitor.send(data)
    assert data == await visitor.peer.receive(len(data)), "what the peer got is not what was sent"


@check()
async def channel_peeks(stage: Stage) -> None:
    """recv() with MSG_PEEK leaves the octets."""
    await stage.listen()
    visitor = await stage.connection()
    await visitor.peer.send(b"octets")
    await stage.until(
        lambda: now(lambda: visitor.channel.recv(6, socket.MSG_PEEK)) == b"octets",
        "recv(6, MSG_PEEK) never returned the octets that the peer has sent",
    )
    received = await visitor.receive(6)
    assert received == b"octets", f"after a look at b'octets' recv() returned {received!r}"


@check()
async def short_reads_are_what_they_are_said_to_be(stage: Stage) -> None:
    """Where short_read_is_all, recv() and recv_into() leave nothing if they return less."""
    await stage.listen()
    visitor = await stage.connection()
    channel = visitor.channel
    buffer = bytearray(100)
    calls: dict[str, Callable[[], int]] = {
        "recv(100)": lambda: len(channel.recv(100)),
        "recv_into(bytearray(100))": lambda: channel.recv_into(buffer),
    }
    for name, call in calls.items():
        for _ in range(5):
            await visitor.peer.send(b"octets")
        await stage.until(
            lambda: len(now(lambda: channel.recv(100, socket.MSG_PEEK)) or b"") == 30,  # noqa: PLR2004 - those that were sent
            "the octets that the peer has sent in five pieces did not come",
        )
        count = call()
        while (more := now(call)) is not None:
            assert not visitor.request.short_read_is_all, (
                f"short_read_is_all is true, {name} returned {count} and then {more} octets"
            )


@check()
async def channel_says_when_its_peer_finishes(stage: Stage) -> None:
    """After the peer's FIN recv() returns what came before it, and then b"", again and again."""
    await stage.listen()
    visitor = await stage.connection()
    await visitor.peer.send(b"last words")
    await visitor.peer.finish()
    received = await visitor.receive(100)
    assert received == b"last words", f"the peer's last words came as {received!r}"
    again = visitor.channel.recv(1)
    assert again == b"", f"recv() after the peer's FIN returned {again!r}"
    count = visitor.channel.recv_into(bytearray(1))
    assert count == 0, f"recv_into() after the peer's FIN returned {count}"
    await visitor.send(b"answer")
    assert await visitor.peer.receive(6) == b"answer", "nothing can be sent after the peer's FIN"


@check()
async def channel_says_when_its_peer_resets(stage: Stage) -> None:
    """After the peer's reset recv() raises another OSError than BlockingIOError, or returns b""."""
    await stage.listen()
    visitor = await stage.connection()
    visitor.peer.leave_with_reset()
    try:
        received = await visitor.receive(1)
    except OSError:
        return
    assert not stage.harness.has_reset, f"the peer has reset, and recv() returned {received!r}"
    assert received == b"", f"the peer has left, and recv() returned {received!r}"


@check()
async def shutdown_is_a_half_close(stage: Stage) -> None:
    """shutdown(SHUT_WR) sends FIN after what was sent, and what the peer sends still comes."""
    await stage.listen()
    visitor = await stage.connection()
    await visitor.send(b"all")
    visitor.channel.shutdown(socket.SHUT_WR)
    received = await visitor.peer.receive(100)
    assert received == b"all", f"b'all' and FIN were sent, and the peer got {received!r}"
    await visitor.peer.send(b"more")
    came = await visitor.receive(4)
    assert came == b"more", f"after shutdown(SHUT_WR) b'more' of the peer came as {came!r}"
    _fails(partial(visitor.channel.send, b"x"), "send() after shutdown(SHUT_WR)")


@check()
async def channel_closes(stage: Stage) -> None:
    """close() may be repeated; after it there is no descriptor, and every call fails."""
    await stage.listen()
    visitor = await stage.connection()
    channel = visitor.channel
    channel.close()
    channel.close()
    assert channel.fileno() == -1, f"fileno() is {channel.fileno()} after close()"
    fate = await visitor.peer.fate()
    assert fate == "fin", f"a channel was closed in good order, and its peer saw {fate}"
    _fails(partial(channel.recv, 1), "recv() after close()")
    _fails(partial(channel.send, b"x"), "send() after close()")


def _fails(call: Callable[[], object], deed: str) -> None:
    """See that a call fails for good."""
    try:
        got = call()
    except BlockingIOError:
        raise AssertionError(f"{deed} says to wait") from None
    except OSError:
        return
    raise AssertionError(f"{deed} returned {got!r}")


@check()
async def channel_pushes_back(stage: Stage) -> None:
    """A channel whose peer doesn't read takes only so much, then more when the peer has read."""
    await stage.listen()
    visitor = await stage.connection()
    total = visitor.fill()
    while more := await _filled_again(stage, visitor, total):
        total += more
    ear = visitor.arm(WRITE)
    await stage.quiet()
    assert not ear.edges & WRITE, "a channel is full, and a WRITE edge came"
    received = await visitor.peer.receive(total)
    assert len(received) == total, f"{total} octets were taken, and {len(received)} came"
    assert received == pattern(0, total), "what came through a full channel is not what was sent"
    await stage.until(
        lambda: ear.edges & WRITE, "the peer has read from a full channel, and no WRITE edge came"
    )
    assert now(lambda: visitor.channel.send(b"x")) == 1, "a WRITE edge came, and send() says wait"


async def _filled_again(stage: Stage, visitor: Visitor, total: int) -> int:
    """Fill up the room that the system has made by moving data on to the peer."""
    await stage.quiet()
    return visitor.fill(total)


@check()
async def abort_resets(stage: Stage) -> None:
    """abort() drops what is unsent, resets, closes the channel, and never raises."""
    await stage.listen()
    visitor = await stage.connection()
    visitor.fill()
    visitor.request.abort(visitor.channel)
    assert visitor.channel.fileno() == -1, "abort() left the channel open"
    fate = await visitor.peer.fate()
    expected = {"reset"} if stage.harness.has_reset else {"reset", "fin"}
    assert fate in expected, f"a connection was aborted, and its peer saw {fate}"
    visitor.request.abort(visitor.channel)


@check()
async def backlog_is_a_count(stage: Stage) -> None:
    """ideal_send_backlog() is a count of octets."""
    await stage.listen()
    visitor = await stage.connection()
    ideal = visitor.request.ideal_send_backlog(visitor.channel)
    assert ideal > 0, f"ideal_send_backlog() is {ideal}"


@check()
async def traffic_is_counted(stage: Stage) -> None:
    """traffic() grows by what passes either way, and by nothing else; or it can't tell."""
    await stage.listen()
    visitor = await stage.connection()
    await visitor.peer.send(b"in")
    await visitor.receive(2)
    before = _passed(visitor)
    if before is None:
        return
    await visitor.peer.send(b"in")
    await stage.until(
        lambda: _passed(visitor) != before, "octets were received, and traffic() did not grow"
    )
    before = await _settled(stage, visitor)
    await visitor.send(b"out")
    await visitor.peer.receive(3)
    await stage.until(
        lambda: _passed(visitor) != before, "the peer has taken octets, and traffic() did not grow"
    )
    before = await _settled(stage, visitor)
    await stage.quiet()
    assert before == _passed(visitor), "nothing has passed, and traffic() has grown"


@check()
async def traffic_is_timed(stage: Stage) -> None:
    """traffic() says how long ago the last octet passed, either way; or it can't tell."""
    await stage.listen()
    visitor = await stage.connection()
    half = stage.harness.quiet_seconds / 2
    for deed in (partial(visitor.peer.send, b"in"), partial(visitor.send, b"out")):
        middle = trio.current_time() + half
        await stage.quiet()
        traffic = visitor.request.traffic(visitor.channel)
        if traffic is None:
            return
        ago = traffic[1]
        assert ago >= half, f"after a while traffic() says that an octet passed {ago} s ago"
        await deed()
        await stage.until(
            partial(_has_passed_since, visitor, middle),
            "an octet has passed, and traffic() says that none has for a while",
        )


def _passed(visitor: Visitor) -> int | None:
    traffic = visitor.request.traffic(visitor.channel)
    return None if traffic is None else traffic[0]


def _has_passed_since(visitor: Visitor, when: float) -> bool:
    traffic = visitor.request.traffic(visitor.channel)
    return traffic is not None and trio.current_time() - traffic[1] > when


async def _settled(stage: Stage, visitor: Visitor) -> int | None:
    """Return what has passed when all is acknowledged."""
    await stage.quiet()
    return _passed(visitor)


# --- Waiting -----------------------------------------------------------------------------------


@check()
async def edges_come_to_the_sink(stage: Stage) -> None:
    """After arm(READ) the sink hears of what comes, and of it alone."""
    await stage.listen()
    visitor = await stage.connection()
    ear = visitor.arm(READ)
    await stage.quiet()
    assert not ear.edges, f"nothing has come, and the sink heard {ear.edges:#x}"
    for data in (b"first", b"second"):
        ear.edges = 0
        await visitor.peer.send(data)
        await stage.until(lambda: ear.edges & READ, f"{data!r} has come, and no READ edge was told")
        assert not ear.edges & ENDED, f"{data!r} has come, and the sink heard of an end"
        assert data == await _read_all(visitor), (
            "a READ edge was told, and recv() has something else"
        )
        visitor.arm_again(READ)
    ear.edges = 0
    await visitor.peer.finish()
    await stage.until(lambda: ear.edges, "the peer has finished, and no edge was told")
    assert visitor.channel.recv(1) == b"", "an edge was told of FIN, and recv() has something else"


async def _read_all(visitor: Visitor) -> bytes:
    """Read what is there until the channel has no more."""
    data = bytearray()
    while chunk := now(lambda: visitor.channel.recv(100)):
        data += chunk
    await trio.lowlevel.checkpoint()
    return bytes(data)


@check()
async def arming_tells_what_is_true(stage: Stage) -> None:
    """What is true already when a watch is armed is told all the same."""
    await stage.listen()
    visitor = await stage.connection()
    await visitor.peer.send(b"here already")
    await stage.quiet()
    ear = visitor.arm(READ)
    await stage.until(
        lambda: ear.edges & READ, "data was there before arm(READ), and no READ edge was told"
    )
    ear = visitor.arm(WRITE)
    await stage.until(
        lambda: ear.edges & WRITE, "there was room before arm(WRITE), and no WRITE edge was told"
    )


@check()
async def waiting_loses_nothing(stage: Stage) -> None:
    """What comes between BlockingIOError and the wait, or has passed before it, ends the wait."""
    await stage.listen()
    visitor = await stage.connection()
    assert now(lambda: visitor.channel.recv(1)) is None, "recv() returned what nobody has sent"
    await visitor.peer.send(b"1")
    await stage.quiet()
    async with stage.within("data came between BlockingIOError and the wait, which never ended"):
        await visitor.wait(READ)
    assert visitor.channel.recv(1) == b"1", "a wait ended, and recv() has something else"
    assert now(lambda: visitor.channel.recv(1)) is None, "recv() returned what nobody has sent"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(visitor.wait_within, READ, "data came while a task waited for it")
        await trio.testing.wait_all_tasks_blocked()
        await visitor.peer.send(b"2")
    assert visitor.channel.recv(1) == b"2", "a wait ended, and recv() has something else"
    await visitor.peer.send(b"3")
    await stage.quiet()
    async with stage.within(
        "data came before a wait that was told of it (passed), and never ended"
    ):
        await visitor.wait(READ, passed=True)
    assert visitor.channel.recv(1) == b"3", "a wait ended, and recv() has something else"


@check()
async def closing_the_watch_ends_waits(stage: Stage) -> None:
    """A task that waits is woken when the watch is closed, and a cancelled wait does no harm."""
    await stage.listen()
    visitor = await stage.connection()
    with trio.move_on_after(stage.harness.quiet_seconds) as scope:
        await visitor.wait(READ)
    assert scope.cancelled_caught, "a wait ended, but nothing has come"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            visitor.wait_within, READ, "the watch was closed while a task waited for it"
        )
        await trio.testing.wait_all_tasks_blocked()
        visitor.watch.close()
