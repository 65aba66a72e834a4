"""Async inspectors' tasks are used again, and no request can tell."""

from __future__ import annotations

import contextvars
import gc
import math
import weakref
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from tests.helpers.inspecting import inspecting
from tests.helpers.support import Spawned, connect, leave_open
from trio_wsk import InspectAction, open_listening_socket, open_server
from trio_wsk.observers import RequestApproved

if TYPE_CHECKING:
    from tests.helpers.inspecting import Desk
    from trio_wsk import Connection, ConnectionRequest
    from trio_wsk.observers import Record

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"
ACCEPT = InspectAction.ACCEPT
PEND = InspectAction.PEND
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")

settled = trio.testing.wait_all_tasks_blocked


async def ask(desk: Desk, count: int) -> None:
    """Have clients come, one after the other, and each of them let through."""
    for number in range(count):
        await desk.parked()
        assert number + 1 == desk.statistics().approved


async def test_task_is_used_again() -> None:
    """Requests that come one after the other are inspected in one task, by its name."""
    spawned = Spawned()

    async def inspect(_: ConnectionRequest) -> InspectAction:
        await trio.lowlevel.checkpoint()
        return ACCEPT

    async with inspecting(inspect) as desk:
        await ask(desk, 3)

    assert 1 == spawned.count("Desk")


async def test_context_does_not_leak_from_request_to_request() -> None:
    """Each inspector has a fresh copy of the context that the listening socket was opened in."""
    seen: list[str] = []

    async def inspect(_: ConnectionRequest) -> InspectAction:
        seen.append(WHO.get())
        WHO.set("who was here before")
        await trio.lowlevel.checkpoint()
        return ACCEPT

    WHO.set("who has opened it")
    async with inspecting(inspect) as desk:
        WHO.set("somebody else")
        await ask(desk, 3)

    assert 3 * ["who has opened it"] == seen


async def test_context_does_not_leak_from_inspector_to_handler() -> None:
    """The inspector's task starts the handler's, which has the server's context all the same."""
    WHO.set("who has opened it")

    async def inspect(_: ConnectionRequest) -> InspectAction:
        WHO.set("the inspector")
        await trio.lowlevel.checkpoint()
        return ACCEPT

    async def handler(connection: Connection) -> None:
        await connection.send_all(WHO.get().encode())

    async with open_server(handler, 0, host="127.0.0.1", inspect=inspect) as server:
        for _ in range(2):
            async with await connect(server.local_addresses[0]) as client:
                assert b"who has opened it" == await client.receive_some()


async def test_scope_that_was_asked_for_is_nobody_elses() -> None:
    """What is done to a request's scope, then or later, concerns no other request."""
    deadlines: list[float] = []

    async def inspect(request: ConnectionRequest) -> InspectAction:
        deadlines.append(trio.current_effective_deadline())
        request.cancel_scope.deadline = trio.current_time() + 60
        for earlier in desk.asked[:-1]:
            earlier.cancel_scope.cancel()
        await trio.lowlevel.checkpoint()
        return ACCEPT

    async with inspecting(inspect) as desk:
        await ask(desk, 3)

        assert 3 == len({request.cancel_scope for request in desk.asked})

    assert 3 * [math.inf] == deadlines


async def test_scope_can_be_asked_for_before_the_task_runs() -> None:
    """A plain function that returns an awaitable may take it: the inspection runs inside it."""

    async def look_up(request: ConnectionRequest) -> InspectAction:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(request)

    def inspect(request: ConnectionRequest) -> object:
        scopes.append(request.cancel_scope)
        return look_up(request)

    ended: list[ConnectionRequest] = []
    scopes: list[trio.CancelScope] = []
    async with inspecting(inspect) as desk:
        _, first = await desk.ask()
        await settled()
        scopes[0].cancel()
        await desk.when(lambda: desk.statistics().rejected)

        assert [first] == ended
        assert {"inspector-failed": 1} == desk.statistics().rejected
        assert scopes[0] is first.cancel_scope


async def test_request_that_was_pended_by_a_task_is_lost_alone() -> None:
    """Its inspector's task has gone on to another request, which is not cancelled with it."""
    answers = [PEND, ACCEPT]
    go_on = trio.Event()

    async def inspect(_: ConnectionRequest) -> InspectAction:
        answer = answers.pop(0)
        await trio.lowlevel.checkpoint()
        if answer is ACCEPT:
            await go_on.wait()
        return answer

    async with inspecting(inspect) as desk:
        client, pended = await desk.pended()
        await settled()
        _, other = await desk.ask()
        await settled()
        await client.aclose()
        await desk.aborted()

        assert pended.cancel_scope.cancel_called
        assert other.aborted is None

        go_on.set()
        await desk.when(lambda: desk.statistics().parked)

        assert not other.cancel_scope.cancel_called


