"""Counters of a listening socket, and the frozen picture that `statistics()` gives of them."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .listening_state import ListeningState

__all__ = ["DrainReport", "ListeningCounters", "ListeningStatistics", "ServerStatistics"]

REASONS = 64
"""How many different reasons of refusals are counted: they may come from a peer's words."""


@attrs.frozen(kw_only=True)
class ListeningStatistics:
    """What a listening socket has counted since it was opened.

    Every connection that the transport handed over is in exactly one place:
    ``accepted == sum(delivered.values()) + parked + sum(dropped.values())``, and with an
    inspector ``+ pending + sum(rejected.values()) + sum(aborted.values())``.
    """

    state: ListeningState
    """What it does with new peers now."""
    accepted: int
    """Connections, or requests for one, that the transport has handed over."""
    delivered: Mapping[str, int]
    """Of these, delivered by way: ``accept`` (awaited or queued) and ``event``."""
    parked: int
    """Of these, waiting now for somebody to take them."""
    parked_most: int
    """The most that were parked at once."""
    dropped: Mapping[str, int]
    """Of these, closed without being delivered, by reason.

    ``refused`` (by `ListeningSocket.refuse`), ``not-accepted`` (by the accept callback),
    ``accept-failed`` (it raised), ``reset-while-parked`` (the peer left), ``overflowed`` (there
    was no room to inspect it), ``closed`` and ``failed`` (parked when the listening socket
    closed or failed).
    """
    inspected: int
    """Of these, how many an inspector was asked about."""
    let_on: int
    """Of these, let through to their handshake by the first of two stages: the second one was asked
    about those that got there."""
    approved: int
    """Of these, let through: delivered, parked, not yet established, or aborted since."""
    pending: int
    """Of these, undecided now, or let through and not yet established."""
    pending_most: int
    """The most that were pending at once."""
    rejected: Mapping[str, int]
    """Of these, refused, by the verdict's reason.

    ``rejected`` without one, ``inspector-failed`` if the inspector raised, was cancelled by
    itself or answered nonsense, ``other`` when there are too many reasons to count.
    """
    aborted: Mapping[str, int]
    """Of these, ended neither refused nor delivered, by the value of their `AbortReason`."""
    close_fallbacks: int
    """Peers that were reset, because they could not be turned away as the verdict said."""
    straggling: int
    """Inspectors that were cancelled and are still running."""
    callback_failures: Mapping[str, int]
    """Calls of callbacks that raised or answered nonsense, by the callback's name.

    Those of the listening socket (``accept``, ``inspect``, ``abort``, …), of its connections
    (``receive``, ``disconnect``, …), and completion routines (``on_completion``). A connection
    whose callback fails is reset.
    """
    queued_accepts: int
    """Accepts that wait now for a connection."""
    accept_errors: Mapping[str, int]
    """Failed calls of accept by errno name, such as ``ECONNABORTED`` or ``EMFILE``."""
    accept_backoffs: int
    """How often the machine ran out of descriptors or memory."""
    shed: int
    """Peers that were reset before they were accepted, for want of a descriptor."""
    backlog: int | None
    """Connections that wait now in the kernel for accept; None where it can't tell (Linux can)."""
    backlog_limit: int | None
    """How many may wait there."""
    transport: Mapping[str, int]
    """What the transport counts by itself; its documentation says what the names mean."""


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """What a server has counted since it was opened."""

    listening: ListeningStatistics
    """The counts of its listening socket."""
    open_connections: int
    """Connections that are open now: their handler runs, or they are event-driven."""
    open_most: int
    """The most that were open at once."""
    lingering: int
    """Connections that are not open any more, and whose peers have not finished: each holds a
    descriptor, and no permit."""
    served: int
    """Connections that were open, and have ended."""
    ended_idle: int
    """Of these, ended because nothing had passed for ``idle_timeout``."""
    expired: int
    """Of these, ended after their ``max_lifetime`` was over: by themselves, or reset."""
    handler_failures: int
    """Of these, ended because their handler crashed."""
    peers_left: int
    """Of these, ended because the peer went away, or broke TLS; their handler let that through."""
    handshake_failures: Mapping[str, int]
    """Of these, ended before their handler was started, by reason.

    ``timeout``, ``peer-left`` or ``protocol``.
    """
    callback_failures: int
    """Calls of callbacks that failed: all of ``listening.callback_failures``.

    Those of an event-driven connection have ended it, with a reset.
    """


@attrs.frozen(kw_only=True)
class DrainReport:
    """How the connections ended that were open when a drain began."""

    finished: int
    """By themselves, within the grace."""
    reset: int
    """By us, when the grace had run out."""


class ListeningCounters:
    """The running counts. Plain integers, always on."""

    __slots__ = (
        "aborted",
        "accept_backoffs",
        "accept_errors",
        "accepted",
        "approved",
        "callback_failures",
        "close_fallbacks",
        "dropped",
        "inspected",
        "let_on",
        "pending_most",
        "rejected",
        "shed",
        "to_accept",
        "to_event",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.to_accept = 0
        self.to_event = 0
        self.dropped: Counter[str] = Counter()
        self.accept_errors: Counter[str] = Counter()
        self.callback_failures: Counter[str] = Counter()
        self.accept_backoffs = 0
        self.shed = 0
        self.inspected = 0
        self.let_on = 0
        self.approved = 0
        self.pending_most = 0
        self.rejected: Counter[str] = Counter()
        self.aborted: Counter[str] = Counter()
        self.close_fallbacks = 0

    def count_rejected(self, reason: str) -> str:
        """Count a refusal, and return what it was counted as."""
        reason = reason or "rejected"
        if reason not in self.rejected and len(self.rejected) >= REASONS:
            reason = "other"
        self.rejected[reason] += 1
        return reason

    def picture(
        self,
        *,
        state: ListeningState,
        parked: int,
        parked_most: int,
        queued_accepts: int,
        pending: int,
        straggling: int,
        queue_depth: tuple[int, int] | None,
        transport: Mapping[str, int],
    ) -> ListeningStatistics:
        """Freeze the counts, together with what is true now."""
        backlog, backlog_limit = (None, None) if queue_depth is None else queue_depth
        return ListeningStatistics(
            state=state,
            accepted=self.accepted,
            delivered=MappingProxyType({"accept": self.to_accept, "event": self.to_event}),
            parked=parked,
            parked_most=parked_most,
            dropped=MappingProxyType(dict(self.dropped)),
            inspected=self.inspected,
            let_on=self.let_on,
            approved=self.approved,
            pending=pending,
            pending_most=self.pending_most,
            rejected=MappingProxyType(dict(self.rejected)),
            aborted=MappingProxyType(dict(self.aborted)),
            close_fallbacks=self.close_fallbacks,
            straggling=straggling,
            callback_failures=MappingProxyType(dict(self.callback_failures)),
            queued_accepts=queued_accepts,
            accept_errors=MappingProxyType(dict(self.accept_errors)),
            accept_backoffs=self.accept_backoffs,
            shed=self.shed,
            backlog=backlog,
            backlog_limit=backlog_limit,
            transport=MappingProxyType(dict(transport)),
        )
