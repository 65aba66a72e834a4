"""Conditional accept over real sockets: requests that are pended, and completed."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.helpers.inspecting import ACCEPT, PEND, REJECT, inspecting
from tests.helpers.support import fate_of, read_to_end, reset, until
from trio_wsk import ConnectionRequest, InspectId, Status, Verdict
from trio_wsk.observers import RequestApproved, RequestPended

if TYPE_CHECKING:
    from trio_wsk import InspectAction

pytestmark = pytest.mark.usefixtures("readiness", "no_leak")


async def test_pended_request_is_kept_until_it_is_completed() -> None:
    """
    Yes: it is delivered. No: it is turned away as the verdict says. Its completion says
    that the inspection is over, and not that there is a connection.
    """
    async with inspecting(PEND) as desk:
        irp = desk.listening.queue_accept()
        (_, yes), (client, no) = await desk.pended(), await desk.pended()

        assert 2 == desk.statistics().pending
        assert Status.PENDING is irp.status
        assert Status.SUCCESS is desk.complete(no, Verdict(REJECT, "spam", b"no\n"))
        assert Status.SUCCESS is desk.complete(yes, ACCEPT)
        assert irp.information is not None
        assert yes.inspect_id == irp.information.inspect_id
        assert b"no\n" == await read_to_end(client)
        assert 0 == desk.statistics().pending

        irp.information.close()
    assert [yes.inspect_id, no.inspect_id] == [
        record.inspect_id for record in desk.told(RequestPended)
    ]
    assert [yes.inspect_id] == [record.inspect_id for record in desk.told(RequestApproved)]


@pytest.mark.parametrize("answer", [PEND, Verdict(PEND)])
async def test_async_inspector_may_pend_too(answer: InspectAction | Verdict) -> None:
    """Then its task is over, and the request waits all the same; PEND comes in a verdict, too."""

    async def inspect(request: ConnectionRequest) -> InspectAction | Verdict:
        await trio.lowlevel.checkpoint()
        return answer

    async with inspecting(inspect) as desk:
        _, request = await desk.pended()

        assert Status.SUCCESS == desk.complete(request, ACCEPT)
        assert 1 == desk.statistics().parked


async def test_completion_may_come_from_a_thread() -> None:
    """A thread completes through trio.from_thread, while the run goes on."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()

        def look_up() -> Status:
            return trio.from_thread.run_sync(
                desk.listening.inspect_complete, request.inspect_id, ACCEPT
            )

        assert Status.SUCCESS == await trio.to_thread.run_sync(look_up)
        assert 1 == desk.statistics().parked


async def test_completion_from_outside_the_run_is_refused() -> None:
    """A thread that comes straight is told how to come, and nothing has happened."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()
        complete = partial(desk.listening.inspect_complete, request.inspect_id, ACCEPT)
        with pytest.raises(RuntimeError, match=r"trio\.from_thread\.run_sync"):
            await trio.to_thread.run_sync(complete)

        assert 1 == desk.statistics().pending


@pytest.mark.parametrize("early", [ACCEPT, REJECT])
@pytest.mark.parametrize("own", [ACCEPT, REJECT, PEND])
@pytest.mark.parametrize("way", ["plain", "async"])
async def test_completion_may_come_before_the_inspector_has_answered(
    way: str, own: InspectAction, early: InspectAction
) -> None:
    """It counts if the inspector then pends; an inspector that decides by itself has the word."""
    statuses: list[Status] = []

    def complete(request: ConnectionRequest) -> None:
        verdict = Verdict(REJECT, "early", b"early\n") if early is REJECT else early
        statuses.append(desk.complete(request, verdict))
        statuses.append(desk.complete(request, REJECT))
        statuses.append(desk.complete(request, ACCEPT))

    def inspect(request: ConnectionRequest) -> InspectAction:
        complete(request)
        return own

    async def inspect_async(request: ConnectionRequest) -> InspectAction:
        nursery.start_soon(trio.to_thread.run_sync, trio.from_thread.run_sync, complete, request)
        await until(lambda: len(statuses) == 3)
        return own

    async with (
        inspecting(inspect if way == "plain" else inspect_async) as desk,
        trio.open_nursery() as nursery,
    ):
        client, _ = await desk.ask()
        final = early if own is PEND else own
        if final is ACCEPT:
            await desk.when(lambda: desk.statistics().parked)
        elif own is PEND:
            assert b"early\n" == await read_to_end(client)
            assert {"early": 1} == dict(desk.statistics().rejected)
        else:
            assert "reset" == await fate_of(client)
            assert {"rejected": 1} == dict(desk.statistics().rejected)

        assert [Status.SUCCESS, Status.NOT_FOUND, Status.NOT_FOUND] == statuses


@pytest.mark.parametrize("first", [ACCEPT, REJECT])
@pytest.mark.parametrize("second", [ACCEPT, REJECT])
async def test_second_completion_is_not_found_and_changes_nothing(
    first: InspectAction, second: InspectAction
) -> None:
    """What was completed is over, also after the connection was taken."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()

        assert Status.SUCCESS == desk.complete(request, first)
        assert Status.NOT_FOUND == desk.complete(request, second)

        if first is ACCEPT:
            (await desk.listening.accept()).close()

        assert Status.NOT_FOUND == desk.complete(request, second)
        assert (first is ACCEPT) == desk.statistics().approved
        assert (first is REJECT) == sum(desk.statistics().rejected.values())


