"""The conditions of conditional accept, as `open_listening_socket` was told them."""

from __future__ import annotations

import functools
import math
from typing import Any

import attrs
import pytest

from trio_wsk import (
    ConnectionRequest,
    InspectAction,
    InspectId,
    InspectPoint,
    InvalidParameterError,
    ListenDispatch,
    Overflow,
)
from trio_wsk._inspection.conditions import DEFAULT_MAX_PENDING, Conditions, conditions_of
from trio_wsk._listening.arguments import checked_inspector
from trio_wsk.transports import PeerEnd


def inspect(request: ConnectionRequest) -> InspectAction:
    """Let everybody in."""
    return InspectAction.ACCEPT


async def inspect_slowly(request: ConnectionRequest) -> InspectAction:
    """Let everybody in."""
    return InspectAction.ACCEPT


def abort(inspect_id: InspectId) -> None:
    """Take note."""


def told(dispatch: ListenDispatch | None = None, **options: Any) -> Conditions | None:
    """Say what was told, and leave the rest as it is by default."""
    dispatch = dispatch or ListenDispatch()
    options["inspect"] = checked_inspector(dispatch, options.get("inspect"))
    return conditions_of(
        abort=dispatch.abort,
        **{
            "inspect_point": InspectPoint.AFTER_HANDSHAKE,
            "inspect_timeout": None,
            "max_pending": DEFAULT_MAX_PENDING,
            "overflow": "wait",
            "abort_on_half_close": None,
            **options,
        },
    )


def conditions(**options: Any) -> Conditions:
    """Say what was told beside an inspector."""
    found = told(inspect=inspect, **options)
    assert found is not None
    return found


def test_without_an_inspector_there_are_no_conditions() -> None:
    """Nobody is asked, so connections go the way they always went."""
    assert None is told()
    assert None is told(
        max_pending=3, overflow="evict", inspect_timeout=1, abort_on_half_close=True
    )


@pytest.mark.parametrize(
    "inspector", [inspect, inspect_slowly, functools.partial(inspect), lambda _: None]
)
def test_inspector_is_given_in_either_place(inspector: Any) -> None:
    """`inspect=` is short for ``dispatch.inspect``; both give the same conditions."""
    short = told(inspect=inspector)
    long = told(ListenDispatch(inspect=inspector))

    assert short is not None
    assert inspector is short.inspect
    assert short == long


def test_inspector_in_both_places_is_an_error() -> None:
    """One listening socket has one inspector; the message says how to give it."""
    with pytest.raises(InvalidParameterError, match="give one of them"):
        told(ListenDispatch(inspect=inspect), inspect=inspect)


def test_thousand_may_be_pending_unless_told_otherwise() -> None:
    """The default is 1024, as the signature shows."""
    assert 1024 == conditions().max_pending
    assert 7 == conditions(max_pending=7).max_pending


@pytest.mark.parametrize("place", ["inspect", "dispatch"])
def test_abort_callback_goes_with_the_inspector(place: str) -> None:
    """``dispatch.abort`` belongs to whichever inspector there is; with none it is an error."""
    found = (
        told(ListenDispatch(abort=abort), inspect=inspect)
        if place == "inspect"
        else told(ListenDispatch(abort=abort, inspect=inspect))
    )

    assert found is not None
    assert abort is found.abort
    assert None is conditions().abort
    with pytest.raises(InvalidParameterError, match="needs an inspector"):
        told(ListenDispatch(abort=abort))


@pytest.mark.parametrize("inspector", [7, "inspect", InspectAction.ACCEPT, ...], ids=repr)
def test_inspector_is_a_function(inspector: Any) -> None:
    """What can't be called is refused now, and not when the first peer comes."""
    with pytest.raises(InvalidParameterError, match="inspect"):
        told(inspect=inspector)


@pytest.mark.parametrize(
    ("point", "expected"), [(InspectPoint.AFTER_HANDSHAKE, 10), (InspectPoint.BEFORE_HANDSHAKE, 2)]
)
def test_time_for_a_verdict_depends_on_who_waits(point: InspectPoint, expected: float) -> None:
    """
    Ten seconds when the peer is connected already, two when its kernel waits for an answer;
    what was said counts at either point.
    """
    assert expected == conditions(inspect_point=point).timeout
    assert 0.5 == conditions(inspect_point=point, inspect_timeout=0.5).timeout


