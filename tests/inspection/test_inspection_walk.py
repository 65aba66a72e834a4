"""
Every state that a small world of conditional accept can be in, and what must be true in each.

Two requests, two accepts, the accept event on and off, peers that leave and are noticed at once or
late, deadlines, limits, and closing. The table `table.TABLE` and `delivery.Delivery` are the
real ones; both are free of I/O, so a state of the world is a value, and all of them can be visited,
breadth first. Run it with ``-s`` to see how many there are.

What connects the two machines is `World` here, and `ConditionalAccept` with `ListeningSocket`
there: `World` says who is asked when, and decides nothing. That those two connect them alike is
for the model over the network in memory to show (``test_conditional_model.py``).

The checker knows nothing of the table. Each request keeps a log of what was said and done, and the
logs that are in order are listed, word by word. That it would notice a mistake, mistakes show.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import attrs
import pytest

from trio_wsk import Status
from trio_wsk._delivery.delivery import Delivery, Way
from trio_wsk._inspection.table import (
    TABLE,
    UNDECIDED,
    Answer,
    Event,
    State,
    Step,
)
from trio_wsk._vocabulary.verdict import OverflowPolicy

Table = Mapping[State, Mapping[Event, Step]]
Deliveries = Callable[[int, OverflowPolicy], "Delivery[str, int]"]
Possibility = tuple[str, int, str]

ACCEPTS: Final = "ab"
REQUESTS: Final = (0, 1)
ALIVE: Final = UNDECIDED | {State.APPROVED, State.ESTABLISHED}
ANSWERS: Final = {"A": Event.ACCEPT, "R": Event.REJECT, "P": Event.PEND}
ANSWERS_OF_FIRST: Final = {**ANSWERS, "O": Event.PASS}
"""Those of the first of two stages."""
COMPLETIONS: Final = {"Y": Event.COMPLETE_ACCEPT, "N": Event.COMPLETE_REJECT}


# --- Logs that are in order ---------------------------------------------------------------

# What a log is made of. What was said, in capitals: it was (I)nspected; its inspector answered
# (A)ccept, (R)eject or (P)end; it was completed, with success, by (Y)es or (N)o. And what was done:
# the transport was told (y)es or (n)o or to reset it (x), who worked on it was (c)ancelled, the
# abort callback was called (a), somebody has it (d). The first of two stages may have n(O)
# objection; then the transport was told to let the request on to its (h)andshake.


def _rejected() -> list[str]:
    return ["IRn", "IYRn", "INRn", "INPn", "IPNn"]


def _lost(answers: Iterable[str]) -> list[str]:
    logs = ["x", "IPcxa"]  # no room at arrival; lost while it was pended
    for lost in ("Icx", "IYcx", "INcx"):  # its inspector may answer all the same
        logs.append(lost + "a")
        logs += [lost + end for late in answers for end in (late + "a", "a" + late)]
    return logs


def _logs_in_order() -> frozenset[str]:
    """List every log that a request may end with."""
    accepted = ["IAy", "IYAy", "INAy", "IYPy", "IPYy"]
    logs = [way + end for way in accepted for end in ("d", "xa")]
    return frozenset([*logs, *_rejected(), *_lost(ANSWERS)])


IN_ORDER: Final = _logs_in_order()


def _logs_of_two_stages() -> frozenset[str]:
    """List every log that a request may end with that is asked about in two stages."""
    logs = [way + end for way in ("IAy", "IYAy", "INAy") for end in ("d", "xa")]
    second = ["cxa", *(log for log in IN_ORDER if log.startswith("I"))]
    passed = ["IOh", "IYOh", "INOh", "IYPh", "IPYh"]
    logs += [first + then for first in passed for then in second]
    return frozenset([*logs, *_rejected(), *_lost(ANSWERS_OF_FIRST)])


def _now(log: str) -> str:
    """Return what was said and done since the handshake of a request that was let on to it."""
    return log.rpartition("h")[2]


def _has_answered(log: str) -> bool:
    return any(answer in _now(log) for answer in ANSWERS_OF_FIRST)


class Logs:
    """What may be said and done, and in which order."""

    def __init__(self, in_order: frozenset[str]) -> None:
        self.in_order = in_order
        self.so_far = frozenset(log[:end] for log in in_order for end in range(len(log) + 1))
        matters = {log: self._what_matters(log) for log in self.so_far}
        shortest: dict[object, str] = {}
        for log in sorted(self.so_far, key=lambda log: (len(log), log)):
            shortest.setdefault(matters[log], log)
        # It stands for all with the same future, or there would be a hundred times as many states,
        # which differ in nothing but their past.
        self.shortest = {log: shortest[matters[log]] for log in self.so_far}

    def _what_matters(self, log: str) -> tuple[object, ...]:
        """Return what two logs have to agree in for their futures to be the same."""
        futures = {word[len(log) :] for word in self.in_order if word.startswith(log)}
        is_decided = any(word in _now(log) for word in "ynYN")
        is_between = log.endswith("h")
        return frozenset(futures), _has_answered(log), is_decided, "x" in log, is_between


ONE_STAGE: Final = Logs(IN_ORDER)
TWO_STAGES: Final = Logs(_logs_of_two_stages())


# --- The world ----------------------------------------------------------------------------


class Request(NamedTuple):
    """One request, and what has been said and done about it."""

    state: State = State.ARRIVED
    log: str = ""
    has_come: bool = False
    is_reset: bool = False
    """Its peer has reset it, which nobody has noticed."""
    is_second: bool = False
    """The second of two stages is asked about it, or is to be."""

    @property
    def is_alive(self) -> bool:
        """Whether something can still become of it."""
        return self.has_come and self.state in ALIVE

    @property
    def is_undecided(self) -> bool:
        """Whether it waits for its verdict."""
        return self.has_come and self.state in UNDECIDED


class Snapshot(NamedTuple):
    """A state of the world."""

    requests: tuple[Request, ...] = (Request(), Request())
    asked: int = 0
    """How many of the accepts were queued."""
    queued: tuple[str, ...] = ()
    parked: tuple[int, ...] = ()
    is_enabled: bool = False
    aborts: tuple[int, ...] = ()
    """Whose abort callbacks the pump is to call, in order."""
    has_ended: bool = False
    """It was closed; the pump may have work left."""
    is_closed: bool = False
    """aclose() has returned."""

    @property
    def undecided(self) -> list[int]:
        """Which requests wait for their verdict, the oldest first."""
        return [number for number in REQUESTS if self.requests[number].is_undecided]

    @property
    def waiting(self) -> list[int]:
        """Which of these wait for somebody's word, and not for the end of their handshake."""
        return [
            number
            for number in self.undecided
            if self.requests[number].state is not State.HANDSHAKING
        ]

    @property
    def pending(self) -> int:
        """How many requests wait for a word, or are approved and not established."""
        establishing = [each for each in self.requests if each.state is State.APPROVED]
        return len(self.waiting) + len(establishing)


