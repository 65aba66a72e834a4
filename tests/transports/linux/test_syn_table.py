"""The table of requests before the handshake: what follows from each packet and each moment."""

from __future__ import annotations

import math
from collections import deque
from typing import Final, NamedTuple, TypeAlias

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trio_wsk._vocabulary.addresses import Address
from trio_wsk.transports._contract import PeerEnd
from trio_wsk.transports._heartbeat import FIRST_REPEAT
from trio_wsk.transports._syn import Key
from trio_wsk.transports.linux._entry import Act, Entry, Stage, Stranger
from trio_wsk.transports.linux._syn_table import (
    LOOKS,
    REMEMBERED_FOR,
    SynTable,
    key_of,
)

Table: TypeAlias = SynTable[str]

KEY: Final = key_of(Address.parse("192.0.2.2:80"), Address.parse("192.0.2.1:40000"))
OTHER_KEY: Final = key_of(Address.parse("192.0.2.2:80"), Address.parse("192.0.2.1:40001"))
ISN: Final = 0x01020304
OTHER_ISN: Final = 0x11121314
PACKET: Final = 1
REPEAT: Final = 2

FOUND, LOST, UNKNOWN = True, False, None
"""What the kernel says of an approved request."""

LINUX: Final = (0, 1, 2, 3, 4, 5, 7, 11, 19, 35)
LINUX_BEFORE_6_5: Final = (0, 1, 3, 7, 15, 31)
SLOW_STARTERS: Final = (0, 3, 9, 21)


def key_number(number: int) -> Key:
    """Make the key of one of many connections."""
    return b"\x7f\0\0\1", 80, number.to_bytes(4, "big"), 40000, 0


def table_of(**limits: int) -> Table:
    """Make a table that has room."""
    return SynTable(**{"max_undecided": 10, **limits})


def asked(table: Table, key: Key = KEY, isn: int = ISN, now: float = 0.0) -> Entry[str]:
    """Have a new request come."""
    answer = table.syn(key, isn, PACKET, now)

    assert Act.HOLD is answer.act
    assert answer.entry is not None

    return answer.entry


def approved(table: Table, key: Key = KEY, isn: int = ISN, now: float = 0.0) -> Entry[str]:
    """Have a new request come, and approve it."""
    request = asked(table, key, isn, now)

    assert Act.ACCEPT is table.approve(request, now)

    return request


def again(table: Table, now: float, key: Key = KEY, isn: int = ISN) -> Act:
    """Have a SYN come that may be a repeat, and return what has to be done with it."""
    return table.syn(key, isn, REPEAT, now).act


# --- Packets ---------------------------------------------------------------------------------


def test_first_syn_is_held() -> None:
    """The first SYN of a connection is a new request, whose packet stays where it is."""
    table = table_of()
    answer = table.syn(KEY, ISN, PACKET, 5.0)
    request = answer.entry

    assert Act.HOLD is answer.act
    assert request is not None
    assert (KEY, ISN, PACKET, Stage.HELD) == (
        request.key,
        request.isn,
        request.packet_id,
        request.stage,
    )
    assert None is request.owner
    assert (1, 0) == (table.undecided, table.approved)
    assert "<Entry held, 16909060 of " in repr(request)


def test_repeats_are_absorbed_while_undecided() -> None:
    """A SYN that comes again while nobody has decided is dropped, and is no new request."""
    table = table_of()
    request = asked(table)
    answers = [table.syn(KEY, ISN, REPEAT + i, 1.0 + i) for i in range(3)]

    assert {Act.DROP} == {answer.act for answer in answers}
    assert {None} == {answer.entry for answer in answers}
    assert 1 == table.undecided
    assert Act.ACCEPT is table.approve(request, 3.5)
    assert PACKET == request.packet_id


@pytest.mark.parametrize(
    ("verb", "act", "repeated"),
    [
        ("reject", Act.REJECT, Act.REJECT),
        ("silence", Act.DROP, Act.DROP),
    ],
)
def test_repeat_after_a_verdict_has_the_same_again(verb: str, act: Act, repeated: Act) -> None:
    """
    A SYN that comes again after the verdict means that its answer was lost, so it is given again,
    for as long as somebody asks and a while longer; then the same SYN is a new request.
    """
    table = table_of()
    request = asked(table)

    assert act is getattr(table, verb)(request, 0.5)
    assert 0 == table.undecided

    for now in (1.0, 3.0, 3.0 + REMEMBERED_FOR - 0.1):
        assert repeated is again(table, now)
    assert Act.HOLD is again(table, 3.0 + 2 * REMEMBERED_FOR - 0.1)


