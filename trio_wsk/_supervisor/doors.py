"""Where a supervisor itself is spoken to, beside what its workers serve: the control socket.

These sockets are kept as those of the workers are, so that another supervisor takes them over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._configuration.configuration import Configuration
from trio_wsk.control._serving import OWNER_ONLY, serve_commands

from .sockets import open_sockets, sockets_taken_over

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_wsk.control._protocol import Commands

    from .sockets import KeptSockets

__all__ = ["Doors", "open_doors"]

CONTROL: Final = "control"


@final
class Doors:
    """The places, and who serves there.

    Args:
      sockets: By what they are for.
    """

    def __init__(self, sockets: Mapping[str, KeptSockets]) -> None:
        self._sockets = sockets
        self._scope = trio.CancelScope()

    @property
    def descriptors(self) -> dict[str, list[list[int]]]:
        """Their descriptors, to be handed over."""
        return {name: each.descriptors for name, each in self._sockets.items()}

    async def serve(self, commands: Commands, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve at all of them, until told to stop.

        Args:
          commands: Who does what is asked for at the control socket.
          task_status: Told when all are served.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                if CONTROL in self._sockets:
                    sockets = self._sockets[CONTROL].duplicated()
                    await nursery.start(serve_commands, commands, {"sockets": sockets})
                task_status.started()

    def stop(self) -> None:
        """Serve nobody any more."""
        self._scope.cancel(reason="the supervisor is over")

    def hand_over(self) -> None:
        """Leave them to another supervisor, who has them already."""
        self.stop()
        for each in self._sockets.values():
            each.hand_over()

    def close(self) -> None:
        """Close them; idempotent."""
        for each in self._sockets.values():
            each.close()


async def open_doors(  # noqa: ASYNC910 - there may be none
    configuration: Configuration, inherited: Mapping[str, list[list[int]]] | None
) -> Doors:
    """Open them, or take them over.

    Raises:
      BindError: one can't be had.
    """
    opened: dict[str, KeptSockets] = {}
    doors = Doors(opened)
    try:
        for name, place in _places(configuration).items():
            if inherited is None:
                opened[name] = await open_sockets(place, 1)
            else:
                opened[name] = sockets_taken_over(place, inherited[name])
    except BaseException:
        doors.close()
        raise
    return doors  # noqa: ASYNC910 - as above


def _places(configuration: Configuration) -> dict[str, Configuration]:
    """Say where they are, each in the words of a configuration."""
    handler, path = configuration.handler, configuration.control
    if path is None:
        return {}
    return {CONTROL: Configuration(handler=handler, path=path, mode=OWNER_ONLY)}
