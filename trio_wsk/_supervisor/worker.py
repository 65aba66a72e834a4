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

from .messages import ABORT, END, LONGEST, READY, Job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk._configuration.ready import Ready
    from trio_wsk._serving.server import Server

__all__ = ["work"]

FAILED: Final = 1
"""The exit status of a worker that could not begin, and has said why."""


def work(descriptor: int) -> None:
    """Be a worker until told to end.

    Args:
      descriptor: Our end of the pair that the supervisor has made.

    Raises:
      SystemExit: there is nothing to serve; the supervisor has been told why.
    """
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    message = channel.recv(LONGEST)
    if not message:
        raise SystemExit(FAILED)  # the supervisor has ended meanwhile
    job = Job.unpacked(message)
    ready = _made_ready(job, channel)
    trio.run(_serve, job, ready, channel)


def _made_ready(job: Job, channel: socket.socket) -> Ready:
    look_in_working_directory()
    try:
        return made_ready(job.configuration)
    except ConfigurationError as error:
        _say(channel, str(error))
    except Exception as error:  # noqa: BLE001 - of the module that is imported
        traceback.print_exc()
        _say(channel, f"{job.configuration.handler}: {type(error).__name__}: {error}")
    sys.exit(FAILED)


def _say(channel: socket.socket, text: str) -> None:
    channel.send(text.encode()[:LONGEST])


@final
class _KeptPlace(AdoptedPlace):
    """Sockets that are left to others, as long as there are others."""

    is_left = True

    @property
    def is_shared(self) -> bool:
        """Whether who waits in the queue is not ours to take before the end."""
        return self.is_left


async def _serve(job: Job, ready: Ready, channel: socket.socket) -> None:
    place = _KeptPlace(job.sockets, backlog=None)
    options: dict[str, Any] = {
        **ready.options,
        "transport": PortableTransport(place),
        "signals": ENDING_SIGNALS,
    }
    function: Any = serve_events if isinstance(ready.handler, ListenDispatch) else serve
    talk = trio.socket.from_stdlib_socket(channel)
    async with trio.open_nursery() as nursery:
        serving = partial(function, ready.handler, **options)
        server: Server = await nursery.start(_until_over, serving, nursery.cancel_scope)
        with suppress(OSError):  # the supervisor has ended, as will be noticed next
            await talk.send(READY)
        nursery.start_soon(_obey, server, place, job, talk, nursery)


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
    job: Job,
    talk: trio.socket.SocketType,
    nursery: trio.Nursery,
) -> None:
    """Do what the supervisor says, until there is none."""
    while True:
        word = await _heard(talk)
        if word == ABORT:
            server.abort()
            return
        # Without a supervisor nobody is left who would serve those in the queues.
        place.is_left = not job.is_last or word not in {END, b""}
        nursery.start_soon(_drain, server)
        if not word:
            return


async def _heard(talk: trio.socket.SocketType) -> bytes:
    """Return the next word; nothing when there is no supervisor any more."""
    try:
        return await talk.recv(LONGEST)
    except ConnectionResetError:  # it has left unread what we have said
        return b""  # noqa: ASYNC910 - it was waited for


async def _drain(server: Server) -> None:  # noqa: ASYNC910 - a task of its own
    with suppress(SocketBusyError, SocketClosedError):  # a signal has done so
        await server.drain()