def test_repeat_of_what_is_not_established_yet_is_let_through() -> None:
    """A SYN that comes again after approval was not answered, or its answer was lost."""
    table = table_of()
    approved(table)

    assert [Act.ACCEPT, Act.ACCEPT] == [again(table, 1.0), again(table, 3.0)]


def test_repeat_of_what_is_established_is_dropped() -> None:
    """
    Its answer has come, so it is late, or somebody's who knows the number; it opens nothing. After
    a while it is a new request, however often it has come meanwhile.
    """
    table = table_of()
    table.correlate(approved(table).key, ISN, 0.5)

    for now in (1.0, 3.0, 0.5 + REMEMBERED_FOR - 0.1):
        assert Act.DROP is again(table, now)
    assert Act.HOLD is again(table, 0.5 + REMEMBERED_FOR)


def test_another_number_waits_until_the_first_has_gone() -> None:
    """
    Anybody who knows a client's port can write a SYN with another number: it doesn't end what the
    client has asked for. A client that has started anew is heard when its old request is missed.
    """
    table = table_of()
    first = asked(table)

    assert Act.DROP is again(table, 1.0, isn=OTHER_ISN)
    assert Stage.HELD is first.stage
    assert Act.DROP is again(table, 2.0)
    assert Act.DROP is again(table, 3.0, isn=OTHER_ISN)
    assert [first] == [over.entry for over in table.due(7.0).over]
    assert Act.HOLD is again(table, 7.0, isn=OTHER_ISN)


def test_late_repeat_does_not_end_a_newer_request() -> None:
    """
    A SYN of an older connection that was long on its way is dropped, and the newer
    request between the same addresses is left alone.
    """
    table = table_of()
    table.correlate(approved(table).key, ISN, 0.1)
    newer = asked(table, isn=OTHER_ISN, now=2.0)

    assert Act.DROP is again(table, 2.1)
    assert Stage.HELD is newer.stage


def test_another_number_does_not_end_a_handshake() -> None:
    """
    A SYN with another sequence number, which anybody can write, does not end an approved request:
    it is dropped, and the kernel is asked at once, but no more often than is worth it.
    """
    table = table_of()
    request = asked(table, now=-2.0)
    table.approve(request, 0.0)

    assert Act.DROP is again(table, 0.1, isn=OTHER_ISN)
    for now in (0.2, 1.0, 2.0):
        assert now == table.next_due
        assert [request] == table.due(now).look_up
    assert 4.0 == table.next_due

    assert Act.ACCEPT is again(table, 2.05)
    assert Act.DROP is again(table, 2.05, isn=OTHER_ISN)
    assert pytest.approx(2.2) == table.next_due
    assert Act.DROP is again(table, 3.0, isn=OTHER_ISN)
    assert 3.0 == table.next_due
    assert [request] == table.due(3.0).look_up
    assert Stage.APPROVED is request.stage
    assert table.looked_up(request, LOST, 3.0)
    assert Act.HOLD is again(table, 4.0, isn=OTHER_ISN)


# --- Resets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("isn", [ISN, 0xFFFFFFFF])
def test_reset_ends_what_is_held(isn: int) -> None:
    """A reset with the number that follows the SYN's ends the request; its packet is dropped."""
    table = table_of()
    request = asked(table, isn=isn)
    over = table.rst(KEY, (isn + 1) % 2**32, 1.0)

    assert over is not None
    assert (request, PeerEnd.RESET, Act.DROP) == (over.entry, over.end, over.act)
    assert (0, math.inf) == (table.undecided, table.next_due)
    assert Act.HOLD is again(table, 2.0, isn=isn)


def test_reset_ends_what_is_approved() -> None:
    """A reset ends an approved request, too, which has no packet any more."""
    table = table_of()
    request = approved(table)
    over = table.rst(KEY, ISN + 1, 0.1)

    assert over is not None
    assert (request, PeerEnd.RESET, None) == (over.entry, over.end, over.act)
    assert (0, math.inf) == (table.approved, table.next_due)
    assert Stranger.TURNED_AWAY is table.correlate(KEY, ISN, 0.2)
    assert Act.HOLD is again(table, 1.0)


