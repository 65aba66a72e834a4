"""Turning peers away: with a reset, with FIN, with a message, or without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, final

from trio_wsk._vocabulary.errors import InvalidParameterError
from trio_wsk._vocabulary.verdict import CloseStyle, InspectPoint

from .two_stages import stages_of

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
        self._styles = {
            InspectPoint.AFTER_HANDSHAKE: _with_messages(transport.close_styles_when_established()),
            transport.inspect_point: _with_messages(transport.close_styles()),
        }
        stages = stages_of(inspector)
        if stages is None or transport.inspect_point is InspectPoint.AFTER_HANDSHAKE:
            wanted = [(inspector, transport.inspect_point)]
        else:
            wanted = [
                (stages.before_handshake, InspectPoint.BEFORE_HANDSHAKE),
                (stages.after_handshake, InspectPoint.AFTER_HANDSHAKE),
            ]
        for asked, stage in wanted:
            missing = set(getattr(asked, "close_styles", ())) - self._styles[stage]
            if missing:
                names = ", ".join(sorted(str(each) for each in missing))
                raise InvalidParameterError(
                    f"the inspector {inspector!r} turns peers away with {names}, which can't be"
                    f" had {stage.value.replace('-', ' the ')} on {transport!r}"
                )
        self._farewell = farewell

    def turn_away(
        self, request: TransportRequest, verdict: Verdict, stage: InspectPoint
    ) -> CloseStyle:
        """Close as the verdict says, or as can be at this stage; return how."""
        style = verdict.style
        if style is CloseStyle.RESET or style not in self._styles[stage]:
            request.reset()
            return CloseStyle.RESET
        if style is CloseStyle.SILENT:
            return style if request.silence() else CloseStyle.RESET
        if style is CloseStyle.FIN:
            request.finish()
            return style
        assert isinstance(verdict.close, bytes)
        return self._farewell.say(request, verdict.close)


def _with_messages(styles: frozenset[CloseStyle]) -> frozenset[CloseStyle]:
    """Add what is the listening socket's work: a message, where FIN can follow it."""
    return styles | {CloseStyle.MESSAGE} if CloseStyle.FIN in styles else styles
