"""
Conditional accept over the network in memory, on the virtual clock: what
inspectors may do, and how many requests there are at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.helpers.inspecting_in_memory import (
    ACCEPT,
    LONG,
    PEND,
    REJECT,
    TURNED_AWAY,
    Scene,
    settled,
)
from tests.helpers.memory_peers import BEFORE, fate_of
from tests.helpers.support import read_to_end
from trio_wsk import (
    AbortReason,
    CloseStyle,
    InspectAction,
    InspectId,
    InspectPoint,
    InvalidDeviceStateError,
    Overflow,
    Status,
    Verdict,
    open_listening_socket,
)
from trio_wsk._inspection import undecided
from trio_wsk.observers import CallbackFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from trio_wsk import ConnectionRequest


# --- Inspectors -------------------------------------------------------------------------------


async def test_thousand_slow_inspections_are_in_flight_together(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """
    An inspector that takes 200 ms, and 1,000 clients at once: all are inspected together, and
    all are served after 200 ms.
    """
    scene = Scene()
    scene.network.on_segment = None
    clients = 1000

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await trio.sleep(0.2)
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(backlog=clients),
        dispatch=scene.dispatch(inspect),
        inspect_point=point,
        max_pending=clients,
    ) as scene.listening:
        streams = [scene.open() for _ in range(clients)]
        for _ in range(clients):
            connection = await scene.listening.accept()
            connection.close()
        counted = scene.listening.statistics()

        assert 0.2 == trio.current_time()
        assert (clients, clients) == (counted.pending_most, counted.delivered["accept"])
        for stream in streams:
            await stream.established()

            assert b"" == await stream.receive_some()

            await stream.aclose()


async def test_completed_early(autojump_clock: MockClock, point: InspectPoint) -> None:
    """
    A request can be completed before its inspector has answered: the word is kept, and counts
    when that answers PEND.
    """
    scene = Scene()
    may_answer = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction:

        scene.requests.append(request)
        await may_answer.wait()
        return PEND

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=point
    ) as scene.listening:
        for _ in range(2):
            scene.open()
        await settled()
        yes, no = (request.inspect_id for request in scene.requests)

        assert Status.SUCCESS is scene.listening.inspect_complete(yes, ACCEPT)
        assert Status.SUCCESS is scene.listening.inspect_complete(
            no, Verdict(REJECT, "early", CloseStyle.SILENT)
        )
        assert Status.NOT_FOUND is scene.listening.inspect_complete(no, ACCEPT)
        assert 0 == scene.listening.statistics().approved
        assert {yes, no} == set(scene.listening.pending_inspections)

        may_answer.set()
        connection = await scene.listening.accept()

        assert yes == connection.inspect_id
        assert scene.requests[0].remote_address == connection.remote_address
        assert {"early": 1} == scene.listening.statistics().rejected
        assert 0 == scene.listening.statistics().close_fallbacks

        connection.close()


@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
async def test_own_word_overrules_an_early_one(
    autojump_clock: MockClock, point: InspectPoint, answer: InspectAction
) -> None:
    """An inspector that answers by itself never pended, so a completion of its request is void."""
    scene = Scene()

    def inspect(request: ConnectionRequest) -> InspectAction:

        early = REJECT if answer is ACCEPT else ACCEPT
        statuses.append(scene.listening.inspect_complete(request.inspect_id, early))
        return answer

    statuses: list[Status] = []
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=point
    ) as scene.listening:
        scene.open()
        await settled()
        counted = scene.listening.statistics()

        assert [Status.SUCCESS] == statuses
        assert (answer is ACCEPT) == counted.approved == counted.parked
        assert ({} if answer is ACCEPT else {"rejected": 1}) == counted.rejected


async def test_ids_that_mean_nothing(autojump_clock: MockClock, point: InspectPoint) -> None:
    """
    Completing an id that was never given out, or another socket's, finds nothing; what is no
    verdict is refused, and the request waits on.
    """
    scene = Scene()
    other = scene.network.host("192.0.2.3").transport(80)
    async with (
        open_listening_socket(
            transport=scene.transport(), dispatch=scene.dispatch(), inspect_point=point
        ) as scene.listening,
        open_listening_socket(transport=other, inspect=lambda _: PEND) as elsewhere,
    ):
        scene.open()
        await settled()
        (inspect_id,) = scene.listening.pending_inspections
        complete = scene.listening.inspect_complete

        unknown = InspectId(inspect_id.key, inspect_id.serial_number + 1000)
        assert Status.NOT_FOUND is complete(unknown, ACCEPT)
        assert Status.NOT_FOUND is complete(InspectId(-1, inspect_id.serial_number), ACCEPT)
        assert Status.NOT_FOUND is elsewhere.inspect_complete(inspect_id, ACCEPT)
        for nonsense in (PEND, True, None, Verdict(PEND)):
            assert Status.INVALID_PARAMETER is complete(inspect_id, nonsense)  # type: ignore[arg-type]  # on purpose
        assert Status.INVALID_PARAMETER is complete(inspect_id.serial_number, ACCEPT)  # type: ignore[arg-type]  # on purpose
        assert [inspect_id] == list(scene.listening.pending_inspections)
        assert Status.SUCCESS is complete(inspect_id, ACCEPT)


async def test_any_number_pends_and_completes_in_any_order(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """Fifty requests pend and are completed from the last to the first: so are they delivered."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(), inspect_point=point
    ) as scene.listening:
        for _ in range(50):
            scene.open()
        await settled()
        ids = [request.inspect_id for request in scene.requests]
        statuses = [scene.listening.inspect_complete(each, ACCEPT) for each in reversed(ids)]
        taken = []
        for _ in ids:
            connection = await scene.listening.accept()
            taken.append(connection.inspect_id)
            connection.close()

        assert {Status.SUCCESS} == set(statuses)
        assert ids[::-1] == taken


