"""
Inspectors in two stages: asked about the SYN before the handshake, and about octets after it.

On the network in memory, where all of it happens in a known order; `test_before_handshake_stages`
shows the same on Linux.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers.inspecting import ACCEPT, PEND, REJECT, Silent, check_balance
from tests.helpers.memory_peers import PLACE, SERVER
from trio_wsk import (
    AbortReason,
    CloseStyle,
    Connection,
    InspectPoint,
    InvalidParameterError,
    ListenDispatch,
    Status,
    Verdict,
    WouldBlockError,
    open_listening_socket,
)
from trio_wsk._inspection import lives
from trio_wsk.inspectors import (
    ConnectionLimit,
    Need,
    ProxyHeader,
    ProxyProtocol,
    Rules,
    SourceLimit,
    all_of,
    any_of,
    deny,
    dry_run,
    early_talkers,
    needs,
    unless,
    when,
)
from trio_wsk.observers import CallbackFailed, CloseStyleUnavailable, RequestRejected
from trio_wsk.testing import MemoryNetwork

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from trio.testing import MockClock

    from trio_wsk import ConnectionRequest, InspectId, ListeningSocket
    from trio_wsk.observers import Record
    from trio_wsk.testing import MemoryStream

BEFORE: Final = InspectPoint.BEFORE_HANDSHAKE
AFTER: Final = InspectPoint.AFTER_HANDSHAKE


class Asked:
    """A rule that notes of whom it was asked at which stage, and gives an answer."""

    def __init__(self, need: Need, answer: Any = None) -> None:
        self.needs = need
        self.answer = answer
        self.stages: list[InspectPoint] = []
        self.requests: list[ConnectionRequest] = []

    def __call__(self, request: ConnectionRequest) -> Any:
        """Answer; a function is called, and its answer given."""
        self.stages.append(request.stage)
        self.requests.append(request)
        return self.answer(request) if callable(self.answer) else self.answer


class Scene:
    """A listening socket that inspects in two stages, and what became of who came."""

    listening: ListeningSocket

    def __init__(self) -> None:
        self.network = MemoryNetwork()
        self.records: list[Record] = []
        self.aborts: list[tuple[InspectId, AbortReason]] = []

    def abort(self, inspect_id: InspectId) -> None:
        """Note that a request was aborted."""
        record = self.listening.pending_inspections[inspect_id].aborted
        assert record is not None
        self.aborts.append((inspect_id, record.reason))

    def come(self, host: str = "192.0.2.7") -> MemoryStream:
        """Have a client send its SYN."""
        return self.network.host(host).open_connection(PLACE)

    def told(self, kind: type[Record]) -> list[Any]:
        """Return the records of one kind."""
        return [each for each in self.records if isinstance(each, kind)]

    def aborted(self) -> list[AbortReason]:
        """Return the reasons of the abort callbacks."""
        return [reason for _, reason in self.aborts]


@asynccontextmanager
async def opened(
    inspect: Any, point: InspectPoint = BEFORE, **options: Any
) -> AsyncIterator[Scene]:
    """Open a listening socket in memory with this inspector; in the end each request is counted."""
    scene = Scene()
    async with open_listening_socket(
        transport=scene.network.host(SERVER).transport(PLACE[1], backlog=512),
        dispatch=ListenDispatch(inspect=inspect, abort=scene.abort),
        inspect_point=point,
        observers=[scene.records.append, Silent()],
        **options,
    ) as scene.listening:
        yield scene
        check_balance(scene.listening.statistics())
    assert {} == dict(scene.listening.pending_inspections)
    assert len(scene.aborts) == sum(scene.listening.statistics().aborted.values())
    assert len(scene.aborts) == len({inspect_id for inspect_id, _ in scene.aborts})


def looks(answer: Any = None, count: int = 5) -> Callable[[ConnectionRequest], Any]:
    """Make a rule that awaits octets, and then gives an answer."""

    @needs(Need.OCTETS)
    async def look(request: ConnectionRequest) -> Any:
        await request.peek(count)
        return answer

    return look


async def fate(stream: MemoryStream) -> str:
    """Wait for what becomes of a client that is turned away."""
    try:
        await stream.established()
        while await stream.receive_some():
            pass
    except ConnectionRefusedError:
        return "refused"
    except trio.BrokenResourceError:
        return "reset"
    return "fin"


# --- The way through both ---------------------------------------------------------------------


async def test_each_rule_is_asked_once_at_its_stage() -> None:
    """
    What needs no octets, and stands before what does, is asked before the handshake; the rest is
    when that is over, about the same request, whose first octets are the connection's.
    """
    first, second = Asked(Need.ADDRESSES), Asked(Need.SYN)
    octets = Asked(Need.OCTETS, looks())
    last = Asked(Need.ADDRESSES)
    async with opened(Rules(first, second, octets, last)) as at:
        stream = at.come()
        await stream.established()
        await wait_all_tasks_blocked()

        assert [[BEFORE], [BEFORE], [AFTER], []] == [
            each.stages for each in (first, second, octets, last)
        ]
        (request,) = at.listening.pending_inspections.values()
        assert [BEFORE, AFTER] == [request.inspect_point, request.stage]
        assert request.syn is not None

        await stream.send_all(b"hello")
        connection = await at.listening.accept()

        assert [[BEFORE], [BEFORE], [AFTER], [AFTER]] == [
            each.stages for each in (first, second, octets, last)
        ]
        assert {request} == {each.requests[0] for each in (first, second, octets, last)}
        assert b"hello" == await connection.receive_some()
        counted = at.listening.statistics()
        assert (1, 1, 1) == (counted.inspected, counted.let_on, counted.approved)

        connection.close()
        await stream.aclose()


async def test_who_is_turned_away_before_the_handshake_is_refused() -> None:
    """The first stage's verdict ends it: no handshake, and the second stage is not asked."""
    octets = Asked(Need.OCTETS)
    async with opened(Rules(deny(["192.0.2.7"]), octets)) as at:
        assert "refused" == await fate(at.come())
        assert [] == octets.stages
        assert [("denied", BEFORE)] == [
            (each.reason, each.stage) for each in at.told(RequestRejected)
        ]
        assert 0 == at.listening.statistics().let_on


