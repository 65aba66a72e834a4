"""What a check of the conformance suite is, and when it can't be made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, final

from trio_wsk._vocabulary.verdict import InspectPoint

from ._stage import open_stage

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._harness import AnyHarness, ClientT, TransportHarness
    from ._stage import Stage

__all__ = [
    "TransportCheck",
    "after_handshake",
    "before_handshake",
    "can_come_again",
    "can_fail_accept",
    "check",
    "has_reset",
    "tells_end_behind_data",
]


@final
class TransportCheck:
    """One rule of the contract: ``await check(harness)`` holds a transport to it."""

    def __init__(
        self,
        function: Callable[[Stage], Awaitable[None]],
        conditions: tuple[Callable[[AnyHarness], str], ...],
    ) -> None:
        """Made by the suite, never by you."""
        self._function = function
        self._conditions = conditions
        self.name: str = function.__name__
        """A name for it, as an identifier."""
        self.claim: str = " ".join((function.__doc__ or "").split())
        """What it checks, in a sentence."""

    def __repr__(self) -> str:
        return f"<TransportCheck {self.name}>"

    def why_not(self, harness: TransportHarness[ClientT]) -> str:
        """Say why the check can't be made with this harness; ``""`` if it can."""
        given: AnyHarness = harness  # type: ignore[assignment] # only its attributes are looked at
        return next(filter(None, (condition(given) for condition in self._conditions)), "")

    async def __call__(self, harness: TransportHarness[ClientT]) -> None:
        """Hold a fresh transport of this harness to the rule.

        Raises:
          AssertionError: it is broken; the message says how, in a sentence.
          Exception: whatever else the transport raises.
        """
        try:
            async with open_stage(harness) as stage:
                await self._function(stage)
        except BaseExceptionGroup as group:
            raise _lone(group) from None


def _lone(error: BaseException) -> BaseException:
    """Take an exception out of the groups that nurseries have put it in, if it is the only one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def check(
    *conditions: Callable[[AnyHarness], str],
) -> Callable[[Callable[[Stage], Awaitable[None]]], TransportCheck]:
    """Make a check of a function whose docstring is its claim.

    Args:
      conditions: Each says why the check can't be made with a harness, or ``""``.
    """

    def made(function: Callable[[Stage], Awaitable[None]]) -> TransportCheck:
        return TransportCheck(function, conditions)

    return made


# --- Conditions -------------------------------------------------------------------------------


def after_handshake(harness: AnyHarness) -> str:
    """Only where requests appear after the handshake."""
    is_after = harness.inspect_point is InspectPoint.AFTER_HANDSHAKE
    return "" if is_after else "there are no octets before the handshake"


def before_handshake(harness: AnyHarness) -> str:
    """Only where requests appear before the handshake."""
    is_before = harness.inspect_point is InspectPoint.BEFORE_HANDSHAKE
    return "" if is_before else "the handshake is over when requests appear"


def has_reset(harness: AnyHarness) -> str:
    """Only where a reset is something of its own."""
    return "" if harness.has_reset else "a reset can't be told from an end in good order"


def tells_end_behind_data(harness: AnyHarness) -> str:
    """Only where an end behind unread data is seen."""
    return "" if harness.tells_end_behind_data else "an end behind unread data can't be seen"


def can_fail_accept(harness: AnyHarness) -> str:
    """Only where errors can be had on demand."""
    return "" if harness.can_fail_accept else "the harness can't make accept fail"


def can_come_again(harness: AnyHarness) -> str:
    """Only where a client can have the address of another one."""
    return "" if harness.can_come_again else "the harness can't say where a client comes from"
