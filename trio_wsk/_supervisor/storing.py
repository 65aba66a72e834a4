"""The service manager's store: what keeps the queues of a supervisor that dies itself.

The listening sockets are sent to the manager, with names, and whoever is started next is passed
them, as by socket activation. So those who wait in a queue wait for the next supervisor. The names
say which place the sockets listen at: those of another one are forgotten.

Sockets that are forgotten are closed by the manager when it comes to that. Until then nobody else
can have their place, so that is waited for before anything is bound.

The manager says in FDSTORE how many descriptors it keeps. One before systemd 254 doesn't, and the
unit has to.

Source: systemd.service(5), FileDescriptorStoreMax=; sd_pid_notify_with_fds(3).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Final, final

from trio_wsk._configuration.places import STORED, place_in_words
from trio_wsk.transports._activation import FIRST_DESCRIPTOR, names_of_descriptors

from .sockets import closed, identity_of, until_free

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._configuration.configuration import Configuration
    from trio_wsk.transports._service_manager import ServiceManager

    from .notifying import Notifying
    from .sockets import KeptSockets

__all__ = ["Store", "take_stored"]

_DIGITS: Final = 16
"""Of a place's digest: two places that somebody has had won't have the same ones."""


@final
class Store:
    """What the manager keeps.

    Args:
      manager: The manager, if there is one.
      say: Is given what an operator should know.
    """

    def __init__(self, manager: ServiceManager | None, say: Callable[[str], object]) -> None:
        self._manager = manager
        self._keeps = 0 if manager is None else manager.keeps
        self._say = say
        self._kept: dict[str, int] = {}
        """How many descriptors it keeps by each name, of those that are ours."""

    @property
    def keeps_any(self) -> bool:
        """Whether the manager keeps something of what is listened at here, after our end, too."""
        return bool(self._kept)

    async def taken(self, configuration: Configuration) -> list[list[int]]:
        """Take what the manager passes of this place, by queue; nothing, if it passes none.

        Raises:
          InvalidParameterError: the manager contradicts itself.
        """
        queues = await take_stored(self._manager, _beginning_of(configuration))
        self._kept = {name: len(queue) for name, queue in queues.items()}
        return list(queues.values())

    def keep(
        self, sockets: KeptSockets, configuration: Configuration, notifying: Notifying
    ) -> None:
        """Have the manager keep those of the sockets that it doesn't keep yet."""
        beginning = _beginning_of(configuration)
        if beginning is None or not self._keeps:
            return
        for number, queue in enumerate(sockets.descriptors):
            name = f"{beginning}{number}"
            if name in self._kept:
                continue
            if self._wants(len(queue)) > self._keeps:
                self._complain(sockets)
                return
            notifying.keep(name, queue)
            self._kept[name] = len(queue)

    def _wants(self, more: int) -> int:
        return sum(self._kept.values()) + more

    def _complain(self, sockets: KeptSockets) -> None:
        wanted = sum(map(len, sockets.descriptors))
        self._say(
            f"the service manager keeps {self._keeps} sockets of {wanted}; if this supervisor dies,"
            f" who waits in the others is lost: FileDescriptorStoreMax={wanted} keeps all"
        )


async def take_stored(manager: ServiceManager | None, ours: str | None) -> dict[str, list[int]]:
    """Take what is passed of one place, and have what is of others forgotten.

    Returns when those places are free, unless somebody else has them.

    Args:
      manager: Who keeps it, if there is one.
      ours: What the names of the place's queues begin with; None if all is to be forgotten.

    Returns:
      The descriptors, by the name of their queue.

    Raises:
      InvalidParameterError: the manager contradicts itself.

    Always a checkpoint. If cancelled, what is of others is closed here, at least.
    """
    queues: dict[str, list[int]] = {}
    for fd, name in enumerate(names_of_descriptors(), FIRST_DESCRIPTOR):
        if name.startswith(STORED):
            queues.setdefault(name, []).append(fd)
    stale = [name for name in queues if ours is None or not name.startswith(ours)]
    places = [closed(fd) for name in stale for fd in queues.pop(name)]
    if manager is not None:
        for name in stale:
            await manager.tell("FDSTOREREMOVE=1", f"FDNAME={name}")
    await until_free(places)
    return queues


def _beginning_of(configuration: Configuration) -> str | None:
    """Return what the names of a place's queues begin with; None if its sockets aren't ours."""
    if configuration.port is None and configuration.path is None:
        return None
    place = [*place_in_words(configuration), identity_of(configuration.path)]
    digest = hashlib.sha256(json.dumps(place).encode()).hexdigest()
    return f"{STORED}{digest[:_DIGITS]}-"
