"""Aborted requests: told once (WskAbortEvent), and remembered for who completes them late.

Source: PFN_WSK_ABORT_EVENT.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk._engine.pump import Pump
    from trio_wsk._vocabulary.verdict import InspectId

    from .request import ConnectionRequest

__all__ = ["Aborts"]

REMEMBERED_MOST: Final = 16384
"""How many requests that were aborted are remembered by number, for who completes them late."""


@final
class Aborts:
    """The aborted requests of one listening socket.

    Args:
      pump: Where the callback is called.
      callback: ``ListenDispatch.abort``, if there is one.
    """

    def __init__(self, pump: Pump, callback: Callable[[InspectId], object] | None) -> None:
        self.by_number: dict[int, ConnectionRequest] = {}
        """The requests whose callback has not returned."""
        self._pump = pump
        self._callback = callback
        self._remembered: OrderedDict[int, None] = OrderedDict()

    def remembers(self, number: int) -> bool:
        """Whether the request of this number was aborted, and not too long ago."""
        return number in self._remembered

    def tell_later(self, request: ConnectionRequest) -> None:
        """Have the callback called, in the pump."""
        self.by_number[request._number] = request
        self._pump.post(partial(self._tell, request))

    def _tell(self, request: ConnectionRequest) -> None:
        try:
            if self._callback is not None:
                context = self._pump.context.copy()
                self._pump.call("abort", request, context, self._callback, request.inspect_id)
        finally:
            number = request._number
            del self.by_number[number]
            self._remembered[number] = None
            if len(self._remembered) > REMEMBERED_MOST:
                self._remembered.popitem(last=False)
