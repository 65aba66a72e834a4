"""A connection request, as an inspector and whoever completes it see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers.inspecting import ACCEPT, PEND, REJECT, inspecting
from tests.helpers.scripted import ScriptedTransport
from tests.helpers.support import PATIENCE, reset
from trio_wsk import (
    AbortReason,
    ConnectionBrokenError,
    InspectAction,
    InvalidDeviceStateError,
    InvalidParameterError,
    SocketBusyError,
    Status,
    Verdict,
    open_listening_socket,
)
from trio_wsk._inspection.request import PEEK_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import ConnectionRequest

pytestmark = pytest.mark.usefixtures("readiness")


# --- What it knows --------------------------------------------------------------------------------


async def test_request_knows_its_ends_though_the_peer_has_gone() -> None:
    """Both addresses are those of the peer's socket, before and after it has left."""
    async with inspecting() as desk:
        client, request = await desk.pended()
        ends = client.socket.getpeername(), client.socket.getsockname()

        assert ends == (request.local_address.sockaddr, request.remote_address.sockaddr)

        reset(client)
        await desk.aborted()

        assert ends[1] == request.remote_address.sockaddr
        assert desk.listening.local_addresses == [request.local_address]


async def test_request_knows_its_listening_socket() -> None:
    """It leads to the listening socket that asked, and to that one's context."""
    async with inspecting(context="mine") as desk:
        _, request = await desk.ask()

        assert desk.listening is request.listening
        assert "mine" == request.context


async def test_request_knows_its_times(mock_clock: MockClock) -> None:
    """It arrived now, on Trio's clock, and its verdict is due `inspect_timeout` later."""
    mock_clock.jump(123.5)
    async with inspecting(inspect_timeout=7.25) as desk:
        _, request = await desk.ask()
        mock_clock.jump(1)

        assert 123.5 == pytest.approx(request.arrived_at)
        assert 7.25 == pytest.approx(request.deadline - request.arrived_at)


async def test_requests_of_one_socket_share_a_key_and_no_number() -> None:
    """An id is the same at each reading; no two requests have one, here or at another socket."""
    async with inspecting() as desk, inspecting() as other:
        ids = []
        for each in (desk, other, desk, other):
            _, request = await each.ask()

            assert request.inspect_id == request.inspect_id

            ids.append(request.inspect_id)

    assert 4 == len({inspect_id.serial_number for inspect_id in ids})
    assert ids[0].key == ids[2].key
    assert ids[1].key == ids[3].key
    assert ids[0].key != ids[1].key


@pytest.mark.parametrize(
    ("answer", "expected"), [(PEND, "pended"), (REJECT, "rejected"), (ACCEPT, "established")]
)
async def test_request_says_how_it_is(answer: InspectAction, expected: str) -> None:
    """In a log or a debugger a request shows its state and its peer."""
    said: list[str] = []

    def inspect(request: ConnectionRequest) -> InspectAction:
        said.append(repr(request))
        return answer

    async with inspecting(inspect) as desk:
        client, request = await desk.ask()
        host, port = client.socket.getsockname()
        await wait_all_tasks_blocked()

        assert [f"<ConnectionRequest inspecting from {host}:{port}>"] == said
        assert f"<ConnectionRequest {expected} from {host}:{port}>" == repr(request)


async def test_request_has_no_other_attributes() -> None:
    """There may be thousands, so a request has no room for what others would attach to it."""
    async with inspecting() as desk:
        _, request = await desk.ask()

        with pytest.raises(AttributeError):
            request.verdict = "mine"  # type: ignore[attr-defined]  # on purpose
        with pytest.raises(AttributeError):
            request.inspect_id = None  # type: ignore[misc, assignment]  # on purpose


# --- Its cancel scope -----------------------------------------------------------------------------


async def test_scope_is_the_same_at_each_reading() -> None:
    """Who asks twice gets one scope; two requests have two."""
    async with inspecting() as desk:
        _, first = await desk.pended()
        _, second = await desk.pended()

        assert first.cancel_scope is first.cancel_scope
        assert first.cancel_scope is not second.cancel_scope
        assert not first.cancel_scope.cancel_called


