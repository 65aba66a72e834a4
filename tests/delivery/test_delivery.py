"""Who gets an approved request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trio_wsk._delivery.delivery import Delivery, Way

if TYPE_CHECKING:
    from trio_wsk._vocabulary.verdict import OverflowPolicy


def placed(delivery: Delivery[str, int], *requests: int) -> list[str | Way]:
    """Place requests, and say where each went."""
    return [delivery.place(request) for request in requests]


def test_nobody_is_there() -> None:
    """With neither acceptor nor event a request is parked, and comes out in order."""
    delivery: Delivery[str, int] = Delivery(2)

    assert not delivery.has_room(by_event=True, ahead=False)
    assert [Way.PARKED, Way.PARKED] == placed(delivery, 1, 2)
    assert not delivery.has_room(by_event=True, ahead=True)
    assert 2 == delivery.parked == delivery.parked_most
    assert 1 == delivery.queue("a")
    assert 2 == delivery.queue("c")
    assert None is delivery.queue("d")
    assert 2 == delivery.parked_most


def test_acceptors_come_first_in_order() -> None:
    """Queued acceptors beat the event, first come, first served."""
    delivery: Delivery[str, int] = Delivery(2)
    delivery.event_enabled = True
    for acceptor in ("a", "b"):
        assert None is delivery.queue(acceptor)

    assert 2 == delivery.acceptors
    assert ["a", "b", Way.EVENT] == placed(delivery, 1, 2, 3)


def test_withdrawn_acceptor_gets_nothing() -> None:
    """An acceptor can be withdrawn once, until it has been served."""
    delivery: Delivery[str, int] = Delivery(2)
    delivery.queue("a")
    delivery.queue("b")

    assert delivery.withdraw("a")
    assert not delivery.withdraw("a")
    assert ["b"] == placed(delivery, 1)
    assert not delivery.withdraw("b")


def test_nothing_overtakes_what_is_parked() -> None:
    """While requests are parked a newcomer is parked behind them, event or not."""
    delivery: Delivery[str, int] = Delivery(9)
    placed(delivery, 1)
    delivery.event_enabled = True

    assert [Way.PARKED] == placed(delivery, 2)
    assert [1, 2, None] == [delivery.unpark_for_event() for _ in range(3)]


def test_permits_bound_the_event() -> None:
    """The event takes as many requests as there are permits; acceptors need none."""
    delivery: Delivery[str, int] = Delivery(9)
    delivery.event_enabled = True
    delivery.permits = 1

    assert [Way.EVENT, Way.PARKED] == placed(delivery, 1, 2)
    assert not delivery.has_room(by_event=True, ahead=False)
    assert None is delivery.unpark_for_event()

    delivery.permits += 1

    assert delivery.event_takes
    assert 2 == delivery.unpark_for_event()


def test_what_must_not_go_to_the_event_now_waits_for_it() -> None:
    """
    A request that comes when the event can't be called is parked for it, permit unused, and
    goes to an acceptor all the same.
    """
    delivery: Delivery[str, int] = Delivery(9)
    delivery.event_enabled = True
    delivery.permits = 1
    delivery.queue("a")

    assert "a" == delivery.place(1, to_event=False)
    assert Way.PARKED is delivery.place(2, to_event=False)
    assert 1 == delivery.permits
    assert 2 == delivery.unpark_for_event()


def test_what_has_ended_leaves_the_line() -> None:
    """
    A parked request can be taken out from anywhere in the line, once; the others keep their
    order, and what is not parked (any more) is not found.
    """
    delivery: Delivery[str, int] = Delivery(9)
    placed(delivery, 1, 2, 3, 4)

    assert [True, False] == [delivery.remove(3), delivery.remove(3)]
    assert 1 == delivery.oldest_parked()
    assert delivery.remove(1)
    assert 2 == delivery.oldest_parked()
    assert (2, 4) == (delivery.parked, delivery.parked_most)
    assert [2, 4, None] == [delivery.queue(acceptor) for acceptor in ("a", "b", "c")]
    assert not delivery.remove(2)
    assert None is delivery.oldest_parked()


def places(delivery: Delivery[str, int], *, contested: bool = False) -> list[int]:
    """Say behind how many others, up to ten, there is a place for one more."""
    return [n for n in range(10) if delivery.has_place(n, contested=contested)]


def test_without_parking_there_is_a_place_for_whom_somebody_takes_at_once() -> None:
    """Each acceptor takes one connection, the event as many as it has permits, if it is enabled."""
    delivery: Delivery[str, int] = Delivery(0)

    assert [] == places(delivery)

    delivery.queue("a")
    delivery.queue("b")
    delivery.permits = 3

    assert [0, 1] == places(delivery)

    delivery.event_enabled = True

    assert [0, 1, 2, 3, 4] == places(delivery)

    delivery.permits = math.inf

    assert [*range(10)] == places(delivery)


def test_permits_may_be_contested_and_accepts_may_not() -> None:
    """
    Who may come although others could take every place comes if the event has a permit left; who
    waits for an accept is sure of it.
    """
    delivery: Delivery[str, int] = Delivery(0)
    delivery.queue("a")

    assert [0] == places(delivery, contested=True)

    delivery.event_enabled = True
    delivery.permits = 1

    assert [*range(10)] == places(delivery, contested=True)

    delivery.permits = 0

    assert [0] == places(delivery, contested=True)


def test_who_waits_for_the_pump_has_a_permit_already() -> None:
    """
    Where nothing is read ahead, who was approved outside the pump waits for the event all the same:
    each takes one permit of those that are left, and behind the last one there is no place, not
    even a contested one.
    """
    delivery: Delivery[str, int] = Delivery(0)
    delivery.event_enabled = True
    delivery.permits = 3
    for request in (1, 2):
        delivery.place(request, to_event=False)

    assert [0] == places(delivery)
    assert [*range(10)] == places(delivery, contested=True)

    delivery.place(3, to_event=False)

    assert [] == places(delivery) == places(delivery, contested=True)


def test_where_requests_park_there_is_a_place_until_the_line_is_full() -> None:
    """As many as may park have a place, and one more that somebody takes, or another goes for."""
    delivery: Delivery[str, int] = Delivery(1)

    assert delivery.has_place(5)

    placed(delivery, 1)

    assert not delivery.has_place()

    delivery.event_enabled = True

    assert delivery.has_place()
    assert Delivery(1, "evict").has_place()


@pytest.mark.parametrize(
    ("overflow", "expected"), [("wait", None), ("reset", 2), ("evict", 1)], ids=str
)
def test_crowd_puts_out_whom_the_policy_names(
    overflow: OverflowPolicy, expected: int | None
) -> None:
    """
    If more are parked than may be, the newcomer goes, or the oldest, or nobody, as was chosen; and
    nobody goes as long as there is room, or while the event is about to take them.
    """
    delivery: Delivery[str, int] = Delivery(1, overflow)
    placed(delivery, 1)

    assert None is delivery.crowded_out(1)

    placed(delivery, 2)

    assert expected == delivery.crowded_out(2)

    delivery.event_enabled = True

    assert None is delivery.crowded_out(2)


def test_everything_comes_out_at_the_end() -> None:
    """drain() gives back all acceptors or all that is parked, and leaves nothing."""
    delivery: Delivery[str, int] = Delivery(9)
    placed(delivery, 1, 2)

    assert ([], [1, 2]) == delivery.drain()

    delivery.queue("a")
    delivery.queue("b")

    assert (["a", "b"], []) == delivery.drain()
    assert ([], []) == delivery.drain()
    assert 0 == delivery.parked + delivery.acceptors


class Deliveries(RuleBasedStateMachine):
    """
    Whatever is done in whatever order: each request comes out once and in order, acceptors are
    served in order, the event has what it may have.
    """

    def __init__(self) -> None:
        super().__init__()
        self.delivery: Delivery[int, int] = Delivery(5)
        self.next = 0
        self.acceptors: list[int] = []
        self.parked: list[int] = []
        self.parked_most = 0
        self.permits = math.inf
        self.enabled = False
        self.came_out: list[int] = []

    def _number(self) -> int:
        self.next += 1
        return self.next

    def _out(self, request: int) -> None:
        self.came_out.append(request)

    @rule()
    def queue(self) -> None:
        """Somebody wants a connection."""
        acceptor = self._number()
        request = self.delivery.queue(acceptor)
        if self.parked:
            assert self.parked.pop(0) == request
            self._out(request)
        else:
            assert None is request
            self.acceptors.append(acceptor)

    @rule(index=st.integers(0, 9))
    def withdraw(self, index: int) -> None:
        """Somebody has thought better of it, or was served already."""
        if index < len(self.acceptors):
            assert self.delivery.withdraw(self.acceptors.pop(index))
        else:
            assert not self.delivery.withdraw(-1)

    @precondition(lambda self: self.delivery.has_place())
    @rule(to_event=st.booleans())
    def arrive(self, to_event: bool) -> None:  # noqa: FBT001 - a drawn value
        """A connection comes, at a moment when the event may be called or may not."""
        request = self._number()
        place = self.delivery.place(request, to_event=to_event)
        if self.acceptors:
            assert self.acceptors.pop(0) == place
            self._out(request)
        elif to_event and self.enabled and self.permits > 0 and not self.parked:
            assert Way.EVENT is place
            self.permits -= 1
            self._out(request)
        else:
            assert Way.PARKED is place
            self.parked.append(request)
            self.parked_most = max(self.parked_most, len(self.parked))

    @rule(enabled=st.booleans())
    def switch_event(self, enabled: bool) -> None:  # noqa: FBT001 - a drawn value
        """The accept event is enabled or disabled."""
        self.enabled = self.delivery.event_enabled = enabled

    @rule(permits=st.sampled_from([0, 1, 3, math.inf]))
    def set_permits(self, permits: float) -> None:
        """Connections have ended, or the limit is another one."""
        self.permits = self.delivery.permits = permits

    @rule()
    def indicate_parked(self) -> None:
        """The pump looks whether the event takes what is parked."""
        request = self.delivery.unpark_for_event()
        if self.enabled and self.permits > 0 and self.parked:
            self.permits -= 1

            assert self.parked.pop(0) == request

            self._out(request)
        else:
            assert None is request

    @rule(index=st.integers(0, 9))
    def remove(self, index: int) -> None:
        """A parked request ends where it stands, or one that is not parked does."""
        if index < len(self.parked):
            assert self.delivery.remove(self.parked.pop(index))
        else:
            assert not self.delivery.remove(-1)
            assert not any(map(self.delivery.remove, self.came_out))

    @rule()
    def drain(self) -> None:
        """The socket closes, and another one begins."""
        assert (self.acceptors, self.parked) == self.delivery.drain()

        self.came_out.extend(self.parked)
        self.acceptors, self.parked = [], []

    @invariant()
    def agrees(self) -> None:
        """What it says of itself is true, and order is kept."""
        delivery = self.delivery

        assert len(self.parked) == delivery.parked
        assert self.parked_most == delivery.parked_most
        assert len(self.acceptors) == delivery.acceptors
        assert not (self.parked and self.acceptors)
        assert self.permits == delivery.permits >= 0
        assert (self.enabled and self.permits > 0) is delivery.event_takes
        takes_now = bool(self.acceptors) or (delivery.event_takes and not self.parked)
        assert takes_now is delivery.has_room(by_event=True, ahead=False)
        assert bool(self.acceptors) is delivery.has_room(by_event=False, ahead=False)
        assert (self.parked[0] if self.parked else None) == delivery.oldest_parked()
        assert sorted(set(self.came_out)) == self.came_out


TestDeliveries = Deliveries.TestCase


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_room_is_for_read_ahead(limit: int) -> None:
    """A request that nobody takes has a place as long as there is room to park it."""
    delivery: Delivery[str, int] = Delivery(limit)
    for request in range(limit):
        assert delivery.has_room(by_event=True, ahead=True)

        delivery.place(request)

    assert not delivery.has_room(by_event=True, ahead=True)
