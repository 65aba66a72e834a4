"""What a request carries: facts for its connection, and what it gives back when it ends."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import trio_wsk
from tests.helpers.inspecting import ACCEPT, PEND, REJECT, Silent, inspecting
from tests.helpers.inspecting_in_memory import Scene, settled
from tests.helpers.listening import Callbacks
from tests.helpers.support import connect_now, until
from trio_wsk import Connection, ConnectionDispatch, ConnectionRequest, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_wsk import InspectAction

    Inspect = Callable[[ConnectionRequest], Any]

pytestmark = pytest.mark.usefixtures("no_leak")


class Borrowed:
    """What rules have taken and not given back; each is given back once."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.back: list[str] = []

    def lend(self, request: ConnectionRequest) -> None:
        """Take two things for a request."""
        for what in ("first", "second"):
            self.out.append(what)
            request.at_end(self._return, what)

    def _return(self, what: str) -> None:
        self.out.remove(what)
        self.back.append(what)


def lending(answer: Inspect | InspectAction, borrowed: Borrowed) -> Inspect:
    """Make an inspector that takes something, and then answers so."""

    def inspect(request: ConnectionRequest) -> Any:
        borrowed.lend(request)
        return answer(request) if callable(answer) else answer

    return inspect


async def test_rejected_request_gives_back(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """What was taken for a request that is turned away is given back, once and in order."""
    borrowed = Borrowed()
    async with inspecting(lending(inspector(REJECT), borrowed)) as desk:
        await desk.ask()
        await until(lambda: borrowed.back)

        assert [] == borrowed.out
        assert ["first", "second"] == borrowed.back


@pytest.mark.parametrize("how", ["peer", "listening socket", "time"])
async def test_aborted_request_gives_back(how: str, autojump_clock: trio.testing.MockClock) -> None:
    """So is what was taken for one that ends without a verdict, whoever ends it."""
    borrowed = Borrowed()
    async with inspecting(lending(PEND, borrowed)) as desk:
        client, _ = await desk.pended()

        assert ["first", "second"] == borrowed.out

        if how == "peer":
            await client.aclose()
        elif how == "listening socket":
            await desk.listening.aclose()
        else:
            autojump_clock.jump(20)
        await desk.aborted()
        await until(lambda: borrowed.back)

        assert ["first", "second"] == borrowed.back


@pytest.mark.parametrize("end", ["close", "abort", "aclose", "socket", "detach"])
async def test_connection_gives_back_when_it_ends(
    end: str, inspector: Callable[[InspectAction], Inspect]
) -> None:
    """As long as its connection is open nothing is given back; then all, however it ends."""
    borrowed = Borrowed()
    async with inspecting(lending(inspector(ACCEPT), borrowed)) as desk:
        await desk.ask()
        connection = await desk.listening.accept()
        await wait_all_tasks_blocked()

        assert [] == borrowed.back

        if end == "aclose":
            await connection.aclose()
        elif end == "socket":
            connection.socket.close()
        elif end == "detach":
            os.close(connection.socket.detach())
        else:
            getattr(connection, end)()
        await until(lambda: borrowed.back)

        assert ["first", "second"] == borrowed.back
        assert {} == desk.listening._block.carried  # noqa: SLF001 - what is kept shows nowhere else


async def test_connection_that_is_dropped_gives_back() -> None:
    """Nobody has closed it, and nobody has it any more."""
    borrowed = Borrowed()
    async with trio_wsk.open_listening_socket(
        0, host="127.0.0.1", inspect=lending(ACCEPT, borrowed)
    ) as listening:
        client = connect_now(listening.local_addresses[0])
        connection = await listening.accept()
        await wait_all_tasks_blocked()  # Trio keeps what a task was woken with, for a while
        with pytest.warns(ResourceWarning, match="unclosed"):
            del connection
        await until(lambda: borrowed.back)

        assert ["first", "second"] == borrowed.back
        assert {} == listening._block.carried  # noqa: SLF001 - as above

        await client.aclose()


async def test_connection_with_events_gives_back() -> None:
    """A connection that the accept event has taken gives back when both sides have ended."""
    borrowed = Borrowed()
    dispatch = ConnectionDispatch(receive=lambda *_: None, disconnect=lambda c, _: c.disconnect())
    async with inspecting(lending(ACCEPT, borrowed), accept=lambda _: dispatch) as desk:
        desk.listening.enable_events(trio_wsk.EventMask.ACCEPT | trio_wsk.EventMask(0xC0))
        client, _ = await desk.ask()
        await wait_all_tasks_blocked()

        assert [] == borrowed.back

        await client.aclose()
        await until(lambda: borrowed.back)


async def test_connection_that_nobody_accepts_gives_back() -> None:
    """An accept callback that refuses the connection ends it."""
    borrowed = Borrowed()
    async with inspecting(
        lending(ACCEPT, borrowed), accept=lambda _: Status.REQUEST_NOT_ACCEPTED
    ) as desk:
        desk.listening.enable_events(trio_wsk.EventMask.ACCEPT)
        await desk.ask()
        await until(lambda: borrowed.back)


async def test_connection_that_outlives_its_block_gives_back() -> None:
    """The block's pump has ended; what was taken is given back all the same."""
    borrowed = Borrowed()
    async with inspecting(lending(ACCEPT, borrowed)) as desk:
        await desk.ask()
        connection = await desk.listening.accept()

    assert [] == borrowed.back

    connection.close()

    assert ["first", "second"] == borrowed.back


def test_connection_that_outlives_its_run_gives_back() -> None:
    """Whoever still has it when the run of Trio is over ends it as well."""
    borrowed = Borrowed()
    kept: list[Connection] = []

    async def main() -> None:
        async with inspecting(lending(ACCEPT, borrowed)) as desk:
            await desk.ask()
            kept.append(await desk.listening.accept())

    trio.run(main)
    kept.pop().abort()

    assert ["first", "second"] == borrowed.back


async def test_permits_are_back_before_a_server_ends() -> None:
    """A server that is left has given everything back, also for handlers that were cancelled."""
    borrowed = Borrowed()
    begun = trio.Event()

    async def handler(_: Connection) -> None:
        begun.set()
        await trio.sleep_forever()

    async with trio_wsk.open_server(
        handler, 0, host="127.0.0.1", inspect=lending(ACCEPT, borrowed), grace=0
    ) as server:
        client = connect_now(server.local_addresses[0])
        await begun.wait()

        assert ["first", "second"] == borrowed.out

    assert [] == borrowed.out
    await client.aclose()


async def test_what_comes_too_late_is_called_soon() -> None:
    """Who takes something for a request that is over gives it back at once."""
    borrowed = Borrowed()
    async with inspecting(REJECT) as desk:
        _, request = await desk.ask()
        await until(lambda: desk.statistics().rejected)
        borrowed.lend(request)
        await until(lambda: borrowed.back)


async def test_request_that_was_delivered_takes_nothing_more() -> None:
    """When it is a connection, what is taken is for whoever has that to give back."""
    async with inspecting(ACCEPT) as desk:
        _, request = await desk.ask()
        connection = await desk.listening.accept()

        with pytest.raises(trio_wsk.InvalidDeviceStateError, match="has become a connection"):
            request.at_end(print)

        connection.close()


async def test_callback_that_fails_is_reported_and_holds_up_no_other() -> None:
    """What it raises is reported under ``at_end``; the rest is given back."""
    borrowed = Borrowed()
    failures: list[Any] = []

    def inspect(request: ConnectionRequest) -> InspectAction:
        request.at_end(dict[str, str]().__getitem__, "nothing")
        borrowed.lend(request)
        return REJECT

    async with trio_wsk.open_listening_socket(
        0, host="127.0.0.1", inspect=inspect, observers=[Callbacks(failures), Silent()]
    ) as listening:
        client = connect_now(listening.local_addresses[0])
        await until(lambda: borrowed.back)

        (failed,) = failures
        assert "at_end" == failed.callback
        assert isinstance(failed.error, KeyError)
        assert {"at_end": 1} == dict(listening.statistics().callback_failures)

        await client.aclose()


# --- Facts ------------------------------------------------------------------------------------


async def test_facts_go_on_to_the_connection(
    inspector: Callable[[InspectAction], Inspect],
) -> None:
    """What an inspector has found is the connection's, with what is added, until after its end."""
    inspect = inspector(ACCEPT)

    def find(request: ConnectionRequest) -> Any:
        request.facts.add(4711)
        return inspect(request)

    async with inspecting(find) as desk:
        await desk.ask()
        connection = await desk.listening.accept()

        assert 4711 == connection.facts[int]

        connection.facts.add("more")
        connection.close()

        assert [4711, "more"] == list(connection.facts)


async def test_facts_of_a_request_stay_for_the_abort_callback() -> None:
    """Who hears that the peer has left can still ask what was known of it."""
    facts: list[object] = []

    def find(request: ConnectionRequest) -> InspectAction:
        request.facts.add(4711)
        return PEND

    async with inspecting(find) as desk:
        desk.on_abort = lambda request: facts.extend(request.facts)
        client, _ = await desk.pended()
        await client.aclose()
        await desk.aborted()

        assert [4711] == facts


async def test_connection_without_facts_takes_some() -> None:
    """A connection that nobody has inspected has facts as well: its handler's own."""
    async with trio_wsk.open_listening_socket(0, host="127.0.0.1") as listening:
        client = connect_now(listening.local_addresses[0])
        connection = await listening.accept()

        assert [] == list(connection.facts)

        connection.facts.add(1)
        connection.close()
        connection.facts.add("two")

        assert [1, "two"] == list(connection.facts)

        await client.aclose()


# --- In memory, at both points ----------------------------------------------------------------


@pytest.mark.parametrize("answer", ["accept", "reject", "leave"])
async def test_request_in_memory_gives_back(
    answer: str, point: trio_wsk.InspectPoint, autojump_clock: trio.testing.MockClock
) -> None:
    """Before the handshake and after it: at the end of the request, or of its connection."""
    borrowed = Borrowed()
    scene = Scene()

    def inspect(request: ConnectionRequest) -> Any:
        borrowed.lend(request)
        request.facts.add(answer)
        return {"accept": ACCEPT, "reject": REJECT}.get(answer, PEND)

    async with trio_wsk.open_listening_socket(
        transport=scene.transport(), inspect=inspect, inspect_point=point
    ) as listening:
        client = scene.open()
        if answer == "accept":
            connection = await listening.accept()

            assert "accept" == connection.facts[str]
            assert [] == borrowed.back

            await connection.aclose()
        elif answer == "leave":
            await settled()

            assert ["first", "second"] == borrowed.out

            await client.aclose()
        await until(lambda: borrowed.back)

        assert [] == borrowed.out

        await client.aclose()