@pytest.mark.parametrize(
    ("close", "expected"),
    [(CloseStyle.RESET, "reset"), (CloseStyle.FIN, "fin"), (b"421 no\r\n", "fin")],
)
async def test_second_stage_turns_away_in_every_way(
    close: CloseStyle | bytes, expected: str
) -> None:
    """After the handshake there is somebody to be told: with FIN, and with a message."""
    rules = Rules(Asked(Need.ADDRESSES), Asked(Need.OCTETS, Verdict(REJECT, "no", close)))
    async with opened(rules) as at:
        stream = at.come()
        await stream.established()
        if isinstance(close, bytes):
            assert close == await stream.receive_some()

        assert expected == await fate(stream)
        (rejected,) = at.told(RequestRejected)
        assert ("no", AFTER) == (rejected.reason, rejected.stage)
        assert rejected.close is Verdict(REJECT, close=close).style
        assert [] == at.told(CloseStyleUnavailable)


async def test_second_stage_can_be_silent(autojump_clock: MockClock) -> None:
    """Who is ignored after the handshake hears nothing, whatever comes."""
    verdict = Verdict(REJECT, close=CloseStyle.SILENT)
    async with opened(Rules(Asked(Need.OCTETS, verdict))) as at:
        stream = at.come()
        await stream.established()
        await stream.send_all(b"hello?")
        with trio.move_on_after(3) as scope:
            await stream.receive_some()

        assert scope.cancelled_caught
        assert [CloseStyle.SILENT] == [each.close for each in at.told(RequestRejected)]
        stream.reset()


async def test_accept_of_a_rule_spares_the_second_stage() -> None:
    """A rule that lets a request in does so whatever comes after it, in the other stage, too."""
    octets = Asked(Need.OCTETS)
    async with opened(Rules(Asked(Need.ADDRESSES, ACCEPT), octets)) as at:
        stream = at.come()
        connection = await at.listening.accept()

        assert [] == octets.stages
        assert 0 == at.listening.statistics().let_on
        connection.close()
        await stream.aclose()


async def test_default_is_the_second_stages_word() -> None:
    """What is answered where nobody objects is answered in the end, and once."""
    rules = Rules(Asked(Need.ADDRESSES), Asked(Need.OCTETS), default=Verdict(REJECT, "not-listed"))
    async with opened(rules) as at:
        assert "reset" == await fate(at.come())
        assert {"not-listed": 1} == at.listening.statistics().rejected