@attrs.frozen(kw_only=True)
class Rules:
    """How a world is: when requests are inspected, its limits, and what it is made of."""

    before_handshake: bool = False
    two_stages: bool = False
    accepts: str = ACCEPTS
    """Those that may be queued: how they are served has been seen where there is one stage."""
    max_pending: int = 9
    max_parked: int = 9
    overflow: OverflowPolicy = "wait"
    table: Table = attrs.field(default=TABLE, repr=False)
    delivery: Deliveries = attrs.field(default=Delivery, repr=False)

    @property
    def logs(self) -> Logs:
        """What may be said and done in such a world."""
        return TWO_STAGES if self.two_stages else ONE_STAGE


class World:
    """A state of the world in which one thing is made to happen.

    Between the table and `Delivery` it does what `ConditionalAccept` does, in the same order.
    """

    def __init__(self, rules: Rules, now: Snapshot) -> None:
        self.rules = rules
        self.now = now
        self.requests = list(now.requests)
        self.asked = now.asked
        self.aborts = list(now.aborts)
        self.has_ended = now.has_ended
        self.is_closed = now.is_closed
        self.delivered: list[tuple[int, str]] = []
        """Who was delivered in this step, and to whom."""
        self.logged = [""] * len(REQUESTS)
        """What was said and done in this step."""
        self.delivery = rules.delivery(rules.max_parked, rules.overflow)
        for accept in now.queued:
            self.delivery.queue(accept)
        for number in now.parked:
            self.delivery.place(number, to_event=False)
        self.delivery.event_enabled = now.is_enabled

    def snapshot(self) -> Snapshot:
        """Return the state of the world as a value."""
        is_enabled = self.delivery.event_enabled
        queued, parked = self.delivery.drain()
        return Snapshot(
            requests=tuple(map(self._as_it_is_now, REQUESTS)),
            asked=self.asked,
            queued=tuple(queued),
            parked=tuple(parked),
            is_enabled=is_enabled,
            aborts=tuple(self.aborts),
            has_ended=self.has_ended,
            is_closed=self.is_closed,
        )

    def _as_it_is_now(self, number: int) -> Request:
        request = self.requests[number]
        log = request.log + self.logged[number]

        logs = self.rules.logs

        assert log in logs.so_far, f"out of order: {log}, and now it is {request.state}"

        return request._replace(
            log=logs.shortest[log], is_reset=request.is_reset and request.is_alive
        )

    # --- What connects the two ------------------------------------------------------------

    def happens(self, number: int, event: Event, *, to_event: bool = False) -> Status:
        """Have the table say what follows, and do it."""
        before = self.requests[number].state
        row = self.rules.table[before]

        assert event in row, f"{before} can't have {event}"

        moved = row[event]
        self.requests[number] = self.requests[number]._replace(state=moved.state)
        if moved.cancels:
            self.logged[number] += "c"
        if moved.aborts:
            self.aborts.append(number)
        if moved.answer is Answer.APPROVE:
            self.logged[number] += "y"
            if not self.rules.before_handshake:
                self.establish(number, to_event=to_event)
        elif moved.answer is Answer.LET_ON:
            self.logged[number] += "h"
        elif moved.answer is Answer.REFUSE:
            self.logged[number] += "n"
        elif moved.answer is Answer.RESET:
            self.logged[number] += "x"
            self.delivery.remove(number)
        return moved.status

    def establish(self, number: int, *, to_event: bool) -> None:
        """The handshake is over: the connection goes to whoever is to have it."""
        self.happens(number, Event.ESTABLISH)
        if self.requests[number].is_reset:
            self.happens(number, Event.LEAVE)
            return
        place = self.delivery.place(number, to_event=to_event)
        if place is Way.PARKED:
            self.check_parked(number)
        else:
            self.deliver(number, place.value if isinstance(place, Way) else place)

    def check_parked(self, newcomer: int) -> None:
        """More are parked than may be: one goes, if that is the policy."""
        goes = self.delivery.crowded_out(newcomer)
        if goes is not None:
            self.happens(goes, Event.OVERFLOW)

    def deliver(self, number: int, place: str) -> None:
        """Somebody has it."""
        self.happens(number, Event.DELIVER)
        self.logged[number] += "d"
        self.delivered.append((number, place))

    # --- What can happen ------------------------------------------------------------------

    def arrive(self, number: int, _: str) -> None:
        """A request comes; the oldest makes room for it, if that is the policy."""
        self.requests[number] = self.requests[number]._replace(has_come=True)
        if self.now.pending >= self.rules.max_pending and not self.makes_room():
            self.happens(number, Event.OVERFLOW)
            return
        self.happens(number, Event.INSPECT)
        self.logged[number] += "I"

    def makes_room(self) -> bool:
        """The oldest goes for a newcomer, if that is the policy and there is one."""
        if self.rules.overflow == "reset" or not self.now.waiting:
            return False
        self.happens(self.now.waiting[0], Event.OVERFLOW)
        return True

    def connect(self, number: int, _: str) -> None:
        """The handshake is over of a request that the first of two stages has let through."""
        if self.requests[number].is_reset:
            self.happens(number, Event.LEAVE)
        elif len(self.now.waiting) >= self.rules.max_pending and not self.makes_room():
            self.happens(number, Event.OVERFLOW)
        else:
            self.happens(number, Event.ESTABLISH)
            self.requests[number] = self.requests[number]._replace(is_second=True)

    def ask_again(self, number: int, _: str) -> None:
        """The pump asks the second stage."""
        self.happens(number, Event.INSPECT)
        self.logged[number] += "I"

    def answer(self, number: int, which: str) -> None:
        """An async inspector answers."""
        self.logged[number] += which
        self.happens(number, ANSWERS_OF_FIRST[which])

    def answer_in_pump(self, number: int, which: str) -> None:
        """A plain inspector answers, where the accept event may be called."""
        self.logged[number] += which
        self.happens(number, ANSWERS_OF_FIRST[which], to_event=True)

    def complete(self, number: int, which: str) -> None:
        """Somebody completes an inspection, and is told what came of it."""
        request = self.requests[number]
        expected = expected_status(request.log)
        if request.is_undecided or number in self.aborts:
            if expected is Status.SUCCESS:
                self.logged[number] += which
            is_first = self.rules.two_stages and not request.is_second
            event = Event.COMPLETE_PASS if is_first and which == "Y" else COMPLETIONS[which]
            status = self.happens(number, event)
        else:
            is_remembered = request.log.startswith("I") and "x" in request.log
            status = Status.CONNECTION_ABORTED if is_remembered else Status.NOT_FOUND

        assert expected is status, f"completing {request} gives {status}"

    def establish_late(self, number: int, _: str) -> None:
        """The peer answers our yes."""
        self.establish(number, to_event=False)

    def leave(self, number: int, _: str) -> None:
        """A peer leaves, and it is noticed."""
        self.happens(number, Event.LEAVE)

    def reset_unnoticed(self, number: int, _: str) -> None:
        """A peer leaves, and it is not noticed yet."""
        self.requests[number] = self.requests[number]._replace(is_reset=True)

    def expire(self, number: int, _: str) -> None:
        """There was no verdict in time."""
        self.happens(number, Event.EXPIRE)

    def queue(self, _: int, accept: str) -> None:
        """Somebody wants a connection."""
        self.asked += 1
        while (number := self.delivery.queue(accept)) is not None:
            if not self.requests[number].is_reset:
                self.deliver(number, accept)
                break
            self.happens(number, Event.LEAVE)

    def withdraw(self, _: int, accept: str) -> None:
        """Somebody wants none any more."""
        assert self.delivery.withdraw(accept)

    def switch(self, _: int, __: str) -> None:
        """The accept event is enabled, or disabled."""
        self.delivery.event_enabled = not self.delivery.event_enabled

    def turn(self, _: int, __: str) -> None:
        """The pump indicates what is first in line to the event."""
        number = self.delivery.unpark_for_event()

        assert number is not None

        if self.requests[number].is_reset:
            self.happens(number, Event.LEAVE)
        else:
            self.deliver(number, Way.EVENT.value)

    def tell_abort(self, number: int, _: str) -> None:
        """The pump calls the abort callback that is due first."""
        assert number == self.aborts.pop(0)

        self.logged[number] += "a"

    def close(self, _: int, __: str) -> None:
        """The listening socket is closed: whatever lives is lost."""
        self.has_ended = True
        for number in sorted(REQUESTS, key=lambda each: not self.requests[each].is_undecided):
            if self.requests[number].is_alive:
                self.happens(number, Event.CLOSE)
        self.delivery.drain()

    def settle(self, _: int, __: str) -> None:
        """aclose() returns: the pump has done its work."""
        while self.aborts:
            self.tell_abort(self.aborts[0], "")
        self.is_closed = True


