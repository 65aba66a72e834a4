"""Handlers' tasks are used again, and no connection can tell."""

from __future__ import annotations

import contextvars
import gc
import sys
import weakref
from traceback import clear_frames, walk_tb
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from trio_wsk import _reused_tasks, open_server
from trio_wsk._reused_tasks import ReusedTasks
from trio_wsk.observers import HandlerFailed

from .support import PATIENCE, connect, fate_of, leave_open

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk import Connection
    from trio_wsk.observers import Record

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")

HOST = "127.0.0.1"
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")

settled = trio.testing.wait_all_tasks_blocked


class Thing:
    """In place of a connection: the tasks don't look at it."""


class Handling(ReusedTasks[Any]):
    """Tasks that handle things, as a server's do."""

    def __init__(self, nursery: trio.Nursery, handle: Callable[[Any], Awaitable[object]]) -> None:
        super().__init__(nursery.start_soon, contextvars.copy_context(), "handler")
        self._handle = handle

    async def _run(self, thing: Any) -> None:
        while True:
            await self._handle(thing)
            if len(self._idle) >= _reused_tasks.MOST_IDLE:
                break
            del thing
            thing = await self._next()


def tasks_in(nursery: trio.Nursery, handle: Callable[[Any], Awaitable[object]]) -> Any:
    """Make tasks that handle things."""
    return Handling(nursery, handle)


async def one_after_the_other(count: int) -> tuple[list[bytes], list[object]]:
    """Serve some clients in turn; return what their handlers told them, and in which tasks."""
    told: list[bytes] = []
    tasks: list[object] = []

    async def handler(connection: Connection) -> None:
        tasks.append(trio.lowlevel.current_task())
        await connection.send_all(WHO.get().encode())
        WHO.set("the client before")

    async with open_server(handler, 0, host=HOST) as server:
        for _ in range(count):
            async with await connect(server.local_addresses[0]) as client:
                told.append(await client.receive_some())
            await settled()
            WHO.set("somebody else")
    return told, tasks


async def test_task_is_used_again() -> None:
    """Clients that come one after the other are served by one task."""
    _, tasks = await one_after_the_other(3)

    assert (3, 1) == (len(tasks), len(set(tasks)))


async def test_context_does_not_leak_from_connection_to_connection() -> None:
    """Each handler has a fresh copy of the context that the server was opened in."""
    WHO.set("who has opened it")
    told, _ = await one_after_the_other(3)

    assert 3 * [b"who has opened it"] == told


@pytest.mark.parametrize("count", [3, 2 * _reused_tasks.MOST_IDLE])
async def test_number_of_idle_tasks_is_bounded(count: int) -> None:
    """After a burst only so many tasks stay."""
    async with trio.open_nursery() as nursery:
        tasks = tasks_in(nursery, lambda _: settled())
        for _ in range(count):
            tasks.start(Thing())
        assert count == len(nursery.child_tasks)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert min(count, _reused_tasks.MOST_IDLE) == len(nursery.child_tasks)
        nursery.cancel_scope.cancel()


async def test_idle_task_keeps_nothing() -> None:
    """What was handled, and what has been put into its context, can be collected."""
    variable: contextvars.ContextVar[Thing] = contextvars.ContextVar("variable")
    kept: list[weakref.ref[Thing]] = []

    async def handle(thing: Thing) -> None:
        variable.set(Thing())
        kept.extend((weakref.ref(thing), weakref.ref(variable.get())))
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        tasks_in(nursery, handle).start(Thing())
        await settled()
        gc.collect()
        assert [None, None] == [each() for each in kept]
        assert 1 == len(nursery.child_tasks)
        nursery.cancel_scope.cancel()


async def test_servers_do_not_share_the_context_of_who_waits() -> None:
    """They may be in two threads, and nobody can enter a context that somebody is in."""
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            tasks_in(nursery, lambda _: settled()).start(Thing())
        await settled()
        first, second = (task.context for task in nursery.child_tasks)
        assert first is not second
        nursery.cancel_scope.cancel()


async def test_cancelled_while_idle_and_on_the_way_to_a_connection() -> None:
    """Who waits ends; who was given a connection in the same moment handles it, cancelled."""
    ended: list[bool] = []

    async def handle(_: object) -> None:
        with trio.CancelScope() as scope:
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                ended.append(True)
                raise
            ended.append(scope.cancelled_caught)

    async with trio.open_nursery() as nursery:
        tasks = tasks_in(nursery, handle)
        tasks.start(Thing())
        tasks.start(Thing())
        await settled()
        assert [False, False] == ended
        tasks.start(Thing())
        nursery.cancel_scope.cancel()

    assert [False, False, True] == ended