async def test_facts_and_permits_go_through_both_stages() -> None:
    """What the first stage has found the second knows; what it took is given back in the end."""
    limit = ConnectionLimit(1)
    seen: list[Any] = []

    def find(request: ConnectionRequest) -> None:
        request.facts.add("found")

    octets = Asked(Need.OCTETS, lambda request: seen.append(request.facts[str]))
    async with opened(Rules(limit, find, octets)) as at:
        stream = at.come()
        connection = await at.listening.accept()

        assert (["found"], "found", 1) == (seen, connection.facts[str], limit.open)
        assert "refused" == await fate(at.come())

        connection.close()
        await wait_all_tasks_blocked()
        assert 0 == limit.open
        await stream.aclose()


async def test_limit_before_and_proxy_after() -> None:
    """
    A limit that stands before a `ProxyProtocol` counts the proxy, before the handshake; the place
    is the client's when the header has come, and one behind it counts clients from the start.
    """
    outer, inner = SourceLimit(2), SourceLimit(1, reason="client")
    rules = Rules(outer, ProxyProtocol(required=["192.0.2.0/24"]), inner)
    header = b"PROXY TCP4 203.0.113.9 198.51.100.1 1000 80\r\n"
    async with opened(rules) as at:
        stream = at.come()
        await stream.established()
        await wait_all_tasks_blocked()
        assert [1, 0] == [len(outer), len(inner)]

        await stream.send_all(header + b"hello")
        connection = await at.listening.accept()

        assert "203.0.113.9" == str(connection.remote_address.host)
        assert ProxyHeader in connection.facts
        assert b"hello" == await connection.receive_some()
        assert [1, 1] == [each.open_from(connection.remote_address) for each in (outer, inner)]
        other = at.come()
        await other.send_all(header)
        assert "reset" == await fate(other)
        assert {"client": 1} == at.listening.statistics().rejected

        connection.close()
        await wait_all_tasks_blocked()
        assert [0, 0] == [len(outer), len(inner)]
        await stream.aclose()


@pytest.mark.parametrize("first", ["plain", "async"])
@pytest.mark.parametrize("second", ["plain", "async"])
async def test_either_stage_may_be_async(first: str, second: str) -> None:
    """Each has a task where it awaits, with a cancel scope of its own, and none where not."""
    scopes: list[trio.CancelScope] = []

    async def later(request: ConnectionRequest) -> None:
        scopes.append(request.cancel_scope)
        await trio.lowlevel.checkpoint()

    rules = Rules(
        Asked(Need.ADDRESSES, later if first == "async" else None),
        Asked(Need.OCTETS, later if second == "async" else None),
    )
    async with opened(rules) as at:
        for _ in range(3):
            stream = at.come()
            connection = await at.listening.accept()
            connection.close()
            await stream.aclose()
    assert len(scopes) == len(set(map(id, scopes)))
    assert not any(scope.cancel_called for scope in scopes)


# --- What rules say ---------------------------------------------------------------------------


def test_groups_need_what_their_parts_do() -> None:
    """A rule made of rules needs all that they do: it is asked when all of it is there."""
    syn, octets = Asked(Need.SYN), Asked(Need.OCTETS)

    def condition(request: ConnectionRequest) -> bool:
        raise NotImplementedError

    groups: list[Any] = [
        all_of(syn, octets),
        any_of(syn, octets),
        when(needs(Need.SYN)(condition), octets),
        unless(condition, all_of(octets, syn)),
        dry_run(any_of(octets, syn)),
        Rules(octets, syn),
    ]

    assert [Need.SYN | Need.OCTETS] * len(groups) == [each.needs for each in groups]


async def test_group_is_asked_as_one() -> None:
    """A group of which one part needs octets is asked after the handshake, with what is in it."""
    inside, outside = Asked(Need.ADDRESSES), Asked(Need.ADDRESSES)
    async with opened(Rules(outside, all_of(inside, Asked(Need.OCTETS)))) as at:
        stream = at.come()
        (await at.listening.accept()).close()

        assert [[BEFORE], [AFTER]] == [outside.stages, inside.stages]
        await stream.aclose()


async def test_syn_and_octets_are_had_before_the_handshake_only() -> None:
    """One that looks at both is refused after it, where there is no SYN, and works before it."""
    both = Asked(Need.SYN | Need.OCTETS, lambda request: REJECT if request.syn is None else None)
    with pytest.raises(InvalidParameterError, match="needs the SYN"):
        async with opened(Rules(both), AFTER):
            raise AssertionError("it was opened")
    async with opened(Rules(both)) as at:
        stream = at.come()
        (await at.listening.accept()).close()
        await stream.aclose()