def expected_status(log: str) -> Status:
    """Say from its log what completing a request gives."""
    if "I" in log and "x" in log:
        return Status.CONNECTION_ABORTED
    log = _now(log)
    if "I" not in log or any(word in log for word in "ynYN"):
        return Status.NOT_FOUND
    return Status.SUCCESS


# --- What can happen next -----------------------------------------------------------------


def possibilities(rules: Rules, now: Snapshot) -> Iterator[Possibility]:
    """List what can happen next: which method of `World`, with which arguments."""
    for number in REQUESTS:
        for which in COMPLETIONS:
            yield "complete", number, which
        yield from _of_inspector(rules, now, number)
    if now.is_closed:
        return
    if now.aborts:
        yield "tell_abort", now.aborts[0], ""
    if now.has_ended:
        yield "settle", 0, ""
        return
    for number in REQUESTS:
        yield from _of_peer(rules, now, number)
    yield from _of_socket(rules, now)


def _of_inspector(rules: Rules, now: Snapshot, number: int) -> Iterator[Possibility]:
    request = now.requests[number]
    is_first = rules.two_stages and not request.is_second
    if "I" in _now(request.log) and not _has_answered(request.log):
        for which in ANSWERS_OF_FIRST if is_first else ANSWERS:
            yield "answer", number, which
            if not now.has_ended:
                yield "answer_in_pump", number, which


