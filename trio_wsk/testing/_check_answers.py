"""Checks of how requests are answered, and of what their peers see of it.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

from trio_wsk._vocabulary.errors import InvalidDeviceStateError
from trio_wsk._vocabulary.verdict import CloseStyle
from trio_wsk.transports._contract import PeerEnd

from ._checks import after_handshake, before_handshake, can_come_again, check

if TYPE_CHECKING:
    from ._stage import Stage
    from ._visitor import Visitor

__all__ = [
    "answers_never_raise",
    "approval_establishes",
    "approval_may_be_taken_back",
    "approval_of_who_has_gone",
    "client_that_starts_anew_has_to_wait",
    "connection_waits_for_who_takes_it",
    "established_hears_what_is_promised",
    "established_is_answered_again",
    "finish_is_an_end_in_good_order",
    "finish_is_no_reset_over_unread_data",
    "handshake_waits_for_the_answer",
    "no_octets_before_the_handshake",
    "one_peer_is_one_request",
    "peer_that_gives_up_after_approval_is_told",
    "peer_that_gives_up_is_told",
    "reset_is_a_reset",
    "silence_is_silence_or_a_reset",
]


async def _sees_reset(stage: Stage, visitor: Visitor, deed: str) -> None:
    fate = await visitor.peer.fate()
    expected = " or ".join(sorted(stage.ends_of_turned_away))
    assert fate in stage.ends_of_turned_away, f"{deed}, and its peer saw {fate}, not {expected}"


@check()
async def reset_is_a_reset(stage: Stage) -> None:
    """reset() is seen as a reset, and before the handshake as a refusal."""
    await stage.listen()
    visitor = await stage.visitor()
    visitor.answer("reset")
    await _sees_reset(stage, visitor, "a request was reset")


@check()
async def finish_is_an_end_in_good_order(stage: Stage) -> None:
    """finish() is seen as FIN where close_styles() has it, and else as a reset."""
    await stage.listen()
    has_fin = CloseStyle.FIN in stage.transport.close_styles()
    visitor = await stage.visitor()
    visitor.answer("finish")
    if has_fin:
        fate = await visitor.peer.fate()
        assert fate == "fin", f"a request was finished, and its peer saw {fate}, not fin"
    else:
        await _sees_reset(stage, visitor, "FIN can't be had, a request was finished")


@check()
async def established_is_answered_again(stage: Stage) -> None:
    """When the handshake is over, approve() is true, and a request can be let through or not."""
    await stage.listen()
    visitor = await stage.established()
    assert visitor.request.approve(), "the handshake is over, and approve() returned False"
    visitor.unwatch_end()
    await visitor.peer.send(b"hello")
    visitor.accept()
    received = await visitor.receive(5)
    assert received == b"hello", f"a peer has sent b'hello', and what came is {received!r}"
    visitor = await stage.established()
    visitor.answer("reset")
    fate = await visitor.peer.fate()
    expected = {"reset"} if stage.harness.has_reset else {"reset", "fin"}
    assert fate in expected, f"an established request was reset, and its peer saw {fate}"


@check()
async def established_hears_what_is_promised(stage: Stage) -> None:
    """close_styles_when_established() says what such a request can be answered with."""
    await stage.listen()
    styles = stage.transport.close_styles_when_established()
    assert styles >= stage.transport.close_styles(), (
        f"close_styles_when_established() is {styles}, less than close_styles()"
    )
    visitor = await stage.established()
    visitor.answer("finish")
    fate = await visitor.peer.fate()
    has_fin = CloseStyle.FIN in styles or not stage.harness.has_reset
    assert has_fin is (fate == "fin"), (
        f"an established request was finished, and its peer saw {fate}: {styles}"
    )
    visitor = await stage.established()
    is_silent = visitor.answer("silence")
    assert is_silent is (CloseStyle.SILENT in styles), (
        f"silence() of an established request returned {is_silent}: {styles}"
    )
    assert not is_silent or await visitor.peer.hears_nothing(), (
        "silence() returned True, and its peer was told"
    )


@check()
async def finish_is_no_reset_over_unread_data(stage: Stage) -> None:
    """finish() drops what the peer has sent, and is no reset because of it."""
    await stage.listen()
    if CloseStyle.FIN not in stage.transport.close_styles_when_established():
        return
    visitor = await stage.established()
    await visitor.peer.send(b"unread" * 1000)
    await stage.quiet()
    visitor.answer("finish")
    fate = await visitor.peer.fate()
    assert fate == "fin", f"a request with unread data was finished, and its peer saw {fate}"


@check()
async def silence_is_silence_or_a_reset(stage: Stage) -> None:
    """silence() says whether the peer hears nothing; where that can't be had it is a reset."""
    await stage.listen()
    has_silence = CloseStyle.SILENT in stage.transport.close_styles()
    visitor = await stage.visitor()
    is_silent = visitor.answer("silence")
    if is_silent:
        assert has_silence, "silence() returned True, but close_styles() has no CloseStyle.SILENT"
        assert await visitor.peer.hears_nothing(), "silence() returned True, and its peer was told"
    else:
        assert not has_silence, "close_styles() has CloseStyle.SILENT, and silence() returned False"
        await _sees_reset(stage, visitor, "silence() returned False")