@pytest.mark.parametrize("sequence_number", [0, ISN, ISN + 2, OTHER_ISN])
def test_forged_reset_ends_nothing(sequence_number: int) -> None:
    """A reset with another sequence number is forged or late, and changes nothing."""
    table = table_of()
    request = asked(table)

    assert None is table.rst(KEY, sequence_number, 1.0)
    assert None is table.rst(OTHER_KEY, ISN + 1, 1.0)
    assert Stage.HELD is request.stage


# --- The heartbeat ---------------------------------------------------------------------------


def test_who_never_asks_again_is_silent() -> None:
    """A client whose first SYN is not repeated has given up: the packet is dropped."""
    table = table_of()
    request = asked(table, now=10.0)

    assert 10.0 + FIRST_REPEAT == table.next_due
    assert [] == table.due(10.0 + FIRST_REPEAT - 0.01).over

    (over,) = table.due(table.next_due).over

    assert (request, PeerEnd.SILENT, Act.DROP) == (over.entry, over.end, over.act)
    assert (0, math.inf) == (table.undecided, table.next_due)


@pytest.mark.parametrize("schedule", [LINUX, LINUX_BEFORE_6_5, SLOW_STARTERS])
@pytest.mark.parametrize("duplicated", [False, True])
def test_who_asks_on_is_alive(schedule: tuple[int, ...], duplicated: bool) -> None:  # noqa: FBT001
    """
    A client that repeats its SYN as clients do is never taken for silent, even if the network
    duplicates each; when it stops, it is, not later than twice its last gap and a second.
    """
    table = table_of()
    asked(table)
    for sent in schedule[1:]:
        arrives = sent + 0.1

        assert [] == table.due(arrives).over
        assert Act.DROP is again(table, arrives)
        if duplicated:
            assert Act.DROP is again(table, arrives + 0.001)
    last, gap = schedule[-1] + 0.2, schedule[-1] - schedule[-2]

    assert [] == table.due(last + 2 * gap).over
    assert 1 == len(table.due(last + 2 * gap + 1.1).over)


def test_who_was_silent_may_try_again() -> None:
    """Nothing is remembered of who fell silent: its next SYN, the same one, is a new request."""
    table = table_of()
    first = asked(table)
    table.due(FIRST_REPEAT)
    second = asked(table, now=FIRST_REPEAT)

    assert first is not second
    for verb in (table.approve, table.reject, table.silence):
        assert None is verb(first, 4.0)
    assert Stage.HELD is second.stage


# --- After approval --------------------------------------------------------------------------


def test_approved_is_looked_for_soon_then_less_often() -> None:
    """What was approved and is not there is looked for in the kernel, at longer and longer gaps."""
    table = table_of()
    request = approved(table, now=100.0)
    times: list[float] = []
    while len(times) < len(LOOKS) + 2:
        times.append(table.next_due - 100.0)
        due = table.due(table.next_due)

        assert ([request], []) == (due.look_up, due.over)
        assert None is table.looked_up(request, FOUND, 100.0 + times[-1])

    assert pytest.approx([*LOOKS, 72.0 + 32.0, 72.0 + 64.0]) == times


def test_late_look_is_one_look() -> None:
    """Looks that were missed, because the program was busy, are not made up for."""
    table = table_of()
    request = approved(table)

    assert [request] == table.due(5.0).look_up
    assert 8.0 == table.next_due


def test_no_more_is_done_at_once_than_may_be() -> None:
    """What is due beyond the most that may be looked at is due still, and comes in its order."""
    table = table_of()
    requests = [approved(table, key_number(number)) for number in range(5)]

    assert [requests[:2], requests[2:4], requests[4:]] == [
        table.due(1.0, most=2).look_up for _ in range(3)
    ]


def test_what_the_kernel_has_is_not_over() -> None:
    """A request that the kernel still has, in the handshake or unaccepted, stays approved."""
    table = table_of()
    request = approved(table)

    assert None is table.looked_up(request, FOUND, 1000.0)
    assert request is table.correlate(KEY, ISN, 1001.0)


def test_what_the_kernel_has_lost_is_over() -> None:
    """A request that the kernel has not, or not any more, is over: its peer never answered."""
    table = table_of()
    request = approved(table)
    over = table.looked_up(request, LOST, 0.2)

    assert over is not None
    assert (request, PeerEnd.SILENT, None) == (over.entry, over.end, over.act)
    assert (0, math.inf) == (table.approved, table.next_due)


