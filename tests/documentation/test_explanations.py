"""What the explanations put into tables is what the code does."""

from __future__ import annotations

import inspect
import re
import socket
from functools import partial
from itertools import product, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio
import trio.testing

import trio_wsk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT, inspecting
from tests.helpers.places import DOCS
from tests.helpers.support import PATIENCE, connect, connect_now, fate_of, reset, until
from trio_wsk import (
    AbortReason,
    CloseStyle,
    Connection,
    InspectAction,
    InspectPoint,
    InspectPointError,
    InvalidDeviceStateError,
    InvalidParameterError,
    ListeningSocket,
    Status,
    Verdict,
    WskError,
)
from trio_wsk._connection.last_words import READING_MOST, READING_SECONDS
from trio_wsk._engine import choice as _choice
from trio_wsk._inspection.aborts import REMEMBERED_MOST
from trio_wsk._inspection.conditions import INSPECT_TIMEOUT
from trio_wsk._inspection.stragglers import STRAGGLE_SECONDS
from trio_wsk._inspection.table import (
    TABLE,
    Answer,
    Event,
    State,
    Step,
)
from trio_wsk._vocabulary.statistics import REASONS
from trio_wsk._vocabulary.verdict import MESSAGE_LIMIT
from trio_wsk.observers import (
    CloseStyleUnavailable,
    ConnectionDropped,
    RequestAborted,
    RequestPended,
    RequestRejected,
)
from trio_wsk.testing import MemoryNetwork, TcpState
from trio_wsk.transports import PortableTransport, _accept_errors
from trio_wsk.transports._contract import NoDescriptorsError, PeerFaultError
from trio_wsk.transports._socket_request import can_be_silent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from trio_wsk import Address

PAGES = DOCS / "explanation"
ERRORS = {
    name: thing
    for name in trio_wsk.__all__
    if isinstance(thing := getattr(trio_wsk, name), type)
    and issubclass(thing, WskError)
    and thing is not WskError
}


def rows(page: str) -> list[list[str]]:
    """Return the cells of a page's tables."""
    lines = (PAGES / page).read_text("utf-8").splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if line.startswith("| ")
    ]


def table(page: str, first_heading: str) -> list[list[str]]:
    """Return the rows of one of a page's tables, which has this heading over its first column."""
    lines = iter((PAGES / page).read_text("utf-8").splitlines())
    for line in lines:
        if line.startswith(f"| {first_heading} |"):
            break
    below = [*takewhile(lambda line: line.startswith("|"), lines)][1:]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in below]


def test_accept_errors_are_those_of_the_table_that_decides() -> None:
    """Each errno of the code's table is in the page's, with what is done about it."""
    done = {
        "counted; on to the next": PeerFaultError,
        "`on_no_descriptors`": NoDescriptorsError,
    }
    page = {
        errno: done[what]
        for names, _, what in rows("accept-errors.md")
        for errno in re.findall(r"`(E\w+)`", names)
    }

    assert _accept_errors._FAILURE_BY_NAME == page  # noqa: SLF001 - the table is the subject


def test_errors_by_fault_are_all_errors() -> None:
    """Every error has one row, and there is no other."""
    page = (PAGES / "errors-by-fault.md").read_text("utf-8")
    named = re.findall(r"\n\| `(\w+Error)` \|", page)

    assert sorted(ERRORS) == sorted(named)


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_what_its_row_says(name: str) -> None:
    """An error inherits from what the page says, and has the status that it says."""
    (row,) = (row for row in rows("errors-by-fault.md") if row[0] == f"`{name}`")
    other = row[1].strip("`")
    also = {
        "ValueError": ValueError,
        "RuntimeError": RuntimeError,
        "EOFError": EOFError,
        "OSError": OSError,
        "AttributeError": AttributeError,
        "—": WskError,
    }.get(other) or getattr(trio, other.removeprefix("trio."))

    assert issubclass(ERRORS[name], also)
    assert Status[row[2].strip("`")] is ERRORS[name].status


# --- Ending --------------------------------------------------------------------------------------


async def seen_by(client: trio.abc.ReceiveStream) -> tuple[bytes, str]:
    """Return what the peer receives, and how it ends."""
    received = b""
    try:
        async for data in client:
            received += data
    except trio.BrokenResourceError:
        return received, "reset"
    return received, "FIN"


