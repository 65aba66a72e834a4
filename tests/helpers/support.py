"""What tests share: clients that are plain sockets, and counts that show a leak."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections import deque
from typing import TYPE_CHECKING, Final

import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import blocking_peers
from tests.helpers.resetting import close_with_reset
from tests.helpers.scarcity import open_descriptors
from trio_wsk import Server, Status
from trio_wsk._inspection.driver import ConditionalAccept
from trio_wsk.transports import PortableTransport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk import Address, Connection
    from trio_wsk._engine.readiness import Readiness, Watch
    from trio_wsk.transports._places import Place
    from trio_wsk.transports._socket_request import SocketRequest


async def connect(address: Address) -> trio.SocketStream:
    """Connect a client; to the loopback address where the listener has the wildcard."""
    if address.is_unix:
        sock = trio.socket.socket(socket.AF_UNIX)
    else:
        sock = trio.socket.socket(address.family)
    host = address.host
    try:
        if host is not None and host.is_unspecified:
            loopback = "127.0.0.1" if address.family == socket.AF_INET else "::1"
            await sock.connect((loopback, address.port))
        else:
            await sock.connect(address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def reset(client: trio.SocketStream) -> None:
    """Close a client with a reset."""
    close_with_reset(client.socket)


def take_into(taken: list[Connection]) -> Callable[[Connection], Status]:
    """Make an accept callback that takes every connection, without events, and keeps it."""

    def accept(connection: Connection) -> Status:
        taken.append(connection)
        return Status.SUCCESS

    return accept


PATIENCE: Final = blocking_peers.PATIENCE
"""Seconds after which what a test waits for has failed to come."""


def connect_now(address: Address) -> trio.SocketStream:
    """Connect a client without giving anybody else a turn: the kernel answers by itself."""
    peer = blocking_peers.connected(address)
    return trio.SocketStream(trio.socket.from_stdlib_socket(peer))


def held(server: object = None) -> tuple[int, int]:
    """
    Return how many descriptors this process has, and how many tasks this run, without those
    that wait for a server's next connection, its next request to inspect, or its timers.
    """
    idle = 0
    if isinstance(server, Server):
        handlers = server._core.handlers  # noqa: SLF001
        if handlers is not None:
            idle += len(handlers._idle)  # noqa: SLF001
        inspection = server.listening._stages.inspection  # noqa: SLF001
        if isinstance(inspection, ConditionalAccept):
            idle += len(inspection._tasks._idle)  # noqa: SLF001
    return open_descriptors(), trio.lowlevel.current_statistics().tasks_living - idle - timers()


def timers() -> int:
    """Return how many tasks of this run serve a block's timers: one for all of them, as long as
    one is set.
    """
    found, tasks = 0, [trio.lowlevel.current_root_task()]
    while tasks:
        task = tasks.pop()
        if task is not None:
            found += task.name == "trio_wsk: timers"
            tasks += [each for nursery in task.child_nurseries for each in nursery.child_tasks]
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait for what another task or another process does, and nobody announces."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nobody announces it
            await trio.sleep(0.001)


async def shown(*descriptors: int) -> None:
    """
    Wait until the kernel has something for each of these, and all tasks have had their turns:
    what nobody has taken by then is nobody's to take.
    """
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLIN)
    await until(lambda: len(poll.poll(0)) == len(descriptors))
    await wait_all_tasks_blocked()


async def is_waiting(call: Callable[..., Awaitable[object]], *args: object) -> bool:
    """Call it in a task, which is cancelled once it waits; say whether it has come to that."""
    has_returned = False

    async def wait() -> None:
        nonlocal has_returned
        await call(*args)
        has_returned = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    return not has_returned


def other_end(client: trio.SocketStream) -> int:
    """Find the descriptor of the server's end, where the server is in this process."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - they are numbers
        descriptor = int(name)
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                if sock.getpeername() == client.socket.getsockname():
                    return descriptor
        except OSError:
            continue  # it listens, or was the listing's own
    raise AssertionError("the server has not accepted this client")


async def fate_of(client: trio.SocketStream) -> str:
    """Read to the end, and say which one it was: ``fin`` or ``reset``."""
    with trio.fail_after(PATIENCE):
        try:
            while await client.receive_some():
                pass
        except trio.BrokenResourceError:
            return "reset"
    return "fin"


async def read_to_end(client: trio.abc.ReceiveStream) -> bytes:
    """Read everything up to FIN."""
    received = bytearray()
    with trio.fail_after(PATIENCE):
        while data := await client.receive_some():
            received += data
    return bytes(received)


class FaultyTransport(PortableTransport):
    """The real one, which first fails as it is told to, and counts how often it is asked."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.faults: deque[Exception | None] = deque()
        """What the next requests are instead; None lets one through."""
        self.asked = 0
        """How often the next request was asked for while there might be one."""

    def next_request(self) -> SocketRequest | None:
        """Fail, or do what the real one does."""
        if self.has_more():
            self.asked += 1
        if self.faults:
            fault = self.faults.popleft()
            if fault is not None:
                raise fault
        return super().next_request()

    def has_more(self) -> bool:
        """Whether a fault is left, or the real one has more."""
        return bool(self.faults) or super().has_more()


async def wait_in_task(readiness: Readiness, watch: Watch, edge: int) -> None:
    """Wait for an edge in a task of its own: whose task it is, is decided at the call of `wait`."""
    await readiness.wait(watch, edge)


def leave_open() -> None:
    """Leave a cancel scope open in this task, as an async generator that nobody finishes does."""
    trio.CancelScope(deadline=trio.current_time() + 0.05).__enter__()


class Spawned(trio.abc.Instrument):
    """Counts tasks by name, without a reference to any: such a task is not used again."""

    def __init__(self) -> None:
        self._names: list[str] = []
        trio.lowlevel.add_instrument(self)

    def task_spawned(self, task: trio.lowlevel.Task) -> None:
        """Count one."""
        self._names.append(task.name)

    def count(self, name: str) -> int:
        """How many tasks were started so far whose name ends like this."""
        return sum(each.endswith(name) for each in self._names)