def _of_peer(rules: Rules, now: Snapshot, number: int) -> Iterator[Possibility]:
    request = now.requests[number]
    if not request.has_come:
        if number == 0 or now.requests[number - 1].has_come:
            yield from _arrival(rules, now, number)
        return
    if request.is_alive:
        yield "leave", number, ""
        if not request.is_reset:
            yield "reset_unnoticed", number, ""
    if request.state is State.APPROVED:
        yield "establish_late", number, ""
    if request.state is State.HANDSHAKING and (
        len(now.waiting) < rules.max_pending or rules.overflow != "wait"
    ):
        yield "connect", number, ""
    if request.state is State.CONNECTED:
        yield "ask_again", number, ""


def _arrival(rules: Rules, now: Snapshot, number: int) -> Iterator[Possibility]:
    """A request comes, or waits in the transport, if that is the policy."""
    is_wanted = now.queued or now.is_enabled
    has_room = now.pending < rules.max_pending and (len(now.parked) < rules.max_parked or is_wanted)
    if has_room or rules.overflow != "wait":
        yield "arrive", number, ""


def _of_socket(rules: Rules, now: Snapshot) -> Iterator[Possibility]:
    if now.undecided:
        yield "expire", now.undecided[0], ""
    if now.asked < len(rules.accepts):
        yield "queue", 0, ACCEPTS[now.asked]
    for accept in now.queued:
        yield "withdraw", 0, accept
    yield "switch", 0, ""
    if now.is_enabled and now.parked:
        yield "turn", 0, ""
    yield "close", 0, ""