async def send_eof(connection: Connection) -> None:
    """FIN alone."""
    await connection.send_eof()


async def aclose(connection: Connection) -> None:
    """The end in good order."""
    await connection.aclose()


async def plainly(call: Callable[[Connection], object], connection: Connection) -> None:
    """Do something that doesn't wait."""
    call(connection)


ENDS = [
    ("send_eof()", send_eof, b"", (b"", "FIN")),
    ("disconnect()", partial(plainly, Connection.disconnect), b"", (b"", "FIN")),
    (
        "disconnect(data=...)",
        partial(plainly, partial(Connection.disconnect, data=b"bye")),
        b"",
        (b"bye", "FIN"),
    ),
    ("aclose()", aclose, b"", (b"", "FIN")),
    ("aclose()", aclose, b"unread", (b"", "reset")),
    ("close()", partial(plainly, Connection.close), b"", (b"", "FIN")),
    ("close()", partial(plainly, Connection.close), b"unread", (b"", "reset")),
    ("abort()", partial(plainly, Connection.abort), b"", (b"", "reset")),
    (
        "disconnect(abortive=True)",
        partial(plainly, partial(Connection.disconnect, abortive=True)),
        b"",
        (b"", "reset"),
    ),
]


@pytest.mark.parametrize(("call", "end", "unread", "seen"), ENDS)
async def test_end_of_a_connection_is_what_its_row_says(
    call: str,
    end: Callable[[Connection], Awaitable[None]],
    unread: bytes,
    seen: tuple[bytes, str],
) -> None:
    """The peer sees FIN or a reset, as the page's first table says, depending on unread input."""
    assert any(call in did for did, _ in (row[:2] for row in rows("ending.md")))

    with trio.fail_after(PATIENCE):
        async with (
            trio_wsk.open_listening_socket(0, host="127.0.0.1") as listening,
            await connect(listening.local_addresses[0]) as client,
            await listening.accept() as connection,
        ):
            if unread:
                await client.send_all(unread)
                await trio.lowlevel.wait_readable(connection.socket)
            await end(connection)

            assert seen == await seen_by(client)


async def answers(connection: Connection) -> None:
    """Answer, and return without having read all."""
    await connection.receive_some(1)
    await connection.send_all(b"too large")


async def crashes(connection: Connection) -> None:
    """Raise, without having read all."""
    await connection.receive_some(1)
    raise KeyError(connection)


async def waits(_: Connection) -> None:
    """Wait to be cancelled."""
    await trio.sleep_forever()


@pytest.mark.parametrize(
    ("did", "handler", "seen"),
    [
        ("return from a handler", answers, (b"too large", "FIN")),
        ("raise from a handler", crashes, (b"", "reset")),
        ("cancel a handler", waits, (b"", "reset")),
    ],
)
async def test_end_of_a_handler_is_what_its_row_says(
    did: str, handler: Callable[[Connection], Awaitable[None]], seen: tuple[bytes, str]
) -> None:
    """The peer sees FIN or a reset, as the page's first table says, even with input unread."""
    assert did in (row[0] for row in rows("ending.md"))

    with trio.fail_after(PATIENCE):
        async with (
            trio_wsk.open_server(handler, 0, host="127.0.0.1") as server,
            await connect(server.local_addresses[0]) as client,
        ):
            await client.send_all(b"unread" * 1000)
            if handler is waits:
                await until(lambda: server.statistics().open_connections)
                server.abort()

            assert seen == await seen_by(client)


# --- Conditional accept --------------------------------------------------------------------------

CONDITIONAL = "conditional-accept.md"


def test_life_of_a_request_is_the_table_of_the_code() -> None:
    """Each transition of the code is in a row of the page, with what follows, and no other is."""
    page = {}
    for states, events, becomes, answer, follows, status in table(CONDITIONAL, "in the state"):
        for state, event in product(states.split(", "), events.split(", ")):
            page[State(state), Event(event)] = Step(
                State(state if becomes == "the same" else becomes),
                Answer(answer or "nothing"),
                cancels="cancel" in follows,
                aborts="abort" in follows,
                status=Status[status.strip("`") or "SUCCESS"],
            )

    assert {(s, e): step for s, steps in TABLE.items() for e, step in steps.items()} == page


