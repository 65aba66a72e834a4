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

from tests.helpers.support import PATIENCE, Spawned, connect, fate_of, leave_open, read_to_end
from trio_wsk import open_server
from trio_wsk._engine import reused_tasks as _reused_tasks
from trio_wsk._engine.reused_tasks import ReusedTasks, cancel_status
from trio_wsk.observers import HandlerFailed

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
        self._begin()
        status = cancel_status(trio.lowlevel.current_task())
        while True:
            await self._handle(thing)
            if not self._may_wait(status):
                break
            del thing
            thing = await self._next()


def tasks_in(nursery: trio.Nursery, handle: Callable[[Any], Awaitable[object]]) -> Any:
    """Make tasks that handle things."""
    return Handling(nursery, handle)


async def one_after_the_other(count: int) -> tuple[list[bytes], int]:
    """Serve some clients in turn; return what their handlers told them, and in how many tasks."""
    told: list[bytes] = []
    spawned = Spawned()

    async def handler(connection: Connection) -> None:
        await connection.send_all(WHO.get().encode())
        WHO.set("the client before")

    async with open_server(handler, 0, host=HOST) as server:
        for _ in range(count):
            async with await connect(server.local_addresses[0]) as client:
                told.append(await client.receive_some())
            await settled()
            WHO.set("somebody else")
    return told, spawned.count("one_after_the_other.<locals>.handler")


async def test_task_is_used_again() -> None:
    """Clients that come one after the other are served by one task."""
    _, tasks = await one_after_the_other(3)

    assert 1 == tasks


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
        await trio.testing.wait_all_tasks_blocked(
            0.01
        )  # the handlers wait with none, so end before
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
    spawned = Spawned()
    served = 0

    async def handler(connection: Connection) -> None:
        nonlocal served
        served += 1
        if served == 1:
            raise ValueError("a bug")
        await connection.send_all(b"fine")

    async with open_server(handler, 0, host=HOST) as server:
        async with await connect(server.local_addresses[0]) as client:
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
        async with await connect(server.local_addresses[0]) as client:
            assert b"fine" == await client.receive_some()
        assert 1 == server.statistics().handler_failures

    assert (2, 1) == (served, spawned.count(".handler"))


# --- What a handler leaves behind ----------------------------------------------------------------


async def test_task_in_which_a_scope_was_left_open_is_not_used_again() -> None:
    """Else its time-out would end somebody else's handler, and the server with it."""
    spawned = Spawned()
    served = 0

    async def handler(connection: Connection) -> None:
        nonlocal served
        served += 1
        if served == 1:
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
        assert (3, 2) == (served, spawned.count(".handler"))


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
        if not any(isinstance(record, HandlerFailed) for record in told):
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
                    (error,) = [
                        record.error for record in told if isinstance(record, HandlerFailed)
                    ]
                    names = [frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__)]
                    assert ["handler"] == names
                    clear_frames(error.__traceback__)