def _raises(_: ConnectionRequest) -> InspectAction:
    raise RuntimeError("planned")


async def _raises_later(_: ConnectionRequest) -> InspectAction:
    await trio.sleep(0.1)
    raise RuntimeError("planned")


async def _answers_nonsense(_: ConnectionRequest) -> object:
    await trio.sleep(0.1)
    return True


@pytest.mark.parametrize(
    "inspect", [_raises, _raises_later, lambda _: None, _answers_nonsense], ids=range(4)
)
async def test_inspector_that_fails_rejects(
    autojump_clock: MockClock,
    point: InspectPoint,
    inspect: Callable[[ConnectionRequest], object],
) -> None:
    """
    An inspector that raises or answers nonsense has rejected: it is reported, the peer refused or
    reset, nothing is aborted, and the next request is inspected as if nothing had been.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(inspect),
        inspect_point=point,
        observers=[scene.records.append],
    ) as scene.listening:
        for _ in range(2):
            client = scene.open()
            await trio.sleep(0.2)
            assert TURNED_AWAY[point] == await fate_of(client)
        counted = scene.listening.statistics()

        assert {"inspector-failed": 2} == counted.rejected
        assert ["inspect"] * 2 == [
            each.callback for each in scene.records if isinstance(each, CallbackFailed)
        ]
    assert [] == scene.aborts


async def test_inspector_that_cancels_itself_rejects(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """Cancelling a request's scope oneself is no verdict, so the request is rejected."""
    scene = Scene()

    async def inspect(request: ConnectionRequest) -> InspectAction:

        request.cancel_scope.cancel()
        await trio.sleep_forever()
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=point
    ) as scene.listening:
        scene.open()
        await settled()

        assert {"inspector-failed": 1} == scene.listening.statistics().rejected
    assert [] == scene.aborts


async def test_no_peek_before_the_handshake(autojump_clock: MockClock) -> None:
    """Before the handshake there are no octets to peek at, and peek() says so."""
    scene = Scene()
    errors = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        try:
            await request.peek(1)
        except InvalidDeviceStateError as error:
            errors.append(error)
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect), inspect_point=BEFORE
    ) as scene.listening:
        await scene.connect()
        await settled()

    assert 1 == len(errors)
    assert "before the handshake" in str(errors[0])


async def test_peek_after_the_handshake(autojump_clock: MockClock) -> None:
    """
    After the handshake peek() waits for as many octets as it is asked for, or the peer's FIN,
    and leaves them to who accepts the connection.
    """
    scene = Scene(latency=0.1)
    peeked = []

    async def inspect(request: ConnectionRequest) -> InspectAction:

        peeked.append((await request.peek(2), trio.current_time()))
        peeked.append((await request.peek(6), trio.current_time()))
        peeked.append((await request.peek(99), trio.current_time()))
        return ACCEPT

    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(inspect)
    ) as scene.listening:
        client = await scene.connect()
        for octets in (b"abc", b"def", b"ghi"):
            await client.send_all(octets)
            await trio.sleep(1)
        await client.send_eof()
        connection = await scene.listening.accept()

        assert [b"ab", b"abcdef", b"abcdefghi"] == [data for data, _ in peeked]
        assert pytest.approx([0.3, 1.3, 3.3]) == [at for _, at in peeked]
        assert b"abcdefghi" == await read_to_end(connection)

        connection.close()


# --- Limits -----------------------------------------------------------------------------------


async def test_handshakes_under_way_count_as_pending(autojump_clock: MockClock) -> None:
    """Who was let through and is in the handshake yet is pending, beside who has no verdict."""
    scene = Scene(latency=1.0)
    async with open_listening_socket(
        transport=scene.transport(), dispatch=scene.dispatch(), inspect_point=BEFORE
    ) as scene.listening:
        first = scene.open()
        await trio.sleep(1.1)  # its SYN has come
        (request,) = scene.requests

        assert Status.SUCCESS is scene.listening.inspect_complete(request.inspect_id, ACCEPT)

        second = scene.open()
        await trio.sleep(1.1)  # the second SYN has come, and the first one's ACK has not
        counted = scene.listening.statistics()

        assert 2 == counted.inspected == counted.pending == counted.pending_most

        first.reset()
        second.reset()