@check()
async def answers_never_raise(stage: Stage) -> None:
    """An answer to a peer that has gone in the meantime is as good as any."""
    await stage.listen()
    for style in ("reset", "finish", "silence"):
        for leave in ("with a reset", "in good order"):
            visitor = await stage.established()
            keeper = visitor.keeper
            if leave == "with a reset":
                visitor.peer.leave_with_reset()
            else:
                await visitor.peer.leave()
            await stage.until(
                lambda: keeper.ends,  # noqa: B023 - it is over before the next turn
                f"a peer has left {leave}, which was not told",
            )
            keeper.is_over = True
            visitor.answer(style)
    await stage.quiet()


@check()
async def approval_may_be_taken_back(stage: Stage) -> None:
    """reset() after approve() resets."""
    await stage.listen()
    visitor = await stage.visitor()
    await visitor.approve()
    visitor.answer("reset")
    fate = await visitor.peer.fate()
    told = stage.ends_of_turned_away | {"reset"}
    assert fate in told, f"a request was approved and then reset, and its peer saw {fate}"


@check(after_handshake)
async def approval_of_who_has_gone(stage: Stage) -> None:
    """A peer that has gone before approve() still has a channel, which says so."""
    await stage.listen()
    visitor = await stage.visitor()
    keeper = visitor.watch_end()
    await visitor.peer.leave()
    await stage.until(lambda: keeper.ends, "a peer has left in good order, which was not told")
    visitor.unwatch_end()
    assert visitor.request.approve(), "approve() returned False, but the handshake is over"
    visitor.accept()
    received = await visitor.receive(1)
    assert received == b"", f"a peer left without a word, and its channel has {received!r}"


# --- Before the handshake ----------------------------------------------------------------------


@check(before_handshake)
async def handshake_waits_for_the_answer(stage: Stage) -> None:
    """The peer hears nothing until its request has an answer."""
    await stage.listen()
    visitor = await stage.visitor()
    await stage.quiet()
    assert not visitor.peer.is_answered, "a peer was answered before its request was"
    visitor.answer("reset")
    await _sees_reset(stage, visitor, "a request was reset")


@check(before_handshake)
async def one_peer_is_one_request(stage: Stage) -> None:
    """A peer that asks again, because nobody has answered, is no new request."""
    await stage.listen()
    visitor = await stage.visitor()
    await stage.quiet()
    assert stage.next_request() is None, "a peer that waits for its answer became a second request"
    await visitor.let_through()
    await stage.quiet()
    assert stage.next_request() is None, "a peer that was let through became a second request"


@check(before_handshake, can_come_again)
async def client_that_starts_anew_has_to_wait(stage: Stage) -> None:
    """A new SYN from the same address is no request, and ends none, until the first is missed."""
    await stage.listen()
    visitor = await stage.visitor()
    keeper = visitor.watch_end()
    source = visitor.request.remote_address
    await visitor.peer.leave()
    again = stage.attempt(stage.address, source)
    # Nobody is missed within a second, and this SYN isn't repeated.
    await trio.sleep(min(stage.harness.quiet_seconds, 0.5))
    await trio.testing.wait_all_tasks_blocked()
    assert stage.next_request() is None, "a SYN became a request beside the one of its address"
    assert not keeper.ends, "a SYN from the same address ended a request: anybody can send one"
    await visitor.told({PeerEnd.SILENT}, "a peer has given up, and one like it asks")
    second = stage.take(again, await stage.request())
    assert second.request.remote_address == source, "a client that started anew has moved"
    await second.let_through()