async def test_close_style_is_checked_at_its_stage() -> None:
    """Opening refuses a message of the first stage's, and takes one of the second's."""
    polite = deny([], close=b"no")
    with pytest.raises(InvalidParameterError, match="can't be had before the handshake"):
        async with opened(Rules(polite, Asked(Need.OCTETS))):
            raise AssertionError("it was opened")
    async with opened(Rules(early_talkers(close=b"no"), polite)):
        pass


async def test_lone_function_that_needs_octets_is_refused() -> None:
    """It has one stage, which is before the handshake: the message says where it can go."""
    with pytest.raises(InvalidParameterError, match=r"Rules\(\.\.\.\)"):
        async with opened(looks(ACCEPT)):
            raise AssertionError("it was opened")


async def test_rule_that_fails_in_either_stage_turns_away() -> None:
    """What a rule raises is the failure of its stage, and reported."""
    for need, expected in ((Need.ADDRESSES, "refused"), (Need.OCTETS, "reset")):

        def broken(_: ConnectionRequest) -> None:
            raise ValueError("broken")

        async with opened(Rules(Asked(need, broken), Asked(Need.OCTETS))) as at:
            assert expected == await fate(at.come())
            assert {"inspector-failed": 1} == at.listening.statistics().rejected
            assert 1 == len(at.told(CallbackFailed))


# --- Later ------------------------------------------------------------------------------------


async def test_first_stage_that_pends_goes_on_with_the_second() -> None:
    """Completed with yes, it has no objection: the handshake goes on, and the rest is asked."""
    octets = Asked(Need.OCTETS)
    async with opened(Rules(Asked(Need.ADDRESSES, PEND), octets)) as at:
        stream = at.come()
        await wait_all_tasks_blocked()
        (inspect_id,) = at.listening.pending_inspections

        assert Status.SUCCESS is at.listening.inspect_complete(inspect_id, ACCEPT)
        assert Status.NOT_FOUND is at.listening.inspect_complete(inspect_id, REJECT)
        connection = await at.listening.accept()

        assert [AFTER] == octets.stages
        connection.close()
        await stream.aclose()


@pytest.mark.parametrize("answer", [ACCEPT, Verdict(REJECT, "in-the-end")])
async def test_second_stage_that_pends_is_decided_by_who_completes_it(answer: Any) -> None:
    """Under the same id as the first one was, and it may have pended, too."""
    async with opened(Rules(Asked(Need.ADDRESSES, PEND), Asked(Need.OCTETS, PEND))) as at:
        stream = at.come()
        await wait_all_tasks_blocked()
        ((inspect_id, request),) = at.listening.pending_inspections.items()
        at.listening.inspect_complete(inspect_id, ACCEPT)
        await stream.established()
        await wait_all_tasks_blocked()

        assert {inspect_id: request} == dict(at.listening.pending_inspections)
        assert Status.SUCCESS is at.listening.inspect_complete(inspect_id, answer)
        if answer is ACCEPT:
            (await at.listening.accept()).close()
            await stream.aclose()
        else:
            assert "reset" == await fate(stream)
        assert Status.NOT_FOUND is at.listening.inspect_complete(inspect_id, answer)


@pytest.mark.parametrize("word", [ACCEPT, REJECT])
async def test_word_that_comes_early_is_kept_for_its_stage(word: Any) -> None:
    """Completed by its own rule, which then pends: yes goes on with the second stage."""
    scene: list[Scene] = []

    def complete(request: ConnectionRequest) -> Any:
        assert Status.SUCCESS is scene[0].listening.inspect_complete(request.inspect_id, word)
        return PEND

    octets = Asked(Need.OCTETS, complete)
    async with opened(Rules(Asked(Need.ADDRESSES, complete), octets)) as at:
        scene.append(at)
        stream = at.come()
        if word is REJECT:
            assert "refused" == await fate(stream)
            assert [] == octets.stages
        else:
            (await at.listening.accept()).close()
            assert [AFTER] == octets.stages
            await stream.aclose()


