"""Checks of a whole listening socket over the transport: what the contract is there for.

PYTEST_DONT_REWRITE: what is asserted here has a sentence of its own, and its values can be long.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import trio

from trio_wsk._connection.dispatch import ConnectionDispatch
from trio_wsk._listening.dispatch import ListenDispatch
from trio_wsk._listening.opening import open_listening_socket
from trio_wsk._vocabulary.status import EventMask, Status
from trio_wsk._vocabulary.verdict import (
    AbortReason,
    CloseStyle,
    InspectAction,
    InspectPoint,
    Verdict,
)
from trio_wsk.inspectors import Need, Rules, needs

from ._checks import after_handshake, before_handshake, check
from ._visitor import pattern

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from trio_wsk._connection.connection import Connection
    from trio_wsk._inspection.request import ConnectionRequest
    from trio_wsk._listening.listening import ListeningSocket
    from trio_wsk._vocabulary.verdict import InspectId

    from ._peer import Peer
    from ._stage import Stage

__all__ = [
    "listening_socket_aborts_who_leaves",
    "listening_socket_accepts",
    "listening_socket_asks_and_accepts",
    "listening_socket_asks_and_rejects",
    "listening_socket_asks_in_two_stages",
    "listening_socket_awaits_large_uploads",
    "listening_socket_closes",
    "listening_socket_completes_what_is_pended",
    "listening_socket_has_events",
    "listening_socket_has_last_words",
    "listening_socket_indicates_large_uploads",
    "listening_socket_peeks",
    "listening_socket_runs_out_of_time",
    "listening_socket_withholds_the_handshake",
]

UPLOAD_OCTETS: Final = 1 << 20
"""1 MiB: many times what the buffers of both sides hold."""

_LOST_EDGE: Final = (
    f"of {UPLOAD_OCTETS} octets that a peer was sending not all came: an edge was lost"
)


def _accept(_: ConnectionRequest) -> InspectAction:
    return InspectAction.ACCEPT


def _pend(_: ConnectionRequest) -> InspectAction:
    return InspectAction.PEND


@asynccontextmanager
async def _listening(
    stage: Stage,
    **options: Any,  # noqa: ANN401 - those of open_listening_socket
) -> AsyncIterator[ListeningSocket]:
    """Open a listening socket over the stage's transport."""
    options.setdefault("inspect_timeout", 2 * stage.harness.patience)
    point = stage.harness.inspect_point
    if point is InspectPoint.BEFORE_HANDSHAKE:
        dispatch: ListenDispatch | None = options.get("dispatch")
        if "inspect" not in options and (dispatch is None or dispatch.inspect is None):
            options["inspect"] = _accept
        options["inspect_point"] = point
    async with open_listening_socket(transport=stage.transport, **options) as listening:
        yield listening


async def _accepted(stage: Stage, listening: ListeningSocket) -> Connection:
    async with stage.within("a peer was let through, and accept() never returned it"):
        return await listening.accept()


async def _pended(stage: Stage, listening: ListeningSocket, count: int = 1) -> list[InspectId]:
    await stage.until(
        lambda: len(listening.pending_inspections) == count,
        f"{count} peers have connected, and so many were not pended",
    )
    return list(listening.pending_inspections)


async def _echoes(stage: Stage, connection: Connection, peer: Peer, size: int = 100) -> None:
    """See that both sides hear each other, and finish one after the other."""
    data = bytes(range(256)) * (size // 256 + 1)
    await peer.connected()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_echo, stage, connection)
        await peer.send(data)
        await peer.finish()
        back = await peer.receive(len(data) + 1)
    assert data == back, f"{len(data)} octets were to come back, and {len(back)} did, or others"


async def _echo(stage: Stage, connection: Connection) -> None:
    async with stage.within("an echo of what a peer sends never came to its end"):
        async for data in connection:
            await connection.send_all(data)
        await connection.send_eof()
    await connection.aclose()


@check()
async def listening_socket_accepts(stage: Stage) -> None:
    """Connections can be awaited, and carry more than their buffers hold in both directions."""
    async with _listening(stage) as listening:
        peers = [await stage.peer(listening.local_addresses[0]) for _ in range(2)]
        connections = [await _accepted(stage, listening) for _ in peers]
        for connection, peer in zip(connections, peers, strict=True):
            await _echoes(stage, connection, peer)