async def test_completion_of_what_was_never_pended_is_not_found() -> None:
    """An id of nobody, of another listening socket, or of who was let through at once."""
    async with inspecting(PEND) as desk, inspecting(ACCEPT) as other:
        _, request = await desk.pended()
        _, approved = await other.parked()
        inspect_id = request.inspect_id
        complete = desk.listening.inspect_complete

        assert Status.NOT_FOUND == complete(InspectId(inspect_id.key, 1 << 60), ACCEPT)
        assert Status.NOT_FOUND == complete(InspectId(0, inspect_id.serial_number), ACCEPT)
        assert Status.NOT_FOUND == complete(approved.inspect_id, ACCEPT)
        assert Status.NOT_FOUND == other.listening.inspect_complete(inspect_id, ACCEPT)
        assert Status.NOT_FOUND == other.listening.inspect_complete(approved.inspect_id, REJECT)
        assert [request] == list(desk.listening.pending_inspections.values())
        assert 1 == other.statistics().parked


@pytest.mark.parametrize("answer", [PEND, Verdict(PEND), None, True, 1, "accept", b"", Exception()])
async def test_completion_with_what_decides_nothing_is_an_invalid_parameter(answer: Any) -> None:
    """The request is pended still, and can be completed."""
    async with inspecting(PEND) as desk:
        _, request = await desk.pended()

        assert Status.INVALID_PARAMETER == desk.complete(request, answer)
        assert Status.INVALID_PARAMETER == desk.listening.inspect_complete(7, ACCEPT)  # type: ignore[arg-type] # that is what is refused
        assert Status.SUCCESS == desk.complete(request, ACCEPT)


@pytest.mark.parametrize("seed", range(3))
async def test_hundreds_pended_at_once_are_completed_in_any_order(seed: int) -> None:
    """Each gets its own answer, whatever the order, and whoever waits with it."""
    chance = random.Random(seed)  # noqa: S311 - it should be different, not secret
    async with inspecting(PEND, max_parked=1000) as desk:
        clients = {}
        for _ in range(200):
            client, request = await desk.pended()
            clients[request] = client
        order = list(clients)
        chance.shuffle(order)

        assert 200 == desk.statistics().pending == desk.statistics().pending_most

        yes, no, gone = order[:70], order[70:140], order[140:]
        for each in zip(yes, no, gone, strict=False):
            reset(clients[each[2]])

            assert Status.SUCCESS == desk.complete(each[0], ACCEPT)
            assert Status.SUCCESS == desk.complete(each[1], REJECT)
        for request in yes[60:]:
            assert Status.SUCCESS == desk.complete(request, ACCEPT)
        for request in no[60:]:
            assert Status.SUCCESS == desk.complete(request, REJECT)
        await desk.aborted(60)
        connections = [desk.listening.accept_nowait() for _ in yes]

        assert [request.inspect_id for request in yes] == [
            connection.inspect_id for connection in connections
        ]
        assert {request.inspect_id for request in gone} == set(desk.told_abort)
        assert {"rejected": 70} == dict(desk.statistics().rejected)
        for request in no:
            assert "reset" == await fate_of(clients[request])

        for connection in connections:
            connection.close()


async def test_pended_request_blocks_nobody_behind_it() -> None:
    """Requests that come later are inspected, decided and delivered meanwhile."""
    answers = [PEND, PEND, ACCEPT, REJECT, ACCEPT]
    async with inspecting(lambda _: answers[len(desk.asked) - 1]) as desk:
        first = (await desk.pended())[1]
        second = (await desk.pended())[1]
        await desk.parked()
        await fate_of((await desk.ask())[0])
        await desk.parked()

        assert Status.SUCCESS == desk.complete(second, ACCEPT)

        connections = [desk.listening.accept_nowait() for _ in range(3)]

        assert [desk.asked[index].inspect_id for index in (2, 4, 1)] == [
            connection.inspect_id for connection in connections
        ]
        assert [first] == list(desk.listening.pending_inspections.values())

        for connection in connections:
            connection.close()
