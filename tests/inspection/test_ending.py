"""Conditional accept over real sockets: requests end with their socket, or with their time."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from tests.helpers.inspecting import ACCEPT, PEND, Desk, Silent, inspecting
from tests.helpers.support import FaultyTransport, fate_of
from tests.helpers.undecided import INSPECTORS, bring, wait_for_cancellation
from trio_wsk import (
    AbortReason,
    ConnectionRequest,
    ListenDispatch,
    ListeningSocket,
    Status,
    open_listening_socket,
)
from trio_wsk.transports._contract import TransportFailedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


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
    dispatch = ListenDispatch(inspect=desk, abort=desk.abort)
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
        return desk(request)  # type: ignore[no-any-return] # it is what PEND is

    def failed(listening: ListeningSocket, error: OSError) -> None:
        assert [request.inspect_id] == desk.told_abort

        failures.append(error)

    desk = Desk(PEND)
    dispatch = ListenDispatch(
        inspect=desk if way == "plain" else inspect_async,
        abort=desk.abort,
        failed=failed,
    )
    with pytest.raises(OSError, match="on purpose") as caught:  # noqa: PT012 - the end of the block raises
        async with open_listening_socket(
            transport=FaultyTransport.tcp(0, host=HOST),
            dispatch=dispatch,
            observers=[desk.observe, Silent()],
        ) as desk.listening:
            transport = desk.listening._stages.transport  # noqa: SLF001 - the faults are told to it

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