@check()
async def listening_socket_has_events(stage: Stage) -> None:
    """Connections come to the accept event, their data and their end to the others."""
    happened: list[object] = []

    def _receive(connection: Connection, data: bytes) -> None:
        happened.append(data)
        connection.send_nowait(data.upper())

    def _disconnect(connection: Connection, abortive: bool) -> None:  # noqa: FBT001 - as the callback is called
        happened.append(abortive)
        connection.disconnect(data=b"!")

    events = ConnectionDispatch(receive=_receive, disconnect=_disconnect)
    dispatch = ListenDispatch(
        accept=lambda _: events,
        inspect=_accept if stage.harness.inspect_point is InspectPoint.BEFORE_HANDSHAKE else None,
    )
    async with _listening(stage, dispatch=dispatch) as listening:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE | EventMask.DISCONNECT)
        peer = await stage.peer(listening.local_addresses[0])
        await peer.connected()
        await peer.send(b"data")
        back = await peer.receive(4)
        assert back == b"DATA", f"a receive callback answered b'DATA', and its peer got {back!r}"
        await peer.finish()
        back = await peer.receive(100)
        assert back == b"!", f"the last data were b'!', and the peer got {back!r}"
    assert happened == [b"data", False], f"instead of data and FIN, the events were {happened}"


async def _upload(peer: Peer) -> None:
    stream = await peer.connected()
    await stream.send_all(pattern(0, UPLOAD_OCTETS))


@check()
async def listening_socket_awaits_large_uploads(stage: Stage) -> None:
    """Who receives little at a time, and often waits, gets all that a peer sends without pause."""
    async with _listening(stage) as listening, trio.open_nursery() as nursery:
        peer = await stage.peer(listening.local_addresses[0])
        connection = await _accepted(stage, listening)
        received = bytearray()
        async with stage.within(_LOST_EDGE):
            nursery.start_soon(_upload, peer)
            while len(received) < UPLOAD_OCTETS:
                received += await connection.receive_some()
        await connection.aclose()
    assert received == pattern(0, UPLOAD_OCTETS), "an upload came as other octets"


@check()
async def listening_socket_indicates_large_uploads(stage: Stage) -> None:
    """The receive event tells of all that a peer sends without pause."""
    received = bytearray()

    def _receive(_: Connection, data: bytes) -> None:
        received.extend(data)

    dispatch = ListenDispatch(
        accept=lambda _: ConnectionDispatch(receive=_receive),
        inspect=_accept if stage.harness.inspect_point is InspectPoint.BEFORE_HANDSHAKE else None,
    )
    async with _listening(stage, dispatch=dispatch) as listening, trio.open_nursery() as nursery:
        listening.enable_events(EventMask.ACCEPT | EventMask.RECEIVE)
        peer = await stage.peer(listening.local_addresses[0])
        nursery.start_soon(_upload, peer)
        await stage.until(lambda: len(received) >= UPLOAD_OCTETS, _LOST_EDGE)
    assert received == pattern(0, UPLOAD_OCTETS), "an upload came as other octets"


@check()
async def listening_socket_asks_and_accepts(stage: Stage) -> None:
    """Who is let through by an inspector, plain or async, is delivered."""

    async def _slow(_: ConnectionRequest) -> InspectAction:
        await trio.lowlevel.checkpoint()
        return InspectAction.ACCEPT

    answers: Iterator[Callable[[ConnectionRequest], Any]] = iter([_accept, _slow])

    def _next_answer(request: ConnectionRequest) -> Any:  # noqa: ANN401 - as an inspector answers
        return next(answers)(request)

    async with _listening(stage, inspect=_next_answer) as listening:
        for _ in range(2):
            peer = await stage.peer(listening.local_addresses[0])
            connection = await _accepted(stage, listening)
            assert connection.inspect_id is not None
            await _echoes(stage, connection, peer)