async def test_task_that_ctrl_c_has_ended_is_passed_over() -> None:
    """It may come when a task is among those who wait, and does not wait yet."""
    done: list[trio.lowlevel.Task] = []

    async def handle(_: object) -> None:
        done.append(trio.lowlevel.current_task())
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        tasks = tasks_in(nursery, handle)
        with trio.CancelScope():
            async with trio.open_nursery() as inner:
                tasks_in(inner, handle).start(Thing())
                await settled()
                inner.cancel_scope.cancel()
        tasks._idle.append(done[0])  # noqa: SLF001 - the moment is too short to be met
        tasks.start(Thing())
        await settled()
        assert 2 == len(set(done))
        nursery.cancel_scope.cancel()


async def test_failure_ends_the_nursery_and_nobody_is_started_any_more() -> None:
    """What a handler's care doesn't hold back goes on, as from a task of its own."""

    async def handle(_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise KeyError

    started: list[Any] = []

    async def run() -> None:
        async with trio.open_nursery(strict_exception_groups=True) as nursery:
            started.append(tasks_in(nursery, handle))
            started[0].start(Thing())

    with pytest.raises(BaseExceptionGroup) as caught:
        await run()

    assert [KeyError] == [type(error) for error in caught.value.exceptions]
    with pytest.raises(RuntimeError):
        started[0].start(Thing())


async def test_crash_of_one_connection_leaves_the_task_for_the_next() -> None:
    """A handler's crash is reported by the server, and its task goes on."""
    tasks: list[object] = []

    async def handler(connection: Connection) -> None:
        tasks.append(trio.lowlevel.current_task())
        if len(tasks) == 1:
            raise ValueError("a bug")
        await connection.send_all(b"fine")

    async with open_server(handler, 0, host=HOST) as server:
        async with await connect(server.local_addresses[0]) as client:
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
        async with await connect(server.local_addresses[0]) as client:
            assert b"fine" == await client.receive_some()
        assert 1 == server.statistics().handler_failures

    assert 1 == len(set(tasks))


# --- What a handler leaves behind ----------------------------------------------------------------


async def test_task_in_which_a_scope_was_left_open_is_not_used_again() -> None:
    """Else its time-out would end somebody else's handler, and the server with it."""
    tasks: list[trio.lowlevel.Task] = []

    async def handler(connection: Connection) -> None:
        tasks.append(trio.lowlevel.current_task())
        if len(tasks) == 1:
            leave_open()
        else:
            await trio.sleep(0.1)
        await connection.send_all(b"served")

    async with open_server(handler, 0, host=HOST) as server:
        for _ in range(3):
            async with await connect(server.local_addresses[0]) as client:
                assert b"served" == await client.receive_some()
            await settled()

        assert 0 == server.statistics().handler_failures
        assert tasks[0] is not tasks[1] is tasks[2]


async def test_scope_that_was_left_open_and_ends_its_own_handler_is_a_crash() -> None:
    """It is reported, and the server goes on: nobody else was cancelled."""
    told: list[HandlerFailed] = []
    served = 0

    def observe(record: Record) -> None:
        if isinstance(record, HandlerFailed):
            told.append(record)

    async def handler(connection: Connection) -> None:
        nonlocal served
        served += 1
        if served == 1:
            leave_open()
            await trio.sleep_forever()
        await connection.send_all(b"served")

    with trio.fail_after(PATIENCE):
        async with open_server(handler, 0, host=HOST, observers=[observe]) as server:
            async with await connect(server.local_addresses[0]) as client:
                assert "reset" == await fate_of(client)
            async with await connect(server.local_addresses[0]) as client:
                assert b"served" == await client.receive_some()
            await settled()
            assert 1 == server.statistics().handler_failures
    (record,) = told
    assert "left a cancel scope open" in str(record.error)


async def test_traceback_of_a_crash_shows_nothing_of_the_task() -> None:
    """Who clears the frames of a reported error doesn't end the task that goes on."""
    told: list[Any] = []

    async def handler(connection: Connection) -> None:
        if not any(hasattr(record, "error") for record in told):
            raise ValueError("a bug")
        await connection.send_all(b"served")

    with trio.fail_after(PATIENCE):
        async with open_server(handler, 0, host=HOST, observers=[told.append]) as server:
            for number in range(3):
                async with await connect(server.local_addresses[0]) as client:
                    if number:
                        assert b"served" == await client.receive_some()
                    else:
                        assert "reset" == await fate_of(client)
                await settled()
                if not number:
                    (error,) = [record.error for record in told if hasattr(record, "error")]
                    names = [frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)]
                    assert ["handler"] == names
                    clear_frames(error.__traceback__)
