"""The listening sockets of a supervisor, which outlive its workers.

On a TCP port each worker has a queue of its own: one socket for each address, with SO_REUSEPORT,
and the kernel deals the connections out by their addresses. As long as the supervisor holds the
socket, what waits in the queue waits for the worker's successor. They are bound here, and listen as
soon as a worker does: until then peers are refused.

The first one is bound alone, and may be joined afterwards: so a port that another server has is
taken, also if that one would share it.

Unix sockets, and sockets from elsewhere, are one queue that all workers share, and so is a port if
that is asked for.

Source: socket(7), SO_REUSEPORT.
"""

from __future__ import annotations

import errno
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from trio_wsk._configuration.places import place_of
from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports._adopting import AdoptedPlace
from trio_wsk.transports._binding import TcpPlace
from trio_wsk.transports._places import close_all
from trio_wsk.transports._unix import UnixPlace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_wsk._configuration.configuration import Configuration
    from trio_wsk.transports._places import Place

__all__ = [
    "KeptSockets",
    "closed",
    "identity_of",
    "more_queues",
    "open_sockets",
    "sockets_taken_over",
    "until_free",
]

_FREE: Final = 5.0
"""Seconds that a service manager may take to close what it keeps no more; then whoever wants the
place is told that it is taken."""

_AGAIN: Final = 0.01
"""Seconds after which to look again: the kernel tells nobody that a place is free."""


@final
class KeptSockets:
    """Listening sockets that are kept for workers.

    Args:
      queues: The sockets; those of one queue serve together all that is to be listened at.
      are_ours: Whether nobody else holds them.
      path: The Unix path that is to be removed at the end.
    """

    def __init__(
        self, queues: list[list[socket.socket]], *, are_ours: bool, path: str | None
    ) -> None:
        self.queues: Final = queues
        self.are_ours: Final = are_ours
        self._path = path
        self._identity = identity_of(path)

    @property
    def addresses(self) -> list[Address]:
        """Where they listen."""
        if self._path is not None:
            return [Address.unix(self._path)]  # the kernel knows the name that it was bound to
        return [Address.from_sockaddr(sock.family, sock.getsockname()) for sock in self.queues[0]]

    @property
    def descriptors(self) -> list[list[int]]:
        """Their descriptors, by queue."""
        return [[sock.fileno() for sock in queue] for queue in self.queues]

    def dealt(self, workers: int) -> list[list[int]]:
        """Return the descriptors for each worker: none has no queue, and no queue has none.

        Where there are more queues than workers, some have several; a queue that nobody has any
        more would be lost, with those who wait in it.
        """
        queues = self.descriptors
        dealt: list[list[int]] = [[] for _ in range(workers)]
        for number in range(max(workers, len(queues))):
            dealt[number % workers] += queues[number % len(queues)]
        return dealt

    def duplicated(self) -> list[socket.socket]:
        """Return what listens with those of the first queue, for somebody to close."""
        return [sock.dup() for sock in self.queues[0]]

    def forget(self, count: int) -> None:
        """Close all queues but the first so many: nobody serves the others, nor will."""
        close_all(sock for queue in self.queues[count:] for sock in queue)
        del self.queues[count:]

    def hand_over(self) -> None:
        """Leave them to who has them already: another supervisor, or the service manager."""
        self._identity = None
        self.close()

    def close(self) -> None:
        """Close them, and remove the path if it is still ours. Never raises, idempotent."""
        if self._path is not None and self._identity is not None:
            try:
                if identity_of(self._path) == self._identity:
                    Path(self._path).unlink()
            except OSError:
                pass  # somebody has removed it, or has taken our permission to do so
        self._identity = None
        close_all(sock for queue in self.queues for sock in queue)


