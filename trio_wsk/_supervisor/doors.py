"""Where a supervisor itself is spoken to: control socket, metrics, and the page for operators.

These sockets are kept as those of the workers are, so that another supervisor takes them over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import trio

from trio_wsk._configuration.configuration import Configuration
from trio_wsk._configuration.options import host_and_port
from trio_wsk._configuration.page import page_of
from trio_wsk.control._serving import OWNER_ONLY, serve_commands

from .sockets import open_sockets, sockets_taken_over

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_wsk._configuration.page import Page
    from trio_wsk.control._protocol import Commands

    from .measuring import Measuring
    from .sockets import KeptSockets

__all__ = ["Doors", "open_doors"]

CONTROL: Final = "control"
ADMIN: Final = "admin"
METRICS: Final = "metrics"


@final
class Doors:
    """The places, and who serves there.

    Args:
      sockets: By what they are for.
      page: What is served at one of them.
    """

    def __init__(self, sockets: Mapping[str, KeptSockets], page: Page | None) -> None:
        self._sockets = sockets
        self._page = page
        self._scope = trio.CancelScope()

    @property
    def descriptors(self) -> dict[str, list[list[int]]]:
        """Their descriptors, to be handed over."""
        return {name: each.descriptors for name, each in self._sockets.items()}

    def lines(self) -> list[str]:
        """Say where there is something for people to look at."""
        return [] if self._page is None else [self._page.line(self._sockets[ADMIN].addresses[0])]

    async def serve(
        self,
        commands: Commands,
        measuring: Measuring | None,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        """Serve at all of them, until told to stop.

        Args:
          commands: Who does what is asked for at the control socket.
          measuring: Who serves the pages, if there are any.
          task_status: Told when all are served.
        """
        with self._scope:
            async with trio.open_nursery() as nursery:
                if CONTROL in self._sockets:
                    sockets = self._sockets[CONTROL].duplicated()
                    await nursery.start(serve_commands, commands, {"sockets": sockets})
                if self._page is not None:
                    sockets = self._sockets[ADMIN].duplicated()
                    await nursery.start(self._page.serve, commands, {"sockets": sockets})
                if measuring is not None:
                    await nursery.start(measuring.serve, self._sockets[METRICS].duplicated())
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
      ConfigurationError: see `page_of`.
    """
    opened: dict[str, KeptSockets] = {}
    doors = Doors(opened, page_of(configuration))
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
    handler, path, page = configuration.handler, configuration.control, page_of(configuration)
    places: dict[str, Configuration] = {}
    if path is not None:
        places[CONTROL] = Configuration(handler=handler, path=path, mode=OWNER_ONLY)
    if page is not None:
        places[ADMIN] = _of_port(handler, page.host, page.port)
    if configuration.metrics is not None:
        places[METRICS] = _of_port(handler, *host_and_port(configuration.metrics))
    return places


def _of_port(handler: str, host: str, port: int) -> Configuration:
    return Configuration(handler=handler, port=port, host=[host], shared_queue=True)
