"""Conditional accept over real sockets: who is asked about whom, and which options there are."""

from __future__ import annotations

import codecs
import math
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

import trio_wsk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT, Desk, inspecting
from tests.helpers.support import connect_now, read_to_end, reset, take_into, until
from tests.helpers.undecided import accept_all
from trio_wsk import (
    CloseStyle,
    Connection,
    ConnectionRequest,
    EventMask,
    InspectId,
    InspectPoint,
    ListenDispatch,
    Status,
    Verdict,
    open_listening_socket,
)
from trio_wsk.observers import RequestApproved
from trio_wsk.transports import PortableTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"

# What resolves names needs this codec, and looks for it once. The ordinary user that some tests
# are for a while may not be allowed to read root's own Python.
codecs.lookup("idna")


# --- Asking -----------------------------------------------------------------------------------


async def test_inspector_is_asked_before_anybody_has_the_connection(
    place: dict[str, Any], inspector: Callable[[InspectAction], Inspect]
) -> None:
    """
    It gets a request that says who wants to connect where, and since when. The connection
    that it lets through is the same peer's, and remembers the request's id.
    """
    context = object()
    before = trio.current_time()
    async with inspecting(inspector(ACCEPT), context=context, **place) as desk:
        client, request = await desk.ask(b"first")
        connection = await desk.listening.accept()

        assert isinstance(request.inspect_id, InspectId)
        assert request.inspect_id == connection.inspect_id
        assert desk.listening.local_addresses[0] == request.local_address
        assert connection.remote_address == request.remote_address
        assert before <= request.arrived_at <= trio.current_time()
        assert request.arrived_at + 10 == request.deadline
        assert desk.listening is request.listening
        assert context is request.context
        assert None is request.aborted
        assert b"first" == await connection.receive_some()

        connection.close()

        assert b"" == await read_to_end(client)
        assert 1 == desk.statistics().approved == desk.statistics().inspected