def test_what_the_kernel_does_not_tell_is_over_some_time() -> None:
    """Where the kernel can't be asked, a request is over when its last SYN-ACK was sent."""
    table = table_of()
    request = approved(table)
    overs = []
    for _ in LOOKS:
        now = table.next_due

        assert [request] == table.due(now).look_up

        overs.append((now, table.looked_up(request, UNKNOWN, now)))

    assert [None] * (len(LOOKS) - 1) == [over for _, over in overs[:-1]]
    assert (LOOKS[-1], Stage.GONE) == (overs[-1][0], request.stage)
    assert math.inf == table.next_due


def test_look_that_comes_too_late_says_nothing() -> None:
    """What the kernel says of a request that is over by then, or was never approved, is nothing."""
    table = table_of()
    established = approved(table)
    table.correlate(KEY, ISN, 0.2)
    held = asked(table, OTHER_KEY)

    assert None is table.looked_up(established, LOST, 0.2)
    assert None is table.looked_up(held, LOST, 0.2)


# --- Connections -----------------------------------------------------------------------------


@pytest.mark.parametrize("isn", [ISN, None])
def test_connection_finds_its_request(isn: int | None) -> None:
    """An accepted connection is that of the approved request between its addresses, once."""
    table = table_of()
    request = approved(table)

    assert request is table.correlate(KEY, isn, 0.1)
    assert Stage.ESTABLISHED is request.stage
    assert (0, math.inf) == (table.approved, table.next_due)
    assert Stranger.UNINSPECTED is table.correlate(KEY, isn, 0.2)
    for verb in (table.approve, table.reject, table.silence):
        assert None is verb(request, 0.3)


def test_connection_with_another_number_is_a_stranger() -> None:
    """A connection whose SYN had another sequence number is not that of the approved request."""
    table = table_of()
    request = approved(table)

    assert Stranger.UNINSPECTED is table.correlate(KEY, OTHER_ISN, 0.1)
    assert request is table.correlate(KEY, ISN, 0.1)


def test_approved_request_whose_packet_was_dropped_is_not_looked_for_before_its_next_syn() -> None:
    """The verdict came too late for its SYN, so the kernel knows nothing until the next one."""
    table = table_of()
    request = approved(table)
    table.dropped({PACKET + 1}, 0.1)

    assert 0.2 == table.next_due

    table.dropped({PACKET, PACKET + 1}, 0.1)

    assert 3.5 == table.next_due
    assert Act.ACCEPT is again(table, 1.0)
    assert [request] == table.due(3.5).look_up


@pytest.mark.parametrize("isn", [ISN, None])
def test_connection_without_approval_is_a_stranger(isn: int | None) -> None:
    """A connection whose request nobody has seen, or nobody has decided, is not approved."""
    table = table_of()
    held = asked(table)

    assert Stranger.UNINSPECTED is table.correlate(KEY, isn, 0.1)
    assert Stranger.UNINSPECTED is table.correlate(OTHER_KEY, isn, 0.1)
    assert Stage.HELD is held.stage


@pytest.mark.parametrize("isn", [ISN, None])
@pytest.mark.parametrize("verb", ["reject", "silence"])
def test_approval_that_was_taken_back_lets_nobody_in(verb: str, isn: int | None) -> None:
    """
    Turned away after its approval, a request has no packet left to answer; a connection that comes
    of it all the same is turned away.
    """
    table = table_of()
    request = approved(table)

    assert None is getattr(table, verb)(request, 0.1)
    assert Stranger.TURNED_AWAY is table.correlate(KEY, isn, 63.0)
    assert (0, math.inf) == (table.approved, table.next_due)


def test_connection_of_who_was_given_up_is_reset_unless_it_has_a_cookie() -> None:
    """
    An approved request that the kernel has lost was told of as gone, so a connection of it is
    reset. One that came back with a SYN cookie, which leaves nothing to look up, is asked about.
    """
    table = table_of()
    request = approved(table)

    assert table.looked_up(request, LOST, 0.2)
    assert Stranger.TURNED_AWAY is table.correlate(KEY, ISN, 0.3)
    assert Stranger.UNINSPECTED is table.correlate(KEY, None, 0.3)
    assert Act.HOLD is again(table, 1.0)


