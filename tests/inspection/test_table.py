"""The life of one connection request, as its table has it."""

from __future__ import annotations

import re
from itertools import product
from typing import Final

import pytest

from trio_wsk import Status
from trio_wsk._inspection import table as _inspection
from trio_wsk._inspection.table import (
    ENDED,
    TABLE,
    UNDECIDED,
    Answer,
    Event,
    State,
    Step,
    step,
)

DRAWN: Final = """
                INS  ACC  PAS  REJ  PEN  C-A  C-P  C-R  EST  DEL  LEA  EXP  OVE  CLO
ARRIVED         ins  .    .    .    .    .    .    .    .    .    .    .    ove  .
INSPECTING      .    app  han  rej  pen  a-e  p-e  r-e  .    .    abo  tim  ove  clo
PASSED_EARLY    .    app  han  rej  han  =    =    =    .    .    abo  tim  ove  clo
ACCEPTED_EARLY  .    app  han  rej  app  =    =    =    .    .    abo  tim  ove  clo
REJECTED_EARLY  .    app  han  rej  rej  =    =    =    .    .    abo  tim  ove  clo
PENDED          .    .    .    .    .    app  han  rej  .    .    abo  tim  ove  clo
HANDSHAKING     .    .    .    .    .    =    =    =    con  .    abo  tim  ove  clo
CONNECTED       ins  .    .    .    .    =    =    =    .    .    abo  tim  ove  clo
APPROVED        .    .    .    .    .    =    =    =    est  .    abo  .    ove  clo
ESTABLISHED     .    .    .    .    .    =    =    =    .    del  abo  .    ove  clo
DELIVERED       .    .    .    .    .    =    =    =    .    .    .    .    .    .
REJECTED        .    .    .    .    .    =    =    =    .    .    .    .    .    .
ABORTED         .    =    =    =    =    =    =    =    .    .    .    .    .    .
TIMED_OUT       .    =    =    =    =    =    =    =    .    .    .    .    .    .
OVERFLOWED      .    =    =    =    =    =    =    =    .    .    .    .    .    .
CLOSED          .    =    =    =    =    =    =    =    .    .    .    .    .    .
"""
"""The table once more, state by state and event by event: what comes next, ``=`` for no change,
``.`` for what can't happen."""

ANSWERS: Final = frozenset({Event.ACCEPT, Event.PASS, Event.REJECT, Event.PEND})
COMPLETIONS: Final = frozenset({Event.COMPLETE_ACCEPT, Event.COMPLETE_PASS, Event.COMPLETE_REJECT})
BETWEEN: Final = frozenset({State.HANDSHAKING, State.CONNECTED})
"""Where nobody is asked, since two stages are."""
LOSSES: Final = {
    Event.LEAVE: State.ABORTED,
    Event.EXPIRE: State.TIMED_OUT,
    Event.OVERFLOW: State.OVERFLOWED,
    Event.CLOSE: State.CLOSED,
}
LOST: Final = frozenset(LOSSES.values())
EVERY_CELL: Final = list(product(State, Event))
EVERY_STEP: Final = [
    (state, event, followed) for state, row in TABLE.items() for event, followed in row.items()
]


def abbreviated(name: str) -> str:
    """Shorten the name of a state or an event to three letters."""
    first, _, second = name.partition("_")
    return f"{first[0]}-{second[0]}" if second and first != "TIMED" else first[:3]


def drawn() -> dict[tuple[State, Event], State | None]:
    """Read the drawing."""
    head, *rows = (line.split() for line in DRAWN.strip().splitlines())
    events = {abbreviated(event.name): event for event in Event}
    states = {abbreviated(state.name).lower(): state for state in State}
    read = {}
    for name, *cells in rows:
        state = State[name]
        for event, cell in zip(head, cells, strict=True):
            read[state, events[event]] = state if cell == "=" else states.get(cell)
    return read


