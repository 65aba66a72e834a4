"""Conditional accept over real sockets: a request is a connection that nobody has seen yet."""

from __future__ import annotations

import codecs
import errno
import gc
import math
import random
import socket
import ssl
import sys
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing
import trustme
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT, Desk, Silent, check_balance, inspecting
from tests.helpers.support import (
    PATIENCE,
    FaultyTransport,
    connect_now,
    fate_of,
    read_to_end,
    reset,
    take_into,
    until,
)
from trio_wsk import (
    AbortReason,
    CloseStyle,
    Connection,
    ConnectionDispatch,
    ConnectionRequest,
    EventMask,
    InspectId,
    InspectPoint,
    ListenDispatch,
    ListeningSocket,
    Overflow,
    Status,
    Verdict,
    open_listening_socket,
    open_server,
    serve,
    serve_events,
)
from trio_wsk._connection import last_words as _last_words
from trio_wsk._engine.reused_tasks import MOST_IDLE
from trio_wsk._inspection import driver as _conditional_accept
from trio_wsk._inspection import stragglers as _stragglers
from trio_wsk.observers import (
    CallbackFailed,
    CloseStyleUnavailable,
    InspectorStraggles,
    RequestAborted,
    RequestApproved,
    RequestPended,
    RequestRejected,
)
from trio_wsk.transports import PortableTransport
from trio_wsk.transports._contract import NoDescriptorsError, PeerFaultError, TransportFailedError
from trio_wsk.transports._socket_request import can_be_silent

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"

# What resolves names needs this codec, and looks for it once. The ordinary user that some tests
# are for a while may not be allowed to read root's own Python.
codecs.lookup("idna")


