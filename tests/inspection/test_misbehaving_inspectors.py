"""Conditional accept over real sockets: inspectors that fail, and inspectors that do not end."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT, Desk, Silent, inspecting
from tests.helpers.support import PATIENCE, connect_now, fate_of, reset
from tests.helpers.undecided import accept_all, ignore_cancellation
from trio_wsk import ConnectionRequest, EventMask, ListenDispatch, Status, open_listening_socket
from trio_wsk._inspection import stragglers as _stragglers
from trio_wsk.observers import CallbackFailed, InspectorStraggles, RequestRejected

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"


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
        await wait_all_tasks_blocked()
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
    dispatch = ListenDispatch(inspect=desk, abort=desk.abort)
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
            0, host=HOST, inspect=desk, observers=[desk.observe, Silent()]
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
            desk.listening._stages.close()  # noqa: SLF001 - what aclose() does first, in this very call
        return ACCEPT if len(desk.asked) == 2 else PEND

    async with trio.open_nursery() as nursery, inspecting(inspect) as desk:
        await desk.pended()
        await desk.ask()
        await desk.aborted(2)

        assert {"closed": 2} == dict(desk.statistics().aborted)
        assert 0 == desk.statistics().approved