# --- One deadline -----------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [None, 4.0])
async def test_one_deadline_runs_over_both_stages(
    timeout: float | None,  # noqa: ASYNC109 - it is the listening socket's
    autojump_clock: MockClock,
) -> None:
    """It runs from the SYN on, ten seconds if nothing else is said, however long the first took."""
    seconds = timeout or 10.0
    first = Asked(Need.ADDRESSES, PEND)
    async with opened(Rules(first, looks()), inspect_timeout=timeout) as at:
        begun = trio.current_time()
        stream = at.come()
        await trio.sleep(1.5)
        (request,) = at.listening.pending_inspections.values()
        assert begun + seconds == request.deadline
        at.listening.inspect_complete(request.inspect_id, ACCEPT)

        assert "reset" == await fate(stream)
        assert request.aborted is not None
        assert (begun + seconds, AbortReason.TIMED_OUT) == (
            request.aborted.at,
            request.aborted.reason,
        )
        assert request.cancel_scope.cancel_called


async def test_first_stage_alone_has_two_seconds(autojump_clock: MockClock) -> None:
    """Rules of which none needs octets have one stage, and the time of that."""
    async with opened(Rules(Asked(Need.ADDRESSES, PEND))) as at:
        at.come()
        await wait_all_tasks_blocked()
        (request,) = at.listening.pending_inspections.values()

        assert request.arrived_at + 2.0 == request.deadline
        await trio.sleep(3)
        assert [AbortReason.TIMED_OUT] == at.aborted()


async def test_time_runs_out_in_the_handshake(autojump_clock: MockClock) -> None:
    """A peer that never answers our yes is aborted when the time for a verdict is over."""
    async with opened(Rules(Asked(Need.ADDRESSES), looks())) as at:
        stream = at.come()
        at.network.host("192.0.2.7").unplug()
        await trio.sleep(9)
        assert 1 == len(at.listening.pending_inspections) == at.listening.statistics().pending
        await trio.sleep(2)

        assert [AbortReason.TIMED_OUT] == at.aborted()
        assert [0, 1] == [at.listening.statistics().pending, at.listening.statistics().let_on]
        stream.reset()


async def test_deadlines_are_kept_whoever_is_through_first(autojump_clock: MockClock) -> None:
    """Who came first is due first, also if another one got to the second stage before it."""
    first = Asked(Need.ADDRESSES, PEND)
    async with opened(Rules(first, looks())) as at:
        streams = []
        for _ in range(3):
            streams.append(at.come())
            await trio.sleep(1)
        for request in reversed(first.requests):
            at.listening.inspect_complete(request.inspect_id, ACCEPT)
        assert ["reset"] * 3 == [await fate(stream) for stream in streams]
        assert [request.deadline for request in first.requests] == [
            request.aborted.at for request in first.requests if request.aborted is not None
        ]


# --- Those who leave --------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["first", "second"])
async def test_peer_that_leaves_is_aborted_once(stage: str) -> None:
    """In either stage: its rule is cancelled, its permits are back, its abort callback called."""
    limit = ConnectionLimit(5)
    cancelled: list[str] = []

    def waits(name: str) -> Callable[[ConnectionRequest], Any]:
        async def wait(_: ConnectionRequest) -> None:
            if stage == name:
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:
                    cancelled.append(name)
                    raise

        return wait

    rules = Rules(limit, Asked(Need.ADDRESSES, waits("first")), Asked(Need.OCTETS, waits("second")))
    async with opened(rules) as at:
        stream = at.come()
        await wait_all_tasks_blocked()
        assert 1 == limit.open
        stream.reset()
        await wait_all_tasks_blocked()

        assert [stage] == cancelled
        assert [AbortReason.RESET] == at.aborted()
        assert 0 == limit.open


async def test_peer_that_leaves_in_its_handshake_is_aborted(autojump_clock: MockClock) -> None:
    """Between the stages nobody is asked, and yet it is an abort: the first has been."""
    limit = ConnectionLimit(5)
    octets = Asked(Need.OCTETS)
    async with opened(Rules(limit, octets)) as at:
        at.network.latency = 1.0
        stream = at.come()
        await trio.sleep(1.5)
        (request,) = at.listening.pending_inspections.values()
        (inspect_id,) = at.listening.pending_inspections

        assert [1, 1] == [at.listening.statistics().pending, at.listening.statistics().let_on]
        assert Status.NOT_FOUND is at.listening.inspect_complete(inspect_id, REJECT)

        stream.reset()
        await trio.sleep(3)

        assert [AbortReason.RESET] == at.aborted()
        assert Status.CONNECTION_ABORTED is at.listening.inspect_complete(inspect_id, ACCEPT)
        assert request.cancel_scope.cancel_called
        assert [] == octets.stages
        assert 0 == limit.open