@pytest.mark.parametrize(("scope_id", "is_found"), [(0, True), (3, True), (2, False)])
@pytest.mark.parametrize("isn", [ISN, None])
def test_connection_over_loopback_has_a_scope_that_its_syn_had_not(
    scope_id: int,
    is_found: bool,  # noqa: FBT001 - a case
    isn: int | None,
) -> None:
    """
    A connection from a link-local address is that of the SYN with its scope, or with none, since
    what this machine sends to itself comes without; it is never that of one in another scope.
    """
    table = table_of()
    local, peer = Address.parse("[fe80::2%3]:80"), Address.parse("[fe80::1%3]:9")
    key = key_of(local, peer)
    request = approved(table, (*key[:4], scope_id))
    taken_back = approved(table, (*key[:3], 10, scope_id))
    table.reject(taken_back, 0.1)

    assert (request if is_found else Stranger.UNINSPECTED) is table.correlate(key, isn, 0.2)
    assert (Stranger.TURNED_AWAY if is_found else Stranger.UNINSPECTED) is table.correlate(
        (*key[:3], 10, 3), isn, 0.2
    )


@pytest.mark.parametrize(
    ("local", "remote", "expected"),
    [
        ("192.0.2.2:80", "192.0.2.1:9", (b"\xc0\0\2\2", 80, b"\xc0\0\2\1", 9, 0)),
        ("[::ffff:192.0.2.2]:80", "[::ffff:c000:201]:9", (b"\xc0\0\2\2", 80, b"\xc0\0\2\1", 9, 0)),
        ("[::1]:80", "[::1]:9", (bytes(15) + b"\1", 80, bytes(15) + b"\1", 9, 0)),
        (
            "[fe80::2%3]:80",
            "[fe80::1%3]:9",
            (b"\xfe\x80" + bytes(13) + b"\2", 80, b"\xfe\x80" + bytes(13) + b"\1", 9, 3),
        ),
    ],
)
def test_key_is_the_one_of_the_packets(local: str, remote: str, expected: Key) -> None:
    """The key of a connection is that of its packets, whatever kind of socket has it."""
    assert expected == key_of(Address.parse(local), Address.parse(remote))


# --- Closing ---------------------------------------------------------------------------------


def test_closing_leaves_newcomers_to_whoever_has_the_socket() -> None:
    """Where somebody else answers the next SYN, each that still comes is dropped."""
    table = table_of()
    held = asked(table)

    assert [held] == table.close(Act.DROP)
    assert Act.DROP is table.syn(OTHER_KEY, ISN, 7, 0.1).act


def test_closing_rejects_what_is_held() -> None:
    """
    When the listening socket closes, the packets that are held are to be rejected, nothing is
    due any more, and each SYN that comes is rejected, but for repeats, which have their verdict.
    """
    table = table_of()
    held = asked(table)
    approved(table, OTHER_KEY)
    table.correlate(approved(table, key_number(3)).key, ISN, 0.1)

    assert [held] == table.close()
    assert [] == table.close()
    assert (0, 0, math.inf) == (table.undecided, table.approved, table.next_due)
    assert None is table.reject(held, 0.1)
    assert Act.REJECT is again(table, 0.2)
    assert Act.REJECT is again(table, 0.2, key_number(4))
    assert Act.DROP is again(table, 0.2, key_number(3))
    assert 0 == table.undecided


# --- Bounds ----------------------------------------------------------------------------------


def test_syn_without_room_is_dropped() -> None:
    """
    With as many undecided as may be, a SYN is dropped and counted, and forgotten: when there is
    room, its repeat is a new request.
    """
    table = table_of(max_undecided=2)
    first, _ = (asked(table, key_number(i)) for i in range(2))

    assert Act.DROP is again(table, 0.0, KEY)
    assert 1 == table.overflowed

    table.approve(first, 0.0)

    assert Act.HOLD is again(table, 1.0, KEY)


def test_oldest_verdicts_are_forgotten_first() -> None:
    """Of more verdicts than are remembered the one is forgotten that nobody needed for longest."""
    table = table_of(max_remembered=2)
    for number in range(2):
        table.reject(asked(table, key_number(number)), number)

    assert Act.REJECT is again(table, 2.0, key_number(0))

    table.reject(asked(table, key_number(2)), 3.0)

    assert Act.HOLD is again(table, 4.0, key_number(1))
    assert [Act.REJECT] * 2 == [again(table, 4.0, key_number(number)) for number in (0, 2)]