@check()
async def listening_socket_asks_and_rejects(stage: Stage) -> None:
    """Who is rejected sees what close_styles() has promised, and is counted."""
    styles = [CloseStyle.RESET, CloseStyle.FIN, CloseStyle.SILENT]
    verdicts = [Verdict(InspectAction.REJECT, style.value, style) for style in styles]
    left = iter(verdicts)
    async with _listening(stage, inspect=lambda _: next(left)) as listening:
        promised = stage.transport.close_styles()
        for style in styles:
            peer = await stage.peer(listening.local_addresses[0])
            if style is CloseStyle.SILENT and style in promised:
                assert await peer.hears_nothing(), "a peer was to be turned away in silence"
                continue
            fate = await peer.fate()
            expected = stage.ends_of_turned_away
            if style is CloseStyle.FIN and style in promised:
                expected = {"fin"}
            assert fate in expected, f"a peer was turned away with {style}, and saw {fate}"
        rejected = dict(listening.statistics().rejected)
        assert rejected == {style.value: 1 for style in styles}, f"rejected: {rejected}"
        fallbacks = listening.statistics().close_fallbacks
        assert fallbacks == len(set(styles) - promised), f"close_fallbacks is {fallbacks}"


@check(after_handshake)
async def listening_socket_has_last_words(stage: Stage) -> None:
    """Where FIN can be had, a peer reads a message before it, whatever it has sent."""
    verdict = Verdict(InspectAction.REJECT, close=b"421 busy\r\n")
    async with _listening(stage, inspect=lambda _: verdict) as listening:
        if CloseStyle.FIN not in stage.transport.close_styles():
            return
        peer = await stage.peer(listening.local_addresses[0])
        await peer.send(b"HELO\r\n" * 100)
        message = await peer.receive(100)
        assert message == b"421 busy\r\n", f"a peer was to read b'421 busy', and read {message!r}"


@check()
async def listening_socket_completes_what_is_pended(stage: Stage) -> None:
    """Requests that are pended are completed in any order, and only once."""
    async with _listening(stage, inspect=_pend) as listening:
        address = listening.local_addresses[0]
        first = await stage.peer(address)
        await _pended(stage, listening)
        second = await stage.peer(address)
        one, two = await _pended(stage, listening, 2)
        assert listening.inspect_complete(two, InspectAction.ACCEPT) is Status.SUCCESS
        assert listening.inspect_complete(two, InspectAction.ACCEPT) is Status.NOT_FOUND
        connection = await _accepted(stage, listening)
        assert connection.inspect_id == two, "another request was delivered than was let through"
        await _echoes(stage, connection, second)
        assert listening.inspect_complete(one, InspectAction.REJECT) is Status.SUCCESS
        fate = await first.fate()
        assert fate in stage.ends_of_turned_away, f"a peer was rejected, and saw {fate}"


@check()
async def listening_socket_aborts_who_leaves(stage: Stage) -> None:
    """Who leaves while its request is pended is aborted, once; completing it comes too late."""
    aborted: list[InspectId] = []
    reasons: list[AbortReason] = []

    def _abort(inspect_id: InspectId) -> None:
        record = listening.pending_inspections[inspect_id].aborted
        assert record is not None
        aborted.append(inspect_id)
        reasons.append(record.reason)

    dispatch = ListenDispatch(inspect=_pend, abort=_abort)
    async with _listening(stage, dispatch=dispatch) as listening:
        peer = await stage.peer(listening.local_addresses[0])
        (inspect_id,) = await _pended(stage, listening)
        await peer.leave()
        await stage.until(lambda: aborted, "a peer left while it was pended, and nothing was told")
        late = listening.inspect_complete(inspect_id, InspectAction.ACCEPT)
        assert late is Status.CONNECTION_ABORTED, f"an aborted request was completed: {late!r}"
        await stage.quiet()
    assert aborted == [inspect_id], f"the abort callback was called for {aborted}"
    left = {AbortReason.FIN, AbortReason.RESET, AbortReason.SILENT}
    assert set(reasons) <= left, f"a peer has left, and the reason of the abort is {reasons[0]}"


@check()
async def listening_socket_runs_out_of_time(stage: Stage) -> None:
    """A request without a verdict in time is aborted, and its peer is told."""
    timeout = stage.harness.quiet_seconds
    async with _listening(stage, inspect=_pend, inspect_timeout=timeout) as listening:
        peer = await stage.peer(listening.local_addresses[0])
        fate = await peer.fate()
        assert fate in stage.ends_of_turned_away, f"no verdict came in time, and a peer saw {fate}"
        aborted = dict(listening.statistics().aborted)
        counted = {reason: count for reason, count in aborted.items() if count}
        assert counted == {"timed-out": 1}, f"no verdict came in time, and aborted is {counted}"