OURS: Final = frozenset(
    {
        "answer",
        "ask_again",
        "complete",
        "connect",
        "establish_late",
        "queue",
        "switch",
        "tell_abort",
        "turn",
    }
)
"""What can happen without any peer leaving, any time passing or anybody closing anything."""


# --- What must be true --------------------------------------------------------------------


def check(rules: Rules, now: Snapshot) -> None:
    """What is true in every state of the world."""
    for number, request in enumerate(now.requests):
        is_over = request.has_come and not request.is_alive
        is_late_answer_due = _now(request.log).startswith("Ic") and not _has_answered(request.log)
        if is_over and number not in now.aborts:
            assert request.log in rules.logs.in_order, f"not told: {request}"
        if now.has_ended:
            assert not request.is_alive, f"alive behind a closed socket: {request}"
        assert is_over or not is_late_answer_due

        is_parked = request.has_come and request.state is State.ESTABLISHED

        assert is_parked is (number in now.parked), f"lost from the line: {request}"
    assert len(set(now.parked)) == len(now.parked)
    assert not (now.queued and now.parked), "somebody waits beside what is there"
    assert len(now.waiting) <= rules.max_pending
    if now.has_ended:
        assert () == now.queued
    if now.is_closed:
        assert () == now.aborts


def check_step(rules: Rules, world: World, what: str, then: Snapshot) -> None:
    """What is true of every way from one state to the next."""
    before = world.now
    logged = "".join(world.logged)

    assert set(logged) <= set(ANSWERS_OF_FIRST) or not before.is_closed, (
        "done after the socket was closed"
    )

    for number, place in world.delivered:
        ahead = [each for each in before.parked if then.requests[each].is_alive]

        assert not ahead or number == before.parked[0], f"request {number} overtook"
        if place == Way.EVENT.value:
            assert before.is_enabled, "indicated, though the event is disabled"
            assert not before.queued, "indicated, though an accept is queued"
        else:
            assert (*before.queued, ACCEPTS[before.asked : before.asked + 1])[0] == place

    gone = [accept for accept in before.queued if accept not in then.queued]
    served = [place for _, place in world.delivered]

    assert what in {"withdraw", "close"} or set(gone) <= set(served), "an accept was forgotten"
    assert not set(served) & set(then.queued), "an accept was served and waits on"

    stayed = [number for number in before.parked if number in then.parked]

    assert list(then.parked[: len(stayed)]) == stayed, "the line was changed"
    if rules.overflow != "wait" and not then.is_enabled:
        assert len(then.parked) <= max(rules.max_parked, len(before.parked))