class Left:
    """What handlers leave behind, and what the next ones find."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.limiter = trio.CapacityLimiter(100)
        self.lots: list[trio.lowlevel.ParkingLot] = []
        self.by_task: dict[trio.lowlevel.Task, str] = {}
        self.weakly: weakref.WeakKeyDictionary[trio.lowlevel.Task, str]
        self.weakly = weakref.WeakKeyDictionary()


async def take_lock(left: Left) -> str:
    """Take a lock and keep it."""
    try:
        await left.lock.acquire()
    except trio.BrokenResourceError:
        return "broken"
    return "taken"


async def borrow(left: Left) -> str:
    """Borrow from a limiter, and give nothing back."""
    await left.limiter.acquire()
    return f"{left.limiter.borrowed_tokens} borrowed"


async def be_breaker(left: Left) -> str:
    """Have the end of the task break a parking lot."""
    left.lots.append(trio.lowlevel.ParkingLot())
    trio.lowlevel.add_parking_lot_breaker(trio.lowlevel.current_task(), left.lots[-1])
    return f"{sum(bool(lot.broken_by) for lot in left.lots)} broken"


async def note_by_task(left: Left) -> str:
    """Keep something by task."""
    return left.by_task.setdefault(trio.lowlevel.current_task(), f"number {len(left.by_task)}")


async def note_by_task_weakly(left: Left) -> str:
    """Keep something for as long as the task lives."""
    found = left.weakly.get(trio.lowlevel.current_task(), "nothing")
    left.weakly[trio.lowlevel.current_task()] = "something"
    return found


async def give_name(_: Left) -> str:
    """Give the task another name, as for a debugger."""
    task = trio.lowlevel.current_task()
    found, task.name = task.name, "another"
    return found.rpartition(".")[2]


async def leave_locked(left: Left) -> str:
    """Leave nothing behind."""
    async with left.lock, left.limiter:
        await trio.lowlevel.checkpoint()
    return "nothing"


LEAVES = [
    (take_lock, ["taken", "broken", "broken"], 2),
    (borrow, ["1 borrowed", "2 borrowed", "3 borrowed"], 3),
    (be_breaker, ["0 broken", "1 broken", "2 broken"], 3),
    (note_by_task, ["number 0", "number 1", "number 2"], 3),
    (note_by_task_weakly, ["nothing", "nothing", "nothing"], 3),
    (give_name, ["handler", "handler", "handler"], 1),
    (leave_locked, ["nothing", "nothing", "nothing"], 1),
]


@pytest.mark.parametrize(("leave", "finds", "count"), LEAVES)
async def test_what_is_kept_by_task_ends_with_its_handler(
    leave: Callable[[Left], Awaitable[str]], finds: list[str], count: int
) -> None:
    """
    A lock that a handler has not released is broken, as by the end of any task; the next handler
    does not own it. So for whatever is kept by task: a task that somebody refers to is not used
    again.
    """
    left = Left()
    spawned = Spawned()

    async def handler(connection: Connection) -> None:
        await connection.send_all((await leave(left)).encode())

    found: list[str] = []
    async with open_server(handler, 0, host=HOST) as server:
        for _ in finds:
            async with await connect(server.local_addresses[0]) as client:
                found.append((await read_to_end(client)).decode())
            await settled()

        assert 0 == server.statistics().handler_failures

    assert finds == found
    assert count == spawned.count(".handler")


async def test_who_waits_for_a_lock_that_a_handler_has_left_held_hears_of_it() -> None:
    """It does not wait for ever: the lock is broken when the handler has returned."""
    lock = trio.Lock()

    async def handler(connection: Connection) -> None:
        await lock.acquire()
        await connection.send_all(b"mine")
        await connection.receive_some()

    async with open_server(handler, 0, host=HOST) as server:
        client = await connect(server.local_addresses[0])
        assert b"mine" == await client.receive_some()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                    await lock.acquire()

            await settled()
            await client.aclose()


async def nest(connection: Connection) -> None:
    """Have a nursery."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        await connection.send_all(b"x")
        nursery.cancel_scope.cancel()


async def time_out(connection: Connection) -> None:
    """Be cancelled by oneself."""
    with trio.move_on_after(0):
        await trio.Event().wait()
    await connection.send_all(b"x")


async def echo(connection: Connection) -> None:
    """Wait for the peer."""
    await connection.send_all(b"x")
    async for data in connection:
        await connection.send_all(data)


@pytest.mark.parametrize("how", [nest, time_out, echo])
async def test_what_handlers_usually_do_leaves_nothing_behind(
    how: Callable[[Connection], Awaitable[object]],
) -> None:
    """Nurseries and scopes that have ended refer to no task, also before the collector runs."""
    spawned = Spawned()

    async def handler(connection: Connection) -> None:
        await how(connection)

    gc.disable()
    try:
        async with open_server(handler, 0, host=HOST) as server:
            for _ in range(3):
                async with await connect(server.local_addresses[0]) as client:
                    assert b"x" == await client.receive_some()
                await settled()
    finally:
        gc.enable()

    assert 1 == spawned.count(".handler")


@pytest.mark.parametrize("name", ["_count_references", "_cancel_status"])
async def test_task_of_which_nothing_is_known_is_not_used_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    Where Python does not count references, or Trio should give another name to what it notes of
    cancel scopes, each connection has a task of its own.
    """
    if name == "_cancel_status":
        monkeypatch.setattr(_reused_tasks, "CANCEL_STATUS", "another_name")
    else:
        monkeypatch.setattr(_reused_tasks, name, None)
    _, tasks = await one_after_the_other(3)

    assert 3 == tasks
