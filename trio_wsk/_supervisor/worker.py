"""What runs in a worker's process: a server on sockets that the supervisor keeps.

It is told by its supervisor when to end, and how. Told by a signal, it drains, and a second one
aborts it; a supervisor that is gone is a reason to drain, too.
"""

from __future__ import annotations

import socket
import sys
import traceback
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, final

import trio

from trio_wsk._configuration.configuration import ConfigurationError
from trio_wsk._configuration.ready import made_ready
from trio_wsk._configuration.targets import look_in_working_directory
from trio_wsk._listening.dispatch import ListenDispatch
from trio_wsk._serving.opening import serve, serve_events
from trio_wsk._serving.signals import ENDING_SIGNALS
from trio_wsk._vocabulary.errors import SocketBusyError, SocketClosedError
from trio_wsk.transports._adopting import AdoptedPlace
from trio_wsk.transports.portable import PortableTransport

from .answering import Answering
from .channel import Channel
from .messages import LONGEST, Job, Kind, Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk._configuration.ready import Ready
    from trio_wsk._serving.server import Server

__all__ = ["work"]

_LAST_WORDS: Final = 5.0
"""Seconds for what is said at the end: a supervisor that hangs keeps nobody."""

FAILED: Final = 1
"""The exit status of a worker that could not begin, and has said why."""


def work(descriptor: int) -> None:
    """Be a worker until told to end.

    Args:
      descriptor: Our end of the pair that the supervisor has made.

    Raises:
      SystemExit: there is nothing to serve; the supervisor has been told why.
    """
    sock = socket.socket(fileno=descriptor)
    sock.set_inheritable(False)
    message = Message.unpacked(sock.recv(LONGEST))
    if message is None:
        raise SystemExit(FAILED)  # the supervisor has ended meanwhile
    job = Job.unpacked(message.body)
    ready = _made_ready(job, sock)
    if not _may_serve(sock):
        raise SystemExit(FAILED)  # as well
    trio.run(_serve, job, ready, sock)


def _made_ready(job: Job, sock: socket.socket) -> Ready:
    look_in_working_directory()
    try:
        return made_ready(job.configuration)
    except ConfigurationError as error:
        _say(sock, str(error))
    except Exception as error:  # noqa: BLE001 - of the module that is imported
        traceback.print_exc()
        _say(sock, f"{job.configuration.handler}: {type(error).__name__}: {error}")
    sys.exit(FAILED)


def _may_serve(sock: socket.socket) -> bool:
    """Say that all is prepared, and wait for the word; False when nobody is left to give it."""
    try:
        sock.send(Message(Kind.PREPARED).packed())
        return bool(sock.recv(LONGEST))
    except OSError:
        return False


def _say(sock: socket.socket, why: str) -> None:
    sock.send(Message(Kind.FAILED, why.encode()).packed())


@final
class _KeptPlace(AdoptedPlace):
    """Sockets that are left to others, as long as there are others.

    Args:
      job: Which, and whether there will be others when all are told to end. A service manager tells
        all processes of a service at the same time, so who hears it first takes who waits.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job.sockets, backlog=None)
        self.is_left = not job.is_last
        self.is_last = job.is_last

    @property
    def is_shared(self) -> bool:
        """Whether who waits in the queue is not ours to take before the end."""
        return self.is_left


async def _serve(job: Job, ready: Ready, sock: socket.socket) -> None:
    channel = Channel(sock)
    place = _KeptPlace(job)
    options: dict[str, Any] = {
        **ready.options,
        "transport": PortableTransport(place),
        "signals": ENDING_SIGNALS,
    }
    function: Any = serve_events if isinstance(ready.handler, ListenDispatch) else serve
    answering: Answering | None = None
    async with trio.open_nursery() as nursery:
        serving = partial(function, ready.handler, **options)
        server: Server = await nursery.start(_until_over, serving, nursery.cancel_scope)
        answering = Answering(ready, server, channel)
        await channel.say(Message(Kind.READY))
        nursery.start_soon(_obey, server, place, channel, nursery, answering)
    if answering is not None:
        with trio.move_on_after(_LAST_WORDS):
            await answering.say_last()


async def _until_over(  # noqa: ASYNC128 - whom it hands the status to calls it
    serving: Callable[..., Awaitable[object]],
    body: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[Server],
) -> None:
    """Serve, and have nobody listen to the supervisor any more when that is over."""
    await serving(task_status=task_status)
    body.cancel(reason="the server has ended")


async def _obey(
    server: Server,
    place: _KeptPlace,
    channel: Channel,
    nursery: trio.Nursery,
    answering: Answering,
) -> None:
    """Do what the supervisor says, until there is none."""
    while True:
        said = await channel.hear()
        if said is not None and said.kind is Kind.QUESTION:
            nursery.start_soon(answering.answer, said)
            continue
        # Without a supervisor nobody is left who would serve those in the queues.
        word = Kind.END if said is None else said.kind
        if word is Kind.ABORT:
            server.abort()
            return
        place.is_left = not place.is_last or word is not Kind.END
        nursery.start_soon(_drain, server)
        if word is Kind.LEAVE:
            nursery.start_soon(_say_left, server, channel)
        if said is None:
            return


async def _say_left(server: Server, channel: Channel) -> None:
    """Say so when nobody is taken any more: a drain leaves the queues in its first step."""
    await server.listening.draining.wait()
    await channel.say(Message(Kind.LEFT))


async def _drain(server: Server) -> None:  # noqa: ASYNC910 - a task of its own
    with suppress(SocketBusyError, SocketClosedError):  # a signal has done so
        await server.drain()
