"""Checks of how requests appear: binding, listening, edges, addresses, numbers, errors.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import trio

from trio_wsk._vocabulary.errors import InspectPointError, InvalidDeviceStateError, WskError
from trio_wsk._vocabulary.verdict import CloseStyle, InspectPoint
from trio_wsk.transports._contract import NoDescriptorsError, PeerFaultError, TransportFailedError

from ._checks import after_handshake, can_fail_accept, check

if TYPE_CHECKING:
    from trio_wsk._vocabulary.addresses import Address

    from ._stage import Stage

__all__ = [
    "addresses_are_known",
    "addresses_outlive_the_peer",
    "bind_says_where",
    "cancelled_bind_closes",
    "close_ends_it",
    "close_leaves_unanswered_requests_alone",
    "close_styles_are_sound",
    "close_tells_those_in_the_queue",
    "edges_follow_nothing",
    "failed_transport_says_so",
    "fault_of_one_peer_is_told",
    "has_more_agrees",
    "inspect_point_is_chosen_or_refused",
    "leave_says_what_it_does",
    "listen_comes_after_bind",
    "look_finds_who_has_connected",
    "no_request_before_listen",
    "numbers_never_repeat",
    "requests_come_in_order",
    "requests_survive_until_answered",
    "shed_needs_a_spare_and_a_peer",
    "shortage_of_descriptors_is_told",
]

MANY = 8
"""Peers for a check of order: enough that no shuffle is right by chance."""


# --- Binding and listening ---------------------------------------------------------------------


@check()
async def listen_comes_after_bind(stage: Stage) -> None:
    """A transport that is not bound can't listen."""
    readiness = stage.make_readiness()
    try:
        stage.transport.listen(readiness)
    except InvalidDeviceStateError:
        await trio.lowlevel.checkpoint()
    else:
        raise AssertionError("listen() before bind() did not raise InvalidDeviceStateError")


@check()
async def bind_says_where(stage: Stage) -> None:
    """Once it is bound, and no later, a transport knows its addresses, and they stay the same."""
    transport = stage.transport
    await stage.bind()
    bound = list(transport.local_addresses)
    assert bound, "local_addresses is empty after bind()"
    assert all(each.is_unix or each.port for each in bound), (
        f"local_addresses has a port 0 after bind(): {bound}"
    )
    transport.listen(stage.make_readiness())
    heard = list(transport.local_addresses)
    assert bound == heard, f"local_addresses was {bound} after bind() and is {heard} after listen()"


