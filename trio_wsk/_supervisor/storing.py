"""The service manager's store: what keeps the queues of a supervisor that dies itself.

The listening sockets are sent to the manager, with names, and whoever is started next is passed
them, as by socket activation. So those who wait in a queue wait for the next supervisor. The names
say which place the sockets listen at: those of another one are forgotten.

The manager says in FDSTORE how many descriptors it keeps. One before systemd 254 doesn't, and the
unit has to.

Source: systemd.service(5), FileDescriptorStoreMax=; sd_pid_notify_with_fds(3).
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Final, final

from trio_wsk._configuration.places import STORED, place_in_words
from trio_wsk.transports._activation import FIRST_DESCRIPTOR, names_of_descriptors

from .sockets import identity_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._configuration.configuration import Configuration

    from .notifying import Notifying
    from .sockets import KeptSockets

__all__ = ["Store"]

_DIGITS: Final = 16
"""Of a place's digest: two places that somebody has had won't have the same ones."""


@final
class Store:
    """What the manager keeps.

    Args:
      keeps: How many descriptors it keeps.
      say: Is given what an operator should know.
    """

    def __init__(self, keeps: int, say: Callable[[str], object]) -> None:
        self._keeps = keeps
        self._say = say
        self._kept: dict[str, int] = {}
        """How many descriptors it keeps by each name, of those that are ours."""
        self._stale: set[str] = set()

    @property
    def has_all(self) -> bool:
        """Whether what is listened at stays there when we have ended."""
        return bool(self._kept)

    def taken(self, configuration: Configuration) -> list[list[int]]:
        """Take what the manager passes of this place, by queue; nothing, if it passes none.

        Raises:
          InvalidParameterError: the manager contradicts itself.
        """
        ours = _beginning_of(configuration)
        queues: dict[str, list[int]] = {}
        for fd, name in enumerate(names_of_descriptors(), FIRST_DESCRIPTOR):
            if ours is not None and name.startswith(ours):
                queues.setdefault(name, []).append(fd)
            elif name.startswith(STORED):
                os.close(fd)
                self._stale.add(name)
        self._kept = {name: len(queue) for name, queue in queues.items()}
        return list(queues.values())

    def keep(
        self, sockets: KeptSockets, configuration: Configuration, notifying: Notifying
    ) -> None:
        """Have the manager keep those of the sockets that it doesn't keep yet."""
        for name in self._stale:
            notifying.forget(name)
        self._stale = set()
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


def _beginning_of(configuration: Configuration) -> str | None:
    """Return what the names of a place's queues begin with; None if its sockets aren't ours."""
    if configuration.port is None and configuration.path is None:
        return None
    place = [*place_in_words(configuration), identity_of(configuration.path)]
    digest = hashlib.sha256(json.dumps(place).encode()).hexdigest()
    return f"{STORED}{digest[:_DIGITS]}-"