class Kept(NamedTuple):
    """How many of what a table keeps."""

    live: int
    remembered: int
    alarms: int


def kept(table: Table) -> Kept:
    """Look into a table."""
    alarms = table._alarms._heap  # noqa: SLF001 - its bounds are a promise
    return Kept(len(table._live), len(table._remembered), len(alarms))  # noqa: SLF001


FLOOD: Final = 20_000


@pytest.mark.parametrize("verb", ["approve", "reject", "silence", None])
def test_flood_has_bounded_memory(verb: str | None) -> None:
    """
    However many SYNs come from forged addresses, and whatever they are answered, what is kept
    stays within the limits; of those that are approved the owner takes the oldest back.
    """
    table = table_of(max_undecided=100, max_remembered=200)
    half_open: deque[Entry[str]] = deque()
    for number in range(FLOOD):
        now = number / 1000
        answer = table.syn(key_number(number), number, number, now)
        if answer.entry is not None and verb is not None:
            getattr(table, verb)(answer.entry, now)
            half_open.append(answer.entry)
            if len(half_open) > 300:
                table.reject(half_open.popleft(), now)
        if table.next_due <= now:
            for request in table.due(now).look_up:
                table.looked_up(request, LOST, now)

        assert table.undecided <= 100
        assert table.approved <= 300
        assert kept(table).live == table.undecided + table.approved
        assert kept(table).remembered <= 200
        assert kept(table).alarms <= 64 + 2 * 400 + 1
    if verb is None:
        assert table.overflowed
    else:
        assert 0 == table.overflowed


def test_flood_of_forged_numbers_costs_no_memory() -> None:
    """A flood of SYNs between the same addresses has one request at a time, whoever sent them."""
    table = table_of(max_remembered=10)
    asked(table)
    for number in range(FLOOD):
        assert Act.DROP is again(table, number / 1000, isn=OTHER_ISN + number)
        assert 1 == table.undecided
        assert kept(table).alarms <= 64 + 2 + 1


def test_flood_of_forged_numbers_during_a_handshake_costs_no_memory() -> None:
    """Nor does a flood between the addresses of an approved request."""
    table = table_of(max_remembered=10)
    approved(table, now=20.0)
    for number in range(FLOOD):
        assert Act.DROP is again(table, 20.0 + number / 1000, isn=OTHER_ISN + number)
        assert kept(table).alarms <= 64 + 2 + 1


def test_verdicts_of_long_ago_are_not_kept() -> None:
    """What is too old to be needed is forgotten when the next verdict is remembered."""
    table = table_of()
    for number in range(9):
        table.reject(asked(table, key_number(number)), 0.0)
    table.reject(asked(table, now=REMEMBERED_FOR), REMEMBERED_FOR)

    assert 1 == kept(table).remembered


# --- Whatever happens --------------------------------------------------------------------------


@attrs.define(eq=False)
class Told:
    """One request, as the model has it: everything that has happened, and nothing clever."""

    entry: Entry[str]
    key: Key
    isn: int
    stage: Stage
    syns: list[float]
    approved_at: float = 0.0
    looked_at: float = 0.0
    look_at: float = math.inf

    @property
    def silent_from(self) -> float:
        """When it is silent if no SYN comes until then."""
        gaps = [b - a for a, b in zip(self.syns, self.syns[1:], strict=False)]
        return max(self.syns[0] + 3.5, self.syns[-1] + 2 * max(gaps, default=0) + 1)


LIVE: Final = frozenset({Stage.HELD, Stage.APPROVED})
SAME_AGAIN: Final = {
    Stage.ESTABLISHED: Act.DROP,
    Stage.REJECTED: Act.REJECT,
    Stage.SILENCED: Act.DROP,
}

keys = st.sampled_from([key_number(number) for number in range(4)])
isns = st.sampled_from([0, 1, 2**32 - 1])