def test_figures_of_conditional_accept_are_those_of_the_code() -> None:
    """The numbers that the page has are the code's."""
    page = " ".join((PAGES / CONDITIONAL).read_text("utf-8").split())
    seconds = INSPECT_TIMEOUT

    assert f"up to {MESSAGE_LIMIT} octets, then FIN" in page
    assert 2.0 == READING_SECONDS
    assert "kept for two seconds at most" in page
    assert f"{READING_MOST} peers may be reading at once" in page
    assert f"{seconds[InspectPoint.AFTER_HANDSHAKE]:.0f} seconds after the handshake" in page
    assert f"and {seconds[InspectPoint.BEFORE_HANDSHAKE]:.0f} before it" in page
    assert 1.0 == STRAGGLE_SECONDS
    assert "After a second the record `InspectorStraggles`" in page
    assert f"some {REMEMBERED_MOST // 1000},000 newer aborts" in page


def test_defaults_of_the_guide_are_those_of_the_code() -> None:
    """What the guide says of each option's default is so."""
    guide = (PAGES.parent / "how-to" / "inspect-connections.md").read_text("utf-8")
    shown = dict(re.findall(r"\| `(\w+)` \| .* \| `?([\w\"]+)`? \|\n", guide))
    signature = inspect.signature(trio_wsk.open_listening_socket).parameters
    expected = {name: str(signature[name].default).strip('"') for name in shown}
    expected["inspect_timeout"] = f"{INSPECT_TIMEOUT[InspectPoint.AFTER_HANDSHAKE]:.0f}"

    assert expected == {name: default.strip('"') for name, default in shown.items()}
    assert ["inspect_timeout", "max_pending", "max_parked", "overflow"] == [*shown]
    assert 64 == REASONS
    assert "sixty-four are counted" in guide


# What a peer sees

NO_WORD = Verdict(REJECT, close=CloseStyle.SILENT)


@attrs.frozen
class Story:
    """What happens to a peer's request."""

    inspect: InspectAction | Verdict = PEND
    options: Mapping[str, Any] = attrs.field(factory=dict)
    then: Callable[[ListeningSocket], Awaitable[object]] | None = None
    """What is done once the peer's request was asked about."""


async def serve_one(listening: ListeningSocket) -> None:
    """Say something to the peer, and finish."""
    async with await listening.accept() as connection:
        await connection.send_all(b"welcome")


STORIES = {
    "it is accepted": Story(ACCEPT, then=serve_one),
    "it is rejected, `CloseStyle.RESET`": Story(REJECT),
    "it is rejected, `CloseStyle.FIN`": Story(Verdict(REJECT, close=CloseStyle.FIN)),
    "it is rejected with a message": Story(Verdict(REJECT, close=b"421 busy")),
    "it is rejected, `CloseStyle.SILENT`": Story(NO_WORD),
    "there is no verdict in time, or it has to make room": Story(options={"inspect_timeout": 0.01}),
    "the listening socket is closed": Story(then=ListeningSocket.aclose),
}
FATES = {
    "is served, from its first octet on": (b"welcome", "FIN"),
    "is connected, and then served": (b"welcome", "FIN"),
    "is reset": (b"", "reset"),
    "sees the end": (b"", "FIN"),
    "gets the message, then sees the end": (b"421 busy", "FIN"),
    "is connected, hears nothing, and is reset if it sends": (b"", "hears nothing, then reset"),
    "is refused": "ConnectionRefusedError",
    "can't be had: is refused": "ConnectionRefusedError",
    "times out in `connect()`": "TimeoutError",
}
ROWS = {what: rest for what, *rest in table(CONDITIONAL, "what happens here")}


def test_each_row_of_what_a_peer_sees_is_tested() -> None:
    """There is a story for each row; the first one is told by itself."""
    assert [*ROWS] == ["it is inspected, or pended", *STORIES]


async def told(
    story: Story, connect: Callable[[Address], Awaitable[trio.abc.Stream]], **options: Any
) -> tuple[bytes, str] | str:
    """Tell a story; return what its peer has seen."""
    fate: tuple[bytes, str] | str = "nothing"

    async def _peer(address: Address) -> None:
        nonlocal fate
        try:
            client = await connect(address)
        except OSError as error:
            fate = type(error).__name__
            return
        async with client:
            before = ""
            if story.inspect is NO_WORD:
                await desk.when(lambda: desk.told(RequestRejected))
                before = "hears nothing, then " if hears_nothing(client) else ""
                await client.send_all(b"is anybody there?")
            received, end = await seen_by(client)
            fate = received, before + end

    async with (
        inspecting(story.inspect, **options, **story.options) as desk,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_peer, desk.listening.local_addresses[0])
        await desk.when(lambda: desk.asked)
        if story.then is not None:
            await story.then(desk.listening)
    return fate


