"""What the conformance suite has to know of a transport, and what one of its checks is."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar, final

import trio

from trio_wsk._vocabulary.verdict import InspectPoint

from ._stage import open_stage

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio_wsk import Address
    from trio_wsk.transports import Transport

    from ._stage import Stage

__all__ = ["TransportCheck", "TransportHarness", "check"]

ClientT = TypeVar("ClientT", bound=trio.abc.HalfCloseableStream)
"""The clients of a harness: half-closeable streams."""


class TransportHarness(ABC, Generic[ClientT]):
    """How `check_transport` gets hold of a transport, and of clients for it.

    Subclass it. The attributes say what a transport can't do for reasons that are not its own;
    the checks that would ask for it are left out, or ask for less.
    """

    inspect_point: InspectPoint = InspectPoint.AFTER_HANDSHAKE
    """When the requests appear. A transport that can do both has two harnesses."""

    has_reset: bool = True
    """Whether either side can tell a reset from an end in good order. Unix sockets can't."""

    tells_end_behind_data: bool = True
    """Whether an end behind unread data is told. Trio's own waits can't see it."""

    can_fail_accept: bool = False
    """Whether `fail_accept` is there."""

    patience: float = 10.0
    """Seconds on Trio's clock: what has not happened by then has failed to happen."""

    quiet_seconds: float = 0.05
    """Seconds on Trio's clock: what has not happened by then will not happen."""

    @abstractmethod
    def transport(self) -> Transport:
        """Make a transport, not bound, on an address that is free."""

    @abstractmethod
    async def connect(self, address: Address) -> ClientT:
        """Connect a client to one of the transport's addresses.

        Raises:
          OSError: it was refused, or nobody answered.

        If cancelled, the client gives up.
        """

    @abstractmethod
    def reset(self, client: ClientT) -> None:
        """Close a client with a reset."""

    def address_of(self, client: ClientT) -> Address | None:  # noqa: ARG002 - others know it
        """Return the client's own address, if the transport is to know it by that; else None."""
        return None

    def fail_accept(self, transport: Transport, error: OSError) -> None:
        """Have the transport meet this error of the system when it takes its next request.

        It is called while the transport listens, and `Transport.next_request` right after it.
        """
        raise NotImplementedError


@final
class TransportCheck:
    """One rule of the contract: ``await check(harness)`` holds a transport to it."""

    def __init__(
        self,
        function: Callable[[Stage], Awaitable[None]],
        conditions: tuple[Callable[[TransportHarness[trio.abc.HalfCloseableStream]], str], ...],
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
        given: TransportHarness[trio.abc.HalfCloseableStream] = harness  # type: ignore[assignment] # only its attributes are looked at
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
    *conditions: Callable[[TransportHarness[trio.abc.HalfCloseableStream]], str],
) -> Callable[[Callable[[Stage], Awaitable[None]]], TransportCheck]:
    """Make a check of a function whose docstring is its claim.

    Args:
      conditions: Each says why the check can't be made with a harness, or ``""``.
    """

    def made(function: Callable[[Stage], Awaitable[None]]) -> TransportCheck:
        return TransportCheck(function, conditions)

    return made


# --- Conditions -------------------------------------------------------------------------------

AnyHarness = TransportHarness[trio.abc.HalfCloseableStream]


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