async def test_who_has_reset_before_the_second_stage_is_asked_is_not_asked_about() -> None:
    """Its handshake is over and it has gone, in one moment."""
    octets = Asked(Need.OCTETS)
    pending = Asked(Need.ADDRESSES, PEND)
    async with opened(Rules(pending, octets)) as at:
        stream = at.come()
        await wait_all_tasks_blocked()
        at.listening.inspect_complete(pending.requests[0].inspect_id, ACCEPT)
        stream.reset()
        await wait_all_tasks_blocked()

        assert [] == octets.stages
        assert [AbortReason.RESET] == at.aborted()


@pytest.mark.parametrize("stage", ["first", "handshake", "connected", "second"])
async def test_closing_ends_it_in_every_stage(stage: str, autojump_clock: MockClock) -> None:
    """Whoever has no verdict when the listening socket closes is aborted and reset."""
    limit = ConnectionLimit(5)
    first = Asked(Need.ADDRESSES, PEND)
    async with opened(Rules(limit, first, Asked(Need.OCTETS, PEND))) as at:
        at.network.latency = 1.0
        stream = at.come()
        await trio.sleep(1.5)
        if stage != "first":
            at.listening.inspect_complete(first.requests[0].inspect_id, ACCEPT)
        if stage == "second":
            await trio.sleep(3)
        await at.listening.aclose()

        assert [AbortReason.CLOSED] == at.aborted()
        assert 0 == limit.open
        assert await fate(stream) in {"refused", "reset"}


async def test_scope_of_the_first_stage_is_cancelled_in_the_second() -> None:
    """
    What a rule has started in its request's scope goes on into the second stage, and ends when the
    request does without a verdict; each stage has its own scope to be entered.
    """
    first: list[trio.CancelScope] = []

    def start(request: ConnectionRequest) -> None:
        first.append(request.cancel_scope)

    async with opened(Rules(start, Asked(Need.OCTETS, PEND))) as at:
        stream = at.come()
        await stream.established()
        await wait_all_tasks_blocked()
        (request,) = at.listening.pending_inspections.values()

        assert request.cancel_scope is not first[0]
        assert not first[0].cancel_called
        stream.reset()
        await wait_all_tasks_blocked()
        assert first[0].cancel_called
        assert request.cancel_scope.cancel_called


# --- Room -------------------------------------------------------------------------------------


async def test_those_in_their_handshake_take_no_place() -> None:
    """
    A flood of SYNs that nobody stands behind does not keep others out: ``max_pending`` counts those
    about whom somebody is asked.
    """
    async with opened(Rules(Asked(Need.ADDRESSES), looks()), max_pending=2) as at:
        forged = [at.network.host(f"198.51.100.{number}") for number in range(1, 21)]
        for host in forged:
            host.open_connection(PLACE)
            host.unplug()
        await wait_all_tasks_blocked()
        assert 20 == at.listening.statistics().let_on == len(at.listening.pending_inspections)

        stream = at.come()
        await stream.send_all(b"hello")
        (await at.listening.accept()).close()
        await stream.aclose()
        for host in forged:
            host.plug_in()