@pytest.fixture(params=["IPv4", "IPv6", "Unix"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Where to listen."""
    if request.param == "Unix":
        return {"port": None, "path": tmp_path / "s"}
    if request.param == "IPv6":
        try:
            with socket.socket(socket.AF_INET6) as probe:
                probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"this machine has no IPv6: {error}")
        return {"host": "::1"}
    return {"host": HOST}


@pytest.fixture
def tells_fin_behind_data(readiness: str, request: pytest.FixtureRequest) -> None:
    """Trio's own waits don't."""
    if hides_fin(readiness, request.getfixturevalue("sent")):
        pytest.skip("a FIN behind data can't be told from data by Trio's own waits")


@pytest.fixture
def tells_close_behind_data(
    readiness: str, place: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Trio's own waits don't; over TCP that is a half-close, and another rule's."""
    is_close = "path" in place and request.getfixturevalue("how") == "close"
    if is_close and hides_fin(readiness, request.getfixturevalue("sent")):
        pytest.skip("a close behind data can't be told from data by Trio's own waits")


@pytest.fixture
def knows_resets(place: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Unix sockets don't."""
    if "path" in place and request.getfixturevalue("how") == "reset":
        pytest.skip("a Unix socket has no reset")


@pytest.fixture(params=["plain", "async", "pended"])
def inspector(request: pytest.FixtureRequest) -> Callable[[InspectAction | Verdict], Inspect]:
    """Make an inspector that gives an answer in one of three ways."""
    way: str = request.param

    def make(answer: InspectAction | Verdict) -> Inspect:
        async def inspect_later(request: ConnectionRequest) -> InspectAction | Verdict:
            await trio.lowlevel.checkpoint()
            return answer

        def pend(request: ConnectionRequest) -> InspectAction:
            async def complete() -> None:
                await trio.lowlevel.checkpoint()

                assert Status.SUCCESS == request.listening.inspect_complete(
                    request.inspect_id, answer
                )

            trio.lowlevel.spawn_system_task(complete)
            return PEND

        return {"plain": lambda _: answer, "async": inspect_later, "pended": pend}[way]

    return make


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


async def accept_all(request: ConnectionRequest) -> InspectAction:
    """Let everybody through."""
    return ACCEPT


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


# --- Rejecting, and how the peer is told ------------------------------------------------------


UNREAD = bytes(50_000)
"""What a client has sent and nobody has read."""


@pytest.mark.parametrize("sent", [b"", UNREAD], ids=["quiet", "unread"])
@pytest.mark.parametrize(
    ("close", "read", "end"),
    [
        (CloseStyle.RESET, b"", "reset"),
        (CloseStyle.FIN, b"", "fin"),
        (b"421 busy\r\n", b"421 busy\r\n", "fin"),
    ],
    ids=["reset", "fin", "message"],
)
async def test_rejected_peer_reads(
    close: CloseStyle | bytes,
    read: bytes,
    end: str,
    sent: bytes,
    place: dict[str, Any],
    inspector: Callable[[Verdict], Inspect],
) -> None:
    """
    A reset, FIN, or the message and then FIN, also if it has sent what nobody has read.
    A Unix socket has no reset: there the peer reads the end, or an error.
    """
    async with inspecting(inspector(Verdict(REJECT, "over-quota", close)), **place) as desk:
        client = desk.client(sent)
        received = b""
        try:
            with trio.fail_after(PATIENCE):
                while data := await client.receive_some():
                    received += data
            fate = "fin"
        except trio.BrokenResourceError:
            fate = "reset"

        assert read == received
        if "path" not in place or close is not CloseStyle.RESET:
            assert end == fate
        assert {"over-quota": 1} == dict(desk.statistics().rejected)
        assert 0 == desk.statistics().close_fallbacks

    (record,) = desk.told(RequestRejected)
    style = CloseStyle.MESSAGE if isinstance(close, bytes) else close

    assert ("over-quota", style) == (record.reason, record.close)
    assert desk.asked[0].inspect_id == record.inspect_id
    assert desk.asked[0].remote_address == record.remote_address
    assert [] == desk.told(CloseStyleUnavailable)


async def test_plain_rejection_is_a_reset_that_is_counted_as_rejected(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """InspectAction.REJECT needs no more words."""
    async with inspecting(inspector(REJECT)) as desk:
        client, _ = await desk.ask()

        assert "reset" == await fate_of(client)
        assert {"rejected": 1} == dict(desk.statistics().rejected)
    (record,) = desk.told(RequestRejected)

    assert ("rejected", CloseStyle.RESET) == (record.reason, record.close)


async def test_nothing_follows_a_rejection(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """
    Neither a connection nor an abort: also not if an accept is queued, the peer leaves or
    somebody completes it once more.
    """
    async with inspecting(inspector(REJECT)) as desk:
        irp = desk.listening.queue_accept()
        client, request = await desk.ask(b"unread")
        await desk.when(lambda: desk.statistics().rejected)
        reset(client)
        await wait_all_tasks_blocked()

        assert Status.NOT_FOUND == desk.complete(request, ACCEPT)
        assert None is request.aborted
        assert Status.PENDING is irp.status
        assert [] == desk.told_abort


async def test_each_attempt_after_a_rejection_is_a_new_request() -> None:
    """A client that tries again is asked about again, under an id of its own."""
    answers = [REJECT, REJECT, ACCEPT]
    async with inspecting(lambda _: answers[len(desk.asked) - 1]) as desk:
        for _ in range(2):
            assert "reset" == await fate_of((await desk.ask())[0])
        await desk.parked()

        assert 3 == len({request.inspect_id for request in desk.asked})
        assert {"rejected": 2} == dict(desk.statistics().rejected)
        assert 1 == desk.statistics().approved


async def test_rejections_are_counted_by_reason_and_not_by_too_many() -> None:
    """Reasons beyond a few dozen are counted together, since they may be of a peer's making."""
    async with inspecting(lambda _: Verdict(REJECT, f"reason-{len(desk.asked)}")) as desk:
        for _ in range(70):
            await fate_of((await desk.ask())[0])
        counted = desk.statistics().rejected

        assert 65 == len(counted)
        assert 6 == counted["other"]
        assert 1 == counted["reason-1"]


async def test_message_is_read_though_the_peer_goes_on_sending(
    inspector: Callable[[Verdict], Inspect],
) -> None:
    """Its input is taken and dropped, so that no reset makes its kernel forget the message."""
    async with inspecting(inspector(Verdict(REJECT, close=b"go away\n"))) as desk:
        client = desk.client(UNREAD)
        with trio.fail_after(PATIENCE):
            for _ in range(20):
                await client.send_all(bytes(1 << 16))
        await client.send_eof()

        assert b"go away\n" == await read_to_end(client)


async def test_longest_message_arrives_whole(inspector: Callable[[Verdict], Inspect]) -> None:
    """What a verdict takes, a send buffer takes at once."""
    message = bytes(range(256)) * 16
    async with inspecting(inspector(Verdict(REJECT, close=message))) as desk:
        assert message == await read_to_end(desk.client())


@pytest.mark.parametrize("close", [CloseStyle.FIN, b"go away\n"], ids=["fin", "message"])
@pytest.mark.parametrize("sent", [b"", b"unread"])
async def test_peer_that_was_faster_than_its_rejection_troubles_nobody(
    sent: bytes, close: CloseStyle | bytes
) -> None:
    """A rejection of somebody who has gone is counted as one, and that is all."""

    def inspect(request: ConnectionRequest) -> Verdict:
        reset(client)
        return Verdict(REJECT, close=close)

    async with inspecting(inspect) as desk:
        client = desk.client(sent)
        await desk.when(lambda: desk.told(RequestRejected))
        await wait_all_tasks_blocked()

        assert {"rejected": 1} == dict(desk.statistics().rejected)
    assert [] == desk.told(CallbackFailed)


async def send_until_reset(client: trio.SocketStream) -> None:
    """Send to somebody who has gone, until that shows."""
    with trio.fail_after(PATIENCE), suppress(trio.BrokenResourceError):
        while True:
            await client.send_all(b"x")


async def test_peer_that_never_reads_its_message_is_reset_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has a little time to finish, and no more: it holds a descriptor."""
    monkeypatch.setattr(_last_words, "LINGER_SECONDS", 0.05)
    async with inspecting(Verdict(REJECT, close=b"go away\n")) as desk:
        client, _ = await desk.ask()

        assert b"go away\n" == await client.receive_some()
        assert b"" == await client.receive_some()

        # It does not finish, so that it is cut off: what it sends then is answered with a reset.
        await send_until_reset(client)


async def test_peers_that_read_their_message_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the one that has had the longest time is reset."""
    monkeypatch.setattr(_last_words, "LINGER_MOST", 2)
    monkeypatch.setattr(_last_words, "LINGER_SECONDS", 10 * PATIENCE)
    async with inspecting(Verdict(REJECT, close=b"go away\n")) as desk:
        clients = [(await desk.ask())[0] for _ in range(3)]
        for client in clients[1:]:
            assert b"go away\n" == await read_to_end(client)
            await client.send_all(b"thanks")
            await client.send_eof()
        await send_until_reset(clients[0])


async def test_peers_that_read_their_message_do_not_hold_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leaving it resets them, whatever time they would have had: they had their chance."""
    monkeypatch.setattr(_last_words, "LINGER_SECONDS", 10 * PATIENCE)
    with trio.fail_after(PATIENCE):
        async with inspecting(Verdict(REJECT, close=b"go away\n")) as desk:
            client, _ = await desk.ask()

            assert b"go away\n" == await read_to_end(client)

            still_there = trio.SocketStream(client.socket.dup())  # the desk closes its clients
            await still_there.send_all(b"but")
        await send_until_reset(still_there)

    assert {"rejected": 1} == dict(desk.statistics().rejected)

    await still_there.aclose()


@pytest.mark.skipif(not can_be_silent(), reason="silence takes a privilege (CAP_NET_ADMIN)")
async def test_silence_is_not_heard(inspector: Callable[[Verdict], Inspect]) -> None:
    """With the privilege, the peer hears nothing; what it sends later is answered with a reset."""
    async with inspecting(inspector(Verdict(REJECT, close=CloseStyle.SILENT))) as desk:
        client, _ = await desk.ask(b"unread")
        await desk.when(lambda: desk.told(RequestRejected))
        await wait_all_tasks_blocked()

        with pytest.raises(trio.WouldBlock):
            receive_nowait(client)
        assert 0 == desk.statistics().close_fallbacks
        assert CloseStyle.SILENT is desk.told(RequestRejected)[0].close

        await client.send_all(b"are you there?")

        assert "reset" == await fate_of(client)


def receive_nowait(client: trio.SocketStream) -> bytes:
    """Receive what is there."""
    with socket.fromfd(client.socket.fileno(), client.socket.family, socket.SOCK_STREAM) as peer:
        peer.settimeout(0)
        try:
            return peer.recv(1 << 16)
        except BlockingIOError:
            raise trio.WouldBlock from None


async def test_style_that_cannot_be_had_falls_back_to_a_reset_and_says_so(
    inspector: Callable[[Verdict], Inspect], ordinary_user: None
) -> None:
    """Without the privilege silence is a reset; each is counted and recorded."""
    async with inspecting(inspector(Verdict(REJECT, "spam", CloseStyle.SILENT))) as desk:
        client, request = await desk.ask()

        assert "reset" == await fate_of(client)
        assert 1 == desk.statistics().close_fallbacks
        assert {"spam": 1} == dict(desk.statistics().rejected)
    (record,) = desk.told(CloseStyleUnavailable)

    assert (CloseStyle.SILENT, request.remote_address) == (record.close, record.remote_address)
    assert [CloseStyle.RESET] == [each.close for each in desk.told(RequestRejected)]


@pytest.mark.parametrize("place", ["Unix"], indirect=True)
async def test_silence_on_a_unix_socket_falls_back_for_everybody(place: dict[str, Any]) -> None:
    """No privilege helps there: the peer reads the end."""
    async with inspecting(Verdict(REJECT, close=CloseStyle.SILENT), **place) as desk:
        assert b"" == await read_to_end((await desk.ask())[0])
        assert 1 == desk.statistics().close_fallbacks


# --- Pending, and completing ------------------------------------------------------------------


async def test_pended_request_is_kept_until_it_is_completed() -> None:
    """
    Yes: it is delivered. No: it is turned away as the verdict says. Its completion says
    that the inspection is over, and not that there is a connection.
    """
    async with inspecting(PEND) as desk:
        irp = desk.listening.queue_accept()
        (_, yes), (client, no) = await desk.pended(), await desk.pended()

        assert 2 == desk.statistics().pending
        assert Status.PENDING is irp.status
        assert Status.SUCCESS is desk.complete(no, Verdict(REJECT, "spam", b"no\n"))
        assert Status.SUCCESS is desk.complete(yes, ACCEPT)
        assert irp.information is not None
        assert yes.inspect_id == irp.information.inspect_id
        assert b"no\n" == await read_to_end(client)
        assert 0 == desk.statistics().pending

        irp.information.close()
    assert [yes.inspect_id, no.inspect_id] == [
        record.inspect_id for record in desk.told(RequestPended)
    ]
    assert [yes.inspect_id] == [record.inspect_id for record in desk.told(RequestApproved)]


@pytest.mark.parametrize("answer", [PEND, Verdict(PEND)])
async def test_async_inspector_may_pend_too(answer: InspectAction | Verdict) -> None:
    """Then its task is over, and the request waits all the same; PEND comes in a verdict, too."""

    async def inspect(request: ConnectionRequest) -> InspectAction | Verdict:
        await trio.lowlevel.checkpoint()
        return answer

    async with inspecting(inspect) as desk:
        _, request = await desk.pended()

        assert Status.SUCCESS == desk.complete(request, ACCEPT)
        assert 1 == desk.statistics().parked


async def test_completion_may_come_from_a_thread() -> None:
    """A thread completes through trio.from_thread, while the run goes on."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()

        def look_up() -> Status:
            return trio.from_thread.run_sync(
                desk.listening.inspect_complete, request.inspect_id, ACCEPT
            )

        assert Status.SUCCESS == await trio.to_thread.run_sync(look_up)
        assert 1 == desk.statistics().parked


async def test_completion_from_outside_the_run_is_refused() -> None:
    """A thread that comes straight is told how to come, and nothing has happened."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()
        complete = partial(desk.listening.inspect_complete, request.inspect_id, ACCEPT)
        with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run_sync"):
            await trio.to_thread.run_sync(complete)

        assert 1 == desk.statistics().pending


@pytest.mark.parametrize("early", [ACCEPT, REJECT])
@pytest.mark.parametrize("own", [ACCEPT, REJECT, PEND])
@pytest.mark.parametrize("way", ["plain", "async"])
async def test_completion_may_come_before_the_inspector_has_answered(
    way: str, own: InspectAction, early: InspectAction
) -> None:
    """It counts if the inspector then pends; an inspector that decides by itself has the word."""
    statuses: list[Status] = []

    def complete(request: ConnectionRequest) -> None:
        verdict = Verdict(REJECT, "early", b"early\n") if early is REJECT else early
        statuses.append(desk.complete(request, verdict))
        statuses.append(desk.complete(request, REJECT))
        statuses.append(desk.complete(request, ACCEPT))

    def inspect(request: ConnectionRequest) -> InspectAction:
        complete(request)
        return own

    async def inspect_async(request: ConnectionRequest) -> InspectAction:
        nursery.start_soon(trio.to_thread.run_sync, trio.from_thread.run_sync, complete, request)
        await until(lambda: len(statuses) == 3)
        return own

    async with (
        inspecting(inspect if way == "plain" else inspect_async) as desk,
        trio.open_nursery() as nursery,
    ):
        client, _ = await desk.ask()
        final = early if own is PEND else own
        if final is ACCEPT:
            await desk.when(lambda: desk.statistics().parked)
        elif own is PEND:
            assert b"early\n" == await read_to_end(client)
            assert {"early": 1} == dict(desk.statistics().rejected)
        else:
            assert "reset" == await fate_of(client)
            assert {"rejected": 1} == dict(desk.statistics().rejected)

        assert [Status.SUCCESS, Status.NOT_FOUND, Status.NOT_FOUND] == statuses


@pytest.mark.parametrize("first", [ACCEPT, REJECT])
@pytest.mark.parametrize("second", [ACCEPT, REJECT])
async def test_second_completion_is_not_found_and_changes_nothing(
    first: InspectAction, second: InspectAction
) -> None:
    """What was completed is over, also after the connection was taken."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()

        assert Status.SUCCESS == desk.complete(request, first)
        assert Status.NOT_FOUND == desk.complete(request, second)

        if first is ACCEPT:
            (await desk.listening.accept()).close()

        assert Status.NOT_FOUND == desk.complete(request, second)
        assert (first is ACCEPT) == desk.statistics().approved
        assert (first is REJECT) == sum(desk.statistics().rejected.values())


async def test_completion_of_what_was_never_pended_is_not_found() -> None:
    """An id of nobody, of another listening socket, or of who was let through at once."""
    async with inspecting(PEND) as desk, inspecting(ACCEPT) as other:
        _, request = await desk.pended()
        _, approved = await other.parked()
        inspect_id = request.inspect_id
        complete = desk.listening.inspect_complete

        assert Status.NOT_FOUND == complete(InspectId(inspect_id.key, 1 << 60), ACCEPT)
        assert Status.NOT_FOUND == complete(InspectId(0, inspect_id.serial_number), ACCEPT)
        assert Status.NOT_FOUND == complete(approved.inspect_id, ACCEPT)
        assert Status.NOT_FOUND == other.listening.inspect_complete(inspect_id, ACCEPT)
        assert Status.NOT_FOUND == other.listening.inspect_complete(approved.inspect_id, REJECT)
        assert [request] == list(desk.listening.pending_inspections.values())
        assert 1 == other.statistics().parked


@pytest.mark.parametrize("answer", [PEND, Verdict(PEND), None, True, 1, "accept", b"", Exception()])
async def test_completion_with_what_decides_nothing_is_an_invalid_parameter(answer: Any) -> None:
    """The request is pended still, and can be completed."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()

        assert Status.INVALID_PARAMETER == desk.complete(request, answer)
        assert Status.INVALID_PARAMETER == desk.listening.inspect_complete(7, ACCEPT)  # type: ignore[arg-type] # that is what is refused
        assert Status.SUCCESS == desk.complete(request, ACCEPT)


@pytest.mark.parametrize("seed", range(3))
async def test_hundreds_pended_at_once_are_completed_in_any_order(seed: int) -> None:
    """Each gets its own answer, whatever the order, and whoever waits with it."""
    chance = random.Random(seed)  # noqa: S311 - it should be different, not secret
    async with inspecting(PEND, max_parked=1000) as desk:
        clients = {}
        for _ in range(200):
            client, request = await desk.pended()
            clients[request] = client
        order = list(clients)
        chance.shuffle(order)

        assert 200 == desk.statistics().pending == desk.statistics().pending_most

        yes, no, gone = order[:70], order[70:140], order[140:]
        for each in zip(yes, no, gone, strict=False):
            reset(clients[each[2]])

            assert Status.SUCCESS == desk.complete(each[0], ACCEPT)
            assert Status.SUCCESS == desk.complete(each[1], REJECT)
        for request in yes[60:]:
            assert Status.SUCCESS == desk.complete(request, ACCEPT)
        for request in no[60:]:
            assert Status.SUCCESS == desk.complete(request, REJECT)
        await desk.aborted(60)
        connections = [desk.listening.accept_nowait() for _ in yes]

        assert [request.inspect_id for request in yes] == [
            connection.inspect_id for connection in connections
        ]
        assert {request.inspect_id for request in gone} == set(desk.told_abort)
        assert {"rejected": 70} == dict(desk.statistics().rejected)
        for request in no:
            assert "reset" == await fate_of(clients[request])

        for connection in connections:
            connection.close()


async def test_pended_request_blocks_nobody_behind_it() -> None:
    """Requests that come later are inspected, decided and delivered meanwhile."""
    answers = [PEND, PEND, ACCEPT, REJECT, ACCEPT]
    async with inspecting(lambda _: answers[len(desk.asked) - 1]) as desk:
        first = (await desk.pended())[1]
        second = (await desk.pended())[1]
        await desk.parked()
        await fate_of((await desk.ask())[0])
        await desk.parked()

        assert Status.SUCCESS == desk.complete(second, ACCEPT)

        connections = [desk.listening.accept_nowait() for _ in range(3)]

        assert [desk.asked[index].inspect_id for index in (2, 4, 1)] == [
            connection.inspect_id for connection in connections
        ]
        assert [first] == list(desk.listening.pending_inspections.values())

        for connection in connections:
            connection.close()


# --- The peer leaves --------------------------------------------------------------------------


async def wait_for_cancellation(request: ConnectionRequest) -> InspectAction:
    """Take longer than anybody waits."""
    await trio.sleep_forever()


async def ignore_cancellation(go_on: trio.Event) -> None:
    """Go on until told to, and not for ever: a test that fails should end, too."""
    with trio.CancelScope(deadline=trio.current_time() + 2 * PATIENCE, shield=True):
        await go_on.wait()


INSPECTORS: dict[str, Inspect | InspectAction] = {
    "inspected": wait_for_cancellation,
    "pended": PEND,
    "parked": ACCEPT,
}
"""Where a request is when its peer leaves, and how it comes to be there."""


async def bring(desk: Desk, stage: str, first: bytes = b"") -> tuple[Any, ConnectionRequest]:
    """Connect a client and wait until its request is there."""
    return await {"inspected": desk.ask, "pended": desk.pended, "parked": desk.parked}[stage](first)


def leave(client: trio.SocketStream, how: str) -> None:
    """Leave."""
    if how == "reset":
        reset(client)
    elif how == "close":
        client.socket.close()
    else:
        client.socket.shutdown(socket.SHUT_WR)


def hides_fin(readiness: str, sent: bytes) -> bool:
    """Whether a FIN can't be seen: behind data, where nothing tells it from the data."""
    return readiness == "trio" and bool(sent)


@pytest.mark.parametrize("stage", INSPECTORS)
@pytest.mark.parametrize("sent", [b"", b"x", UNREAD], ids=["quiet", "unread", "much-unread"])
@pytest.mark.parametrize(
    ("place", "how", "reason"),
    [
        ("IPv4", "reset", AbortReason.RESET),
        ("IPv6", "reset", AbortReason.RESET),
        ("IPv4", "fin", AbortReason.FIN),
        ("IPv4", "close", AbortReason.FIN),
        ("Unix", "fin", AbortReason.FIN),
        ("Unix", "close", AbortReason.FIN),
    ],
    indirect=["place"],
)
@pytest.mark.usefixtures("tells_close_behind_data")
async def test_peer_that_leaves_is_noticed_at_once(
    stage: str,
    sent: bytes,
    place: dict[str, Any],
    how: str,
    reason: AbortReason,
    readiness: str,
) -> None:
    """
    Whether it is inspected, pended, or approved and not yet taken: its abort is told once. A
    reset counts always, also behind unread data, and so does a full close where the system can
    tell it; a FIN counts if nothing was sent before it.
    """
    is_half = how == "fin" or (how == "close" and "path" not in place)
    async with inspecting(INSPECTORS[stage], **place) as desk:
        before = trio.current_time()
        client, request = await bring(desk, stage, sent)
        leave(client, how)
        if is_half and sent:
            await wait_all_tasks_blocked()

            assert [] == desk.aborts
            assert None is request.aborted
        else:
            told = await desk.aborted()

            assert reason is told.reason
            assert request.inspect_id == told.inspect_id
            assert request.remote_address == told.remote_address
            assert before <= told.at <= trio.current_time()
            assert told is request.aborted
            assert [told] == desk.told(RequestAborted)
            assert {reason.value: 1} == dict(desk.statistics().aborted)
            assert 0 == desk.statistics().pending + desk.statistics().parked
            assert 0 == len(desk.listening.pending_inspections)

            await wait_all_tasks_blocked()

            assert (stage == "inspected") is request.cancel_scope.cancelled_caught


@pytest.mark.parametrize("stage", INSPECTORS)
@pytest.mark.parametrize("sent", [b"", b"x"], ids=["quiet", "unread"])
@pytest.mark.parametrize("place", ["IPv4", "Unix"], indirect=True)
@pytest.mark.usefixtures("tells_fin_behind_data")
async def test_half_close_counts_always_if_told_so(
    stage: str, sent: bytes, place: dict[str, Any], readiness: str
) -> None:
    """``abort_on_half_close=True``: a FIN counts behind data, too."""
    async with inspecting(INSPECTORS[stage], abort_on_half_close=True, **place) as desk:
        client, _ = await bring(desk, stage, sent)
        leave(client, "fin")

        assert AbortReason.FIN is (await desk.aborted()).reason


@pytest.mark.parametrize("stage", INSPECTORS)
@pytest.mark.parametrize("half_close", [False, None])
@pytest.mark.parametrize("place", ["IPv4", "Unix"], indirect=True)
async def test_half_close_that_does_not_count_is_an_end_to_be_read(
    stage: str, *, half_close: bool | None, place: dict[str, Any]
) -> None:
    """
    ``abort_on_half_close=False``: a FIN never counts; None: not behind data. Who takes the
    connection reads what was sent, and then the end, and its answer arrives.
    """
    sent = b"" if half_close is False else b"question"
    go_on = trio.Event()

    async def inspect_slowly(request: ConnectionRequest) -> InspectAction:
        await go_on.wait()
        return ACCEPT

    inspect = {**INSPECTORS, "inspected": inspect_slowly}[stage]
    async with inspecting(inspect, abort_on_half_close=half_close, **place) as desk:
        client, request = await bring(desk, stage, sent)
        leave(client, "fin")
        await wait_all_tasks_blocked()

        assert [] == desk.aborts

        go_on.set()
        if stage == "pended":
            assert Status.SUCCESS == desk.complete(request, ACCEPT)
        connection = await desk.listening.accept()
        received = await read_to_end(connection)
        await connection.send_all(b"answer")
        connection.close()

        assert sent == received
        assert b"answer" == await read_to_end(client)


@pytest.mark.parametrize("stage", INSPECTORS)
@pytest.mark.parametrize("half_close", [False, None])
async def test_reset_after_a_half_close_counts(stage: str, *, half_close: bool | None) -> None:
    """A peer that may still have been waiting for its answer goes away altogether."""
    async with inspecting(INSPECTORS[stage], abort_on_half_close=half_close) as desk:
        client, request = await bring(desk, stage, b"" if half_close is False else b"question")
        leave(client, "fin")
        await wait_all_tasks_blocked()

        assert None is request.aborted

        reset(client)

        assert AbortReason.RESET is (await desk.aborted()).reason


async def test_many_peers_that_leave_at_once_are_each_told_once() -> None:
    """More than one turn of the pump takes, in every stage, behind data or not."""
    stages = [*INSPECTORS.values()]

    def inspect(request: ConnectionRequest) -> Any:
        stage = stages[len(desk.asked) % 3]
        return stage(request) if callable(stage) else stage

    async with inspecting(inspect, max_parked=1000) as desk:
        clients = [(await desk.ask(b"x" * (count % 2)))[0] for count in range(150)]
        await desk.when(lambda: desk.statistics().parked == 50)
        for client in clients:
            reset(client)
        await desk.aborted(150)

        assert {"reset": 150} == dict(desk.statistics().aborted)
        assert 0 == desk.statistics().parked


async def test_what_the_inspector_awaits_is_cancelled_with_it() -> None:
    """Whole trees of tasks end inside ``request.cancel_scope``, and only they."""
    ended: list[str] = []

    async def child(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    async def inspect(request: ConnectionRequest) -> InspectAction:
        name = "first" if request is desk.asked[0] else "second"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child, f"{name} a")
            nursery.start_soon(child, f"{name} b")
        pytest.fail("nobody ends it")

    async with inspecting(inspect) as desk:
        first, one = await desk.ask()
        _, other = await desk.ask()
        await wait_all_tasks_blocked()
        reset(first)
        await desk.aborted()
        await wait_all_tasks_blocked()

        assert {"first a", "first b"} == set(ended)
        assert one.cancel_scope.cancelled_caught
        assert not other.cancel_scope.cancel_called
        assert 1 == desk.statistics().pending


async def test_who_works_on_a_pended_request_can_be_cancelled_with_it() -> None:
    """The scope is there to be entered, by whoever does the work."""
    is_over = trio.Event()

    async def work(request: ConnectionRequest) -> None:
        with request.cancel_scope:
            await trio.sleep_forever()

        assert request.cancel_scope.cancelled_caught
        assert request.aborted is not None
        assert AbortReason.RESET is request.aborted.reason

        is_over.set()

    async with trio.open_nursery() as nursery, inspecting(PEND) as desk:
        client, request = await desk.pended()
        nursery.start_soon(work, request)
        await wait_all_tasks_blocked()
        reset(client)
        with trio.fail_after(PATIENCE):
            await is_over.wait()
        nursery.cancel_scope.cancel()


async def test_scope_that_is_asked_for_too_late_is_cancelled_already() -> None:
    """Whoever begins to work on a request that is over ends at the first wait."""
    async with inspecting(PEND) as desk:
        client, request = await desk.pended()
        reset(client)
        await desk.aborted()
        with request.cancel_scope:
            await trio.sleep_forever()

        assert request.cancel_scope.cancelled_caught


async def test_scope_of_what_was_let_through_is_not_cancelled() -> None:
    """A request that dies after its verdict cancels nobody: nobody works on it."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await trio.lowlevel.checkpoint()
        return ACCEPT

    async with inspecting(inspect) as desk:
        client, request = await desk.parked()
        reset(client)
        await desk.aborted()

        assert not request.cancel_scope.cancel_called


async def test_completion_of_what_was_aborted_is_too_late_and_harmless(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """Inside the abort callback, and long after it; nothing else is disturbed."""
    statuses: list[Status] = []
    async with inspecting(PEND) as desk:

        def complete(request: ConnectionRequest) -> None:
            statuses.append(desk.complete(request, ACCEPT))
            statuses.append(desk.complete(request, REJECT))
            statuses.append(desk.complete(request, PEND))

        desk.on_abort = complete
        client, request = await desk.pended()
        _, other = await desk.pended()
        reset(client)
        await desk.aborted()
        complete(request)

        late = [Status.CONNECTION_ABORTED, Status.CONNECTION_ABORTED, Status.INVALID_PARAMETER]

        assert late * 2 == statuses
        assert Status.SUCCESS == desk.complete(other, ACCEPT)
        assert 1 == desk.statistics().parked


async def test_only_so_many_late_completions_are_known_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Numbers of the aborted are remembered for a while; then they were never seen."""
    monkeypatch.setattr(_conditional_accept, "REMEMBERED_MOST", 2)
    async with inspecting(PEND) as desk:
        requests = []
        for count in range(1, 4):
            client, request = await desk.pended()
            requests.append(request)
            reset(client)
            await desk.aborted(count)

        assert [Status.NOT_FOUND, Status.CONNECTION_ABORTED, Status.CONNECTION_ABORTED] == [
            desk.complete(request, ACCEPT) for request in requests
        ]


async def test_request_can_be_looked_up_until_its_abort_callback_has_returned() -> None:
    """Inside the callback it is there, with all that is known of it; afterwards it is not."""
    seen: list[ConnectionRequest] = []
    async with inspecting(PEND) as desk:
        view = desk.listening.pending_inspections

        def look(request: ConnectionRequest) -> None:
            assert [request.inspect_id] == list(view)
            assert request is view[request.inspect_id]

            seen.append(request)

        desk.on_abort = look
        client, request = await desk.pended()
        name = client.socket.getsockname()
        reset(client)
        await desk.aborted()

        assert [request] == seen
        assert request.inspect_id not in view
        assert name == request.remote_address.sockaddr
        assert desk.listening.local_addresses[0] == request.local_address


async def test_abort_callback_that_fails_is_reported_and_nothing_else_happens() -> None:
    """The request is over all the same, and the next one's callback is called."""
    async with inspecting(PEND) as desk:

        def fail(request: ConnectionRequest) -> None:
            raise ZeroDivisionError("on purpose")

        desk.on_abort = fail
        for count in range(1, 3):
            client, request = await desk.pended()
            reset(client)
            await desk.aborted(count)
            await desk.when(lambda: len(desk.told(CallbackFailed)) == len(desk.asked))

            assert 0 == len(desk.listening.pending_inspections)
            assert Status.CONNECTION_ABORTED == desk.complete(request, ACCEPT)
    (record, _) = desk.told(CallbackFailed)

    assert "abort" == record.callback
    assert "on purpose" == str(record.error)
    assert desk.asked[0].remote_address == record.remote_address


async def test_aborts_without_a_callback_are_records_and_counts() -> None:
    """``dispatch.abort`` is nobody's duty."""
    told: list[Any] = []
    async with open_listening_socket(
        0, host=HOST, inspect=lambda _: PEND, observers=[told.append]
    ) as listening:
        client = connect_now(listening.local_addresses[0])
        await until(lambda: listening.pending_inspections)
        reset(client)
        await until(lambda: listening.statistics().aborted)
        await wait_all_tasks_blocked()

        assert {} == dict(listening.pending_inspections)
        check_balance(listening.statistics())
    assert 1 == sum(isinstance(each, RequestAborted) for each in told)


async def test_peer_that_leaves_between_approval_and_accept_is_not_delivered() -> None:
    """Approval is no delivery: the next accept gets the next peer, and the first is aborted."""
    async with inspecting(ACCEPT) as desk:
        first, _ = await desk.parked()
        _, second = await desk.parked()
        reset(first)
        connection = await desk.listening.accept()  # before anybody can have told

        assert second.inspect_id == connection.inspect_id
        assert AbortReason.RESET is (await desk.aborted()).reason
        assert [desk.asked[0].inspect_id] == desk.told_abort

        connection.close()


async def test_peer_that_was_reset_before_its_late_approval_is_not_delivered() -> None:
    """A verdict that comes before the news of the peer's end finds it out."""
    async with inspecting(PEND) as desk:
        client, request = await desk.pended()
        irp = desk.listening.queue_accept()
        reset(client)

        assert Status.SUCCESS == desk.complete(request, ACCEPT)
        assert AbortReason.RESET is (await desk.aborted()).reason
        assert Status.PENDING is irp.status


async def test_connection_that_was_taken_is_its_owners(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """After delivery nothing is watched: its peer's end is read, and no abort is told."""
    async with inspecting(inspector(ACCEPT)) as desk:
        client, _ = await desk.parked()
        connection = await desk.listening.accept()
        reset(client)
        with pytest.raises(trio.BrokenResourceError):
            await connection.receive_some()
        await wait_all_tasks_blocked()

        assert [] == desk.told_abort

        connection.close()


# --- It ends here -----------------------------------------------------------------------------


async def test_closing_aborts_every_request_before_it_returns() -> None:
    """Inspected, pended and parked ones alike are reset and told: nothing is left for later."""
    stages = [*INSPECTORS.values()]

    def inspect(request: ConnectionRequest) -> Any:
        stage = stages[len(desk.asked) % 3]
        return stage(request) if callable(stage) else stage

    async with inspecting(inspect) as desk:
        clients = [(await desk.ask(b"unread"))[0] for _ in range(9)]
        await desk.when(lambda: desk.statistics().parked == 3)
        await desk.listening.aclose()

        assert 9 == len(desk.told_abort)
        assert {AbortReason.CLOSED} == {each.reason for each in desk.aborts}
        assert {"closed": 9} == dict(desk.statistics().aborted)
        assert {} == dict(desk.statistics().dropped)
        for client in clients:
            assert "reset" == await fate_of(client)
        for request in desk.asked:
            assert Status.CONNECTION_ABORTED == desk.complete(request, ACCEPT)

        await desk.listening.aclose()

        assert 9 == len(desk.told_abort)


async def test_closing_does_not_touch_what_was_delivered(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """A connection that somebody has taken outlives the listening socket that inspected it."""
    async with inspecting(inspector(ACCEPT)) as desk:
        client, _ = await desk.ask()
        connection = await desk.listening.accept()
        await desk.listening.aclose()

        await client.send_all(b"still there?")

        assert b"still there?" == await connection.receive_some()
        assert [] == desk.told_abort
    await connection.send_all(b"yes")
    connection.close()


@pytest.mark.parametrize("end", ["leave", "cancel", "raise"])
async def test_leaving_the_block_aborts_every_request(end: str) -> None:
    """However it is left: every abort callback has been called when it has ended."""
    desk = Desk(lambda request: wait_for_cancellation(request) if len(desk.asked) % 2 else PEND)
    dispatch = ListenDispatch(inspect=desk.inspect, abort=desk.abort)
    with trio.CancelScope() as scope, suppress(ZeroDivisionError):
        async with open_listening_socket(
            0, host=HOST, dispatch=dispatch, observers=[desk.observe, Silent()]
        ) as desk.listening:
            clients = [(await desk.ask())[0] for _ in range(6)]
            if end == "cancel":
                scope.cancel()
                await trio.sleep_forever()
            elif end == "raise":
                raise ZeroDivisionError
    desk.check_in_the_end()

    assert 6 == len(desk.told_abort)
    assert {AbortReason.CLOSED} == {each.reason for each in desk.aborts}

    for client in clients:
        assert "reset" == await fate_of(client)
    desk.close_clients()


@pytest.mark.parametrize("way", ["plain", "async"])
async def test_failure_of_the_listening_socket_is_told_once(way: str) -> None:
    """
    Requests are aborted with it, then ``failed`` is called once, and the block raises the system's
    error.
    """
    failures: list[OSError] = []
    error = OSError(12345, "on purpose")

    async def inspect_async(request: ConnectionRequest) -> InspectAction:
        return desk.inspect(request)  # type: ignore[no-any-return] # it is what PEND is

    def failed(listening: ListeningSocket, error: OSError) -> None:
        assert [request.inspect_id] == desk.told_abort

        failures.append(error)

    desk = Desk(PEND)
    dispatch = ListenDispatch(
        inspect=desk.inspect if way == "plain" else inspect_async,
        abort=desk.abort,
        failed=failed,
    )
    with pytest.raises(OSError, match="on purpose") as caught:  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST),
            dispatch=dispatch,
            observers=[desk.observe, Silent()],
        ) as desk.listening:
            transport = desk.listening._transport  # noqa: SLF001 - the faults are told to it

            assert isinstance(transport, FaultyTransport)

            client, request = await desk.pended()
            transport.faults.append(TransportFailedError(error))
            desk.client()
            await trio.sleep_forever()
    desk.check_in_the_end()

    assert error is caught.value
    assert [error] == failures
    assert [request.inspect_id] == desk.told_abort
    assert AbortReason.FAILED is desk.aborts[0].reason
    assert {"failed": 1} == dict(desk.statistics().aborted)
    assert Status.CONNECTION_ABORTED == desk.complete(request, ACCEPT)
    assert "reset" == await fate_of(client)

    desk.close_clients()


@pytest.mark.parametrize("stage", ["inspected", "pended"])
async def test_request_without_a_verdict_in_time_is_aborted(stage: str) -> None:
    """
    The time runs from its arrival, pended or not. Its peer is reset, its work cancelled; it
    is counted by itself, and its verdict comes too late.
    """
    async with inspecting(INSPECTORS[stage], inspect_timeout=0.05) as desk:
        client, request = await bring(desk, stage)
        told = await desk.aborted()

        assert AbortReason.TIMED_OUT is told.reason
        assert request.deadline == request.arrived_at + 0.05 <= told.at
        assert "reset" == await fate_of(client)
        assert {"timed-out": 1} == dict(desk.statistics().aborted)
        assert Status.CONNECTION_ABORTED == desk.complete(request, ACCEPT)
        assert request.cancel_scope.cancel_called


async def test_each_request_has_its_own_time(mock_clock: trio.testing.MockClock) -> None:
    """One after the other they run out, each when it must, and those that were decided don't."""
    async with inspecting(PEND, inspect_timeout=10) as desk:
        for _ in range(3):
            await desk.pended()
            mock_clock.jump(0.5)
        desk.complete(desk.asked[1], ACCEPT)
        mock_clock.jump(8.5)  # 10 s after the first came
        await desk.aborted(1)

        first, _, last = desk.asked

        assert 1.0 == last.arrived_at - first.arrived_at
        assert 1 == desk.statistics().pending

        mock_clock.jump(0.9)
        await wait_all_tasks_blocked()

        assert 1 == desk.statistics().pending

        mock_clock.jump(0.2)
        await desk.aborted(2)

        assert [first.inspect_id, last.inspect_id] == desk.told_abort
        assert 1 == desk.statistics().parked
        assert {AbortReason.TIMED_OUT} == {each.reason for each in desk.aborts}


async def test_approved_request_has_no_deadline(
    mock_clock: trio.testing.MockClock, inspector: Callable[[InspectAction], Inspect]
) -> None:
    """The time is for the verdict; a connection may wait for an accept as long as it likes."""
    async with inspecting(inspector(ACCEPT)) as desk:
        await desk.parked()
        mock_clock.jump(1000)
        await wait_all_tasks_blocked()

        assert 1 == desk.statistics().parked


# --- Budgets ----------------------------------------------------------------------------------


async def waiting(desk: Desk, count: int) -> list[trio.SocketStream]:
    """Connect so many clients that stay in the kernel's backlog."""
    clients = [desk.client() for _ in range(count)]
    await until(lambda: desk.statistics().backlog == count)
    await wait_all_tasks_blocked()

    assert count == desk.statistics().backlog

    return clients


@pytest.mark.parametrize("stage", ["inspected", "pended"])
async def test_newcomers_wait_in_the_backlog_while_too_many_are_pending(stage: str) -> None:
    """``overflow="wait"``: there is room again when one is decided, or has gone."""
    async with inspecting(INSPECTORS[stage], max_pending=3) as desk:
        requests = [await bring(desk, stage) for _ in range(3)]
        await waiting(desk, 3)

        assert 3 == len(desk.asked) == desk.statistics().pending

        reset(requests[0][0])
        await desk.when(lambda: len(desk.asked) == 4)
        if stage == "pended":
            desk.complete(requests[1][1], ACCEPT)
            desk.complete(requests[2][1], REJECT)
        else:
            reset(requests[1][0])
            reset(requests[2][0])
        await desk.when(lambda: len(desk.asked) == 6)

        assert 3 == desk.statistics().pending_most == desk.statistics().pending
        assert 0 == desk.statistics().backlog
        assert {} == dict(desk.statistics().dropped)


@pytest.mark.parametrize("stage", ["inspected", "pended"])
async def test_newcomers_are_reset_while_too_many_are_pending(stage: str) -> None:
    """``overflow="reset"``: they are not asked about, and counted as dropped."""
    overflow = Overflow(pending="reset")
    async with inspecting(INSPECTORS[stage], max_pending=2, overflow=overflow) as desk:
        for _ in range(2):
            await bring(desk, stage)
        for _ in range(3):
            assert "reset" == await fate_of(desk.client())

        assert 2 == len(desk.asked) == desk.statistics().pending == desk.statistics().pending_most
        assert {"overflowed": 3} == dict(desk.statistics().dropped)
        assert [] == desk.told_abort


@pytest.mark.parametrize("stage", ["inspected", "pended"])
async def test_oldest_makes_room_while_too_many_are_pending(stage: str) -> None:
    """``overflow="evict"``: its work is cancelled, its abort told, its peer reset."""
    overflow = Overflow(pending="evict")
    async with inspecting(INSPECTORS[stage], max_pending=2, overflow=overflow) as desk:
        clients = [(await bring(desk, stage))[0] for _ in range(5)]
        await desk.aborted(3)

        assert [request.inspect_id for request in desk.asked[:3]] == desk.told_abort
        assert {AbortReason.EVICTED} == {each.reason for each in desk.aborts}
        assert {"evicted": 3} == dict(desk.statistics().aborted)
        assert 2 == desk.statistics().pending == desk.statistics().pending_most
        assert all(request.cancel_scope.cancel_called for request in desk.asked[:3])
        for client in clients[:3]:
            assert "reset" == await fate_of(client)


async def test_evicted_inspectors_that_go_on_are_bounded_too() -> None:
    """
    No more of them than ``max_pending``: a flood of newcomers can't fill the memory with tasks
    that don't end. Newcomers wait until some have.
    """
    go_on = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await ignore_cancellation(go_on)
        return ACCEPT

    async with inspecting(inspect, max_pending=3, overflow="evict") as desk:
        for _ in range(6):
            await desk.ask()
        await waiting(desk, 2)

        assert 3 == desk.statistics().straggling == len(desk.told_abort)
        assert 3 == desk.statistics().pending

        go_on.set()
        await desk.when(lambda: len(desk.told(RequestApproved)) == 5)

        assert 0 == desk.statistics().straggling
        assert 3 == len(desk.told_abort)


async def test_newcomers_wait_in_the_backlog_while_too_many_are_parked(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """``overflow="wait"``: there is room again when one is taken, or has gone."""
    async with inspecting(inspector(ACCEPT), max_parked=2) as desk:
        parked = [(await desk.parked())[0] for _ in range(2)]
        await waiting(desk, 1)

        assert 2 == len(desk.asked) == desk.statistics().parked

        connection = await desk.listening.accept()
        await desk.when(lambda: len(desk.asked) == 3)
        await desk.when(lambda: desk.statistics().parked == 2)

        assert desk.asked[0].inspect_id == connection.inspect_id

        await waiting(desk, 1)

        assert 3 == len(desk.asked)

        reset(parked[1])
        await desk.when(lambda: len(desk.asked) == 4)
        await desk.when(lambda: desk.statistics().parked == 2)

        assert 2 == desk.statistics().parked_most

        connection.close()


async def test_inspections_that_are_under_way_may_all_end_well() -> None:
    """``max_parked`` says when no more are asked about: whoever was let through is parked."""
    async with inspecting(PEND, max_parked=2) as desk:
        for _ in range(5):
            await desk.pended()
        for request in desk.asked:
            assert Status.SUCCESS == desk.complete(request, ACCEPT)
        await waiting(desk, 1)

        assert 5 == desk.statistics().parked == len(desk.asked)

        for _ in range(4):
            (await desk.listening.accept()).close()
        await desk.when(lambda: len(desk.asked) == 6)


@pytest.mark.parametrize(
    ("policy", "gone", "stay"), [("reset", [2, 3], [0, 1]), ("evict", [0, 1], [2, 3])]
)
async def test_approved_connections_beyond_what_may_be_parked(
    policy: Any, gone: list[int], stay: list[int], inspector: Callable[[InspectAction], Inspect]
) -> None:
    """``"reset"``: the newcomer goes; ``"evict"``: the oldest. Either was approved, so aborted."""
    overflow = Overflow(parked=policy)
    async with inspecting(inspector(ACCEPT), max_parked=2, overflow=overflow) as desk:
        clients = [(await desk.parked())[0] for _ in range(2)]
        for count in range(1, 3):
            clients.append((await desk.ask())[0])
            await desk.aborted(count)
        ids = [request.inspect_id for request in desk.asked]

        assert [ids[index] for index in gone] == desk.told_abort
        assert {"evicted": 2} == dict(desk.statistics().aborted)
        assert 4 == desk.statistics().approved
        for index in gone:
            assert "reset" == await fate_of(clients[index])

        connections = [desk.listening.accept_nowait() for _ in range(2)]

        assert [ids[index] for index in stay] == [each.inspect_id for each in connections]

        for connection in connections:
            connection.close()


@pytest.mark.parametrize("policy", ["reset", "evict"])
async def test_event_that_takes_everybody_has_no_limit_of_what_is_parked(policy: Any) -> None:
    """Approved connections that only wait for the callback's turn are not too many."""
    taken: list[Connection] = []
    async with inspecting(PEND, max_parked=1, overflow=policy, accept=take_into(taken)) as desk:
        desk.listening.enable_events(EventMask.ACCEPT)
        for _ in range(50):
            await desk.pended()
        for request in desk.asked:
            desk.complete(request, ACCEPT)
        await until(lambda: len(taken) == 50)

        assert {} == dict(desk.statistics().aborted)

        for connection in taken:
            connection.close()


@pytest.mark.parametrize("overflow", ["wait", "reset", "evict"])
async def test_nobody_is_inspected_ahead_of_an_accept_if_nothing_may_be_parked(
    overflow: Any,
) -> None:
    """``max_parked=0``: no more are inspected at once than accepts are queued."""
    answers = [REJECT, PEND, ACCEPT, ACCEPT]
    async with inspecting(
        lambda _: answers[len(desk.asked) - 1], max_parked=0, overflow=overflow
    ) as desk:
        await waiting(desk, 4)

        assert [] == desk.asked

        irps = [desk.listening.queue_accept()]
        await desk.when(lambda: len(desk.asked) == 2)
        await wait_all_tasks_blocked()

        assert 2 == len(desk.asked)  # the rejected one has cost no accept

        irps.append(desk.listening.queue_accept())
        await desk.when(lambda: len(desk.asked) == 3)
        await irps[0].wait()
        await wait_all_tasks_blocked()

        assert 3 == len(desk.asked)
        assert Status.SUCCESS == desk.complete(desk.asked[1], ACCEPT)
        assert irps[1].information is not None

        connection = await desk.listening.accept()

        assert desk.asked[3].inspect_id == connection.inspect_id
        assert 0 == desk.statistics().parked_most
        assert {} == dict(desk.statistics().aborted) == dict(desk.statistics().dropped)

        for each in (irps[0].information, irps[1].information, connection):
            assert each is not None

            each.close()


async def test_event_takes_who_is_asked_about_if_nothing_may_be_parked(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """``max_parked=0`` and the accept event: everybody is inspected, and taken."""
    taken: list[Connection] = []
    async with inspecting(inspector(ACCEPT), max_parked=0, accept=take_into(taken)) as desk:
        await waiting(desk, 2)
        desk.listening.enable_events(EventMask.ACCEPT)
        await until(lambda: len(taken) == 2)
        desk.client()
        await until(lambda: len(taken) == 3)

        for connection in taken:
            connection.close()


async def test_accept_loops_get_everybody_who_was_let_through(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """Several tasks that accept one connection after the other, within small limits."""
    served: list[InspectId | None] = []
    decide = {action: inspector(action) for action in (ACCEPT, REJECT)}

    def inspect(request: ConnectionRequest) -> Any:
        return decide[REJECT if len(desk.asked) % 5 == 0 else ACCEPT](request)

    async def accept() -> None:
        while True:
            connection = await desk.listening.accept()
            await trio.lowlevel.checkpoint()
            served.append(connection.inspect_id)
            connection.close()

    async with (
        inspecting(inspect, max_pending=3, max_parked=2) as desk,
        trio.open_nursery() as nursery,
    ):
        for _ in range(3):
            nursery.start_soon(accept)
        clients = [desk.client() for _ in range(100)]
        ends = [await fate_of(client) for client in clients]
        nursery.cancel_scope.cancel()

    assert 80 == len(served) == len(set(served)) == ends.count("fin")
    assert {"rejected": 20} == dict(desk.statistics().rejected)
    assert desk.statistics().pending_most <= 3


# --- Inspectors that misbehave ----------------------------------------------------------------


def _raise(error: BaseException) -> Any:
    raise error


NONSENSE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "1": lambda: 1,
    "a word": lambda: "accept",
    "an event": lambda: EventMask.ACCEPT,
    "the class": lambda: trio_wsk.InspectAction,
    "a function": lambda: accept_all,
}

CRASHES: dict[str, Callable[[], Any]] = {
    "an error": lambda: _raise(ZeroDivisionError("on purpose")),
    "a group": lambda: _raise(
        ExceptionGroup("on purpose", [ValueError(), ExceptionGroup("", [KeyError()])])
    ),
    "a broken connection": lambda: _raise(trio_wsk.ConnectionBrokenError("on purpose")),
    "another WskError": lambda: _raise(trio_wsk.InvalidDeviceStateError("on purpose")),
    "StopAsyncIteration": lambda: _raise(StopAsyncIteration("on purpose")),
    "an assertion": lambda: _raise(AssertionError("on purpose")),
}


@pytest.mark.parametrize("way", ["plain", "async"])
@pytest.mark.parametrize("fault", [*NONSENSE, *CRASHES])
async def test_inspector_that_fails_costs_its_request_alone(fault: str, way: str) -> None:
    """
    What is no verdict, and what it raises, is reported and counts as a rejection, with a
    reset; no abort follows, and the others don't notice.
    """
    fail = {**NONSENSE, **CRASHES}[fault]

    def inspect(request: ConnectionRequest) -> Any:
        return fail() if len(desk.asked) % 2 else ACCEPT

    async def inspect_async(request: ConnectionRequest) -> Any:
        await trio.lowlevel.checkpoint()
        return inspect(request)

    def start(request: ConnectionRequest) -> Any:
        return (inspect if way == "plain" else inspect_async)(request)

    async with inspecting(start) as desk:
        for count in range(1, 3):
            client, request = await desk.ask()

            assert "reset" == await fate_of(client)
            assert {"inspector-failed": count} == dict(desk.statistics().rejected)

            record = desk.told(CallbackFailed)[-1]

            assert "inspect" == record.callback
            assert request.remote_address == record.remote_address
            assert ("on purpose" in str(record.error)) is (fault in CRASHES)
            assert isinstance(record.error, TypeError) is (fault in NONSENSE)
            assert ("the inspector answered" in str(record.error)) is (fault in NONSENSE)

            await desk.parked()

        assert 2 == len(desk.told(CallbackFailed)) == desk.statistics().parked
        assert [] == desk.told_abort
    assert ["inspector-failed"] * 2 == [each.reason for each in desk.told(RequestRejected)]


async def test_plain_function_that_returns_a_coroutine_is_an_async_inspector() -> None:
    """A partial of an async function, or one that calls it, is run as it would be itself."""

    async def look_up(answer: InspectAction, request: ConnectionRequest) -> InspectAction:
        await trio.lowlevel.checkpoint()
        return answer

    async with open_listening_socket(
        0, host=HOST, inspect=partial(look_up, ACCEPT), observers=[Silent()]
    ) as listening:
        client = connect_now(listening.local_addresses[0])
        (await listening.accept()).close()
        await client.aclose()

        assert 1 == listening.statistics().approved


async def test_anything_that_can_be_awaited_is_an_inspection() -> None:
    """What an inspector returns may be an object of its own that has ``__await__``."""

    class LookUp:
        def __await__(self) -> Generator[Any, Any, InspectAction]:
            yield from trio.lowlevel.checkpoint().__await__()  # noqa: ASYNC105 - `await` can't be here
            return ACCEPT

    async with open_listening_socket(
        0, host=HOST, inspect=lambda request: LookUp(), observers=[Silent()]
    ) as listening:
        client = connect_now(listening.local_addresses[0])
        (await listening.accept()).close()
        await client.aclose()

        assert 1 == listening.statistics().approved


async def test_inspector_that_cancels_itself_rejects_its_request(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """Its scope is its own; nobody left, so that no abort is told, and nothing has crashed."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        request.cancel_scope.cancel()
        await trio.sleep_forever()

    async with inspecting(inspect) as desk:
        client, _ = await desk.ask()

        assert "reset" == await fate_of(client)
        assert {"inspector-failed": 1} == dict(desk.statistics().rejected)
        assert [] == desk.told_abort == desk.told(CallbackFailed)


async def test_inspector_that_crashes_when_it_is_cancelled_is_reported() -> None:
    """The request is over already: it is aborted, and not rejected as well."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError("on purpose")

    async with inspecting(inspect) as desk:
        client, _ = await desk.ask()
        await wait_all_tasks_blocked()
        reset(client)
        await desk.when(lambda: desk.told(CallbackFailed))

        assert {"reset": 1} == dict(desk.statistics().aborted)
        assert {} == dict(desk.statistics().rejected)


@pytest.mark.parametrize("late", [ACCEPT, REJECT, PEND, None])
@pytest.mark.parametrize("way", ["swallowed", "shielded"])
async def test_inspector_that_ignores_its_cancellation_is_not_listened_to(
    way: str, late: InspectAction | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Its request ends at once; it is reported when it goes on for too long, and whatever it
    answers then changes nothing.
    """
    monkeypatch.setattr(_stragglers, "STRAGGLE_SECONDS", 0.05)
    go_on = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction | None:
        if way == "swallowed":
            with suppress(trio.Cancelled):
                await trio.sleep_forever()
        await ignore_cancellation(go_on)
        return late

    async with inspecting(inspect) as desk:
        client, request = await desk.ask()
        await wait_all_tasks_blocked()
        reset(client)
        told = await desk.aborted()

        assert 1 == desk.statistics().straggling
        assert 0 == desk.statistics().pending

        await desk.when(lambda: desk.told(InspectorStraggles))
        (record,) = desk.told(InspectorStraggles)

        assert request.inspect_id == record.inspect_id
        assert request.remote_address == record.remote_address
        assert 0.05 <= record.seconds <= record.at - told.at + 0.001
        assert 1 == desk.statistics().straggling

        go_on.set()
        await wait_all_tasks_blocked()

        assert 0 == desk.statistics().straggling
        assert {"reset": 1} == dict(desk.statistics().aborted)
        assert {} == dict(desk.statistics().rejected)
        assert 0 == desk.statistics().approved
        assert [] == desk.told(CallbackFailed)
        assert Status.CONNECTION_ABORTED == desk.complete(request, ACCEPT)


async def test_closing_is_bounded_although_an_inspector_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    aclose() waits a moment for it and reports it; its request, its socket and its abort are
    over by then. Only leaving the block waits for its end.
    """
    monkeypatch.setattr(_stragglers, "STRAGGLE_SECONDS", 0.05)
    order: list[str] = []
    go_on = trio.Event()

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await ignore_cancellation(go_on)
        order.append("inspector")
        return ACCEPT

    async def let_go() -> None:
        await wait_all_tasks_blocked(0.01)
        order.append("let go")
        go_on.set()

    async with trio.open_nursery() as nursery:
        async with inspecting(inspect) as desk:
            client, request = await desk.ask()
            with trio.fail_after(PATIENCE):
                await desk.listening.aclose()
            order.append("closed")

            assert [request.inspect_id] == desk.told_abort
            assert [request.inspect_id] == [
                record.inspect_id for record in desk.told(InspectorStraggles)
            ]
            assert "reset" == await fate_of(client)
            assert 1 == desk.statistics().straggling

            nursery.start_soon(let_go)
        order.append("left")

    assert ["closed", "let go", "inspector", "left"] == order
    assert 0 == desk.statistics().straggling
    assert 0 == desk.statistics().approved


async def test_closing_waits_for_no_inspector_that_ends_when_it_is_cancelled() -> None:
    """What it awaited has been cancelled and has ended when aclose() returns."""
    ended = 0

    async def inspect(request: ConnectionRequest) -> InspectAction:
        nonlocal ended
        try:
            await trio.sleep_forever()
        finally:
            ended += 1

    async with inspecting(inspect) as desk:
        for _ in range(20):
            await desk.ask()
        await wait_all_tasks_blocked()
        await desk.listening.aclose()

        assert 20 == ended
        assert [] == desk.told(InspectorStraggles)


async def test_closing_that_is_cancelled_closes_all_the_same() -> None:
    """Its wait for inspectors and callbacks can be cancelled; what it does is done before."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await ignore_cancellation(go_on)
        return ACCEPT

    go_on = trio.Event()
    async with inspecting(inspect) as desk:
        client, _ = await desk.ask()
        with trio.CancelScope() as scope:
            scope.cancel()
            await desk.listening.aclose()

        assert scope.cancelled_caught
        assert {"closed": 1} == dict(desk.statistics().aborted)
        assert "reset" == await fate_of(client)

        go_on.set()


@pytest.mark.parametrize("way", ["plain", "async"])
async def test_ctrl_c_in_an_inspector_ends_the_block(way: str) -> None:
    """It comes out as it is, and not in a group; every request is aborted."""

    def inspect(request: ConnectionRequest) -> InspectAction:
        if len(desk.asked) == 2:
            raise KeyboardInterrupt
        return PEND

    async def inspect_async(request: ConnectionRequest) -> InspectAction:
        await trio.lowlevel.checkpoint()
        return inspect(request)

    def start(request: ConnectionRequest) -> Any:
        return (inspect if way == "plain" else inspect_async)(request)

    desk = Desk(start)
    dispatch = ListenDispatch(inspect=desk.inspect, abort=desk.abort)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            0, host=HOST, dispatch=dispatch, observers=[desk.observe, Silent()]
        ) as desk.listening:
            await desk.ask()
            desk.client()
            await trio.sleep_forever()
    desk.close_clients()
    desk.check_in_the_end()

    assert {"closed": 2} == dict(desk.statistics().aborted)
    assert [] == desk.told(CallbackFailed)


async def test_group_of_an_inspector_is_parted() -> None:
    """What is an error is reported; Ctrl-C beside it goes on."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        await trio.lowlevel.checkpoint()
        raise BaseExceptionGroup("both", [ZeroDivisionError("on purpose"), KeyboardInterrupt()])

    desk = Desk(inspect)
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            0, host=HOST, inspect=desk.inspect, observers=[desk.observe, Silent()]
        ) as desk.listening:
            desk.client()
            await trio.sleep_forever()
    desk.close_clients()
    (record,) = desk.told(CallbackFailed)

    assert None is caught.value.split(KeyboardInterrupt)[1]
    assert isinstance(record.error, BaseExceptionGroup)
    assert "on purpose" == str(record.error.exceptions[0])
    assert {"closed": 1} == dict(desk.statistics().aborted)


async def test_plain_inspector_may_close_the_listening_socket() -> None:
    """Its request is aborted with the others, and its answer comes too late."""

    def inspect(request: ConnectionRequest) -> InspectAction:
        if len(desk.asked) == 2:
            nursery.start_soon(desk.listening.aclose)
            desk.listening._close()  # noqa: SLF001 - what aclose() does first, in this very call
        return ACCEPT if len(desk.asked) == 2 else PEND

    async with trio.open_nursery() as nursery, inspecting(inspect) as desk:
        await desk.pended()
        await desk.ask()
        await desk.aborted(2)

        assert {"closed": 2} == dict(desk.statistics().aborted)
        assert 0 == desk.statistics().approved


# --- Looking at first octets ------------------------------------------------------------------


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
        (inspector,) = [name for name in steps.of if "inspect" in name]

        assert steps.of[inspector] <= 10
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

    async with inspecting(inspect) as desk:
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
        await wait_all_tasks_blocked(0.01)  # the peer can send no more

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

        with trio.move_on_after(0.01) as scope:
            await request.peek(2)

        assert scope.cancelled_caught

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


# --- Pausing and refusing ---------------------------------------------------------------------


async def test_paused_socket_inspects_nobody_and_goes_on_with_whom_it_has() -> None:
    """Newcomers wait in the backlog; those that are pending can be decided and taken."""
    async with inspecting(PEND) as desk:
        client, request = await desk.pended()
        _, other = await desk.pended()
        desk.listening.pause()
        await waiting(desk, 2)

        assert 2 == len(desk.asked)
        assert Status.SUCCESS == desk.complete(request, ACCEPT)

        (await desk.listening.accept()).close()

        assert Status.SUCCESS == desk.complete(other, REJECT)
        assert 2 == len(desk.asked)

        desk.listening.resume()
        await desk.when(lambda: len(desk.asked) == 4)
        reset(client)


async def test_refusing_socket_asks_about_nobody() -> None:
    """Newcomers are reset without a question; those that are pending stay."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()
        desk.listening.refuse()
        for _ in range(3):
            assert "reset" == await fate_of(desk.client())

        assert 1 == len(desk.asked) == desk.statistics().pending
        assert {"refused": 3} == dict(desk.statistics().dropped)

        desk.listening.resume()
        await desk.ask()

        assert Status.SUCCESS == desk.complete(request, ACCEPT)


# --- Errors of accepting ----------------------------------------------------------------------


async def test_errors_of_accepting_cost_no_inspection() -> None:
    """A peer's fault is passed over, and want of descriptors is waited out; then it goes on."""
    transport = FaultyTransport.tcp(0, host=HOST)
    assert isinstance(transport, FaultyTransport)

    async with inspecting(PEND, port=None, transport=transport) as desk:
        transport.faults += [
            PeerFaultError(OSError(errno.ECONNABORTED, "its fault")),
            None,
            NoDescriptorsError(OSError(errno.EMFILE, "nobody's fault")),
        ]
        for _ in range(3):
            desk.client()
        await desk.when(lambda: len(desk.asked) == 3)

        assert {"ECONNABORTED": 1, "EMFILE": 1} == dict(desk.statistics().accept_errors)
        assert 1 == desk.statistics().accept_backoffs


# --- Servers ----------------------------------------------------------------------------------


async def echo(stream: trio.abc.Stream) -> None:
    """Send everything back."""
    async for data in stream:
        await stream.send_all(data)


class Bouncer(Desk):
    """An inspector for servers, whose listening socket is known when the server is open."""

    @property
    def options(self) -> dict[str, Any]:
        """What a server is opened with."""
        return {
            "port": 0,
            "host": HOST,
            "inspect": self.inspect,
            "observers": [self.observe, Silent()],
        }


async def ask_for_the_word(request: ConnectionRequest) -> InspectAction | Verdict:
    """Let those through who begin with the right word."""
    if await request.peek(4) == b"word":
        return ACCEPT
    return Verdict(REJECT, "wrong-word", b"no\n")


async def test_server_serves_whom_its_inspector_lets_through(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """A handler per connection, behind an inspector: the handler reads from the first octet."""
    bouncer = Bouncer(ask_for_the_word)
    async with open_server(echo, grace=0, **bouncer.options) as server:
        bouncer.listening = server.listening
        friend, stranger = bouncer.client(b"words"), bouncer.client(b"wrong")
        with trio.fail_after(PATIENCE):
            assert b"words" == await friend.receive_some()
        assert b"no\n" == await read_to_end(stranger)
        assert 1 == server.statistics().open_connections
        assert {"wrong-word": 1} == dict(server.statistics().listening.rejected)

        await friend.send_eof()

        assert b"" == await read_to_end(friend)
    bouncer.close_clients()
    check_balance(server.statistics().listening)


async def test_inspector_may_look_at_a_tls_handshake() -> None:
    """What it has peeked at is there for TLS: the first octet says that it is a handshake."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        return ACCEPT if await request.peek(1) == b"\x16" else REJECT

    authority = trustme.CA()
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("server.test").configure_cert(server_side)
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    bouncer = Bouncer(inspect)
    async with open_server(echo, ssl_context=server_side, grace=0, **bouncer.options) as server:
        bouncer.listening = server.listening
        stream = trio.SSLStream(
            bouncer.client(), client_side, server_hostname="server.test", https_compatible=True
        )
        with trio.fail_after(PATIENCE):
            await stream.send_all(b"secret")

            assert b"secret" == await stream.receive_some()

            await stream.aclose()
        assert "reset" == await fate_of(bouncer.client(b"GET /"))
    bouncer.close_clients()


async def test_serve_takes_an_inspector() -> None:
    """And the handler knows under which id its connection was let through."""
    ids: list[InspectId | None] = []

    async def handler(connection: Connection) -> None:
        ids.append(connection.inspect_id)

    bouncer = Bouncer(ACCEPT)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(serve, handler, **bouncer.options))
        bouncer.listening = server.listening
        for _ in range(3):
            assert b"" == await read_to_end(bouncer.client())
        await server.drain()
    bouncer.close_clients()

    assert [request.inspect_id for request in bouncer.asked] == ids


async def test_serve_events_takes_an_inspector_and_an_abort_callback() -> None:
    """All of them in one dispatch table: inspect, abort, accept."""
    bouncer = Bouncer(PEND)
    received: list[bytes] = []

    def receive(connection: Connection, data: bytes) -> None:
        received.append(data)
        connection.disconnect(data=data.upper())

    dispatch = ListenDispatch(
        inspect=bouncer.inspect,
        abort=bouncer.abort,
        accept=lambda _: ConnectionDispatch(receive=receive),
    )
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve_events, dispatch, 0, host=HOST, observers=[bouncer.observe, Silent()])
        )
        bouncer.listening = server.listening
        client, request = await bouncer.pended(b"hello")
        gone, _ = await bouncer.pended()

        assert [] == received
        assert Status.SUCCESS == bouncer.complete(request, ACCEPT)
        assert b"HELLO" == await read_to_end(client)

        client.socket.close()
        reset(gone)
        await bouncer.aborted()
        await server.drain()
    bouncer.check_in_the_end()
    bouncer.close_clients()


@pytest.mark.parametrize("way", ["serve", "serve_events"])
async def test_limit_of_connections_counts_those_that_are_inspected(way: str) -> None:
    """``max_connections``: no more than that many are open, inspected and let through at once."""
    most = 0

    def look() -> None:
        nonlocal most
        counted = server.statistics()
        most = max(
            most,
            counted.open_connections + counted.listening.pending + counted.listening.parked,
        )

    async def inspect(request: ConnectionRequest) -> InspectAction:
        number = bouncer.asked.index(request) + 1
        look()
        await request.peek(1)
        look()
        return REJECT if number % 4 == 0 else ACCEPT

    async def handler(connection: Connection) -> None:
        look()
        await echo(connection)

    def accept(connection: Connection) -> ConnectionDispatch:
        look()
        return ConnectionDispatch(receive=lambda connection, data: connection.disconnect(data=data))

    bouncer = Bouncer(inspect)
    opened: Any = (
        open_server(handler, max_connections=3, grace=0, **bouncer.options)
        if way == "serve"
        else open_server(
            ListenDispatch(accept=accept), max_connections=3, grace=0, **bouncer.options
        )
    )
    async with opened as server:
        bouncer.listening = server.listening
        clients = [bouncer.client() for _ in range(40)]
        await until(lambda: server.statistics().listening.pending == 3)
        await wait_all_tasks_blocked()

        assert 37 == server.statistics().listening.backlog

        ends = []
        for client in clients:
            await client.send_all(b"x")
            with suppress(OSError):  # it was rejected already
                client.socket.shutdown(socket.SHUT_WR)
            ends.append(await fate_of(client))

        assert 3 == most == server.statistics().listening.pending_most
        assert 10 == ends.count("reset") == server.statistics().listening.rejected["rejected"]
        assert 30 == ends.count("fin")
        assert {} == dict(server.statistics().listening.aborted)
        assert {} == dict(server.statistics().listening.dropped)
    bouncer.close_clients()


@pytest.mark.parametrize(("overflow", "stay"), [("evict", [3, 4]), ("reset", [1, 2])])
async def test_permits_are_room_for_so_many_requests_and_no_more(
    overflow: Any, stay: list[int]
) -> None:
    """
    With ``max_connections`` below ``max_pending`` the permits that are left are the room for
    requests without a verdict: beyond it the oldest goes, or the newcomer is reset.
    """
    bouncer = Bouncer(PEND)
    async with open_server(
        echo, max_connections=3, overflow=overflow, grace=0, **bouncer.options
    ) as server:
        bouncer.listening = server.listening
        counted = server.listening.statistics
        first, request = await bouncer.pended(b"hello")

        assert Status.SUCCESS == bouncer.complete(request, ACCEPT)
        assert b"hello" == await first.receive_some()

        clients = [bouncer.client() for _ in range(4)]
        gone = (
            {"aborted": {"evicted": 2}, "dropped": {}}
            if overflow == "evict"
            else {"aborted": {}, "dropped": {"overflowed": 2}}
        )
        await until(lambda: gone == {name: dict(getattr(counted(), name)) for name in gone})
        await until(lambda: len(server.listening.pending_inspections) == 2)  # those are told, too

        assert 2 == counted().pending == counted().pending_most
        assert stay == [
            number
            for number, client in enumerate(clients, 1)
            if client.socket.getsockname()[1]
            in {each.remote_address.port for each in server.listening.pending_inspections.values()}
        ]

        for each in list(server.listening.pending_inspections.values()):
            assert Status.SUCCESS == bouncer.complete(each, ACCEPT)
        ends = []
        for number, client in enumerate(clients, 1):
            if number in stay:
                await client.send_all(b"x")

                assert b"x" == await client.receive_some()
            else:
                ends.append(await fate_of(client))

        assert ["reset"] * 2 == ends
        assert 3 == server.statistics().open_connections == server.statistics().open_most
    bouncer.close_clients()


@pytest.mark.parametrize("overflow", ["wait", "reset", "evict"])
async def test_newcomers_wait_while_no_permit_is_left(overflow: Any) -> None:
    """When connections hold them all, nobody could make room: newcomers stay in the backlog."""
    bouncer = Bouncer(ACCEPT)
    async with open_server(
        echo, max_connections=1, overflow=overflow, grace=0, **bouncer.options
    ) as server:
        bouncer.listening = server.listening
        first = bouncer.client(b"hello")

        assert b"hello" == await first.receive_some()

        second = bouncer.client(b"hello")
        await wait_all_tasks_blocked()

        assert 1 == len(bouncer.asked) == server.listening.statistics().backlog

        first.socket.close()

        assert b"hello" == await second.receive_some()
        assert {} == dict(server.listening.statistics().aborted)
        assert {} == dict(server.listening.statistics().dropped)
    bouncer.close_clients()


@pytest.mark.parametrize("way", ["serve", "serve_events"])
@pytest.mark.parametrize("limit", [None, 50])
async def test_drain_waits_for_what_is_being_inspected(way: str, limit: int | None) -> None:
    """Whoever is let through within the grace is served, however many of them at once."""
    bouncer = Bouncer(PEND)
    count = 40
    served: list[Connection] = []

    async def handler(connection: Connection) -> None:
        served.append(connection)
        await connection.send_all(b"served")

    def accept(connection: Connection) -> ConnectionDispatch:
        served.append(connection)
        connection.disconnect(data=b"served")
        return ConnectionDispatch(receive=lambda connection, data: None)

    async with trio.open_nursery() as nursery:
        server: Any = await nursery.start(
            partial(serve, handler, max_connections=limit, **bouncer.options)
            if way == "serve"
            else partial(
                serve_events,
                ListenDispatch(accept=accept),
                max_connections=limit,
                **bouncer.options,
            )
        )
        bouncer.listening = server.listening
        clients = [(await bouncer.pended())[0] for _ in range(count)]
        nursery.start_soon(partial(server.drain, grace=PATIENCE))
        await wait_all_tasks_blocked()

        assert [] == served

        for request in bouncer.asked:
            assert Status.SUCCESS == bouncer.complete(request, ACCEPT)
        for client in clients:
            assert b"served" == await read_to_end(client)
            client.socket.close()

    assert count == len(served) == server.statistics().served
    assert {} == dict(server.statistics().listening.aborted)
    check_balance(server.statistics().listening)


async def test_drain_takes_and_inspects_what_was_in_the_backlog() -> None:
    """The kernel has let them in already: they get their inspection, and their handler."""
    bouncer = Bouncer(ask_for_the_word)
    async with trio.open_nursery() as nursery:
        server: Any = await nursery.start(partial(serve, echo, **bouncer.options))
        bouncer.listening = server.listening
        server.listening.pause()
        clients = await waiting(bouncer, 3)
        nursery.start_soon(partial(server.drain, grace=PATIENCE))
        await bouncer.when(lambda: len(bouncer.asked) == 3)
        for client in clients:
            await client.send_all(b"word")
            await client.send_eof()

            assert b"word" == await read_to_end(client)
    bouncer.close_clients()

    assert 3 == server.statistics().served


async def test_drain_whose_grace_runs_out_aborts_what_is_being_inspected() -> None:
    """Whoever has no verdict by then is aborted, and reset."""
    bouncer = Bouncer(wait_for_cancellation)
    async with trio.open_nursery() as nursery:
        server: Any = await nursery.start(partial(serve, echo, **bouncer.options))
        bouncer.listening = server.listening
        client, _ = await bouncer.ask()
        report = await server.drain(grace=0.05)

        assert trio_wsk.DrainReport(finished=0, reset=0) == report
        assert "reset" == await fate_of(client)
    bouncer.close_clients()

    assert {"closed": 1} == dict(server.statistics().listening.aborted)


async def test_server_that_is_aborted_ends_its_inspections() -> None:
    """abort() asks nobody anything: the peers are reset."""
    bouncer = Bouncer(lambda request: wait_for_cancellation(request) if bouncer.asked[1:] else PEND)
    async with open_server(echo, **bouncer.options) as server:
        bouncer.listening = server.listening
        clients = [(await bouncer.ask())[0] for _ in range(2)]
        server.abort()
        for client in clients:
            assert "reset" == await fate_of(client)
    bouncer.close_clients()

    assert {"closed": 2} == dict(server.statistics().listening.aborted)


# --- Many that come and go --------------------------------------------------------------------


async def test_flood_of_peers_that_come_and_go_leaves_nothing_behind() -> None:
    """Neither tasks nor requests, and a peer who stays is served between them."""

    async def inspect(request: ConnectionRequest) -> InspectAction:
        return ACCEPT if await request.peek(4) == b"stay" else REJECT

    async with inspecting(inspect) as desk:
        before = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            for first in (b"", b"x", b"leave"):
                client = desk.client(first)
                reset(client)
            await desk.parked(b"stay")
            (await desk.listening.accept()).close()
        await desk.when(lambda: not desk.statistics().pending)
        conditional = desk.listening._conditional  # noqa: SLF001 - nothing of it shows

        assert conditional is not None

        idle = conditional._tasks._idle  # noqa: SLF001 - tasks that wait for the next request
        await until(
            lambda: trio.lowlevel.current_statistics().tasks_living <= before + 1 + len(idle)
        )

        assert len(idle) <= MOST_IDLE
        assert 20 == desk.statistics().delivered["accept"]
        assert 80 == desk.statistics().accepted


async def test_requests_leave_no_garbage_in_cycles() -> None:
    """What was decided is freed without the garbage collector, so that a flood fills no memory."""
    answers = [ACCEPT, REJECT, PEND]
    gc.collect()
    gc.disable()
    try:
        async with inspecting(lambda _: answers[len(desk.asked) % 3]) as desk:
            for _ in range(9):
                await desk.ask()
            await wait_all_tasks_blocked()
            for request in desk.asked:
                desk.complete(request, REJECT)
            desk.asked.clear()
            kept = [each for each in gc.get_objects() if isinstance(each, ConnectionRequest)]

            assert desk.statistics().parked == len(kept)

            desk.asked += kept * 9  # what the desk counts in the end
            del desk.asked[9:]
            del kept
    finally:
        gc.enable()