class Seen(NamedTuple):
    """How much a walk has seen."""

    states: int
    steps: int


def walk(rules: Rules) -> Seen:
    """Visit every state that can be reached, and check each one, and each way to one."""
    start = Snapshot()
    seen = {start}
    waiting = deque(seen)
    ways: dict[Snapshot, list[Snapshot]] = {}
    steps = 0
    while waiting:
        now = waiting.popleft()
        check(rules, now)
        for what, number, which in possibilities(rules, now):
            world = World(rules, now)
            getattr(world, what)(number, which)
            then = world.snapshot()
            steps += 1
            check_step(rules, world, what, then)
            if then not in seen:
                seen.add(then)
                waiting.append(then)
            if what in OURS:
                ways.setdefault(then, []).append(now)
    check_no_dead_end(seen, ways)
    return Seen(len(seen), steps)


def check_no_dead_end(seen: set[Snapshot], ways: Mapping[Snapshot, list[Snapshot]]) -> None:
    """From each state every request that has come can still end, by what is ours alone."""
    can_end = {now for now in seen if _all_is_over(now)}
    waiting = deque(can_end)
    while waiting:
        for before in ways.get(waiting.popleft(), ()):
            if before not in can_end:
                can_end.add(before)
                waiting.append(before)
    stuck = seen - can_end

    assert set() == stuck, f"a request can't end any more, as here: {next(iter(stuck))}"


def _all_is_over(now: Snapshot) -> bool:
    return not now.aborts and not any(request.is_alive for request in now.requests)


OVERFLOWS: Final[tuple[OverflowPolicy, ...]] = ("wait", "reset", "evict")

WORLDS: Final = [
    Rules(),
    Rules(before_handshake=True),
    Rules(max_pending=1, max_parked=1, overflow="evict"),
    Rules(max_pending=1, max_parked=1, overflow="reset"),
    Rules(max_pending=1, max_parked=1, overflow="wait"),
    Rules(max_parked=1, overflow="evict"),
    Rules(before_handshake=True, max_pending=1, max_parked=1, overflow="evict"),
    Rules(before_handshake=True, max_pending=1, max_parked=1, overflow="reset"),
    Rules(before_handshake=True, max_parked=1, overflow="reset"),
    *(
        Rules(before_handshake=True, two_stages=True, accepts="", max_pending=1, overflow=overflow)
        for overflow in OVERFLOWS
    ),
]


@pytest.mark.heavy
@pytest.mark.parametrize("rules", WORLDS, ids=str)
def test_order_is_kept_in_every_state(rules: Rules) -> None:
    """
    In every state of a small world each request was inspected before it was completed, and
    completed before exactly one of delivery and abort; after a rejection came neither; nothing
    came after the socket was closed; an early word was kept until its inspector pended; nobody was
    overtaken; and every request that lives can still end.
    """
    seen = walk(rules)

    print(f"\n{rules}: {seen.states} states, {seen.steps} ways from one to the next")  # noqa: T201 - for -s

    assert seen.states > 9_000
    assert seen.steps > 100_000


# --- What the checker finds ---------------------------------------------------------------


def changed(state: State, event: Event, followed: Step | None) -> Table:
    """Return the table with one mistake in it: another step, or none."""
    row = {each: step for each, step in TABLE[state].items() if each is not event}
    return {**TABLE, state: row if followed is None else {**row, event: followed}}


YES: Final = Step(State.APPROVED, Answer.APPROVE)
LEFT: Final = Step(State.ABORTED, Answer.RESET, cancels=True, aborts=True)

