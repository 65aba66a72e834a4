"""Checks of what a transport tells of peers that leave, and of the first octets of a request.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

from trio_wsk.transports._contract import PeerEnd, PeerFaultError

from ._checks import after_handshake, check, has_reset, tells_end_behind_data

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from ._stage import Stage
    from ._visitor import Visitor

__all__ = [
    "close_is_told",
    "data_is_no_end",
    "end_is_all",
    "end_is_told_to_who_watches_again",
    "end_is_told_when_it_is_true_already",
    "end_that_goes_further_is_told_again",
    "fin_after_data_is_told",
    "fin_is_told",
    "nothing_is_told_to_who_does_not_watch",
    "only_a_reset_was_a_reset",
    "peek_leaves_the_octets",
    "peek_says_that_its_peer_has_reset",
    "reset_behind_data_is_told",
    "reset_is_told",
    "unwatching_ends_a_wait_for_more",
    "waiting_for_more_waits",
]

FIN = frozenset({PeerEnd.FIN})
FIN_AFTER_DATA = frozenset({PeerEnd.FIN_AFTER_DATA})

WAKE_UPS = 20
"""More than who looks from time to time wakes up in `TransportHarness.quiet_seconds`, and fewer
than who spins."""


def _resets(stage: Stage, *, behind_data: bool = False) -> AbstractSet[PeerEnd]:
    """How a reset may be told."""
    if stage.harness.has_reset:
        return {PeerEnd.RESET}
    return {PeerEnd.CLOSED, PeerEnd.FIN_AFTER_DATA if behind_data else PeerEnd.FIN}


@check()
async def reset_is_told(stage: Stage) -> None:
    """A peer that resets is told of, once."""
    await stage.listen()
    visitor = await stage.established()
    visitor.peer.leave_with_reset()
    await visitor.told(_resets(stage), "a peer has reset")
    await visitor.told_nothing("a peer has reset, which was told already")


@check(has_reset)
async def reset_behind_data_is_told(stage: Stage) -> None:
    """A reset is told although nobody has read what the peer sent before it."""
    await stage.listen()
    visitor = await stage.established()
    await visitor.peer.send(b"unread")
    await stage.quiet()
    visitor.peer.leave_with_reset()
    await visitor.told(_resets(stage), "a peer has sent something and reset")
    await visitor.told_nothing("a peer has reset, which was told already")


@check()
async def fin_is_told(stage: Stage) -> None:
    """A peer that finishes and has sent nothing is told of as FIN, once."""
    await stage.listen()
    visitor = await stage.established()
    await visitor.peer.finish()
    await visitor.told(FIN, "a peer has finished without a word")
    await visitor.told_nothing("a peer has finished, which was told already")


@check(tells_end_behind_data)
async def fin_after_data_is_told(stage: Stage) -> None:
    """A peer that finishes after it has sent something is told of as FIN_AFTER_DATA, once."""
    await stage.listen()
    visitor = await stage.established()
    await visitor.peer.send(b"request")
    await stage.quiet()
    await visitor.peer.finish()
    await visitor.told(FIN_AFTER_DATA, "a peer has sent something and finished")
    await visitor.told_nothing("a peer has finished, which was told already")
    await visitor.let_through()
    received = await visitor.receive(100)
    assert received == b"request", (
        f"a peer sent b'request' and finished, and recv() has {received!r}"
    )


@check()
async def close_is_told(stage: Stage) -> None:
    """A peer that closes is told of, as CLOSED where the system can tell, and once."""
    await stage.listen()
    for data, half in ((b"", PeerEnd.FIN), (b"request", PeerEnd.FIN_AFTER_DATA)):
        if data and not stage.harness.tells_end_behind_data:
            continue
        visitor = await stage.established()
        if data:
            await visitor.peer.send(data)
        await visitor.peer.leave()
        await visitor.told({half, PeerEnd.CLOSED}, "a peer has closed")
        await stage.quiet()
        further = visitor.keeper.ends
        # A close may come in two steps, and the second one may tell more.
        assert further in ([], [PeerEnd.CLOSED], [PeerEnd.RESET]), (
            f"a peer has closed, which was told already, and the keeper was told {further}"
        )


@check()
async def end_that_goes_further_is_told_again(stage: Stage) -> None:
    """A peer that has finished, and then resets, is told of once more."""
    await stage.listen()
    visitor = await stage.established()
    await visitor.peer.finish()
    await visitor.told(FIN, "a peer has finished without a word")
    if stage.harness.has_reset:
        visitor.peer.leave_with_reset()
        await visitor.told(_resets(stage), "a peer that had finished has reset")
        await visitor.told_nothing("a peer has reset, which was told already")


@check(after_handshake)
async def end_is_told_when_it_is_true_already(stage: Stage) -> None:
    """What is true when watch_end() is called is told, but not from inside the call."""
    await stage.listen()
    visitor = await stage.visitor()
    await visitor.peer.finish()
    await stage.quiet()
    visitor.watch_end()
    await visitor.told(FIN, "a peer had finished before watch_end()")
    visitor = await stage.visitor()
    visitor.peer.leave_with_reset()
    await stage.quiet()
    visitor.watch_end()
    await visitor.told(_resets(stage), "a peer had reset before watch_end()")
    if stage.harness.tells_end_behind_data:
        visitor = await stage.visitor()
        await visitor.peer.send(b"request")
        await visitor.peer.finish()
        await stage.quiet()
        visitor.watch_end()
        await visitor.told(
            FIN_AFTER_DATA, "a peer had sent something and finished before watch_end()"
        )


@check()
async def end_is_told_to_who_watches_again(stage: Stage) -> None:
    """Who watches once more, after unwatch_end(), is told what is true once more."""
    await stage.listen()
    visitor = await stage.established()
    await visitor.peer.finish()
    await visitor.told(FIN, "a peer has finished without a word")
    visitor.request.unwatch_end()
    visitor.watch_end()
    await visitor.told(FIN, "a peer had finished, and watch_end() was called again")


@check()
async def data_is_no_end(stage: Stage) -> None:
    """Data alone is nothing to tell."""
    await stage.listen()
    visitor = await stage.established()
    for _ in range(2):
        await visitor.peer.send(b"data")
        await visitor.told_nothing("a peer has sent something")


@check()
async def nothing_is_told_to_who_does_not_watch(stage: Stage) -> None:
    """After unwatch_end(), which may be repeated, and after an answer nothing is told."""
    await stage.listen()
    unwatched, answered = await stage.established(), await stage.established()
    for _ in range(2):
        unwatched.unwatch_end()
    answered.answer("reset")
    answered.keeper.is_over = True
    await unwatched.peer.leave()
    await stage.quiet()
    unwatched.unwatch_end()


@check(after_handshake)
async def only_a_reset_was_a_reset(stage: Stage) -> None:
    """was_reset() is true after a reset and stays so; data, FIN and both of them are none."""
    await stage.listen()
    visitor = await stage.visitor()
    for deed in ("has done nothing", "has sent something", "has sent something and finished"):
        if deed == "has sent something":
            await visitor.peer.send(b"data")
        elif deed == "has sent something and finished":
            await visitor.peer.finish()
        await stage.quiet()
        assert not visitor.request.was_reset(), f"a peer {deed}, and was_reset() is true"
    if stage.harness.has_reset:
        visitor.peer.leave_with_reset()
        await stage.until(visitor.request.was_reset, "a peer has reset, and was_reset() is false")
        assert visitor.request.was_reset(), "was_reset() was true, and then false"


# --- The first octets --------------------------------------------------------------------------


async def _peeked(stage: Stage, visitor: Visitor, wanted: bytes) -> bool:
    """Wait until `peek` sees these octets; return whether it says that there are no more."""
    seen, is_all = visitor.request.peek(100)
    async with stage.within(f"a peer has sent {wanted!r}, and peek() never returned that"):
        while seen != wanted:
            assert wanted.startswith(seen), f"a peer has sent {wanted!r}, and peek() saw {seen!r}"
            await visitor.request.wait_for_more()
            seen, is_all = visitor.request.peek(100)
    return is_all


@check()
async def consume_takes_the_octets(stage: Stage) -> None:
    """consume() takes what was looked at; what follows is looked at next, and received."""
    await stage.listen()
    visitor = await stage.established()
    await visitor.peer.send(b"first, second")
    assert not await _peeked(stage, visitor, b"first, second"), "peek() says a peer has finished"
    visitor.request.consume(7)
    seen = visitor.request.peek(13)
    assert seen == (b"second", False), f"7 octets were consumed, and peek() returned {seen!r}"
    visitor.unwatch_end()
    await visitor.let_through()
    received = await visitor.receive(6)
    assert received == b"second", f"what follows b'first, ' was received as {received!r}"


@check()
async def peek_leaves_the_octets(stage: Stage) -> None:
    """peek() sees the first octets, up to so many, and leaves them for who accepts."""
    await stage.listen()
    visitor = await stage.established()
    seen = visitor.request.peek(10)
    assert seen == (b"", False), f"a peer has sent nothing, and peek() returned {seen!r}"
    await visitor.peer.send(b"first")
    assert not await _peeked(stage, visitor, b"first"), "peek() says that a peer has finished"
    await visitor.peer.send(b", second")
    assert not await _peeked(stage, visitor, b"first, second"), "peek() says a peer has finished"
    seen = visitor.request.peek(3)
    assert seen == (b"fir", False), f"peek(3) at b'first, second' returned {seen!r}"
    visitor.unwatch_end()
    await visitor.let_through()
    received = await visitor.receive(13)
    assert received == b"first, second", f"after peek() recv() returned {received!r}"


@check()
async def end_is_all(stage: Stage) -> None:
    """When the peer has finished, peek() says that there is no more."""
    await stage.listen()
    visitor = await stage.established()
    await visitor.peer.finish()
    assert await _is_all(stage, visitor, b""), "a peer has finished, and peek() says: not all"
    if stage.harness.tells_end_behind_data:
        visitor = await stage.established()
        await visitor.peer.send(b"all")
        await visitor.peer.finish()
        assert await _is_all(stage, visitor, b"all"), (
            "a peer has sent something and finished, and peek() says: not all"
        )


async def _is_all(stage: Stage, visitor: Visitor, wanted: bytes) -> bool:
    await stage.until(lambda: visitor.keeper.ends, "a peer has finished, which was not told")
    seen, is_all = visitor.request.peek(100)
    assert seen == wanted, f"a peer has sent {wanted!r} and finished, and peek() saw {seen!r}"
    return is_all


@check()
async def waiting_for_more_waits(stage: Stage) -> None:
    """wait_for_more() waits without spinning beside data that was seen, until more comes."""
    await stage.listen()
    visitor = await stage.established()
    await visitor.peer.send(b"seen")
    await _peeked(stage, visitor, b"seen")
    wake_ups = 0
    with trio.move_on_after(stage.harness.quiet_seconds):
        while wake_ups < WAKE_UPS:
            await visitor.request.wait_for_more()
            wake_ups += 1
    assert wake_ups < WAKE_UPS, "wait_for_more() spins beside data that was seen already"
    await visitor.peer.send(b" more")
    await _peeked(stage, visitor, b"seen more")


@check()
async def unwatching_ends_a_wait_for_more(stage: Stage) -> None:
    """wait_for_more() returns when the request is not watched any more, or has its answer."""
    await stage.listen()
    for deed in ("unwatch_end", "reset"):
        visitor = await stage.established()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wait_for_more, stage, visitor, deed)
            await trio.testing.wait_all_tasks_blocked()
            if deed == "reset":
                visitor.answer("reset")
            else:
                visitor.unwatch_end()


async def _wait_for_more(stage: Stage, visitor: Visitor, deed: str) -> None:
    async with stage.within(f"{deed}() was called, and wait_for_more() goes on waiting"):
        await visitor.request.wait_for_more()


@check(has_reset)
async def peek_says_that_its_peer_has_reset(stage: Stage) -> None:
    """peek() at a connection that was reset raises PeerFaultError."""
    await stage.listen()
    visitor = await stage.established()
    visitor.peer.leave_with_reset()
    await stage.until(lambda: visitor.keeper.ends, "a peer has reset, which was not told")
    try:
        seen = visitor.request.peek(10)
    except PeerFaultError:
        return
    raise AssertionError(f"a peer has reset, and peek() returned {seen!r}")