@pytest.mark.parametrize(("state", "event"), EVERY_CELL)
def test_what_follows_is_as_drawn(state: State, event: Event) -> None:
    """In each state each event leads where the drawing says, and is a bug where it says nothing."""
    expected = drawn()[state, event]
    if expected is None:
        with pytest.raises(AssertionError, match=f"is {state.value} can't have {event.value!r}"):
            step(state, event)
    else:
        assert expected is step(state, event).state


def test_each_state_has_its_row() -> None:
    """The table and its drawing have each state, and the drawing each event."""
    assert set(State) == set(TABLE)
    assert set(EVERY_CELL) == set(drawn())


def test_docstring_draws_each_state() -> None:
    """The diagram at the top of the module names every state."""
    assert _inspection.__doc__ is not None

    missing = [
        state for state in State if re.search(rf"\b{state.name}\b", _inspection.__doc__) is None
    ]

    assert [] == missing


@pytest.mark.parametrize("state", [state for state in State if state in ENDED])
def test_nothing_comes_after_the_end(state: State) -> None:
    """From a state that ends a life no other is reached, nobody is told, nothing is sent."""
    for followed in TABLE[state].values():
        assert Step(state, status=followed.status) == followed


def test_ends_are_where_nothing_follows() -> None:
    """`ENDED` has the states from which none other is reached, and each of them is reached."""
    leads_on = {state for state, _, followed in EVERY_STEP if followed.state is not state}
    is_reached = {followed.state for _, _, followed in EVERY_STEP}

    assert set(State) - leads_on == ENDED
    assert set(State) - {State.ARRIVED} == is_reached


@pytest.mark.parametrize("state", [state for state in State if state in UNDECIDED])
@pytest.mark.parametrize("event", LOSSES)
def test_undecided_is_lost_in_every_way(state: State, event: Event) -> None:
    """
    A request without a verdict can be lost in every way: who works on the verdict is cancelled,
    the abort callback is due, and the peer is reset.
    """
    assert Step(LOSSES[event], Answer.RESET, cancels=True, aborts=True) == step(state, event)


@pytest.mark.parametrize("state", [State.APPROVED, State.ESTABLISHED])
@pytest.mark.parametrize("event", [Event.LEAVE, Event.OVERFLOW, Event.CLOSE])
def test_approved_is_lost_without_a_cancellation(state: State, event: Event) -> None:
    """
    A request that was let through and dies before somebody takes it is aborted, too; nobody
    works on its verdict any more, so nobody is cancelled, and no deadline applies.
    """
    assert Step(LOSSES[event], Answer.RESET, aborts=True) == step(state, event)
    with pytest.raises(AssertionError):
        step(state, Event.EXPIRE)


def test_aborts_belong_to_losses() -> None:
    """The abort callback is due exactly when a request that was inspected is lost."""
    aborting = {(state, event) for state, event, followed in EVERY_STEP if followed.aborts}
    expected = {
        (state, event)
        for state, event, _ in EVERY_STEP
        if event in LOSSES and state is not State.ARRIVED
    }

    assert expected == aborting
    assert {followed.state for _, _, followed in EVERY_STEP if followed.aborts} == LOST


def test_rejection_aborts_nothing() -> None:
    """On the way to a rejection nobody is cancelled or aborted, and the peer is refused once."""
    to_rejected = [
        (state, followed) for state, _, followed in EVERY_STEP if followed.state is State.REJECTED
    ]
    refusing = {state for state, followed in to_rejected if followed.answer is Answer.REFUSE}

    assert UNDECIDED - BETWEEN == refusing
    assert all(not (followed.aborts or followed.cancels) for _, followed in to_rejected)
    assert State.REJECTED in {state for state, _ in to_rejected}
    assert Answer.NOTHING is step(State.REJECTED, Event.COMPLETE_REJECT).answer