async def test_too_many_in_their_handshake_evict_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their number is bounded, as that of those who were approved: the oldest goes."""
    monkeypatch.setattr(lives, "HALF_OPEN_MOST", 3)
    first = Asked(Need.ADDRESSES)
    async with opened(Rules(first, looks())) as at:
        for number in range(1, 6):
            host = at.network.host(f"198.51.100.{number}")
            host.open_connection(PLACE)
            host.unplug()
        await wait_all_tasks_blocked()

        assert [AbortReason.EVICTED] * 2 == at.aborted()
        assert [each.inspect_id for each in first.requests[:2]] == [each for each, _ in at.aborts]
        assert 3 == at.listening.statistics().pending


async def unplugged(at: Scene, count: int) -> list[MemoryStream]:
    """Have so many come whose handshake is not over until `plug_in` and a second have passed."""
    streams = []
    for number in range(1, count + 1):
        host = at.network.host(f"198.51.100.{number}")
        streams.append(host.open_connection(PLACE))
        host.unplug()
    await wait_all_tasks_blocked()
    assert count == at.listening.statistics().let_on
    return streams


async def plug_in(at: Scene, count: int) -> None:
    """Have their handshakes come to an end."""
    for number in range(1, count + 1):
        at.network.host(f"198.51.100.{number}").plug_in()
    await trio.sleep(2)


async def test_who_comes_through_waits_for_a_place(autojump_clock: MockClock) -> None:
    """
    Where as many as may be wait in the second stage the next connections stay in the kernel until
    there is room, one for one.
    """
    octets = Asked(Need.OCTETS, PEND)
    async with opened(Rules(Asked(Need.ADDRESSES), octets), max_pending=2) as at:
        streams = await unplugged(at, 5)
        await plug_in(at, 5)
        for stream in streams:
            await stream.established()

        for number in range(5):
            assert min(5, number + 2) == len(octets.requests)
            at.listening.inspect_complete(octets.requests[number].inspect_id, ACCEPT)
            (await at.listening.accept()).close()
            await wait_all_tasks_blocked()
        assert [] == at.aborts
        for stream in streams:
            await stream.aclose()


@pytest.mark.parametrize("policy", ["reset", "evict"])
async def test_who_comes_through_and_finds_no_place_is_one_too_many(
    policy: Any, autojump_clock: MockClock
) -> None:
    """He is aborted, or the oldest who waits is, as ``overflow`` says."""
    first, octets = Asked(Need.ADDRESSES), Asked(Need.OCTETS, PEND)
    async with opened(Rules(first, octets), max_pending=2, overflow=policy) as at:
        streams = await unplugged(at, 3)
        await plug_in(at, 3)
        ids = [request.inspect_id for request in first.requests]
        goes = ids.pop(0 if policy == "evict" else 2)

        assert [(goes, AbortReason.EVICTED)] == at.aborts
        assert ids == [request.inspect_id for request in octets.requests]
        assert 2 == at.listening.statistics().pending
        for stream in streams:
            stream.reset()


async def test_who_has_waited_longest_goes(autojump_clock: MockClock) -> None:
    """The time in the handshake is no wait for a word: who came first may have waited least."""
    octets = Asked(Need.OCTETS, PEND)
    first = Asked(Need.ADDRESSES)
    async with opened(Rules(first, octets), max_pending=2, overflow="evict") as at:
        streams = await unplugged(at, 3)
        for number in (3, 2, 1):
            at.network.host(f"198.51.100.{number}").plug_in()
            with trio.fail_after(9):
                await streams[number - 1].established()
            await wait_all_tasks_blocked()

        ids = [request.inspect_id for request in first.requests]
        assert [(ids[2], AbortReason.EVICTED)] == at.aborts
        assert [ids[2], ids[1], ids[0]] == [request.inspect_id for request in octets.requests]
        for stream in streams:
            stream.reset()


async def test_permits_are_kept_for_those_in_the_second_stage() -> None:
    """
    A server's permits are for connections, and who is asked about after the handshake is one: with
    one permit the second who comes stays in the kernel until the first has been turned away.
    """
    octets = Asked(Need.OCTETS, PEND)
    async with opened(Rules(Asked(Need.ADDRESSES), octets), max_parked=0) as at:
        async with trio.open_nursery() as nursery:
            taken: list[Connection] = []

            async def accept() -> None:
                taken.append(await at.listening.accept())

            nursery.start_soon(accept)
            await wait_all_tasks_blocked()
            streams = [at.come(), at.come()]
            await wait_all_tasks_blocked()

            assert 1 == len(octets.requests)
            at.listening.inspect_complete(octets.requests[0].inspect_id, REJECT)
            await wait_all_tasks_blocked()
            assert 2 == len(octets.requests)
            at.listening.inspect_complete(octets.requests[1].inspect_id, ACCEPT)
        taken[0].close()
        for stream in streams:
            stream.reset()


async def test_what_comes_after_the_handshake_is_asked_at_once() -> None:
    """Where all requests appear after it the rules are one, and asked as they stand."""
    rules = [Asked(Need.ADDRESSES), Asked(Need.OCTETS), Asked(Need.ADDRESSES)]
    async with opened(Rules(*rules), AFTER) as at:
        stream = at.come()
        (await at.listening.accept()).close()

        assert [[AFTER]] * 3 == [each.stages for each in rules]
        assert 0 == at.listening.statistics().let_on
        with pytest.raises(WouldBlockError):
            at.listening.accept_nowait()
        await stream.aclose()