async def test_everybody_is_inspected_though_nobody_accepts(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """With an inspector, requests are taken from the kernel as they come, and the approved wait."""
    async with inspecting(inspector(ACCEPT)) as desk:
        for count in range(1, 6):
            await desk.parked()

            assert count == desk.statistics().approved == desk.statistics().parked

        connections = [desk.listening.accept_nowait() for _ in range(5)]

        assert [request.inspect_id for request in desk.asked] == [
            connection.inspect_id for connection in connections
        ]

        for connection in connections:
            connection.close()


async def test_approved_connection_goes_the_way_of_any_other(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """A queued accept has it first, else the accept event has it."""
    taken: list[Connection] = []
    async with inspecting(inspector(ACCEPT), accept=take_into(taken)) as desk:
        desk.listening.enable_events(EventMask.ACCEPT)
        irp = desk.listening.queue_accept()
        await desk.ask()
        await irp.wait()
        await desk.ask()
        await until(lambda: taken)

        assert irp.information is not None
        assert desk.asked[0].inspect_id == irp.information.inspect_id
        assert desk.asked[1].inspect_id == taken[0].inspect_id
        assert {"accept": 1, "event": 1} == dict(desk.statistics().delivered)

        irp.information.close()
        taken[0].close()


async def test_connection_that_was_not_inspected_has_no_inspect_id() -> None:
    """Where there is no inspector there is no id, and nothing is ever pending."""
    async with open_listening_socket(0, host=HOST) as listening:
        client = connect_now(listening.local_addresses[0])
        connection = await listening.accept()

        assert None is connection.inspect_id
        assert {} == dict(listening.pending_inspections)
        assert "PendingInspections([])" == repr(listening.pending_inspections)
        assert Status.NOT_FOUND == listening.inspect_complete(InspectId(1, 1), ACCEPT)

        connection.close()
        await client.aclose()


async def test_inspect_ids_are_values_that_never_come_twice() -> None:
    """
    They are compared by content, and different for all requests of the process, whatever
    socket they come through and whatever has become of the earlier ones.
    """
    answers = {0: ACCEPT, 1: REJECT, 2: PEND}
    seen: set[InspectId] = set()
    count = 0

    def inspect(request: ConnectionRequest) -> InspectAction:
        nonlocal count
        inspect_id = request.inspect_id
        again = InspectId(inspect_id.key, inspect_id.serial_number)

        assert again == inspect_id == request.inspect_id
        assert again is not request.inspect_id
        assert hash(again) == hash(inspect_id)
        assert inspect_id not in seen

        seen.add(inspect_id)
        count += 1
        return answers[count % 3]

    for _ in range(3):
        async with inspecting(inspect) as one, inspecting(inspect) as other:
            for desk in (one, other, one, other):
                await desk.ask()
            keys = {request.inspect_id.key for request in one.asked + other.asked}

            assert 2 == len(keys)

    assert 12 == len(seen) == len({each.serial_number for each in seen})


async def test_pending_inspections_is_a_view_of_what_waits() -> None:
    """It is a mapping from ids to requests, the oldest first, current whenever it is read."""
    async with inspecting(PEND) as desk:
        view = desk.listening.pending_inspections

        assert 0 == len(view)
        assert not view

        requests = [(await desk.pended())[1] for _ in range(3)]

        assert [request.inspect_id for request in requests] == list(view)
        assert requests == list(view.values())
        assert requests[1] is view[requests[1].inspect_id]
        assert repr(view) == f"PendingInspections({list(view)})"
        assert InspectId(0, requests[0].inspect_id.serial_number) not in view
        assert "nonsense" not in view
        with pytest.raises(KeyError):
            view[InspectId(0, 0)]

        desk.complete(requests[1], REJECT)

        assert [requests[0], requests[2]] == list(view.values())
        assert f"<ConnectionRequest pended from {requests[0].remote_address}>" == repr(requests[0])
        assert f"<ConnectionRequest rejected from {requests[1].remote_address}>" == repr(
            requests[1]
        )


COLOUR: ContextVar[str] = ContextVar("COLOUR", default="none")


def is_event(desk: Desk, count: int) -> bool:
    """Whether the accept event has had so many."""
    return desk.statistics().delivered["event"] == count


async def test_inspector_has_the_context_of_the_block_and_leaks_nothing_into_it(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """What one inspector sets, the next one and the callbacks don't see."""
    seen: list[str] = []
    decide = inspector(ACCEPT)

    def inspect(request: ConnectionRequest) -> Any:
        seen.append(COLOUR.get())
        COLOUR.set("plain")
        answer = decide(request)
        if not isinstance(answer, type(ACCEPT)):

            async def inspect_later() -> Any:
                seen.append(COLOUR.get())
                COLOUR.set("async")
                return await answer

            return inspect_later()
        return answer

    def accept(connection: Connection) -> Status:
        seen.append(COLOUR.get())
        connection.close()
        return Status.SUCCESS

    COLOUR.set("block")
    async with inspecting(inspect, accept=accept) as desk:
        COLOUR.set("body")
        desk.listening.enable_events(EventMask.ACCEPT)
        for count in range(1, 4):
            desk.client()
            await until(partial(is_event, desk, count))

    assert {"block"} == set(seen)


async def test_abort_callback_has_the_context_of_the_block_and_leaks_nothing_into_it() -> None:
    """What one call sets, the next one and the inspectors don't see."""
    seen: list[str] = []

    def look(request: ConnectionRequest) -> None:
        seen.append(COLOUR.get())
        COLOUR.set("changed")

    def inspect(request: ConnectionRequest) -> InspectAction:
        look(request)
        return PEND

    COLOUR.set("block")
    async with inspecting(inspect) as desk:
        desk.on_abort = look
        for count in range(1, 4):
            client, _ = await desk.pended()
            reset(client)
            await desk.aborted(count)

    assert ["block"] * 6 == seen


async def test_slow_inspections_are_all_in_flight_at_once() -> None:
    """None waits for another one, and a quick one in between is not held up."""
    go_on = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction:
        if await request.peek(1) == b"s":
            await go_on.wait()
        return ACCEPT

    async with inspecting(inspect) as desk:
        for _ in range(20):
            await desk.ask(b"slow")
        await desk.parked(b"quick")
        quick = desk.listening.accept_nowait()

        assert desk.asked[20].inspect_id == quick.inspect_id
        assert 20 == desk.statistics().pending
        assert 21 == desk.statistics().pending_most

        go_on.set()
        await desk.when(lambda: len(desk.told(RequestApproved)) == 21)

        assert 20 == desk.statistics().parked

        quick.close()


# --- Options and values that are refused ------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inspect": 7}, "inspect takes a function, not 7"),
        ({"max_pending": 0}, "max_pending is a count, 1 or more, not 0"),
        ({"max_pending": "many"}, "max_pending is a count, 1 or more, not 'many'"),
        ({"max_parked": -1}, "max_parked is a count, 0 or more, not -1"),
        ({"inspect_timeout": 0}, "inspect_timeout is a time in seconds, more than 0"),
        ({"inspect_timeout": math.inf}, "not without end"),
        ({"inspect_timeout": math.nan}, "not nan"),
        ({"abort_on_half_close": "yes"}, "is None, True or False, not 'yes'"),
        ({"overflow": "panic"}, "is one of 'wait', 'reset' and 'evict', not 'panic'"),
        ({"inspect_point": "later"}, "inspect_point is a member of InspectPoint, not 'later'"),
        (
            {"inspect": accept_all, "dispatch": ListenDispatch(inspect=accept_all)},
            "inspect= is short for dispatch=ListenDispatch(inspect=...): give one of them",
        ),
        (
            {"dispatch": ListenDispatch(abort=print)},
            "dispatch.abort tells of requests that were inspected, so it needs an inspector",
        ),
        (
            {"inspect_point": InspectPoint.BEFORE_HANDSHAKE},
            "says when to ask, but not whom: give inspect=..., too",
        ),
    ],
)
async def test_option_that_is_wrong_is_refused_when_the_socket_is_opened(
    options: dict[str, Any], message: str
) -> None:
    """The message has the value, and says what a right one would be."""
    with pytest.raises(trio_wsk.InvalidParameterError) as caught:
        async with open_listening_socket(0, host=HOST, **options):
            pytest.fail("it is open")

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"inspect": 7}, "ListenDispatch(inspect=...) takes a function, not 7"),
        ({"abort": 7}, "ListenDispatch(abort=...) takes a function, not 7"),
        ({"abort": accept_all}, "takes a plain function, not the async function"),
    ],
)
def test_slot_that_is_wrong_is_refused(slots: dict[str, Any], message: str) -> None:
    """An inspector may be async; what is told of aborts may not."""
    with pytest.raises(trio_wsk.InvalidParameterError) as caught:
        ListenDispatch(**slots)

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"action": True}, "action is InspectAction.ACCEPT, REJECT or PEND, not True"),
        ({"action": None}, "not None"),
        ({"action": 1}, "not 1"),
        ({"action": REJECT, "reason": "Over quota"}, "a short slug to count by"),
        ({"action": REJECT, "reason": "x" * 65}, "a short slug to count by"),
        ({"action": REJECT, "reason": None}, "not None"),
        ({"action": REJECT, "close": b""}, "a message of 1 to 4096 octets before FIN"),
        ({"action": REJECT, "close": bytes(4097)}, "a message of 1 to 4096 octets before FIN"),
        ({"action": REJECT, "close": "busy"}, "not 'busy'"),
        ({"action": REJECT, "close": CloseStyle.MESSAGE}, "not <CloseStyle.MESSAGE"),
    ],
)
def test_verdict_that_is_none_is_refused(fields: dict[str, Any], message: str) -> None:
    """The message has the value, and says what a right one would be."""
    with pytest.raises(trio_wsk.InvalidParameterError) as caught:
        Verdict(**fields)

    assert message in str(caught.value)


