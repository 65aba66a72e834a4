"""Conditional accept over real sockets: peers that leave before their connection is delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.inspecting import ACCEPT, PEND, REJECT, check_balance, inspecting
from tests.helpers.support import PATIENCE, connect_now, read_to_end, reset, until
from tests.helpers.undecided import INSPECTORS, UNREAD, bring, hides_fin, leave
from trio_wsk import AbortReason, ConnectionRequest, Status, open_listening_socket
from trio_wsk._inspection import aborts
from trio_wsk.observers import CallbackFailed, RequestAborted

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


@pytest.fixture
def tells_close_behind_data(
    readiness: str, place: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """Trio's own waits don't; over TCP that is a half-close, and another rule's."""
    is_close = "path" in place and request.getfixturevalue("how") == "close"
    if is_close and hides_fin(readiness, request.getfixturevalue("sent")):
        pytest.skip("a close behind data can't be told from data by Trio's own waits")


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
    monkeypatch.setattr(aborts, "REMEMBERED_MOST", 2)
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