MISTAKEN_TABLES: Final[dict[str, Table]] = {
    "a rejected request is aborted": changed(
        State.PENDED,
        Event.COMPLETE_REJECT,
        Step(State.REJECTED, Answer.REFUSE, aborts=True),
    ),
    "a rejected request can still be approved": changed(
        State.INSPECTING, Event.REJECT, Step(State.PENDED, Answer.REFUSE)
    ),
    "the peer leaves and nobody is told": changed(
        State.PENDED, Event.LEAVE, Step(State.ABORTED, Answer.RESET, cancels=True)
    ),
    "the peer leaves and the inspector goes on": changed(
        State.INSPECTING, Event.LEAVE, Step(State.ABORTED, Answer.RESET, aborts=True)
    ),
    "a parked request is lost without a word": changed(
        State.ESTABLISHED, Event.LEAVE, Step(State.ABORTED, Answer.RESET)
    ),
    "a lost peer keeps its connection": changed(
        State.PENDED, Event.EXPIRE, Step(State.TIMED_OUT, cancels=True, aborts=True)
    ),
    "a request without a verdict outlives the socket": changed(
        State.ACCEPTED_EARLY, Event.CLOSE, Step(State.ACCEPTED_EARLY, Answer.RESET, aborts=True)
    ),
    "no room at arrival is told as an abort": changed(
        State.ARRIVED, Event.OVERFLOW, Step(State.OVERFLOWED, Answer.RESET, aborts=True)
    ),
    "an early word is forgotten": changed(State.ACCEPTED_EARLY, Event.PEND, Step(State.PENDED)),
    "an early word counts at once": changed(State.INSPECTING, Event.COMPLETE_ACCEPT, YES),
    "an early no is a yes": changed(State.REJECTED_EARLY, Event.PEND, YES),
    "an early word overrules its inspector": changed(
        State.REJECTED_EARLY, Event.ACCEPT, Step(State.REJECTED, Answer.REFUSE)
    ),
    "the second word counts": changed(
        State.ACCEPTED_EARLY, Event.COMPLETE_REJECT, Step(State.REJECTED_EARLY)
    ),
    "a late inspector is listened to": changed(State.TIMED_OUT, Event.ACCEPT, YES),
    "a late completion is listened to": changed(State.ABORTED, Event.COMPLETE_ACCEPT, YES),
    "a late completion has succeeded": changed(
        State.CLOSED, Event.COMPLETE_REJECT, Step(State.CLOSED)
    ),
    "a late inspector is a bug": changed(State.CLOSED, Event.PEND, None),
    "a request without a verdict has all the time": changed(
        State.REJECTED_EARLY, Event.EXPIRE, None
    ),
    "nobody hears that a pended peer has left": changed(State.PENDED, Event.LEAVE, None),
    "a peer in its handshake can't leave": changed(State.APPROVED, Event.LEAVE, None),
    "completing has no effect": changed(State.PENDED, Event.COMPLETE_ACCEPT, Step(State.PENDED)),
    "a delivered request is aborted": changed(
        State.ESTABLISHED, Event.DELIVER, Step(State.DELIVERED, aborts=True)
    ),
    "the one who works on it is cancelled by a yes": changed(
        State.PENDED, Event.COMPLETE_ACCEPT, Step(State.APPROVED, Answer.APPROVE, cancels=True)
    ),
    "the transport is told twice": changed(
        State.APPROVED, Event.ESTABLISH, Step(State.ESTABLISHED, Answer.REFUSE)
    ),
    "an approved request is established for ever": changed(
        State.APPROVED, Event.ESTABLISH, Step(State.APPROVED)
    ),
    "a handshake ends what it has begun": changed(State.APPROVED, Event.ESTABLISH, LEFT),
}


class _ServesTheLastFirst(Delivery[str, int]):
    def place(self, request: int, *, to_event: bool = True) -> str | Way:
        if self._acceptors:
            return self._acceptors.popitem(last=True)[0]
        return super().place(request, to_event=to_event)


class _GivesTheNewestFirst(Delivery[str, int]):
    def queue(self, acceptor: str) -> int | None:
        if self._parked:
            return self._parked.popitem(last=True)[0]
        return super().queue(acceptor)


class _KeepsWhatItGives(Delivery[str, int]):
    def unpark_for_event(self) -> int | None:
        return self.oldest_parked()


class _KeepsWhoWasServed(Delivery[str, int]):
    def place(self, request: int, *, to_event: bool = True) -> str | Way:
        return next(iter(self._acceptors), None) or super().place(request, to_event=to_event)


class _ParksBesideAnAccept(Delivery[str, int]):
    def place(self, request: int, *, to_event: bool = True) -> str | Way:
        self._parked[request] = None
        return Way.PARKED