def test_one_answer_of_each_kind_to_the_transport() -> None:
    """
    The transport is told yes on entering APPROVED, and HANDSHAKING, no on REJECTED, and a reset on
    a loss.
    """
    told = {
        Answer.LET_ON: {State.HANDSHAKING},
        Answer.APPROVE: {State.APPROVED},
        Answer.REFUSE: {State.REJECTED},
        Answer.RESET: set(LOST),
    }
    for state, event, followed in EVERY_STEP:
        if followed.state is state:
            assert Answer.NOTHING is followed.answer, (state, event)
        elif followed.answer is Answer.NOTHING:
            assert all(followed.state not in states for states in told.values()), (state, event)
        else:
            assert followed.state in told[followed.answer], (state, event)


def test_no_room_at_arrival_is_no_abort() -> None:
    """A request that finds no room was never asked about, so its end is nobody's to be told."""
    assert Step(State.OVERFLOWED, Answer.RESET) == step(State.ARRIVED, Event.OVERFLOW)


def test_early_word_counts_when_the_inspector_pends() -> None:
    """
    What was completed early is kept until the inspector answers: PEND makes it the verdict, and
    an answer of the inspector's own overrules it.
    """
    inspecting = State.INSPECTING
    yes = step(inspecting, Event.COMPLETE_ACCEPT)
    no = step(inspecting, Event.COMPLETE_REJECT)

    assert [Step(State.ACCEPTED_EARLY), Step(State.REJECTED_EARLY)] == [yes, no]
    assert Step(State.APPROVED, Answer.APPROVE) == step(yes.state, Event.PEND)
    assert Step(State.REJECTED, Answer.REFUSE) == step(no.state, Event.PEND)
    on = step(inspecting, Event.COMPLETE_PASS)

    assert Step(State.HANDSHAKING, Answer.LET_ON) == step(on.state, Event.PEND)
    for early in (yes.state, on.state, no.state):
        for answer in ANSWERS - {Event.PEND}:
            assert step(inspecting, answer) == step(early, answer)


def test_two_stages_are_asked_once_each() -> None:
    """
    The first of two stages has no objection, by itself or completed: the handshake goes on, nobody
    is asked until it is over, and then the second one is, as if it were the only one.
    """
    for state, event in ((State.INSPECTING, Event.PASS), (State.PENDED, Event.COMPLETE_PASS)):
        assert Step(State.HANDSHAKING, Answer.LET_ON) == step(state, event)

    assert Step(State.CONNECTED) == step(State.HANDSHAKING, Event.ESTABLISH)
    assert Step(State.INSPECTING) == step(State.CONNECTED, Event.INSPECT)
    assert {State.ARRIVED, State.CONNECTED} == {
        state for state, event, _ in EVERY_STEP if event is Event.INSPECT
    }
    assert all(not TABLE[state].keys() & ANSWERS for state in BETWEEN)


def test_status_of_completions() -> None:
    """
    Completing succeeds once, while there is no verdict; the second time, and after the verdict, it
    finds nothing; after a loss it is too late. Other events have no status to speak of.
    """
    for state, event, followed in EVERY_STEP:
        if event not in COMPLETIONS or state in (State.INSPECTING, State.PENDED):
            assert Status.SUCCESS is followed.status, (state, event)
        elif state in LOST:
            assert Status.CONNECTION_ABORTED is followed.status, (state, event)
        else:
            assert Status.NOT_FOUND is followed.status, (state, event)


def test_completing_is_possible_at_any_time_after_the_question() -> None:
    """Once its inspector was asked, a request can be completed in every state: by anybody."""
    lacking = [state for state, row in TABLE.items() if not row.keys() >= COMPLETIONS]

    assert [State.ARRIVED] == lacking


def test_late_answers_are_not_listened_to() -> None:
    """
    An inspector answers once, and only one that was cancelled can answer after the end: wherever
    it may be running, each of its answers has its place.
    """
    early = {State.PASSED_EARLY, State.ACCEPTED_EARLY, State.REJECTED_EARLY}
    running = {State.INSPECTING} | early | LOST
    answerable = {state for state, row in TABLE.items() if row.keys() >= ANSWERS}
    unanswerable = {state for state, row in TABLE.items() if not row.keys() & ANSWERS}

    assert running == answerable
    assert set(State) - running == unanswerable