async def test_async_inspector_runs_in_the_scope() -> None:
    """The scope of a request whose inspector is async is entered already, by its task."""
    inside = False

    async def inspect(request: ConnectionRequest) -> InspectAction:
        nonlocal inside
        with pytest.raises(RuntimeError, match="may only be used"), request.cancel_scope:
            pass
        request.cancel_scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()
        inside = True
        return ACCEPT

    async with inspecting(inspect) as desk:
        await desk.ask()
        await wait_all_tasks_blocked()

        assert not inside
        assert {"inspector-failed": 1} == desk.statistics().rejected


@pytest.mark.parametrize("is_asked_for", ["before", "after"])
async def test_scope_is_cancelled_when_the_request_is_over(is_asked_for: str) -> None:
    """Asked for in time or too late: once the request is aborted its scope is cancelled."""
    async with inspecting() as desk:
        client, request = await desk.pended()
        if is_asked_for == "before":
            assert not request.cancel_scope.cancel_called
        reset(client)
        record = await desk.aborted()

        assert request.cancel_scope.cancel_called
        assert record is request.aborted


@pytest.mark.parametrize("answer", [ACCEPT, REJECT])
async def test_verdict_cancels_nobody(answer: InspectAction) -> None:
    """Who works on a request that had its verdict is not cut off, and nothing is aborted."""
    async with inspecting() as desk:
        _, request = await desk.pended()
        scope = request.cancel_scope

        assert Status.SUCCESS is desk.complete(request, answer)

        await wait_all_tasks_blocked()

        assert not scope.cancel_called
        assert None is request.aborted


# --- Looking at its first octets ------------------------------------------------------------------


async def test_peek_gives_what_was_asked_for_and_leaves_it() -> None:
    """Exactly so many octets, however often, and the connection has all of them."""
    seen: list[bytes] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        seen.extend([await request.peek(count) for count in (1, 3, 5, 3)])
        return ACCEPT

    async with inspecting(inspect) as desk:
        desk.client(b"octets")
        async with await desk.listening.accept() as connection:
            assert [b"o", b"oct", b"octet", b"oct"] == seen
            assert b"octets" == await connection.receive_some()


async def test_peek_waits_for_what_is_missing() -> None:
    """It returns when enough has come, in as many pieces as it likes."""
    async with inspecting() as desk:
        client, request = await desk.pended(b"o")
        got: list[bytes] = []

        async def _peek() -> None:
            got.append(await request.peek(6))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_peek)
                for piece in (b"c", b"tet", b"s and more"):
                    await wait_all_tasks_blocked()

                    assert [] == got

                    await client.send_all(piece)

        assert [b"octets"] == got


@pytest.mark.parametrize("sent", [b"", b"oct"])
async def test_peek_gives_less_only_if_no_more_can_come(sent: bytes) -> None:
    """
    A peer that has finished sending, and does not count as gone, has no more. Where Trio's
    waits serve, FIN behind data is not seen, and so not waited for either.
    """
    async with inspecting(abort_on_half_close=False) as desk:
        client, request = await desk.pended(sent)
        await client.send_eof()
        if sent and not desk.listening._block.readiness.edge_triggered:  # noqa: SLF001
            assert sent == await request.peek(len(sent))
        else:
            with trio.fail_after(PATIENCE):
                assert sent == await request.peek(6)


@pytest.mark.parametrize("count", [1, PEEK_LIMIT])
async def test_peek_is_a_checkpoint(count: int) -> None:
    """Also when the octets are there: it gives others a turn, and can be cancelled."""
    async with inspecting() as desk:
        _, request = await desk.pended(bytes(PEEK_LIMIT))
        with trio.fail_after(PATIENCE):
            await request.peek(PEEK_LIMIT)
        with trio.testing.assert_checkpoints():
            assert bytes(count) == await request.peek(count)
        with trio.CancelScope() as scope:
            scope.cancel()
            await request.peek(count)

        assert scope.cancelled_caught
        assert bytes(count) == await request.peek(count)


@pytest.mark.parametrize("count", [0, -1, PEEK_LIMIT + 1, 1.0, None, b"GET"], ids=repr)
async def test_peek_takes_a_count(count: Any) -> None:
    """Nothing, and more than can be looked at, is refused; the message shows what it was."""
    async with inspecting() as desk:
        _, request = await desk.pended(b"octets")
        with pytest.raises(InvalidParameterError) as caught:
            await request.peek(count)

        assert str(caught.value).endswith(f"not {count!r}")
        assert b"octets" == await request.peek(6)