class Requests(RuleBasedStateMachine):
    """
    Whatever comes in whatever order, the table says what a model says that keeps everything it
    was ever told in lists, and looks through all of it each time.
    """

    MAX_UNDECIDED: Final = 3
    MAX_REMEMBERED: Final = 3

    def __init__(self) -> None:
        super().__init__()
        self.table: Table = SynTable(
            max_undecided=self.MAX_UNDECIDED,
            max_remembered=self.MAX_REMEMBERED,
        )
        self.now = 1000.0
        self.packets = 0
        self.overflowed = 0
        self.is_closed = False
        self.told: list[Told] = []
        self.verdicts: list[tuple[Key, int, Stage, float]] = []

    # --- The model ---------------------------------------------------------------------

    def live(self, key: Key) -> Told | None:
        """Find the request between two addresses that is not over."""
        return next((told for told in self.told if told.key == key and told.stage in LIVE), None)

    def having(self, stage: Stage) -> list[Told]:
        """Find all in a stage."""
        return [told for told in self.told if told.stage is stage]

    def verdict(self, key: Key, isn: int | None) -> Stage | None:
        """Look up what is remembered."""
        for its_key, its_isn, stage, last_needed in self.verdicts:
            if (
                its_key == key
                and isn in {None, its_isn}
                and self.now < last_needed + REMEMBERED_FOR
            ):
                return stage
        return None

    def remember(self, key: Key, isn: int, stage: Stage) -> None:
        """Remember one verdict, for the last few connections."""
        others = [verdict for verdict in self.verdicts if verdict[0] != key]
        self.verdicts = [*others, (key, isn, stage, self.now)][-self.MAX_REMEMBERED :]

    def goes(self, told: Told) -> Act | None:
        """The peer leaves: return what has to be done."""
        was_held, told.stage = told.stage is Stage.HELD, Stage.GONE
        if was_held:
            return Act.DROP
        self.remember(told.key, told.isn, Stage.GONE)
        return None

    def find(self, request: Entry[str]) -> Told:
        """Find what the model has of a request."""
        return next(told for told in self.told if told.entry is request)

    # --- What happens ------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.2, 1.0, 3.5, 20.0, 64.0, 80.0]) | st.floats(0, 5))
    def time_passes(self, seconds: float) -> None:
        """Time passes; that something is due may be noticed late."""
        self.now += seconds

    @rule(key=keys, isn=isns)
    def syn(self, key: Key, isn: int) -> None:
        """A SYN comes."""
        self.packets += 1
        answer = self.table.syn(key, isn, self.packets, self.now)
        live, verdict = self.live(key), self.verdict(key, isn)
        expected = Act.HOLD
        if live is not None and live.isn == isn:
            live.syns.append(self.now)
            expected = Act.ACCEPT if live.stage is Stage.APPROVED else Act.DROP
        elif verdict in SAME_AGAIN:
            expected = SAME_AGAIN[verdict]
            if verdict is not Stage.ESTABLISHED:
                self.remember(key, isn, verdict)
        elif live is not None:
            expected = Act.DROP
            if live.stage is Stage.APPROVED:
                live.look_at = max(self.now, live.looked_at + 0.2)
        elif self.is_closed:
            expected = Act.REJECT
        elif len(self.having(Stage.HELD)) == self.MAX_UNDECIDED:
            expected = Act.DROP
            self.overflowed += 1

        assert expected is answer.act
        assert (expected is Act.HOLD) is (answer.entry is not None)
        if answer.entry is not None:
            assert (key, isn, self.packets) == (
                answer.entry.key,
                answer.entry.isn,
                answer.entry.packet_id,
            )

            self.told.append(Told(answer.entry, key, isn, Stage.HELD, [self.now]))

    @rule(key=keys, number=isns, ahead=st.sampled_from([0, 1]))
    def rst(self, key: Key, number: int, ahead: int) -> None:
        """A reset comes."""
        number = (number + ahead) % 2**32
        over = self.table.rst(key, number, self.now)
        live = self.live(key)
        if live is None or number != (live.isn + 1) % 2**32:
            assert None is over
        else:
            assert over is not None
            assert (live.entry, PeerEnd.RESET) == (over.entry, over.end)
            assert self.goes(live) is over.act

    @precondition(lambda self: self.told)
    @rule(data=st.data())
    def approve(self, data: st.DataObject) -> None:
        """Somebody says yes, perhaps too late."""
        told = data.draw(st.sampled_from(self.told))
        act = self.table.approve(told.entry, self.now)
        if told.stage is Stage.HELD:
            assert Act.ACCEPT is act

            told.stage = Stage.APPROVED
            told.approved_at = told.looked_at = self.now
            told.look_at = self.now + 0.2
        else:
            assert None is act

    @precondition(lambda self: self.told)
    @rule(data=st.data(), stage=st.sampled_from([Stage.REJECTED, Stage.SILENCED]))
    def turn_away(self, data: st.DataObject, stage: Stage) -> None:
        """Somebody says no or nothing, perhaps too late, perhaps after yes."""
        told = data.draw(st.sampled_from(self.told))
        if stage is Stage.REJECTED:
            act, expected = self.table.reject(told.entry, self.now), Act.REJECT
        else:
            act, expected = self.table.silence(told.entry, self.now), Act.DROP
        if told.stage not in LIVE:
            assert None is act
            return

        assert (expected if told.stage is Stage.HELD else None) is act

        told.stage = stage
        self.remember(told.key, told.isn, stage)

    @rule(key=keys, isn=isns | st.none())
    def connection(self, key: Key, isn: int | None) -> None:
        """A connection is accepted, from whomever."""
        found = self.table.correlate(key, isn, self.now)
        live, verdict = self.live(key), self.verdict(key, isn)
        if live is not None and live.stage is Stage.APPROVED and isn in {None, live.isn}:
            assert live.entry is found

            live.stage = Stage.ESTABLISHED
            self.remember(key, live.isn, Stage.ESTABLISHED)
        else:
            was_lost = verdict is Stage.GONE and isn is not None
            is_unwanted = was_lost or verdict in {Stage.REJECTED, Stage.SILENCED}

            assert (Stranger.TURNED_AWAY if is_unwanted else Stranger.UNINSPECTED) is found

    @rule()
    def due(self) -> None:
        """Somebody looks what is due."""
        due = self.table.due(self.now)
        silent = [told for told in self.having(Stage.HELD) if told.silent_from <= self.now]
        looked_for = [told for told in self.having(Stage.APPROVED) if told.look_at <= self.now]

        assert len(silent) == len(due.over)
        assert {told.entry for told in silent} == {over.entry for over in due.over}
        assert len(looked_for) == len(due.look_up)
        assert {told.entry for told in looked_for} == set(due.look_up)

        for over in due.over:
            assert PeerEnd.SILENT is over.end
            assert self.goes(self.find(over.entry)) is over.act
        for told in looked_for:
            told.looked_at = self.now
            later = (told.approved_at + s for s in LOOKS)
            told.look_at = min((at for at in later if at > self.now), default=self.now + 32)

        assert self.table.next_due > self.now

    @precondition(lambda self: self.told)
    @rule(data=st.data(), found=st.sampled_from([FOUND, LOST, UNKNOWN]))
    def looked_up(self, data: st.DataObject, found: bool | None) -> None:  # noqa: FBT001 - drawn
        """The kernel has been asked, perhaps without need."""
        told = data.draw(st.sampled_from(self.told))
        over = self.table.looked_up(told.entry, found, self.now)
        is_too_old = self.now >= told.approved_at + LOOKS[-1]
        is_lost = found is LOST or (found is UNKNOWN and is_too_old)
        if told.stage is Stage.APPROVED and is_lost:
            assert over is not None
            assert (told.entry, PeerEnd.SILENT) == (over.entry, over.end)
            assert self.goes(told) is over.act is None
        else:
            assert None is over

    @precondition(lambda self: len(self.told) > 9)
    @rule()
    def close(self) -> None:
        """The listening socket closes."""
        held = {told.entry for told in self.having(Stage.HELD)}

        assert held == set(self.table.close())

        self.is_closed = True
        for told in self.told:
            if told.stage in LIVE:
                told.stage = Stage.REJECTED

    # --- What is always true -----------------------------------------------------------

    @invariant()
    def agrees(self) -> None:
        """Both count the same, and each request is where the model has it."""
        assert len(self.having(Stage.HELD)) == self.table.undecided <= self.MAX_UNDECIDED
        assert len(self.having(Stage.APPROVED)) == self.table.approved
        assert self.overflowed == self.table.overflowed
        assert [told.stage for told in self.told] == [told.entry.stage for told in self.told]

    @invariant()
    def nothing_is_missed(self) -> None:
        """What is due is announced, not later than that; without requests nothing is."""
        times = [told.silent_from for told in self.having(Stage.HELD)]
        times += [told.look_at for told in self.having(Stage.APPROVED)]

        assert self.table.next_due <= min(times, default=math.inf)
        assert bool(times) is (self.table.next_due < math.inf)


TestRequests = Requests.TestCase