@check(before_handshake)
async def approval_establishes(stage: Stage) -> None:
    """approve() returns True, or the keeper is told once when the handshake is over."""
    await stage.listen()
    visitor = await stage.visitor()
    keeper = visitor.watch_end()
    is_there = visitor.request.approve()
    await visitor.peer.connected()
    if not is_there:
        await stage.until(
            lambda: keeper.times_established,
            "approve() returned False, and the keeper was never told that the handshake is over",
        )
    await stage.quiet()
    expected = 0 if is_there else 1
    assert keeper.times_established == expected, (
        f"approve() returned {is_there}, and the end of the handshake was told"
        f" {keeper.times_established} times"
    )
    visitor.unwatch_end()
    visitor.accept()
    await visitor.peer.send(b"hello")
    assert await visitor.receive(5) == b"hello", "the channel of an approved request has lost data"


@check(before_handshake)
async def connection_waits_for_who_takes_it(stage: Stage) -> None:
    """An approved request's connection is not there while takes() is false, and comes then."""
    places: list[str] = []
    stage.transport.takes = lambda: bool(places)
    await stage.listen()
    visitor = await stage.visitor()
    keeper = visitor.watch_end()
    is_there = visitor.request.approve()
    await visitor.peer.connected()
    await stage.quiet()
    assert not is_there, "takes() was false, and approve() returned True"
    assert not keeper.times_established, "takes() was false, and a connection was said to be there"
    places.append("one")
    keeper.is_inside = True
    stage.transport.take_established()
    keeper.is_inside = False
    await stage.until(
        lambda: keeper.times_established, "a connection did not come after take_established()"
    )
    visitor.unwatch_end()
    visitor.accept()
    await visitor.peer.send(b"hello")
    assert await visitor.receive(5) == b"hello", "a connection that waited has lost data"


@check(before_handshake)
async def no_octets_before_the_handshake(stage: Stage) -> None:
    """peek() and wait_for_more() raise InvalidDeviceStateError before the handshake."""
    await stage.listen()
    visitor = await stage.visitor()
    visitor.watch_end()
    try:
        visitor.request.peek(1)
    except InvalidDeviceStateError:
        pass
    else:
        raise AssertionError("peek() before the handshake did not raise InvalidDeviceStateError")
    try:
        async with stage.within("wait_for_more() before the handshake waits"):
            await visitor.request.wait_for_more()
    except InvalidDeviceStateError:
        pass
    else:
        raise AssertionError(
            "wait_for_more() before the handshake did not raise InvalidDeviceStateError"
        )


@check(before_handshake)
async def peer_that_gives_up_is_told(stage: Stage) -> None:
    """A peer that stops asking while its request waits is told of, once."""
    await stage.listen()
    visitor = await stage.visitor()
    keeper = visitor.watch_end()
    await visitor.peer.leave()
    await visitor.told({PeerEnd.SILENT, PeerEnd.RESET}, "a peer has given up")
    await visitor.told_nothing("a peer has given up, which was told already")
    assert not keeper.times_established, "a peer has given up, and its handshake is said to be over"


@check(before_handshake)
async def peer_that_gives_up_after_approval_is_told(stage: Stage) -> None:
    """A peer that has given up when its request is approved is told of: there is no connection."""
    await stage.listen()
    visitor = await stage.visitor()
    keeper = visitor.watch_end()
    await visitor.peer.leave()
    is_there = visitor.request.approve()
    assert not is_there, "a peer has given up, and approve() returned True"
    await visitor.told({PeerEnd.SILENT, PeerEnd.RESET}, "a peer that was approved has given up")
    assert not keeper.times_established, "a peer has given up, and its handshake is said to be over"