async def open_sockets(configuration: Configuration, workers: int) -> KeptSockets:
    """Take the addresses of a configuration.

    Raises:
      BindError: one can't be had.
      ConfigurationError, InvalidParameterError: there is none, or the service manager contradicts
        itself.
    """
    if configuration.port is not None:
        queues = await _queues_of_port(configuration, workers)
        return KeptSockets(queues, are_ours=True, path=None)
    if configuration.path is not None:
        unix = UnixPlace(configuration.path, mode=configuration.mode, backlog=None)
        queue = await _bound(unix)
        unix.listen()
        return KeptSockets([queue], are_ours=True, path=_file_of(configuration))
    given = place_of(configuration)["sockets"]
    queue = await _bound(AdoptedPlace(given, backlog=None))
    return KeptSockets([queue], are_ours=False, path=None)


async def more_queues(  # noqa: ASYNC910 - where there are enough, nothing is waited for
    sockets: KeptSockets, configuration: Configuration, workers: int
) -> None:
    """Have a queue for each of more workers, where workers have queues of their own."""
    if configuration.port is None or configuration.shared_queue:
        return  # noqa: ASYNC910 - as it says
    port = sockets.addresses[0].port
    while len(sockets.queues) < workers:
        sockets.queues.append(await _bound(_port(configuration, port, reuse_port=True)))


def sockets_taken_over(configuration: Configuration, descriptors: list[list[int]]) -> KeptSockets:
    """Take over what another supervisor has passed to us, or has had kept."""
    queues = [[socket.socket(fileno=fd) for fd in queue] for queue in descriptors]
    for queue in queues:
        for sock in queue:
            sock.set_inheritable(False)
    are_ours = configuration.port is not None or configuration.path is not None
    return KeptSockets(queues, are_ours=are_ours, path=_file_of(configuration))


async def _queues_of_port(configuration: Configuration, workers: int) -> list[list[socket.socket]]:
    assert configuration.port is not None
    first = await _bound(_port(configuration, configuration.port, reuse_port=False))
    queues = KeptSockets([first], are_ours=True, path=None)
    try:
        if not configuration.shared_queue:
            for sock in first:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            await more_queues(queues, configuration, workers)
    except BaseException:
        queues.close()
        raise
    return queues.queues


def _port(configuration: Configuration, port: int, *, reuse_port: bool) -> TcpPlace:
    return TcpPlace(
        port, configuration.host, backlog=None, reuse_port=reuse_port, socket_options=()
    )


async def _bound(place: Place) -> list[socket.socket]:
    return [bound.socket for bound in await place.bind()]


def _file_of(configuration: Configuration) -> str | None:
    """Return the path that is a file's, if there is one."""
    path = configuration.path
    return None if path is None or path.startswith("\0") else path


@attrs.frozen
class _Listened:
    """Where somebody has listened, in the kernel's words."""

    family: socket.AddressFamily
    address: Any


def closed(descriptor: int) -> _Listened:
    """Close what listens; return where."""
    with socket.socket(fileno=descriptor) as sock:
        return _Listened(sock.family, sock.getsockname())


async def until_free(places: Iterable[_Listened]) -> None:
    """Wait until nobody listens at these places any more, or for a few seconds."""
    with trio.move_on_after(_FREE):
        for place in places:
            while _is_taken(place):  # noqa: ASYNC110 - as `_AGAIN` says
                await trio.sleep(_AGAIN)
    await trio.lowlevel.checkpoint()


def _is_taken(place: _Listened) -> bool:
    with socket.socket(place.family) as sock:
        sock.settimeout(0)
        try:
            if place.family == socket.AF_UNIX:
                sock.connect(place.address)  # a path stays bound to the file that is left
                return True
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(place.address)
        except OSError as error:
            return error.errno in {errno.EADDRINUSE, errno.EAGAIN}
        return False


def identity_of(path: str | None) -> tuple[int, int] | None:
    """Say what tells a socket's file from another one; None if there is none."""
    if path is None:
        return None
    try:
        found = Path(path).lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None