async def test_one_task_peeks_at_a_time() -> None:
    """A second one is told so and harms nobody; when the first is through, it may."""
    async with inspecting() as desk:
        client, request = await desk.pended()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request.peek, 3)
            await wait_all_tasks_blocked()
            with pytest.raises(SocketBusyError):
                await request.peek(1)
            nursery.cancel_scope.cancel()
        await client.send_all(b"octets")
        with trio.fail_after(PATIENCE):
            assert b"octets" == await request.peek(6)


def accept(request: ConnectionRequest) -> Status:
    """Let it in."""
    return request.listening.inspect_complete(request.inspect_id, ACCEPT)


def reject(request: ConnectionRequest) -> Status:
    """Turn it away."""
    return request.listening.inspect_complete(request.inspect_id, REJECT)


@pytest.mark.parametrize("decide", [accept, reject])
async def test_peek_after_the_verdict_is_too_late(
    decide: Callable[[ConnectionRequest], Status],
) -> None:
    """What a connection has to say is received; before the verdict it is peeked at."""
    async with inspecting() as desk:
        _, request = await desk.pended(b"octets")
        decide(request)
        with pytest.raises(InvalidDeviceStateError, match="peek before the verdict"):
            await request.peek(1)


@pytest.mark.parametrize("decide", [accept, reject])
async def test_verdict_ends_a_peek(decide: Callable[[ConnectionRequest], Status]) -> None:
    """Who waits for octets when somebody else decides is told, and does not wait on."""
    async with inspecting() as desk:
        _, request = await desk.pended()
        told: list[BaseException] = []

        async def _peek() -> None:
            try:
                await request.peek(3)
            except InvalidDeviceStateError as error:
                told.append(error)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_peek)
                await wait_all_tasks_blocked()
                decide(request)
                if decide is accept:
                    # It is parked and watched; taking it lets it go.
                    (await desk.listening.accept()).close()

        assert 1 == len(told)


@pytest.mark.parametrize("when", ["before", "during"])
async def test_peek_at_a_request_whose_peer_has_left_is_broken(when: str) -> None:
    """Outside of the request's scope it raises what a broken connection raises, and says why."""
    async with inspecting() as desk:
        client, request = await desk.pended()
        caught: list[ConnectionBrokenError] = []

        async def _peek() -> None:
            try:
                await request.peek(3)
            except ConnectionBrokenError as error:
                caught.append(error)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                if when == "before":
                    reset(client)
                    await desk.aborted()
                nursery.start_soon(_peek)
                await wait_all_tasks_blocked()
                if when == "during":
                    reset(client)

        assert [Status.CONNECTION_ABORTED] == [error.status for error in caught]
        assert request.aborted is not None
        assert AbortReason.RESET is request.aborted.reason


async def test_peek_inside_the_scope_is_cancelled_instead() -> None:
    """An async inspector whose peer leaves ends where it peeks; nothing is left to report."""
    ended: list[str] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        try:
            await request.peek(3)
        except trio.Cancelled:
            ended.append("cancelled")
            raise
        return ACCEPT

    async with inspecting(inspect) as desk:
        client, _ = await desk.ask()
        await wait_all_tasks_blocked()
        reset(client)
        await desk.aborted()
        await wait_all_tasks_blocked()

        assert ["cancelled"] == ended


async def test_peek_is_under_the_deadline(autojump_clock: MockClock) -> None:
    """A peer that says nothing is waited for until `deadline`, and then it is aborted."""
    ended: list[float] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        try:
            await request.peek(3)
        finally:
            ended.append(trio.current_time())
        return ACCEPT

    async with inspecting(inspect, inspect_timeout=5) as desk:
        _, request = await desk.ask(b"oc")
        await trio.sleep(100)

        assert request.aborted is not None
        assert AbortReason.TIMED_OUT is request.aborted.reason
        assert [request.deadline] == pytest.approx(ended)


async def test_peek_before_the_handshake_is_too_early() -> None:
    """Where there are no octets yet, it says so and the request goes on."""
    transport = ScriptedTransport()  # its requests have no octets to look at
    said: list[str] = []

    async def inspect(request: ConnectionRequest) -> InspectAction | Verdict:

        with pytest.raises(InvalidDeviceStateError, match="before the handshake") as caught:
            await request.peek(1)
        said.append(str(caught.value))
        return ACCEPT

    async with open_listening_socket(transport=transport, inspect=inspect) as listening:
        peer = transport.arrive()
        with trio.fail_after(PATIENCE):
            (await listening.accept()).close()
    peer.leave()

    assert 1 == len(said)