@pytest.mark.parametrize("timeout", [0, -1, math.inf, -math.inf, math.nan], ids=repr)
@pytest.mark.parametrize("options", [{}, {"inspect": inspect}], ids=["nobody", "inspector"])
def test_time_for_a_verdict_ends(timeout: float, options: dict[str, Any]) -> None:
    """No time and time without end are refused, inspector or not; the message shows the value."""
    with pytest.raises(InvalidParameterError) as caught:
        told(inspect_timeout=timeout, **options)

    assert str(caught.value).endswith(f"not {timeout!r}")


@pytest.mark.parametrize("count", [0, -1, 1.5, math.inf, None, "1"], ids=repr)
@pytest.mark.parametrize("options", [{}, {"inspect": inspect}], ids=["nobody", "inspector"])
def test_limit_is_a_count(count: Any, options: dict[str, Any]) -> None:
    """At least one request may be pending, and not any number; the message shows the value."""
    with pytest.raises(InvalidParameterError) as caught:
        told(max_pending=count, **options)

    assert str(caught.value).endswith(f"not {count!r}")


def test_limit_is_kept() -> None:
    """As many may be pending as was said."""
    assert (1, 7) == (conditions(max_pending=1).max_pending, conditions(max_pending=7).max_pending)


@pytest.mark.parametrize("policy", ["wait", "reset", "evict"])
def test_one_word_is_said_of_both_limits(policy: Any) -> None:
    """A policy by itself goes for what is pending and for what is parked."""
    assert Overflow(pending=policy, parked=policy) == conditions(overflow=policy).overflow


def test_two_words_are_kept() -> None:
    """An `Overflow` says it per limit."""
    overflow = Overflow(pending="evict", parked="reset")

    assert overflow is conditions(overflow=overflow).overflow


@pytest.mark.parametrize("options", [{}, {"inspect": inspect}], ids=["nobody", "inspector"])
def test_other_words_are_refused(options: dict[str, Any]) -> None:
    """There are three policies, whether or not there is an inspector that needs one."""
    with pytest.raises(InvalidParameterError, match="'wait', 'reset' and 'evict', not 'drop'"):
        told(overflow="drop", **options)


@pytest.mark.parametrize("point", ["before-handshake", None, 0], ids=repr)
def test_point_is_a_member(point: Any) -> None:
    """When to ask is no text; the message shows what it was."""
    with pytest.raises(InvalidParameterError) as caught:
        conditions(inspect_point=point)

    assert str(caught.value).endswith(f"not {point!r}")


def test_asking_before_the_handshake_takes_somebody_to_ask() -> None:
    """A point without an inspector would be a wish that nobody hears."""
    with pytest.raises(InvalidParameterError, match="give inspect="):
        told(inspect_point=InspectPoint.BEFORE_HANDSHAKE)


ALWAYS_GONE = {PeerEnd.RESET, PeerEnd.CLOSED, PeerEnd.SILENT}


@pytest.mark.parametrize(
    ("abort_on_half_close", "halves"),
    [
        (None, {PeerEnd.FIN}),
        (True, {PeerEnd.FIN, PeerEnd.FIN_AFTER_DATA}),
        (False, set[PeerEnd]()),
    ],
)
def test_who_counts_as_gone(*, abort_on_half_close: bool | None, halves: set[PeerEnd]) -> None:
    """
    A peer that has reset, closed or fallen silent is gone whatever was said. One that has only
    finished sending is gone by default if it had sent nothing; always, or never, if told so.
    """
    assert ALWAYS_GONE | halves == conditions(abort_on_half_close=abort_on_half_close).gone


def test_conditions_are_frozen_and_made_by_name() -> None:
    """What was checked once stays so."""
    found = conditions()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        found.timeout = 0  # type: ignore[misc]  # on purpose
    with pytest.raises(TypeError):
        Conditions(*attrs.astuple(found, recurse=False))  # type: ignore[call-arg]  # on purpose
