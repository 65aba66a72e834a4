"""Turning peers away: with a reset, with FIN, with a message, or without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.verdict import CloseStyle

if TYPE_CHECKING:
    from trio_wsk._vocabulary.verdict import Verdict
    from trio_wsk.transports._contract import Transport, TransportRequest

__all__ = ["Farewell", "TurningAway"]


class Farewell(Protocol):
    """How peers are told why they are turned away: what inspection needs of connections."""

    def say(self, request: TransportRequest, message: bytes) -> CloseStyle:
        """Answer a request with a message and FIN; return how it could be answered."""


@final
class TurningAway:
    """The ways in which peers can be turned away from one listening socket.

    Args:
      transport: Where the requests come from.
      inspector: Whoever turns them away; its attribute ``close_styles`` says how, if it has one.
      farewell: For messages.

    Raises:
      InvalidParameterError: the inspector wants to turn peers away as can't be had here.
    """

    def __init__(self, transport: Transport, inspector: object, farewell: Farewell) -> None:
        styles = transport.close_styles()
        if CloseStyle.FIN in styles:
            styles |= {CloseStyle.MESSAGE}
        missing = set(getattr(inspector, "close_styles", ())) - styles
        if missing:
            names = ", ".join(sorted(str(each) for each in missing))
            raise InvalidParameterError(
                f"the inspector {inspector!r} turns peers away with {names}, which can't be"
                f" had {transport.inspect_point.value.replace('-', ' the ')} on {transport!r}"
            )
        self._styles = styles
        self._farewell = farewell

    def turn_away(self, request: TransportRequest, verdict: Verdict) -> CloseStyle:
        """Close as the verdict says, or as can be; return how."""
        style = verdict.style
        if style is CloseStyle.RESET or style not in self._styles:
            request.reset()
            return CloseStyle.RESET
        if style is CloseStyle.SILENT:
            return style if request.silence() else CloseStyle.RESET
        if style is CloseStyle.FIN:
            request.finish()
            return style
        assert isinstance(verdict.close, bytes)
        return self._farewell.say(request, verdict.close)