@check()
async def cancelled_bind_closes(stage: Stage) -> None:
    """A transport whose bind was cancelled is closed."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await stage.transport.bind()
    if not scope.cancelled_caught:
        return  # it bound at once, without a checkpoint
    readiness = stage.make_readiness()
    try:
        stage.transport.listen(readiness)
    except WskError:
        return
    raise AssertionError("bind() was cancelled, and yet the transport listens")


@check()
async def no_request_before_listen(stage: Stage) -> None:
    """Between bind and listen nothing is told of peers that want to connect."""
    await stage.bind()
    stage.attempt(stage.address)
    await stage.quiet()
    assert not stage.edges, "edge was called before listen()"
    stage.transport.listen(stage.make_readiness())
    await stage.quiet()
    stage.drain()
    await stage.visitor()


@check()
async def inspect_point_is_chosen_or_refused(stage: Stage) -> None:
    """inspect_at() has requests appear at that point, or raises InspectPointError."""
    transport = stage.transport
    assert transport.inspect_point is stage.harness.inspect_point, (
        f"inspect_at({stage.harness.inspect_point}) has left {transport.inspect_point}"
    )
    for point in (*InspectPoint, stage.harness.inspect_point):
        before = transport.inspect_point
        try:
            transport.inspect_at(point)
        except InspectPointError:
            wanted = before
        else:
            wanted = point
        assert transport.inspect_point is wanted, (
            f"inspect_point is {transport.inspect_point}, where inspect_at() has left {wanted}"
        )
    await trio.lowlevel.checkpoint()


@check()
async def close_styles_are_sound(stage: Stage) -> None:
    """A reset can always be had, a message where FIN can be, and listening changes nothing."""
    await stage.bind()
    styles = stage.transport.close_styles()
    assert CloseStyle.RESET in styles, "CloseStyle.RESET is missing in close_styles()"
    assert CloseStyle.MESSAGE not in styles or CloseStyle.FIN in styles, (
        "CloseStyle.MESSAGE is in close_styles() without CloseStyle.FIN, which follows it"
    )
    stage.transport.listen(stage.make_readiness())
    later = stage.transport.close_styles()
    assert styles == later, f"close_styles() was {styles} after bind() and is {later} now"


# --- Requests and edges ------------------------------------------------------------------------


@check()
async def edges_follow_nothing(stage: Stage) -> None:
    """After None there is one edge for what comes next, and none without a reason."""
    await stage.listen()
    stage.drain()
    idle = stage.edges
    await stage.quiet()
    assert idle == stage.edges, "edge was called although nobody has connected"
    for turn in ("first", "second"):
        before = stage.edges
        peers = [await stage.peer(), await stage.peer()]
        await stage.until(
            lambda: stage.edges > before,  # noqa: B023 - it is over before the next turn
            f"after None no edge was told of the {turn} peer that has connected",
        )
        await stage.quiet()
        told = stage.edges - before
        assert told == 1, f"edge was called {told} times before anybody asked for the next request"
        for peer in peers:
            stage.take(peer, await stage.request())
        assert stage.next_request() is None, "two peers have connected, and three requests came"


@check()
async def has_more_agrees(stage: Stage) -> None:
    """has_more() is true from an edge on until next_request() has returned None."""
    await stage.listen()
    stage.drain()
    assert not stage.transport.has_more(), "has_more() is true after next_request() returned None"
    before = stage.edges
    peer = await stage.peer()
    await stage.until(lambda: stage.edges > before, "after None no edge was told")
    assert stage.transport.has_more(), "has_more() is false although edge was called"
    request = stage.next_request()
    assert request is not None, "edge was called, and next_request() returned None"
    stage.take(peer, request)
    assert stage.next_request() is None, "one peer has connected, and two requests came"
    assert not stage.transport.has_more(), "has_more() is true after next_request() returned None"


@check(after_handshake)
async def look_finds_who_has_connected(stage: Stage) -> None:
    """After look(), whoever has connected is there, once."""

    def _found() -> bool:
        stage.transport.look()
        return stage.transport.has_more()

    await stage.listen()
    stage.drain()
    peer = await stage.peer()
    await peer.connected()
    await stage.until(_found, "a peer has connected, and after look() has_more() stays false")
    request = stage.next_request()
    assert request is not None, "a peer has connected, and after look() there is no request"
    stage.take(peer, request)
    stage.transport.look()
    assert stage.next_request() is None, "one peer has connected, and after look() two came"


@check()
async def requests_come_in_order(stage: Stage) -> None:
    """Those who came to one address are handed out in the order of their coming, each once."""
    await stage.listen()
    peers = [await stage.peer() for _ in range(MANY)]
    visitors = [stage.take(peer, await stage.request()) for peer in peers]
    assert stage.next_request() is None, f"{MANY} peers have connected, and one more request came"
    for visitor in visitors:
        await visitor.let_through()
    expected = [_address(visitor.peer.stream, stage) for visitor in visitors]
    if None in expected:
        return
    came = [visitor.request.remote_address for visitor in visitors]
    assert expected == came, f"{expected} have connected, in this order, and {came} came"


@check()
async def requests_survive_until_answered(stage: Stage) -> None:
    """A request waits for its answer while others come and are answered before it."""
    await stage.listen()
    first, second, third = [await stage.visitor() for _ in range(3)]
    await stage.quiet()
    await second.let_through()
    third.answer("reset")
    await stage.quiet()
    await first.let_through()
    for visitor in (first, second):
        await visitor.peer.send(b"here")
        assert await visitor.receive(4) == b"here", "a request that had to wait is not what it was"
        await visitor.send(b"there")
        assert await visitor.peer.receive(5) == b"there", "a request that had to wait is lost"


@check()
async def numbers_never_repeat(stage: Stage) -> None:
    """Serial numbers are different for all requests of all transports, and stay as they are."""
    await stage.listen()
    other = await stage.another()
    visitors = [await each.visitor() for each in (stage, other, stage, other)]
    numbers = [visitor.request.serial_number for visitor in visitors]
    for visitor in visitors:
        visitor.answer("reset")
    numbers += [(await each.visitor()).request.serial_number for each in (stage, other)]
    assert len(set(numbers)) == len(numbers), f"a serial number was used again: {numbers}"
    again = [visitor.request.serial_number for visitor in visitors]
    assert again == numbers[: len(again)], f"serial numbers have changed: {numbers}, then {again}"


def _address(stream: trio.abc.HalfCloseableStream, stage: Stage) -> Address | None:
    address: Address | None = stage.harness.address_of(stream)
    return address


def _is_at(expected: Address, found: Address) -> bool:
    """Whether somebody who connected to ``expected``, a wildcard perhaps, came to ``found``."""
    host = expected.host
    if host is not None and host.is_unspecified:
        return expected.port == found.port
    return expected == found


@check()
async def addresses_are_known(stage: Stage) -> None:
    """A request knows where its peer connected to, and who it is."""
    await stage.listen()
    for address in list(stage.transport.local_addresses):
        peer = await stage.peer(address)
        visitor = stage.take(peer, await stage.request())
        request = visitor.request
        local, remote = request.local_address, request.remote_address
        assert _is_at(address, local), (
            f"a peer connected to {address}, and local_address is {local}"
        )
        await visitor.let_through()
        expected = _address(peer.stream, stage)
        assert expected in {None, remote}, f"{expected} connected, and remote_address is {remote}"


@check(after_handshake)
async def addresses_outlive_the_peer(stage: Stage) -> None:
    """Addresses are right even when the peer has gone, and when it has had its answer as well."""
    await stage.listen()
    for is_answered in (False, True):
        peer = await stage.peer()
        expected = _address(peer.stream, stage)
        visitor = stage.take(peer, await stage.request())
        visitor.watch_end()
        peer.leave_with_reset()
        await stage.until(lambda: visitor.keeper.ends, "the peer has reset, which was not told")  # noqa: B023 - it is over before the next turn
        request = visitor.request
        if is_answered:
            visitor.answer("reset")
        local, remote = request.local_address, request.remote_address
        assert _is_at(stage.address, local), (
            f"the peer had connected to {stage.address} and has gone, and local_address is {local}"
        )
        assert expected in {None, remote}, (
            f"the peer was {expected} and has gone, and remote_address is {remote}"
        )


# --- Errors ------------------------------------------------------------------------------------

_Failure = PeerFaultError | NoDescriptorsError | TransportFailedError


def _next_fails(stage: Stage, code: int, kind: type[_Failure]) -> None:
    """Have accept fail, and see that the next request is this error instead."""
    name = errno.errorcode[code]
    stage.harness.fail_accept(stage.transport, OSError(code, os.strerror(code)))
    found: _Failure
    try:
        stage.transport.next_request()
    except (PeerFaultError, NoDescriptorsError, TransportFailedError) as error:
        found = error
    else:
        raise AssertionError(f"accept failed with {name}, and no {kind.__name__} was raised")
    assert isinstance(found, kind), f"{name} was told as {found!r}, not as {kind.__name__}"
    assert found.error.errno == code, f"{name} was told, and the error in it is {found.error!r}"


@check(can_fail_accept)
async def fault_of_one_peer_is_told(stage: Stage) -> None:
    """A request that failed by its own fault is a PeerFaultError, and the next one may be fine."""
    await stage.listen()
    await stage.peer()
    await stage.quiet()
    _next_fails(stage, errno.ECONNABORTED, PeerFaultError)
    peer = await stage.peer()
    stage.take(peer, await stage.request())


@check(can_fail_accept)
async def shortage_of_descriptors_is_told(stage: Stage) -> None:
    """Without descriptors it is NoDescriptorsError, and the request stays where it was."""
    await stage.listen()
    peer = await stage.peer()
    await stage.quiet()
    _next_fails(stage, errno.EMFILE, NoDescriptorsError)
    assert stage.transport.has_more(), "there was no descriptor, and now has_more() is false"
    visitor = stage.take(peer, await stage.request())
    await visitor.let_through()


@check(can_fail_accept)
async def failed_transport_says_so(stage: Stage) -> None:
    """What the system can't have said of a peer or of itself is the transport's failure."""
    await stage.listen()
    await stage.peer()
    await stage.quiet()
    _next_fails(stage, errno.EBADF, TransportFailedError)


@check()
async def shed_needs_a_spare_and_a_peer(stage: Stage) -> None:
    """shed() resets the oldest waiting request if there is one and a spare; else it is false."""
    await stage.listen()
    assert not stage.transport.shed(), "shed() is true, but nobody waits"
    if stage.transport.keep_spare():
        assert not stage.transport.shed(), "shed() is true, but nobody waits"
        oldest = await stage.peer()
        later = await stage.peer()
        await stage.quiet()
        shed = stage.transport.shed()
        assert shed, "a peer waits and there is a spare descriptor, and shed() is false"
        fate = await oldest.fate()
        assert fate in stage.ends_of_turned_away, f"a peer that was shed has seen {fate}"
        stage.take(later, await stage.request())


# --- Leaving and closing -----------------------------------------------------------------------


@check()
async def leave_says_what_it_does(stage: Stage) -> None:
    """leave() ends no connection; true: no request appears after it, false: all is as before."""
    await stage.listen()
    kept = await stage.connection()
    address = stage.address
    has_left = stage.transport.leave()
    await kept.peer.send(b"still here")
    assert await kept.receive(10) == b"still here", "leave() has spoiled a connection"
    stage.attempt(address)
    await stage.quiet()
    comes = stage.next_request()
    if comes is not None:
        comes.reset()
    assert has_left or comes is not None, "leave() is false, and no request appears after it"
    assert not has_left or comes is None, "leave() is true, and a request has appeared after it"


@check()
async def close_tells_those_in_the_queue(stage: Stage) -> None:
    """close() turns those away whom nobody has seen."""
    await stage.listen()
    stage.drain()
    peer = await stage.peer()
    await stage.quiet()
    stage.transport.close()
    fate = await peer.fate()
    told = stage.ends_of_turned_away | {"reset"}
    assert fate in told, f"a peer in the queue of a transport that was closed has seen {fate}"


@check()
async def close_ends_it(stage: Stage) -> None:
    """close() is final, may be repeated, and nothing is told after it; who connects is refused."""
    await stage.listen()
    stage.drain()
    address = stage.address
    stage.transport.close()
    stage.transport.close()
    before = stage.edges
    late = stage.attempt(address)
    await stage.quiet()
    assert before == stage.edges, "edge was called after close()"
    assert not stage.transport.has_more(), "has_more() is true after close()"
    if late.is_answered:
        try:
            await late.connected()
        except AssertionError:
            return  # refused
        raise AssertionError("a peer could connect after close()")


@check()
async def close_leaves_unanswered_requests_alone(stage: Stage) -> None:
    """Requests that were taken stay their owner's: close() answers none of them."""
    await stage.listen()
    kept, refused = await stage.visitor(), await stage.visitor()
    stage.transport.close()
    if stage.harness.inspect_point is InspectPoint.AFTER_HANDSHAKE:
        await kept.let_through()
        await kept.peer.send(b"still here")
        assert await kept.receive(10) == b"still here", "close() has spoiled a request's channel"
    refused.answer("reset")
    fate = await refused.peer.fate()
    assert fate in stage.ends_of_turned_away, f"a peer that was reset after close() has seen {fate}"