def hears_nothing(client: trio.abc.Stream) -> bool:
    """Whether nothing has come, and no end."""
    assert isinstance(client, trio.SocketStream)
    try:
        client.socket._sock.recv(1, socket.MSG_PEEK)  # type: ignore[attr-defined] # noqa: SLF001 - at once
    except BlockingIOError:
        return True
    return False


async def connect_blocking(address: Address) -> trio.SocketStream:
    """Connect so that the kernel's answer is heard before anything else."""
    await trio.lowlevel.checkpoint()
    return connect_now(address)


@pytest.mark.usefixtures("readiness")
@pytest.mark.parametrize("what", STORIES)
async def test_peer_sees_after_the_handshake_what_its_row_says(what: str) -> None:
    """A peer that is connected already is served, told, or cut off, as the row says."""
    if STORIES[what].inspect is NO_WORD and not can_be_silent():
        pytest.skip("silence after the handshake needs CAP_NET_ADMIN")

    with trio.fail_after(PATIENCE):
        assert FATES[ROWS[what][0]] == await told(STORIES[what], connect_blocking)


@pytest.mark.parametrize("what", STORIES)
async def test_peer_sees_before_the_handshake_what_its_row_says(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    """A peer whose SYN was held is served, refused, or times out, as the row says."""
    network = MemoryNetwork()
    fate = await told(
        STORIES[what],
        network.host("192.0.2.2").connect,
        port=None,
        transport=network.host("192.0.2.1").transport(80),
        inspect_point=InspectPoint.BEFORE_HANDSHAKE,
    )

    assert FATES[ROWS[what][1]] == fate


async def test_pended_peer_is_connected_and_hears_nothing() -> None:
    """After the handshake a pended peer can send, which is kept, and nobody answers."""
    async with inspecting(PEND) as desk:
        client, request = await desk.pended(b"hello")

        assert b"hello" == await request.peek(5)
        assert hears_nothing(client)
        assert Status.SUCCESS == desk.complete(request, ACCEPT)

        async with await desk.listening.accept() as connection:
            assert b"hello" == await connection.receive_some()


async def test_peer_that_is_pended_before_the_handshake_waits_in_connect(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its connect() returns with the verdict, and its inspector has nothing to peek at."""
    network = MemoryNetwork()
    async with inspecting(
        PEND,
        port=None,
        transport=network.host("192.0.2.1").transport(80),
        inspect_point=InspectPoint.BEFORE_HANDSHAKE,
    ) as desk:
        client = network.host("192.0.2.2").open_connection(desk.listening.local_addresses[0])
        await desk.when(lambda: desk.told(RequestPended))

        assert TcpState.SYN_SENT is client.state
        with pytest.raises(InvalidDeviceStateError):
            await desk.asked[0].peek(1)

        desk.complete(desk.asked[0], ACCEPT)
        await client.established()
        await client.aclose()


async def test_peer_that_stops_asking_before_the_handshake_is_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """That its SYNs stop coming is noticed before the deadline."""
    network = MemoryNetwork()
    async with inspecting(
        PEND,
        port=None,
        transport=network.host("192.0.2.1").transport(80),
        inspect_point=InspectPoint.BEFORE_HANDSHAKE,
        inspect_timeout=60,
    ) as desk:
        client = network.host("192.0.2.2").open_connection(desk.listening.local_addresses[0])
        await desk.when(lambda: desk.told(RequestPended))
        client.abandon()
        aborted = await desk.aborted()

        assert AbortReason.SILENT is aborted.reason
        assert trio.current_time() < desk.asked[0].deadline


async def test_inspect_point_that_can_not_be_had_raises() -> None:
    """Over the portable transport, asking before the handshake raises and says why."""
    transport = PortableTransport.tcp(0, host="127.0.0.1")
    with pytest.raises(InspectPointError, match="after the kernel has answered"):
        async with inspecting(
            PEND, port=None, transport=transport, inspect_point=InspectPoint.BEFORE_HANDSHAKE
        ):
            pass


async def test_inspect_point_is_told() -> None:
    """What is in force can be asked for."""
    async with inspecting(PEND) as desk:
        assert InspectPoint.AFTER_HANDSHAKE is desk.listening.inspect_point


@pytest.mark.usefixtures("ordinary_user")
async def test_style_that_can_not_be_had_becomes_a_reset() -> None:
    """Without the privilege a silent rejection is a reset, recorded and counted."""
    async with inspecting(NO_WORD) as desk:
        client, _ = await desk.ask()

        assert "reset" == await fate_of(client)
        assert [CloseStyle.SILENT] == [each.close for each in desk.told(CloseStyleUnavailable)]
        assert 1 == desk.statistics().close_fallbacks


@pytest.mark.usefixtures("ordinary_user")
async def test_style_that_an_inspector_declares_must_be_had() -> None:
    """An inspector that says what it needs finds out when the listening socket is opened."""

    class Needs:
        close_styles = (CloseStyle.SILENT,)

        def __call__(self, request: trio_wsk.ConnectionRequest) -> InspectAction:
            return ACCEPT

    with pytest.raises(InvalidParameterError, match="SILENT"):
        async with trio_wsk.open_listening_socket(0, inspect=Needs()):
            pass


@pytest.mark.parametrize(("sent", "fate"), [(b"", "fin"), (b"hello", "reset")])
async def test_unix_peer_sees_the_end_or_a_reset(sent: bytes, fate: str, tmp_path: Path) -> None:
    """A Unix socket is reset only by closing it with something unread in it."""
    async with inspecting(PEND, port=None, path=tmp_path / "socket") as desk:
        client, request = await desk.pended(sent)
        desk.complete(request, REJECT)

        assert fate == await fate_of(client)


# How an abort is noticed


def finish(client: trio.SocketStream) -> None:
    """Send FIN, and go on receiving."""
    client.socket.shutdown(socket.SHUT_WR)


def close(client: trio.SocketStream) -> None:
    """Close both directions, with nothing unread."""
    client.socket.close()


LEAVING = {
    "resets": [(reset, b""), (reset, b"hello")],
    "finishes (FIN), and has sent nothing": [(finish, b""), (close, b"")],
    "finishes, and has sent something": [(finish, b"hello"), (close, b"hello")],
    "closes a Unix socket, whatever it has sent": [(close, b""), (close, b"hello")],
}
HALF_CLOSE = {"None": None, "True": True, "False": False}
"""The columns."""
GONE = {who: rest for who, *rest in table(CONDITIONAL, "the peer")}


def test_each_way_of_leaving_is_tested() -> None:
    """There are tests for each row."""
    assert [*GONE] == [*LEAVING]


@pytest.mark.skipif(not _choice.HAVE_EPOLL, reason="without an epoll less can be seen")
@pytest.mark.parametrize("option", HALF_CLOSE)
@pytest.mark.parametrize(
    ("who", "leave", "sent"),
    [(who, leave, sent) for who, ways in LEAVING.items() for leave, sent in ways],
)
async def test_peer_is_gone_or_stays_as_its_row_says(
    who: str,
    leave: Callable[[trio.SocketStream], None],
    sent: bytes,
    option: str,
    tmp_path: Path,
) -> None:
    """Whether a peer that leaves is gone depends on how, and on what it has sent."""
    place: dict[str, Any] = {"abort_on_half_close": HALF_CLOSE[option]}
    if "Unix" in who:
        place |= {"port": None, "path": tmp_path / "socket"}
    async with inspecting(PEND, **place) as desk:
        leaver, request = await desk.pended(sent)
        other, other_request = await desk.pended()
        leave(leaver)
        if HALF_CLOSE[option] is False and "Unix" not in who:
            reset(other)
        else:
            close(other)
        await desk.when(lambda: other_request.aborted)

        assert GONE[who][[*HALF_CLOSE].index(option)] == ("gone" if request.aborted else "stays")


async def test_end_behind_unread_data_is_not_found_without_an_epoll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With Trio's own waits a reset behind unread data is found, and a FIN is not."""
    monkeypatch.setattr(_choice, "HAVE_EPOLL", False)
    async with inspecting(PEND, abort_on_half_close=True) as desk:
        finished, request = await desk.pended(b"hello")
        broken, _ = await desk.pended(b"hello")
        finish(finished)
        reset(broken)
        aborted = await desk.aborted()

        assert AbortReason.RESET is aborted.reason
        assert request.aborted is None


async def test_request_that_is_answered_at_once_is_not_watched() -> None:
    """A plain inspector's requests cost nothing but the call, unless they are parked."""
    async with inspecting(REJECT) as desk:
        client, request = await desk.ask()
        await fate_of(client)

        assert not request._is_watched  # noqa: SLF001 - nothing of it shows


# The life of a request


async def test_deliveries_follow_the_verdicts() -> None:
    """Connections are delivered in the order in which they were approved, whoever came first."""
    async with inspecting(PEND) as desk:
        requests = [(await desk.pended())[1] for _ in range(3)]
        order = [requests[2], requests[0], requests[1]]
        for request in order:
            desk.complete(request, ACCEPT)
        connections = [await desk.listening.accept() for _ in order]

        assert [request.inspect_id for request in order] == [c.inspect_id for c in connections]

        for connection in connections:
            connection.abort()


async def test_request_that_dies_after_its_approval_is_aborted() -> None:
    """Approval is not delivery: while it is parked, its peer is watched."""
    async with inspecting(ACCEPT) as desk:
        client, request = await desk.parked(b"hello")
        reset(client)
        aborted = await desk.aborted()

        assert request.inspect_id == aborted.inspect_id
        assert 0 == desk.statistics().parked


# Early, late, twice


async def completed(when: str) -> tuple[Status, Status]:
    """Complete a request at some moment; return what that says, and what a right one says then."""
    answer: Any = REJECT
    async with inspecting(answers_by_itself if "by itself" in when else PEND) as desk:
        if when.startswith("before"):
            return await completed_early()
        client, request = await (desk.ask() if "by itself" in when else desk.pended())
        inspect_id = request.inspect_id
        if "a second time" in when:
            desk.complete(request, ACCEPT)
        elif "is over" in when:
            close(client)
            await desk.aborted()
        elif "never seen" in when:
            inspect_id = attrs.evolve(inspect_id, key=inspect_id.key + 1)
        elif "no verdict" in when:
            answer = PEND
        said = desk.listening.inspect_complete(inspect_id, answer)
        return said, desk.complete(request, REJECT)


def answers_by_itself(_: trio_wsk.ConnectionRequest) -> InspectAction:
    """Let everybody in."""
    return ACCEPT


async def completed_early() -> tuple[Status, Status]:
    """Complete a request inside its inspector, which then pends."""
    said = []

    def inspect(request: trio_wsk.ConnectionRequest) -> InspectAction:
        said.append(desk.complete(request, REJECT))
        return PEND

    async with inspecting(inspect) as desk:
        client, request = await desk.ask()

        assert "reset" == await fate_of(client)

        return said[0], desk.complete(request, REJECT)


@pytest.mark.parametrize("row", table(CONDITIONAL, "`inspect_complete` comes"), ids=lambda r: r[0])
async def test_inspect_complete_says_what_its_row_says(row: list[str]) -> None:
    """It says what the row says; where nothing has happened, it is as if it had not come."""
    when, says, happens = row
    said, then = await completed(when)
    still_pended = "never seen" in when or "still" in happens

    assert Status[says.strip("`")] is said
    assert (Status.SUCCESS is then) is still_pended


async def test_early_verdict_is_forgotten_if_the_inspector_decides() -> None:
    """Who answers yes or no never pended, so what came before does not count."""

    def inspect(request: trio_wsk.ConnectionRequest) -> InspectAction:
        assert Status.SUCCESS is desk.complete(request, REJECT)
        return ACCEPT

    async with inspecting(inspect) as desk:
        await desk.parked()


# Room, and too little of it


async def second_of_two(limit: str, policy: Any) -> str:
    """Have two requests where there is room for one; say what becomes of them."""
    options = {"max_pending": 1} if limit == "pending" else {"max_parked": 1}
    async with inspecting(
        PEND if limit == "pending" else ACCEPT, **options, overflow=policy
    ) as desk:
        _, first = await (desk.pended() if limit == "pending" else desk.parked())
        desk.client()
        if policy == "wait":
            await trio.testing.wait_all_tasks_blocked()
        else:
            await desk.when(lambda: desk.told(ConnectionDropped) or desk.told(RequestAborted))
        counted = desk.statistics()
        if counted.dropped:
            return f"second dropped as {counted.dropped}"
        if counted.aborted:
            return f"{'first' if first.aborted else 'second'} aborted as {counted.aborted}"
        return f"second waits, {counted.backlog} in the backlog"


OVERFLOWS = [
    ("wait", "newcomers stay in the kernel's backlog", "the same; nobody is asked about"),
    (
        "reset",
        "the newcomer is reset, and dropped as `overflowed`",
        "the newcomer is let through, then aborted as `evicted`",
    ),
    ("evict", "the oldest is aborted as `evicted`", "the same"),
]
SECOND = {
    "newcomers stay in the kernel's backlog": "second waits, 1 in the backlog",
    "the newcomer is reset, and dropped as `overflowed`": "second dropped as {'overflowed': 1}",
    "the newcomer is let through, then aborted as `evicted`": "second aborted as {'evicted': 1}",
    "the oldest is aborted as `evicted`": "first aborted as {'evicted': 1}",
}


@pytest.mark.parametrize("limit", ["pending", "parked"])
@pytest.mark.parametrize("row", table(CONDITIONAL, "`overflow`"), ids=lambda row: row[0])
async def test_overflow_does_what_its_row_says(row: list[str], limit: str) -> None:
    """One request more than there is room for has the end that the row says, or another one has."""
    policy, pending, parked, _ = row
    cell = pending if limit == "pending" or parked.startswith("the same") else parked

    assert SECOND[cell] == await second_of_two(limit, policy.strip('`"'))


async def test_requests_hold_their_places_among_the_permits() -> None:
    """With max_connections no more are inspected at once than could be served."""

    async def inspect(_: trio_wsk.ConnectionRequest) -> InspectAction:
        await trio.sleep_forever()
        return ACCEPT

    async with trio_wsk.open_server(
        waits, 0, host="127.0.0.1", inspect=inspect, max_connections=2, grace=0
    ) as server:
        clients = [await connect(server.local_addresses[0]) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked()

        assert 2 == server.statistics().listening.inspected
        assert 1 == server.statistics().listening.backlog

        for client in clients:
            await client.aclose()


# Pausing, refusing, draining


async def test_pause_lets_those_go_on_who_are_being_inspected() -> None:
    """Newcomers wait in the backlog; who was asked about before is delivered."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()
        desk.listening.pause()
        desk.client()
        await trio.testing.wait_all_tasks_blocked()

        assert [request] == desk.asked

        desk.complete(request, ACCEPT)

        await (await desk.listening.accept()).aclose()


async def test_refuse_asks_about_nobody() -> None:
    """Newcomers are reset."""
    async with inspecting(PEND) as desk:
        desk.listening.refuse()

        assert "reset" == await fate_of(desk.client())
        assert [] == desk.asked


async def test_closing_tells_aborts_before_it_returns() -> None:
    """What is pended and what is parked is aborted as closed, and the callback has been called."""
    answers = iter([PEND, ACCEPT])
    async with inspecting(lambda _: next(answers)) as desk:
        await desk.pended()
        await desk.parked()
        await desk.listening.aclose()

        assert [AbortReason.CLOSED] * 2 == [aborted.reason for aborted in desk.aborts]


async def test_drain_waits_for_verdicts_and_aborts_what_has_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Within the grace it waits; who is let through is served; the rest is aborted as closed."""
    decided = {"192.0.2.2": trio.Event(), "192.0.2.3": trio.Event()}
    asked = trio.Semaphore(0)

    async def inspect(request: trio_wsk.ConnectionRequest) -> InspectAction:
        asked.release()
        await decided[str(request.remote_address.host)].wait()
        return ACCEPT

    async def greet(connection: Connection) -> None:
        await connection.send_all(b"welcome")

    network = MemoryNetwork()
    transport = network.host("192.0.2.1").transport(80)
    async with trio_wsk.open_server(greet, transport=transport, inspect=inspect) as server:
        first, second = [await network.host(h).connect(("192.0.2.1", 80)) for h in decided]
        async with first, second, trio.open_nursery() as nursery:
            nursery.start_soon(partial(server.drain, grace=5))
            await asked.acquire()
            await asked.acquire()
            decided["192.0.2.2"].set()

            assert (b"welcome", "FIN") == await seen_by(first)
            assert (b"", "reset") == await seen_by(second)
            assert 5.0 == trio.current_time()

    assert {"closed": 1} == server.statistics().listening.aborted