def test_verdict_is_a_frozen_value() -> None:
    """It can be compared, shared and kept; the reason and the style have defaults."""
    verdict = Verdict(REJECT, "over-quota", b"421 busy\r\n")

    assert Verdict(REJECT, "over-quota", b"421 busy\r\n") == verdict
    assert CloseStyle.MESSAGE is verdict.style
    assert Verdict(REJECT, "", CloseStyle.RESET) == Verdict(REJECT)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        verdict.reason = "other"  # type: ignore[misc] # that is what is refused


async def test_point_that_cannot_be_had_is_refused_with_the_reason() -> None:
    """Asking before the handshake is strict: it is never replaced by asking after it."""
    with pytest.raises(trio_wsk.InspectPointError, match="handshake"):
        async with open_listening_socket(
            transport=PortableTransport.tcp(0, host=HOST),
            inspect=accept_all,
            inspect_point=InspectPoint.BEFORE_HANDSHAKE,
        ):
            pytest.fail("it is open")


async def test_point_in_force_can_be_asked_for() -> None:
    """Sockets of the portable transport are asked after the handshake, and say so."""
    async with inspecting() as desk:
        assert InspectPoint.AFTER_HANDSHAKE is desk.listening.inspect_point


@pytest.mark.parametrize(
    ("place", "style"),
    [("IPv4", CloseStyle.SILENT), ("Unix", CloseStyle.SILENT)],
    indirect=["place"],
)
async def test_style_that_cannot_be_had_is_refused_if_the_inspector_declares_it(
    place: dict[str, Any], style: CloseStyle, ordinary_user: None
) -> None:
    """An inspector's attribute ``close_styles`` says what it wants; opening says what it can't."""

    def inspect(request: ConnectionRequest) -> Verdict:
        return Verdict(REJECT, close=style)

    inspect.close_styles = {style, CloseStyle.RESET}  # type: ignore[attr-defined] # that is how
    if "path" in place:
        place["path"] = "\0trio_wsk-test-close-styles"
    place.setdefault("port", 0)
    with pytest.raises(trio_wsk.InvalidParameterError, match=str(style)) as caught:
        async with open_listening_socket(inspect=inspect, **place):
            pytest.fail("it is open")

    assert "after the handshake" in str(caught.value)


async def test_style_that_can_be_had_may_be_declared(place: dict[str, Any]) -> None:
    """What every stream socket can do is not refused."""

    def inspect(request: ConnectionRequest) -> InspectAction:
        return ACCEPT

    inspect.close_styles = {CloseStyle.RESET, CloseStyle.FIN, CloseStyle.MESSAGE}  # type: ignore[attr-defined]
    place.setdefault("port", 0)
    async with open_listening_socket(inspect=inspect, **place) as listening:
        assert 0 == listening.statistics().inspected
