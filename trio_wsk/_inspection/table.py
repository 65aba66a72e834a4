"""The life of one connection request under inspection, as a table.

::

    ARRIVED ──inspect──▶ INSPECTING ──pend──▶ PENDED
       │                  │  │  ╲               │ │
       │           accept │  │   ╲ completed    │ │ complete
       │                  ▼  │    ▼  early      ▼ │
       │              APPROVED◀── ACCEPTED_EARLY, REJECTED_EARLY
       │    established │    └──reject──▶ REJECTED
       │                ▼
       │           ESTABLISHED ──delivered──▶ DELIVERED
       │
       └──▶ OVERFLOWED        and from every state with a box to its left, before DELIVERED:
                              the peer leaves ▶ ABORTED, no verdict in time ▶ TIMED_OUT,
                              evicted ▶ OVERFLOWED, the listening socket closes ▶ CLOSED

An inspector in two stages has the first of them asked before the handshake. Where that one has no
objection, or is completed with yes, the verdict is still to come::

    INSPECTING ──────────pass──────────▶ HANDSHAKING ──established──▶ CONNECTED ──inspect──┐
       │ completed early ▶ PASSED_EARLY ──pend──▲ ▲                                        │
       └──pend──▶ PENDED ────────complete─────────┘          INSPECTING, as above, ◀───────┘

Two rules for this file. Everything that decides what may follow what is in `TABLE`. And
nothing here knows a socket, a clock or a task: an answer says what has to be done, and
somebody else does it.

What the table keeps, for each request: it is inspected before it is completed, and completed
before exactly one of delivery and abort; after a rejection come neither. An inspector that
was cancelled and answers all the same is not listened to.

Source: PFN_WSK_INSPECT_EVENT, PFN_WSK_INSPECT_COMPLETE and PFN_WSK_ABORT_EVENT, remarks.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import attrs

from trio_wsk._vocabulary.status import Status

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ENDED", "TABLE", "UNDECIDED", "Answer", "Event", "State", "Step", "step"]


class State(enum.Enum):
    """Where a request is in its life."""

    ARRIVED = "arrived"
    """It is here; nobody has been asked."""
    INSPECTING = "inspecting"
    """The inspector has been asked and has not answered."""
    PASSED_EARLY = "passed early"
    """It was completed with yes while the first of two stages was still at it."""
    HANDSHAKING = "handshaking"
    """The first of two stages has let it through to its handshake."""
    CONNECTED = "connected"
    """Its handshake is over, and the second stage has not been asked."""
    ACCEPTED_EARLY = "accepted early"
    """It was completed with yes while its inspector was still at it."""
    REJECTED_EARLY = "rejected early"
    """It was completed with no while its inspector was still at it."""
    PENDED = "pended"
    """The inspector has answered "later"."""
    APPROVED = "approved"
    """Yes was said; the handshake may still be under way."""
    ESTABLISHED = "established"
    """It is a connection that waits for somebody to take it."""
    DELIVERED = "delivered"
    """Somebody has it."""
    REJECTED = "rejected"
    """No was said."""
    ABORTED = "aborted"
    """The peer left before it was delivered."""
    TIMED_OUT = "timed out"
    """There was no verdict in time."""
    OVERFLOWED = "overflowed"
    """There was no room for it, or it had to make room."""
    CLOSED = "closed"
    """The listening socket was closed, or failed."""

    steps: Mapping[Event, Step]
    """Its row of `TABLE`: what may happen in it, and what follows."""

    # Members are singletons; the inherited hash is a Python function, which is too slow here.
    __hash__ = object.__hash__


class Event(enum.Enum):
    """What can happen to a request."""

    INSPECT = "inspect"
    """Its inspector is asked."""
    ACCEPT = "accept"
    """The inspector answers yes."""
    PASS = "pass"  # noqa: S105 - it opens something, in its way
    """The first of two stages has no objection."""
    REJECT = "reject"
    """The inspector answers no, fails, or answers nonsense."""
    PEND = "pend"
    """The inspector answers "later"."""
    COMPLETE_ACCEPT = "complete: accept"
    """Somebody completes the inspection with yes."""
    COMPLETE_PASS = "complete: pass"  # noqa: S105 - as above
    """Somebody completes the first of two stages with yes."""
    COMPLETE_REJECT = "complete: reject"
    """Somebody completes the inspection with no."""
    ESTABLISH = "establish"
    """The handshake is over."""
    DELIVER = "deliver"
    """Somebody takes the connection."""
    LEAVE = "leave"
    """The peer goes."""
    EXPIRE = "expire"
    """The time for a verdict is over."""
    OVERFLOW = "overflow"
    """There is no room for it, or it has to make room."""
    CLOSE = "close"
    """The listening socket is closed, or fails."""

    __hash__ = object.__hash__


class Answer(enum.Enum):
    """What the transport is told."""

    NOTHING = "nothing"
    APPROVE = "approve"
    """Yes."""
    LET_ON = "let on"
    """Yes to the handshake, and the rest is asked when that is over."""
    REFUSE = "refuse"
    """No, as the verdict says how."""
    RESET = "reset"
    """No, at once."""


@attrs.frozen
class Step:
    """What follows from an event: the next state, and what has to be done."""

    state: State
    answer: Answer = Answer.NOTHING
    cancels: bool = False
    """Whoever works on the verdict is cancelled."""
    aborts: bool = False
    """The abort callback is called: its one call for this request."""
    status: Status = Status.SUCCESS
    """What `ListeningSocket.inspect_complete` returns."""


UNDECIDED: Final = frozenset(
    {
        State.INSPECTING,
        State.PASSED_EARLY,
        State.ACCEPTED_EARLY,
        State.REJECTED_EARLY,
        State.PENDED,
        State.HANDSHAKING,
        State.CONNECTED,
    }
)
"""The states in which there is no verdict yet."""

ENDED: Final = frozenset(
    {
        State.DELIVERED,
        State.REJECTED,
        State.ABORTED,
        State.TIMED_OUT,
        State.OVERFLOWED,
        State.CLOSED,
    }
)
"""The states from which none other is reached."""

_LOST: Final = {
    Event.LEAVE: State.ABORTED,
    Event.EXPIRE: State.TIMED_OUT,
    Event.OVERFLOW: State.OVERFLOWED,
    Event.CLOSE: State.CLOSED,
}


def _lost(*events: Event, cancels: bool) -> dict[Event, Step]:
    """A request that was not rejected ends undelivered."""
    return {
        event: Step(_LOST[event], Answer.RESET, cancels=cancels, aborts=True) for event in events
    }


_YES: Final = Step(State.APPROVED, Answer.APPROVE)
_ON: Final = Step(State.HANDSHAKING, Answer.LET_ON)
_NO: Final = Step(State.REJECTED, Answer.REFUSE)

_ANSWERS: Final = (Event.ACCEPT, Event.PASS, Event.REJECT, Event.PEND)
_COMPLETIONS: Final = (Event.COMPLETE_ACCEPT, Event.COMPLETE_PASS, Event.COMPLETE_REJECT)


def _undecided(*, pend: Step) -> dict[Event, Step]:
    """The inspector is at it."""
    return {
        Event.ACCEPT: _YES,
        Event.PASS: _ON,
        Event.REJECT: _NO,
        Event.PEND: pend,
        **_lost(*_LOST, cancels=True),
    }


def _refuses_completion(state: State, status: Status = Status.NOT_FOUND) -> dict[Event, Step]:
    """Completing changes nothing: it was completed before, or is too late."""
    return dict.fromkeys(_COMPLETIONS, Step(state, status=status))


def _over(state: State) -> dict[Event, Step]:
    """Lost: an inspector that answers all the same, and who completes it, come too late."""
    ignored = dict.fromkeys(_ANSWERS, Step(state))
    return {**ignored, **_refuses_completion(state, Status.CONNECTION_ABORTED)}


TABLE: Final[Mapping[State, Mapping[Event, Step]]] = {
    State.ARRIVED: {
        Event.INSPECT: Step(State.INSPECTING),
        Event.OVERFLOW: Step(State.OVERFLOWED, Answer.RESET),
    },
    State.INSPECTING: {
        **_undecided(pend=Step(State.PENDED)),
        Event.COMPLETE_ACCEPT: Step(State.ACCEPTED_EARLY),
        Event.COMPLETE_PASS: Step(State.PASSED_EARLY),
        Event.COMPLETE_REJECT: Step(State.REJECTED_EARLY),
    },
    # An inspector that answers by itself never pended, so its word counts.
    State.PASSED_EARLY: {
        **_undecided(pend=_ON),
        **_refuses_completion(State.PASSED_EARLY),
    },
    State.ACCEPTED_EARLY: {
        **_undecided(pend=_YES),
        **_refuses_completion(State.ACCEPTED_EARLY),
    },
    State.REJECTED_EARLY: {
        **_undecided(pend=_NO),
        **_refuses_completion(State.REJECTED_EARLY),
    },
    State.PENDED: {
        Event.COMPLETE_ACCEPT: _YES,
        Event.COMPLETE_PASS: _ON,
        Event.COMPLETE_REJECT: _NO,
        **_lost(*_LOST, cancels=True),
    },
    State.HANDSHAKING: {
        Event.ESTABLISH: Step(State.CONNECTED),
        **_refuses_completion(State.HANDSHAKING),
        **_lost(*_LOST, cancels=True),
    },
    State.CONNECTED: {
        Event.INSPECT: Step(State.INSPECTING),
        **_refuses_completion(State.CONNECTED),
        **_lost(*_LOST, cancels=True),
    },
    State.APPROVED: {
        Event.ESTABLISH: Step(State.ESTABLISHED),
        **_refuses_completion(State.APPROVED),
        **_lost(Event.LEAVE, Event.OVERFLOW, Event.CLOSE, cancels=False),
    },
    State.ESTABLISHED: {
        Event.DELIVER: Step(State.DELIVERED),
        **_refuses_completion(State.ESTABLISHED),
        **_lost(Event.LEAVE, Event.OVERFLOW, Event.CLOSE, cancels=False),
    },
    State.DELIVERED: _refuses_completion(State.DELIVERED),
    State.REJECTED: _refuses_completion(State.REJECTED),
    State.ABORTED: _over(State.ABORTED),
    State.TIMED_OUT: _over(State.TIMED_OUT),
    State.OVERFLOWED: _over(State.OVERFLOWED),
    State.CLOSED: _over(State.CLOSED),
}
"""For each state, what may happen in it and what follows. What is not here can't happen."""

for _state, _steps in TABLE.items():
    _state.steps = _steps
del _state, _steps


def step(state: State, event: Event) -> Step:
    """Return what follows.

    Raises:
      AssertionError: that can't happen in this state: a bug of ours.
    """
    found = state.steps.get(event)
    if found is None:
        raise AssertionError(f"a request that is {state.value} can't have {event.value!r}")
    return found