@check()
async def listening_socket_closes(stage: Stage) -> None:
    """Closing turns away who is pended or parked; who was taken stays."""
    answers = iter([InspectAction.ACCEPT, InspectAction.ACCEPT, InspectAction.PEND])
    async with _listening(stage, inspect=lambda _: next(answers)) as listening:
        address = listening.local_addresses[0]
        taken = await stage.peer(address)
        connection = await _accepted(stage, listening)
        parked = await stage.peer(address)
        await parked.connected()
        await stage.until(lambda: listening.statistics().parked, "a peer was not parked")
        pended = await stage.peer(address)
        await _pended(stage, listening)
        async with stage.within("aclose() of a listening socket never returned"):
            await listening.aclose()
        for peer, what in ((parked, "parked"), (pended, "pended")):
            fate = await peer.fate()
            told = stage.ends_of_turned_away | {"reset"}
            assert fate in told, f"a listening socket was closed, and a {what} peer saw {fate}"
    await _echoes(stage, connection, taken)


@check(after_handshake)
async def listening_socket_peeks(stage: Stage) -> None:
    """An inspector sees the first octets, and who accepts gets them."""

    async def _by_word(request: ConnectionRequest) -> InspectAction:
        first = await request.peek(4)
        return InspectAction.ACCEPT if first == b"good" else InspectAction.REJECT

    async with _listening(stage, inspect=_by_word) as listening:
        address = listening.local_addresses[0]
        bad = await stage.peer(address)
        await bad.send(b"bad word")
        fate = await bad.fate()
        expected = stage.ends_of_turned_away | {"reset"}
        assert fate in expected, f"a peer was rejected, and saw {fate}"
        good = await stage.peer(address)
        await good.send(b"go")
        await stage.quiet()
        await good.send(b"od word")
        connection = await _accepted(stage, listening)
        data = bytearray()
        async with stage.within("what an inspector has peeked at did not come"):
            while len(data) < 9:  # noqa: PLR2004 - so many were sent
                data += await connection.receive_some()
        await connection.aclose()
        assert data == b"good word", f"a peer sent b'good word', and what came is {bytes(data)!r}"


@check(before_handshake)
async def listening_socket_withholds_the_handshake(stage: Stage) -> None:
    """Until the verdict, the peer's connect() waits; then it succeeds or is refused."""
    async with _listening(stage, inspect=_pend) as listening:
        for action in (InspectAction.ACCEPT, InspectAction.REJECT):
            peer = await stage.peer(listening.local_addresses[0])
            (inspect_id,) = await _pended(stage, listening)
            await stage.quiet()
            assert not peer.is_answered, "a peer was answered before the verdict"
            assert listening.inspect_complete(inspect_id, action) is Status.SUCCESS
            if action is InspectAction.ACCEPT:
                connection = await _accepted(stage, listening)
                await _echoes(stage, connection, peer)
            else:
                fate = await peer.fate()
                assert fate == "refused", f"a peer was rejected, and saw {fate}"


@needs(Need.OCTETS)
async def _good_word(request: ConnectionRequest) -> Verdict | None:
    is_good = await request.peek(4) == b"good"
    return None if is_good else Verdict(InspectAction.REJECT, close=b"421 busy\r\n")


@check(before_handshake)
async def listening_socket_asks_in_two_stages(stage: Stage) -> None:
    """An inspector sees the SYN, and then the octets; who is turned away by those is told."""
    asked: list[InspectPoint] = []
    rules = Rules(lambda request: asked.append(request.stage), _good_word)
    async with _listening(stage, inspect=rules) as listening:
        bad = await stage.peer(listening.local_addresses[0])
        await bad.connected()
        await bad.send(b"bad word")
        if CloseStyle.FIN in stage.transport.close_styles_when_established():
            message = await bad.receive(100)
            assert message == b"421 busy\r\n", (
                f"a peer was to read b'421 busy', and read {message!r}"
            )
        good = await stage.peer(listening.local_addresses[0])
        await good.connected()
        await good.send(b"good word")
        connection = await _accepted(stage, listening)
        data = bytearray()
        async with stage.within("what an inspector has peeked at did not come"):
            while len(data) < 9:  # noqa: PLR2004 - so many were sent
                data += await connection.receive_some()
        await connection.aclose()
        assert data == b"good word", f"a peer sent b'good word', and what came is {bytes(data)!r}"
        assert asked == [InspectPoint.BEFORE_HANDSHAKE] * 2, f"the first stage was asked: {asked}"