class _LetsNewcomersOvertake(Delivery[str, int]):
    def place(self, request: int, *, to_event: bool = True) -> str | Way:
        if to_event and self.event_takes:
            return Way.EVENT
        return super().place(request, to_event=to_event)


class _PrefersTheEvent(Delivery[str, int]):
    def place(self, request: int, *, to_event: bool = True) -> str | Way:
        if to_event and self.event_takes and not self._parked:
            return Way.EVENT
        return super().place(request, to_event=to_event)


class _IndicatesThoughDisabled(Delivery[str, int]):
    def place(self, request: int, *, to_event: bool = True) -> str | Way:
        if to_event and not self._acceptors and not self._parked:
            return Way.EVENT
        return super().place(request, to_event=to_event)


class _ForgetsNobody(Delivery[str, int]):
    def remove(self, request: int) -> bool:
        return request in self._parked


MISTAKEN_DELIVERIES: Final = [
    _ServesTheLastFirst,
    _GivesTheNewestFirst,
    _KeepsWhatItGives,
    _KeepsWhoWasServed,
    _ParksBesideAnAccept,
    _LetsNewcomersOvertake,
    _PrefersTheEvent,
    _IndicatesThoughDisabled,
    _ForgetsNobody,
]


@pytest.mark.parametrize("mistake", MISTAKEN_TABLES)
def test_mistake_in_the_table_is_found(mistake: str) -> None:
    """One wrong step in the table, and some state of the world is out of order."""
    rules = Rules(
        before_handshake=True,
        max_pending=1,
        overflow="reset",
        table=MISTAKEN_TABLES[mistake],
    )
    with pytest.raises(AssertionError):
        walk(rules)


ON: Final = Step(State.HANDSHAKING, Answer.LET_ON)

MISTAKES_OF_STAGES: Final[dict[str, Table]] = {
    "the second stage is not asked": changed(State.INSPECTING, Event.PASS, YES),
    "the second stage is asked before the handshake": changed(
        State.INSPECTING, Event.PASS, Step(State.CONNECTED, Answer.LET_ON)
    ),
    "a stage that is completed is the last one": changed(State.PENDED, Event.COMPLETE_PASS, YES),
    "an early word of the first stage is its last": changed(State.PASSED_EARLY, Event.PEND, YES),
    "an early no is forgotten by who has no objection": changed(
        State.PASSED_EARLY, Event.PEND, Step(State.PENDED)
    ),
    "the handshake is not let on": changed(
        State.PENDED, Event.COMPLETE_PASS, Step(State.HANDSHAKING)
    ),
    "what is between the stages can be completed": changed(
        State.HANDSHAKING, Event.COMPLETE_REJECT, Step(State.REJECTED, Answer.REFUSE)
    ),
    "a peer between the stages can't leave": changed(State.HANDSHAKING, Event.LEAVE, None),
    "a peer between the stages leaves and nobody is told": changed(
        State.HANDSHAKING, Event.LEAVE, Step(State.ABORTED, Answer.RESET, cancels=True)
    ),
    "a peer between the stages has all the time": changed(State.HANDSHAKING, Event.EXPIRE, None),
    "who is connected and not asked outlives the socket": changed(
        State.CONNECTED, Event.CLOSE, Step(State.CONNECTED, Answer.RESET, aborts=True)
    ),
    "who is connected is delivered unasked": changed(
        State.HANDSHAKING, Event.ESTABLISH, Step(State.ESTABLISHED)
    ),
    "a late answer of the first stage is listened to": changed(State.ABORTED, Event.PASS, ON),
}


@pytest.mark.parametrize("mistake", MISTAKES_OF_STAGES)
def test_mistake_about_two_stages_is_found(mistake: str) -> None:
    """One wrong step between the two stages, and some state of the world is out of order."""
    rules = Rules(
        before_handshake=True,
        two_stages=True,
        max_pending=1,
        overflow="reset",
        table=MISTAKES_OF_STAGES[mistake],
    )
    with pytest.raises(AssertionError):
        walk(rules)


@pytest.mark.parametrize("delivery", MISTAKEN_DELIVERIES)
def test_mistake_in_delivery_is_found(delivery: Deliveries) -> None:
    """One wrong line in `Delivery`, and somebody is overtaken, served twice or forgotten."""
    with pytest.raises(AssertionError):
        walk(Rules(delivery=delivery))