async def test_syns_beyond_max_pending_wait(autojump_clock: MockClock) -> None:
    """
    Before the handshake, with ``overflow="wait"`` and a backlog of one: one is inspected, one
    waits, and the SYN of the third is dropped; it comes again by itself when there is room.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(backlog=1),
        dispatch=scene.dispatch(),
        inspect_point=BEFORE,
        inspect_timeout=LONG,
        max_pending=1,
    ) as scene.listening:
        clients = [scene.open() for _ in range(3)]
        await trio.sleep(1.5)  # each but the first has sent its SYN twice

        assert [clients[0].local_address] == [each.remote_address for each in scene.requests]
        assert (1, 1) == (
            scene.listening.statistics().backlog,
            scene.listening.statistics().pending,
        )

        for number, client in enumerate(clients):
            await trio.sleep(2)

            assert number + 1 == len(scene.requests)

            scene.listening.inspect_complete(scene.requests[number].inspect_id, ACCEPT)
            await client.established()

        assert [each.local_address for each in clients] == [
            each.remote_address for each in scene.requests
        ]
        assert 1 == scene.listening.statistics().pending_most
        assert {} == scene.listening.statistics().dropped


async def test_requests_beyond_max_pending_are_reset(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """
    With ``overflow="reset"`` newcomers are turned away unasked, and who pends is left alone;
    they were never inspected, so no abort follows.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        max_pending=2,
        overflow="reset",
    ) as scene.listening:
        clients = [scene.open() for _ in range(4)]
        await settled()
        for client in clients[2:]:
            assert TURNED_AWAY[point] == await fate_of(client)
        counted = scene.listening.statistics()

        assert [each.local_address for each in clients[:2]] == [
            each.remote_address for each in scene.requests
        ]
        assert (4, 2, 2, {"overflowed": 2}) == (
            counted.accepted,
            counted.inspected,
            counted.pending,
            counted.dropped,
        )
        assert [] == scene.aborts


async def test_requests_beyond_max_pending_evict(
    autojump_clock: MockClock, point: InspectPoint
) -> None:
    """With ``overflow="evict"`` the oldest that waits for its verdict goes for a newcomer."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        max_pending=2,
        overflow=Overflow(pending="evict"),
    ) as scene.listening:
        clients = [scene.open() for _ in range(4)]
        await settled()
        ids = [request.inspect_id for request in scene.requests]
        for client in clients[:2]:
            assert TURNED_AWAY[point] == await fate_of(client)

        assert [(each, AbortReason.EVICTED) for each in ids[:2]] == scene.aborts
        assert ids[2:] == list(scene.listening.pending_inspections)
        assert {"evicted": 2} == scene.listening.statistics().aborted
        assert 2 == scene.listening.statistics().pending_most


async def test_long_flood_evicts_in_order(
    autojump_clock: MockClock, point: InspectPoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many newcomers there are, it is always the oldest that goes for the next one."""
    monkeypatch.setattr(undecided, "EVICTIONS_PER_COPY", 3)
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        max_pending=4,
        overflow=Overflow(pending="evict"),
    ) as scene.listening:
        for _ in range(20):
            scene.open()
        await settled()
        ids = [request.inspect_id for request in scene.requests]

        assert [(each, AbortReason.EVICTED) for each in ids[:16]] == scene.aborts
        assert ids[16:] == list(scene.listening.pending_inspections)
        for each in ids[16:]:
            assert Status.SUCCESS is scene.listening.inspect_complete(each, InspectAction.REJECT)
        assert 0 == scene.listening.statistics().pending


@pytest.mark.parametrize(("policy", "stays"), [("evict", 1), ("reset", 0)])
async def test_connections_beyond_max_parked(
    autojump_clock: MockClock, point: InspectPoint, policy: str, stays: int
) -> None:
    """
    Approved connections that nobody takes, beyond ``max_parked``: the oldest makes room, or the
    newcomer goes, and either was inspected and so is aborted.
    """
    scene = Scene()
    async with open_listening_socket(
        transport=scene.transport(),
        dispatch=scene.dispatch(),
        inspect_point=point,
        max_parked=1,
        overflow=Overflow(parked=policy),  # type: ignore[arg-type]  # one of them
    ) as scene.listening:
        for _ in range(2):
            scene.open()
        await settled()
        ids = [request.inspect_id for request in scene.requests]
        for each in ids:
            scene.listening.inspect_complete(each, ACCEPT)
        await settled()
        connection = scene.listening.accept_nowait()

        assert ids[stays] == connection.inspect_id
        assert [(ids[1 - stays], AbortReason.EVICTED)] == scene.aborts
        assert 0 == scene.listening.statistics().parked

        connection.close()
