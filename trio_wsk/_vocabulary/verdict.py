"""The vocabulary of conditional accept: what is asked, what can be answered, what came of it.

`InspectAction` has WSK's values, whose zero is "reject": what is forgotten is refused. A
`Verdict` says more than yes or no: why, for the counters, and how the peer is told.

Source: WSK_INSPECT_ACTION, WSK_INSPECT_ID; SO_CONDITIONAL_ACCEPT for what the peer sees.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from .errors import InvalidParameterError

__all__ = [
    "MESSAGE_LIMIT",
    "PLAIN",
    "AbortReason",
    "CloseStyle",
    "InspectAction",
    "InspectId",
    "InspectPoint",
    "Overflow",
    "OverflowPolicy",
    "Verdict",
    "as_verdict",
]

MESSAGE_LIMIT: Final = 4096
"""How many octets a last message may have: what every send buffer takes at once, so that
turning a peer away never waits for it. Linux's smallest holds 4.5 KiB (tcp(7), tcp_wmem)."""

_SLUG: Final = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_SLUG_LIMIT: Final = 64


class InspectAction(enum.Enum):
    """What becomes of a connection request.

    A plain `Enum`: ``True``, ``1`` and ``None`` are no verdicts.

    Source: WSK_INSPECT_ACTION.
    """

    REJECT = 0
    """Refuse it. Nothing else is heard of it."""
    ACCEPT = 1
    """Let it through: it is delivered, or, if it dies before that, aborted."""
    PEND = 2
    """Keep it until `ListeningSocket.inspect_complete` says which."""

    if not TYPE_CHECKING:
        # Members are singletons; the inherited hash is a Python function, which is too slow here.
        __hash__ = object.__hash__


class InspectPoint(enum.Enum):
    """When a connection request is inspected, and so what its peer sees of it."""

    BEFORE_HANDSHAKE = "before-handshake"
    """Before SYN is answered: the peer's ``connect()`` waits for the verdict, and fails with it."""
    AFTER_HANDSHAKE = "after-handshake"
    """After the kernel has answered: the peer's ``connect()`` has succeeded already."""


class CloseStyle(enum.Enum):
    """How a rejected peer is told."""

    RESET = "reset"
    """RST: at once, and it costs nothing further. Every transport can."""
    FIN = "fin"
    """FIN: an end in good order, without a word."""
    MESSAGE = "message"
    """A few octets, then FIN, then a short wait for the peer to have read them."""
    SILENT = "silent"
    """Nothing: the peer finds out by itself. It needs the transport's help, or privileges."""


class AbortReason(enum.Enum):
    """Why a connection request ended that was not rejected: who has left, or who ended it."""

    RESET = "reset"
    """The peer reset it."""
    FIN = "fin"
    """The peer ended it in good order."""
    SILENT = "silent"
    """The peer stopped asking, or never answered our yes."""
    TIMED_OUT = "timed-out"
    """There was no verdict within ``inspect_timeout``."""
    EVICTED = "evicted"
    """There was no room for it, or it had to make room for a newer one."""
    CLOSED = "closed"
    """The listening socket was closed."""
    FAILED = "failed"
    """The listening socket failed."""


@attrs.frozen(order=True)
class InspectId:
    """Names one connection request, by content.

    It is never used again in this process: its ``key`` may be, its ``serial_number`` is not.
    The values mean nothing.

    Source: WSK_INSPECT_ID.
    """

    key: int
    """The same for all requests of one listening socket."""
    serial_number: int
    """Different for all requests of this process."""


def _action(_verdict: Verdict, _field: attrs.Attribute[Any], action: object) -> None:
    if not isinstance(action, InspectAction):
        raise InvalidParameterError(
            f"a verdict's action is InspectAction.ACCEPT, REJECT or PEND, not {action!r}"
        )


def _reason(_verdict: Verdict, _field: attrs.Attribute[Any], reason: object) -> None:
    if reason == "":
        return
    if not isinstance(reason, str) or len(reason) > _SLUG_LIMIT or _SLUG.fullmatch(reason) is None:
        raise InvalidParameterError(
            f"a verdict's reason is a short slug to count by, such as 'over-quota', not {reason!r}"
        )


def _close(verdict: Verdict, _field: attrs.Attribute[Any], close: object) -> None:
    if close is not CloseStyle.RESET and verdict.action is not InspectAction.REJECT:
        raise InvalidParameterError(
            f"close={close!r} is for who is rejected, and {verdict.action} rejects nobody; write"
            f" Verdict(InspectAction.REJECT, close={close!r}), or leave it out"
        )
    if isinstance(close, bytes) and 0 < len(close) <= MESSAGE_LIMIT:
        return
    if not isinstance(close, CloseStyle) or close is CloseStyle.MESSAGE:
        raise InvalidParameterError(
            "a verdict's close is CloseStyle.RESET, FIN or SILENT, or a message of"
            f" 1 to {MESSAGE_LIMIT} octets before FIN, such as b'421 busy\\r\\n', not {close!r}"
        )


@attrs.frozen
class Verdict:
    """An answer to a connection request, in full: what, why, and how the peer is told.

    Raises:
      InvalidParameterError: an argument is wrong. (Yours.)
    """

    action: InspectAction = attrs.field(validator=_action)
    """What becomes of the request."""
    reason: str = attrs.field(default="", validator=_reason)
    """Why, as a short slug: rejections are counted by it. Empty counts as ``rejected``.

    Take it from your rules, not from the peer: a few dozen are counted, the rest as ``other``.
    """
    close: CloseStyle | bytes = attrs.field(default=CloseStyle.RESET, validator=_close)
    """How a rejected peer is told; octets are a message before FIN. Refused with another action."""

    @property
    def style(self) -> CloseStyle:
        """The style of ``close``: `CloseStyle.MESSAGE` for octets."""
        return CloseStyle.MESSAGE if isinstance(self.close, bytes) else self.close


PLAIN: Final = {action: Verdict(action) for action in InspectAction}
"""What an action alone means, in full."""


def as_verdict(answer: object) -> Verdict | None:
    """Read an inspector's answer; None if it is none."""
    if isinstance(answer, Verdict):
        return answer
    return PLAIN[answer] if isinstance(answer, InspectAction) else None


OverflowPolicy = Literal["wait", "reset", "evict"]


def _policy(_overflow: Overflow, field: attrs.Attribute[Any], policy: object) -> None:
    if policy not in ("wait", "reset", "evict"):
        raise InvalidParameterError(
            f"overflow={field.name!r} is one of 'wait', 'reset' and 'evict', not {policy!r}"
        )


@attrs.frozen(kw_only=True)
class Overflow:
    """What happens to connection requests beyond a limit, chosen per limit.

    ``"wait"``: newcomers wait in the kernel's backlog until there is room, as long as that
    lasts. ``"reset"``: newcomers are reset. ``"evict"``: the oldest makes room; its inspection
    is cancelled, it is aborted and reset.
    """

    pending: OverflowPolicy = attrs.field(default="wait", validator=_policy)
    """Beyond ``max_pending``."""
    parked: OverflowPolicy = attrs.field(default="wait", validator=_policy)
    """Beyond ``max_parked``."""