async def test_cancelled_task_is_not_used_again() -> None:
    """The peer leaves, and the next request is inspected by another task."""
    spawned = Spawned()
    asked = 0

    async def inspect(_: ConnectionRequest) -> InspectAction:
        nonlocal asked
        asked += 1
        if asked == 1:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return ACCEPT

    async with inspecting(inspect) as desk:
        client, request = await desk.ask()
        await settled()
        await client.aclose()
        await desk.aborted()
        await settled()
        await desk.parked()

        assert request.cancel_scope.cancelled_caught

    assert 2 == spawned.count("Desk")


async def test_crash_of_one_inspection_leaves_the_task_for_the_next() -> None:
    """An inspector's crash is reported, its request turned away, and its task goes on."""
    spawned = Spawned()
    asked = 0

    async def inspect(_: ConnectionRequest) -> InspectAction:
        nonlocal asked
        asked += 1
        await trio.lowlevel.checkpoint()
        if asked == 1:
            raise ValueError("a bug")
        return ACCEPT

    async with inspecting(inspect) as desk:
        await desk.ask()
        await desk.when(lambda: desk.statistics().rejected)
        await desk.parked()

        assert {"inspector-failed": 1} == desk.statistics().rejected

    assert (2, 1) == (asked, spawned.count("Desk"))


async def test_lock_that_an_inspector_has_left_held_is_broken() -> None:
    """Whoever is asked about next does not own it, in the same task."""
    lock = trio.Lock()
    found: list[bool] = []
    spawned = Spawned()

    async def inspect(_: ConnectionRequest) -> InspectAction:
        try:
            await lock.acquire()
        except trio.BrokenResourceError:
            found.append(True)
        return ACCEPT

    async with inspecting(inspect) as desk:
        for number in range(3):
            await desk.parked()
            await settled()
            assert number + 1 == desk.statistics().approved

    assert [True, True] == found
    assert 2 == spawned.count("Desk")


async def test_idle_task_keeps_nothing() -> None:
    """What was inspected can be collected, and what the inspector had."""
    kept: list[weakref.ref[object]] = []

    class Thing:
        """Something to keep."""

    async def inspect(_: ConnectionRequest) -> InspectAction:
        thing = Thing()
        kept.append(weakref.ref(thing))
        await trio.lowlevel.checkpoint()
        return ACCEPT

    async with inspecting(inspect) as desk:
        await ask(desk, 1)
        await settled()
        gc.collect()

        assert [None] == [each() for each in kept]


async def test_ctrl_c_reaches_the_inspector_and_nobody_else() -> None:
    """It is held back while state changes: an observer may be told meanwhile."""
    protected: list[bool] = []
    told = trio.Event()

    async def inspect(_: ConnectionRequest) -> InspectAction:
        protected.append(trio.lowlevel.currently_ki_protected())
        await trio.lowlevel.checkpoint()
        protected.append(trio.lowlevel.currently_ki_protected())
        return ACCEPT

    def observe(record: Record) -> None:
        if isinstance(record, RequestApproved):
            protected.append(trio.lowlevel.currently_ki_protected())
            told.set()

    async with (
        open_listening_socket(
            0, host="127.0.0.1", inspect=inspect, observers=[observe]
        ) as listening,
        await connect(listening.local_addresses[0]),
    ):
        await told.wait()

    assert [False, False, True] == protected


async def test_scope_that_an_inspector_leaves_open_is_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whoever is asked about next has a task of their own, and the server goes on."""
    asked = 0

    async def inspect(request: ConnectionRequest) -> InspectAction:
        nonlocal asked
        asked += 1
        if asked == 1:
            leave_open()
        else:
            await trio.sleep(0.1)
        return InspectAction.ACCEPT

    async def handler(connection: Connection) -> None:
        await connection.send_all(b"served")

    async with open_server(handler, 0, host=HOST, inspect=inspect) as server:
        for _ in range(3):
            async with await connect(server.local_addresses[0]) as client:
                assert b"served" == await client.receive_some()
            await settled()
        counted = server.statistics().listening
        assert (3, 0) == (counted.approved, counted.straggling)
    assert 1 == sum("inspect" in message for message in caplog.messages)
